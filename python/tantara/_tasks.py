"""Waits of asyncio and trio tasks: a loop watches one descriptor, its notifier, for any number of waits.

A thread does it for a loop that watches no descriptors, such as asyncio's on Windows.
"""

import asyncio
import sys
import threading
import weakref
from asyncio import get_running_loop
from sys import modules
from typing import Any, Callable, Optional

from ._tantara import Notifier, Pending

# The task that each loop runs, by the loop; since CPython 3.14 a function.
current_tasks: Any = getattr(asyncio.tasks, "_current_tasks") if sys.version_info < (3, 14) else asyncio.current_task

# By the frames of this code callbacks are known.
run_of_handle = asyncio.Handle._run.__code__

_notifiers: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Notifier]" = weakref.WeakKeyDictionary()


def notifier_of(loop: asyncio.AbstractEventLoop) -> Notifier:
    """Return the notifier of a loop of asyncio."""
    notifier = _notifiers.get(loop)
    if notifier is None:
        notifier = Notifier(loop)
        _watch(loop, notifier)
        weakref.finalize(loop, notifier.close).atexit = False
        _notifiers[loop] = notifier
    return notifier


def _watch(loop: asyncio.AbstractEventLoop, notifier: Notifier) -> None:
    descriptor = notifier.fileno()
    if descriptor is not None:
        try:
            loop.add_reader(descriptor, notifier.answer)
            return
        except NotImplementedError:
            pass
    found = weakref.ref(loop)

    def soon() -> None:
        loop = found()
        if loop is not None:
            loop.call_soon_threadsafe(notifier.answer)

    _watch_by_thread(notifier, soon)


def _watch_by_thread(notifier: Notifier, soon: Callable[[], None]) -> None:
    """Call a function, which passes a call on to the loop, whenever waits of the loop are over."""

    def watch() -> None:
        while notifier.wait():
            try:
                soon()
            except RuntimeError:
                return  # The loop has ended.

    threading.Thread(target=watch, name="tantara", daemon=True).start()


async def wait(pending: Pending, timeout: Optional[float], is_over: bool) -> Any:
    """Return the value of a wait that has begun, or False or None if the timeout expires."""
    if "trio" in modules and is_in_trio():
        return await _wait_in_trio(pending, timeout)
    if is_over:
        return pending.result()
    loop = get_running_loop()
    future: "asyncio.Future[Any]" = loop.create_future()
    if pending.listen(loop, future):
        return pending.result()
    timer = None if timeout is None else loop.call_later(timeout, pending.give_up)
    try:
        return await future
    except BaseException:
        # Cancelled. If a release was on its way, it is passed on.
        pending.abandon()
        raise
    finally:
        if timer is not None:
            timer.cancel()


def is_in_trio() -> bool:
    """Return whether trio runs the current task. Asyncio may run in trio, and trio in asyncio, on one thread."""
    lowlevel: Any = getattr(modules.get("trio"), "lowlevel", None)
    if lowlevel is None:
        return False  # Its import has not ended yet, or is blocked by a None.
    sniffio: Any = modules.get("sniffio")
    try:
        # As sniffio.current_async_library(), which then looks for other libraries.
        name: Any = sniffio.thread_local.name
        return bool((name or sniffio.current_async_library_cvar.get()) == "trio")
    except AttributeError:
        pass  # It is not there, or older than these.
    try:
        lowlevel.current_task()
    except RuntimeError:
        return False
    return True


def is_in_asyncio() -> bool:
    """Return whether asyncio runs on this thread, and the current task is none of trio's."""
    return asyncio._get_running_loop() is not None and not is_in_trio()


_var: Any = None


def _notifier_var(trio: Any) -> Any:
    """Return the variable in which each run of trio keeps its notifier."""
    global _var
    if _var is None:
        _var = trio.lowlevel.RunVar("tantara")
    return _var


def _notifier_of_trio(trio: Any) -> Notifier:
    var = _notifier_var(trio)
    notifier: Optional[Notifier] = var.get(None)
    if notifier is None:
        notifier = Notifier()
        var.set(notifier)
        trio.lowlevel.spawn_system_task(_answer_forever, trio, notifier)
    return notifier


def notifier_of_trio_task() -> Optional[Notifier]:
    """Return the notifier of the run of trio whose task this thread runs now, or None."""
    trio: Any = modules.get("trio")
    lowlevel: Any = getattr(trio, "lowlevel", None)
    if lowlevel is None:
        return None
    try:
        lowlevel.current_task()
    except RuntimeError:
        return None
    notifier: Optional[Notifier] = _notifier_var(trio).get(None)
    return notifier


async def _answer_forever(trio: Any, notifier: Notifier) -> None:
    descriptor = notifier.fileno()
    if descriptor is None:
        token = trio.lowlevel.current_trio_token()
        _watch_by_thread(notifier, lambda: token.run_sync_soon(notifier.answer))
        try:
            await trio.sleep_forever()
        finally:
            notifier.close()
    while True:
        await trio.lowlevel.wait_readable(descriptor)
        notifier.answer()


class _Listener:
    """For a task of trio, what a future is for a task of asyncio."""

    def __init__(self, trio: Any) -> None:
        self._trio = trio
        self._task: Any = None
        self._is_done = False
        self._result: Any = None
        self._error: Optional[BaseException] = None

    def done(self) -> bool:
        return self._is_done

    def set_result(self, result: Any) -> None:
        self._result = result
        self._end()

    def set_exception(self, error: BaseException) -> None:
        self._error = error
        self._end()

    def _end(self) -> None:
        self._is_done = True
        if self._task is not None:
            self._trio.lowlevel.reschedule(self._task)
            self._task = None

    async def wait(self) -> Any:
        """Return the result. If the wait is cancelled before there is one, it may be awaited once more."""
        if not self._is_done:
            self._task = self._trio.lowlevel.current_task()
            await self._trio.lowlevel.wait_task_rescheduled(self._cancel)
        if self._error is not None:
            raise self._error
        return self._result

    def _cancel(self, _raise_cancel: Any) -> Any:
        self._task = None
        return self._trio.lowlevel.Abort.SUCCEEDED


async def _wait_in_trio(pending: Pending, timeout: Optional[float]) -> Any:
    trio: Any = modules["trio"]
    try:
        await trio.lowlevel.checkpoint_if_cancelled()
        listener = _Listener(trio)
        if pending.is_over() or pending.listen(_notifier_of_trio(trio), listener):
            await trio.lowlevel.cancel_shielded_checkpoint()
            return pending.result()
        if timeout is not None:
            with trio.move_on_after(timeout):
                return await listener.wait()
            pending.give_up()
        return await listener.wait()
    except BaseException:
        # Cancelled. If a release was on its way, it is passed on.
        pending.abandon()
        raise
