"""The record of waits: who waits for what inside this process, since when, and where in the code."""

import sys
import threading
from datetime import datetime, timezone
from typing import Any, NamedTuple, Optional

from ._tantara import label_event, record_waits, recorded_waits


class Act(NamedTuple):
    """That an event was set."""

    thread: Optional[str]
    """The name of the thread that did it, if it has one."""

    tid: int
    """The kernel's ID of that thread; 0 if it is not known any more."""

    file: str
    line: int
    at: datetime
    """When, in UTC."""


class AwaitedEvent(NamedTuple):
    """An event that is waited for."""

    name: str
    """Its label, the name by which it was opened, or its kind and address."""

    kind: str
    """Event, AutoResetEvent, SharedEvent or ClusterEvent."""

    last_set: Optional[Act]
    """Who set it last, as far as was recorded."""


class Waiting(NamedTuple):
    """A wait of this process. str() describes it, with what is known of its events."""

    events: "tuple[AwaitedEvent, ...]"
    mode: str
    """one, any or all: of how many of the events a release is needed."""

    thread: Optional[str]
    """The name of the thread that blocks, or that has begun the task's wait."""

    tid: int
    """The kernel's ID of that thread."""

    task: Optional[str]
    """The name of the asyncio task; a number for another task; None if a thread blocks."""

    file: str
    """The file of the call that began the wait."""

    line: int
    since: datetime
    """When it began, in UTC."""

    time_left: Optional[float]
    """The seconds until a blocked thread gives up; None if it never does."""

    released: bool
    """Whether it was released already, but has not run since: the loop of its task may be blocked."""

    text: str

    def __str__(self) -> str:
        return self.text


for _class in (Act, AwaitedEvent, Waiting):
    _class.__module__ = "tantara"
del _class


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)


def _event(event: "dict[str, Any]") -> AwaitedEvent:
    last = event["last_set"]
    act = None if last is None else Act(**{**last, "at": _moment(last["at"])})
    return AwaitedEvent(event["name"], event["kind"], act)


def waits() -> "list[Waiting]":
    """Return all waits of this process that are recorded, those that have waited longest first.

    Waits are recorded if the program was started with TANTARA_WAITS=1, or has called record_waits(). Then the command
    tantara ps shows them too, also if the program hangs.

        >>> import threading, time, tantara
        >>> tantara.record_waits()
        >>> ready = tantara.Event()
        >>> tantara.label_event(ready, "ready")
        >>> thread = threading.Thread(target=ready.wait, name="worker")
        >>> thread.start(); time.sleep(0.1)
        >>> [(wait.thread, wait.events[0].name) for wait in tantara.waits()]
        [('worker', 'ready')]
        >>> ready.set(); thread.join()
    """
    return [
        Waiting(**{**wait, "events": tuple(map(_event, wait["events"])), "since": _moment(wait["since"])})
        for wait in recorded_waits()
    ]


def here() -> "tuple[str, int, str, Optional[str]]":
    """The file and line of the program that has called tantara, and the names of the thread and of the task."""
    frame = sys._getframe(1)
    while frame.f_globals.get("__package__") == "tantara" and frame.f_back is not None:
        frame = frame.f_back
    task = None
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None and asyncio._get_running_loop() is not None:
        running = asyncio.current_task()
        task = None if running is None else running.get_name()
    return frame.f_code.co_filename, frame.f_lineno, threading.current_thread().name, task


__all__ = ["Act", "AwaitedEvent", "Waiting", "label_event", "record_waits", "waits"]
