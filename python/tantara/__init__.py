"""One Event for threads, asyncio and processes.

Event is threading.Event, faster, and can be awaited. SharedEvent is multiprocessing.Event without its hangs, and has a
name if you like. AutoResetEvent releases one at a time. wait_any() and wait_all() wait for many of them, of any kind.
"""

from ._tantara import (
    AutoResetEvent,
    Event,
    SharedEvent,
    __version__,
    wait_all,
    wait_all_async,
    wait_any,
    wait_any_async,
)
from ._waiter import Waiter

__all__ = [
    "AutoResetEvent",
    "Event",
    "SharedEvent",
    "Waiter",
    "wait_all",
    "wait_all_async",
    "wait_any",
    "wait_any_async",
]

for _function in (wait_all, wait_all_async, wait_any, wait_any_async):
    _function.__module__ = __name__
del _function
