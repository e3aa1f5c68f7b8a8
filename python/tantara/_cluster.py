"""What goes wrong with events between machines, and what is told of them."""

from datetime import datetime
from typing import NamedTuple, Optional

from ._tantara import Change


class ClusterError(OSError):
    """The cluster has refused, or the connection belongs to another process."""


class ClusterUnreachable(ClusterError, ConnectionError):
    """The cluster could not be asked: no endpoint answers in time, or there is no quorum.

    Nothing is known of the event, and nothing was changed. It is no TimeoutError.
    """


class OutcomeUnknown(ClusterError):
    """The connection was lost while the cluster made a change, so that it may have been made or not."""

    def __init__(self, message: str, change: Optional[Change] = None) -> None:
        super().__init__(message)
        self._change = change

    def resolve(self) -> bool:
        """Find out: True, the change was made; False, it was not, and never will be.

        ClusterUnreachable if the cluster still does not answer: ask again. OutcomeUnknown if nobody will ever know,
        because the cluster has compacted the history that would tell.
        """
        if self._change is None:
            raise self
        return self._change.resolve()

    def __reduce__(self) -> "tuple[type[OutcomeUnknown], tuple[str]]":
        # In another process nobody can find out.
        return type(self), (str(self),)


class ClusterParty(NamedTuple):
    """Who did something, and when, as they say."""

    host: str
    """What their machine is called."""

    pid: int
    """The process there."""

    at: datetime
    """When, by their clock, in UTC."""


class ClusterWaiter(NamedTuple):
    """A process that waits for a ClusterEvent, as it says."""

    host: str
    """What its machine is called."""

    pid: int
    """The process there."""

    since: datetime
    """Since when somebody in it waits, by its clock, in UTC."""

    waits: int
    """How many in it wait."""


class ClusterEntry(NamedTuple):
    """An event of a namespace, as it was when it was looked at."""

    name: str
    """Its name."""

    is_set: bool
    """Whether it was set, or held."""

    last_set: Optional[ClusterParty]
    """Who has last set it."""

    holders: "list[ClusterParty]"
    """Who holds it."""

    waiters: "list[ClusterWaiter]"
    """Who waits, as far as they leave records, those who have waited longest first."""


for _class in (ClusterError, ClusterUnreachable, OutcomeUnknown, ClusterParty, ClusterWaiter, ClusterEntry):
    _class.__module__ = "tantara"
del _class
