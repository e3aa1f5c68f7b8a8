"""Errors of a cluster, and the records that describe its events."""

from datetime import datetime
from typing import NamedTuple, Optional

from ._tantara import Change


class ClusterError(OSError):
    """The cluster rejected the request, or the connection belongs to another process."""


class ClusterUnreachable(ClusterError, ConnectionError):
    """The cluster could not be reached: no endpoint answers in time, or there is no quorum.

    The state of the event is unknown, and nothing was changed. It is not a TimeoutError.
    """


class OutcomeUnknown(ClusterError):
    """The connection was lost during a change, which may or may not have been made."""

    def __init__(self, message: str, change: Optional[Change] = None) -> None:
        super().__init__(message)
        self._change = change

    def resolve(self) -> bool:
        """Return True if the change was made, False if it was not, and never will be.

        Raise ClusterUnreachable if the cluster still does not answer; then try again. Raise OutcomeUnknown if the
        outcome can no longer be found out, because the cluster has compacted its history.
        """
        if self._change is None:
            raise self
        return self._change.resolve()

    def __reduce__(self) -> "tuple[type[OutcomeUnknown], tuple[str]]":
        # Another process has no connection by which to resolve it.
        return type(self), (str(self),)


class Origin(NamedTuple):
    """The process that set or holds an event, as it describes itself."""

    host: str
    """The name of its machine."""

    pid: int
    """Its process ID there."""

    at: datetime
    """When it set or began to hold the event, by its clock, in UTC."""

    note: Optional[str] = None
    """Why it set the event, if it has said so."""


class ClusterWaiter(NamedTuple):
    """A process that waits for a ClusterEvent, as it describes itself."""

    host: str
    """The name of its machine."""

    pid: int
    """Its process ID there."""

    since: datetime
    """When its longest wait began, by its clock, in UTC."""

    waits: int
    """The number of its waits."""


class ClusterEntry(NamedTuple):
    """An event of a namespace, and its state when it was listed."""

    name: str
    """Its name."""

    is_set: bool
    """Whether it was set or held."""

    last_set: Optional[Origin]
    """The process that last set it."""

    holders: "list[Origin]"
    """The processes that hold it."""

    waiters: "list[ClusterWaiter]"
    """The processes that wait for it and connect with record_waits=True, the longest wait first."""


for _class in (ClusterError, ClusterUnreachable, OutcomeUnknown, Origin, ClusterWaiter, ClusterEntry):
    _class.__module__ = "tantara"
del _class
