"""What waiters() tells."""

from datetime import datetime
from typing import NamedTuple


class Waiter(NamedTuple):
    """One who waits for a SharedEvent."""

    pid: int
    """The process."""

    tid: int
    """The thread in it, by the number that the kernel knows it by."""

    since: datetime
    """Since when it waits, in UTC."""

    command: str
    """The program and its arguments; empty if the system does not tell."""


Waiter.__module__ = "tantara"
