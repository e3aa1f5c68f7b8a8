"""One Event for threads, asyncio, processes and machines.

Event replaces threading.Event: it is faster, and it can be awaited. AutoResetEvent releases one waiter for each set().
SharedEvent replaces multiprocessing.Event: it survives killed processes, and it may have a name by which unrelated
processes open it. Cluster connects to etcd; a ClusterEvent of it is shared by machines. wait_any() and wait_all() wait
for several events of any kinds.
"""

from ._cluster import ClusterEntry, ClusterError, ClusterUnreachable, ClusterWaiter, Origin, OutcomeUnknown
from ._tantara import (
    AutoResetEvent,
    Cluster,
    ClusterEvent,
    Event,
    Hold,
    SharedEvent,
    SharedHold,
    __version__,
    wait_all,
    wait_all_async,
    wait_any,
    wait_any_async,
)
from ._waiter import LastSet, Waiter
from ._waits import Act, AwaitedEvent, Waiting, label_event, record_waits, waits

__all__ = [
    "Act",
    "AutoResetEvent",
    "AwaitedEvent",
    "Cluster",
    "ClusterEntry",
    "ClusterError",
    "ClusterEvent",
    "ClusterUnreachable",
    "ClusterWaiter",
    "Event",
    "Hold",
    "LastSet",
    "Origin",
    "OutcomeUnknown",
    "SharedEvent",
    "SharedHold",
    "Waiter",
    "Waiting",
    "label_event",
    "record_waits",
    "wait_all",
    "wait_all_async",
    "wait_any",
    "wait_any_async",
    "waits",
]

for _function in (label_event, record_waits, wait_all, wait_all_async, wait_any, wait_any_async, waits):
    _function.__module__ = __name__
del _function
