"""What waiters() tells."""

from datetime import datetime
from typing import NamedTuple, Optional


class Waiter(NamedTuple):
    """One who waits for a SharedEvent.

    The numbers are those of the PID namespace of whoever asks. Who waits in another one, say in another container, has
    none here: then pid and tid are None, and command is empty.
    """

    pid: Optional[int]
    """The process. None also if the system hides it (hidepid) and tid is not its first thread."""

    tid: Optional[int]
    """The thread in it, by the number that the kernel knows it by."""

    since: datetime
    """Since when it waits, in UTC."""

    command: str
    """The program and its arguments; empty if that is not known here."""


Waiter.__module__ = "tantara"
