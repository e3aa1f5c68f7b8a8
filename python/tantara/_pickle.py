"""How a SharedEvent travels to another process."""

from multiprocessing import reduction
from typing import Any

from ._tantara import SharedEvent


def named(cls: type[SharedEvent], place: tuple[str, str]) -> SharedEvent:
    """The event by its name and directory."""
    return cls(*place)


def travelling(fd: int) -> Any:
    """The descriptor of an event without a name, on its way: inherited by a child that is being spawned, else sent."""
    return reduction.DupFd(fd)


def anonymous(cls: type[SharedEvent], travelling: Any) -> SharedEvent:
    """The event by the descriptor that has arrived."""
    return cls.from_fd(travelling.detach())
