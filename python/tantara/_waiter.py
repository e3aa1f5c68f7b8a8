"""The records that SharedEvent.waiters() returns."""

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


Waiter.__module__ = "tantara"
