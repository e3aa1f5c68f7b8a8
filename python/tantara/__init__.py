"""One Event for threads, asyncio, processes and machines.

Event is threading.Event, faster, and can be awaited. SharedEvent is multiprocessing.Event without its hangs, and has a
name if you like. AutoResetEvent releases one at a time. Cluster connects to etcd, where the events of several machines
live: each is a ClusterEvent. wait_any() and wait_all() wait for many of them, of any kind.
"""

from ._cluster import ClusterEntry, ClusterError, ClusterParty, ClusterUnreachable, ClusterWaiter, OutcomeUnknown
from ._tantara import (
    AutoResetEvent,
    Cluster,
    ClusterEvent,
    Event,
    Hold,
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
    "Cluster",
    "ClusterEntry",
    "ClusterError",
    "ClusterEvent",
    "ClusterParty",
    "ClusterUnreachable",
    "ClusterWaiter",
    "Event",
    "Hold",
    "OutcomeUnknown",
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
