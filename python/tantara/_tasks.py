"""How tasks of asyncio and trio wait: a loop watches one descriptor, its bell, whatever the number of waits."""

import asyncio
import threading
import weakref
from asyncio import get_running_loop
from sys import modules
from typing import Any, Callable, Optional

from ._tantara import Bell, Pending

_bells: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Bell]" = weakref.WeakKeyDictionary()


class _Known(threading.local):
    """The loop that was asked for last on this thread: mostly the next one too."""

    loop: "Callable[[], Optional[asyncio.AbstractEventLoop]]" = staticmethod(lambda: None)
    bell: Bell


_known = _Known()


def _bell_of(loop: asyncio.AbstractEventLoop) -> Bell:
    bell = _bells.get(loop)
    if bell is None:
        bell = Bell()
        loop.add_reader(bell.fileno(), _answer, bell)
        _bells[loop] = bell
    _known.loop, _known.bell = weakref.ref(loop), bell
    return bell


def _answer(bell: Bell) -> None:
    """Complete the listeners whose waits are over."""
    futures, results, errors = bell.take()
    for future, result in zip(futures, results):
        try:
            future.set_result(result)
        except asyncio.InvalidStateError:
            pass  # It was cancelled, and its coroutine abandons the wait.
    for future, error in errors:
        if not future.done():
            future.set_exception(error)


def deliver() -> None:
    """Complete those of the loop that runs on this thread, if one does."""
    loop = asyncio._get_running_loop()
    bell = None if loop is None else _bells.get(loop)
    if bell is not None:
        _answer(bell)
    trio = modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_run():
        bell = _bell_var(trio).get(None)
        if bell is not None:
            _answer(bell)


async def wait(pending: Pending, timeout: Optional[float], is_over: bool) -> Any:
    """The value of a wait that has begun, or False or None if the time has passed first."""
    if "trio" in modules and _is_in_trio():
        return await _wait_in_trio(pending, timeout)
    if is_over:
        return pending.result()
    loop = get_running_loop()
    future: "asyncio.Future[Any]" = loop.create_future()
    if pending.listen(_known.bell if _known.loop() is loop else _bell_of(loop), future):
        return pending.result()
    timer = None if timeout is None else loop.call_later(timeout, pending.give_up)
    try:
        return await future
    except BaseException:
        # Cancelled, perhaps when a release was on its way: then that passes on.
        pending.abandon()
        raise
    finally:
        if timer is not None:
            timer.cancel()


def _is_in_trio() -> bool:
    """Whether trio runs the current task. Both may run on one thread, asyncio in trio or trio in asyncio."""
    sniffio: Any = modules.get("sniffio")
    if sniffio is not None:
        try:
            return bool(sniffio.current_async_library() == "trio")
        except sniffio.AsyncLibraryNotFoundError:
            return False
    trio: Any = modules["trio"]
    return bool(trio.lowlevel.in_trio_task())


_var: Any = None


def _bell_var(trio: Any) -> Any:
    """Where each run of trio keeps its bell."""
    global _var
    if _var is None:
        _var = trio.lowlevel.RunVar("tantara")
    return _var


def _bell_of_trio(trio: Any) -> Bell:
    var = _bell_var(trio)
    bell: Optional[Bell] = var.get(None)
    if bell is None:
        bell = Bell()
        var.set(bell)
        trio.lowlevel.spawn_system_task(_attend, trio, bell)
    return bell


async def _attend(trio: Any, bell: Bell) -> None:
    while True:
        await trio.lowlevel.wait_readable(bell.fileno())
        _answer(bell)


class _Listener:
    """To a task of trio what a future is to one of asyncio."""

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
        """What it was told. If it is cancelled before it is told, it may be waited for once more."""
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
        if pending.is_over() or pending.listen(_bell_of_trio(trio), listener):
            await trio.lowlevel.cancel_shielded_checkpoint()
            return pending.result()
        if timeout is not None:
            with trio.move_on_after(timeout):
                return await listener.wait()
            pending.give_up()
        return await listener.wait()
    except BaseException:
        # Cancelled, perhaps when a release was on its way: then that passes on.
        pending.abandon()
        raise
