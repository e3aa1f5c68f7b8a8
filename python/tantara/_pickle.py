"""Pickling of SharedEvent."""

import importlib
import sys
from multiprocessing import reduction
from typing import Any

from ._tantara import SharedEvent

# Libraries that contain a copy of multiprocessing. A process that one of them spawns does not know the others.
_COPIES = ("multiprocessing", "multiprocess", "billiard")


def state(event: SharedEvent) -> Any:
    """Return the state that a subclass has added, as pickle would find it."""
    get = getattr(event, "__getstate__", None)
    return (get() if get is not None else event.__dict__) or None


def named(cls: type[SharedEvent], place: tuple[str, str]) -> SharedEvent:
    """Open an event by its name and directory."""
    event = cls.__new__(cls)
    SharedEvent.__init__(event, *place)
    return event


def transfer(fd: int) -> Any:
    """Return an object that passes a descriptor on: inherited by a child that is being spawned, else sent."""
    copies = [name for name in _COPIES if name + ".context" in sys.modules]
    for name in copies:
        spawning: Any = getattr(sys.modules[name + ".context"], "get_spawning_popen", None)
        if spawning is not None and spawning() is not None:
            return _reduction(name).DupFd(fd)
    # Sent to a process that has the authentication key of one of them: a child, a sibling or the parent.
    for name in copies:
        process: Any = sys.modules.get(name + ".process")
        if process is not None and (process.active_children() or getattr(process, "parent_process", lambda: None)()):
            return _reduction(name).DupFd(fd)
    return reduction.DupFd(fd)


def _reduction(name: str) -> Any:
    return importlib.import_module(name + ".reduction")


def anonymous(cls: type[SharedEvent], transfer: Any) -> SharedEvent:
    """Open an event by the descriptor that has arrived."""
    event = cls.__new__(cls)
    event._take_fd(transfer.detach())
    return event
