"""How asyncio awaits: a loop watches one descriptor, its bell, whatever the number of waits."""

import asyncio
import weakref
from typing import Any, Optional

from ._tantara import Bell, Pending

_bells: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Bell]" = weakref.WeakKeyDictionary()


def _bell_of(loop: asyncio.AbstractEventLoop) -> Bell:
    bell = _bells.get(loop)
    if bell is None:
        bell = Bell()
        loop.add_reader(bell.fileno(), _answer, bell)
        _bells[loop] = bell
    return bell


def _answer(bell: Bell) -> None:
    futures, results, errors = bell.take()
    for future, result in zip(futures, results):
        try:
            future.set_result(result)
        except asyncio.InvalidStateError:
            pass  # It was cancelled, and its coroutine abandons the wait.
    for future, error in errors:
        if not future.done():
            future.set_exception(error)


async def wait(pending: Pending, timeout: Optional[float]) -> Any:
    """The value of a wait that has begun, or False or None if the time has passed first."""
    if pending.is_over():
        return pending.result()
    loop = asyncio.get_running_loop()
    future: "asyncio.Future[Any]" = loop.create_future()
    if pending.listen(_bell_of(loop), future):
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
