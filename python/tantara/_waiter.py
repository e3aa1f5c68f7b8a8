"""The records that SharedEvent.waiters() and last_set() return."""

from datetime import datetime
from typing import NamedTuple, Optional


class Waiter(NamedTuple):
    """A thread that waits for a SharedEvent.

    pid and tid are valid in the PID namespace of the process that asks. If the thread is in another one, such as
    another container, pid and tid are None, and command is empty.
    """

    pid: Optional[int]
    """The process ID. Also None if the system hides the process (hidepid) and tid is not its main thread."""

    tid: Optional[int]
    """The kernel's ID of the thread."""

    since: datetime
    """When the wait began, in UTC."""

    command: str
    """The program and its arguments; empty if unknown."""


class LastSet(NamedTuple):
    """When a SharedEvent was last set, by which process, and why, as that process has recorded it."""

    pid: Optional[int]
    """The process ID. None if the process is in another PID namespace, such as another container."""

    at: datetime
    """When it was set, in UTC, to within some milliseconds."""

    note: Optional[str]
    """The note of set() or pulse(), if there was one."""


for _class in (Waiter, LastSet):
    _class.__module__ = "tantara"
del _class
