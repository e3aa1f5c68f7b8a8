"""What type checkers accept; `mypy --strict` reads this, and so does the interpreter."""

import threading
from typing import TYPE_CHECKING, Protocol, Union

from tantara import AutoResetEvent, Event, SharedEvent


class Door(Event):
    def __init__(self, name: str, *, level: int = 0) -> None:
        super().__init__()
        self.name, self.level = name, level


class Gate(AutoResetEvent):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


class Latch(SharedEvent):
    def __init__(self, level: int) -> None:
        super().__init__(dir=None, name=None)
        self.level = level


class Waits(Protocol):
    def is_set(self) -> bool: ...
    def set(self) -> None: ...
    def clear(self) -> None: ...
    def wait(self, timeout: Union[float, None] = None) -> bool: ...


def serve(stop: Waits) -> bool:
    return stop.wait(0)


def either(stop: "Union[threading.Event, Event]") -> int:
    return 0 if isinstance(stop, threading.Event) else stop.waiting


if TYPE_CHECKING:
    from threading import Event as Flag
else:
    Flag = Event


def of_threading(stop: threading.Event) -> bool:
    return stop.is_set()


def main() -> None:
    assert not serve(Door("front", level=2)) and not serve(Gate("back")) and not serve(Latch(3))
    assert not serve(threading.Event()) and either(Event()) == 0
    assert not of_threading(Flag())


if __name__ == "__main__":
    main()
