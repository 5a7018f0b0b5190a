"""Ctrl-C and SIGTERM: finish the step at hand, save, and end."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from prologue.core.errors import PrologueError


class Stopped(PrologueError):
    """A training was asked to stop; its state is saved."""


class StopRequest:
    """Whether this process was asked to stop."""

    def __init__(self) -> None:
        self.made = False

    def _make(self, number: int, frame: FrameType | None) -> None:
        self.made = True


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Turn Ctrl-C (SIGINT) and SIGTERM into a request while the context lasts."""
    request = StopRequest()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, request._make) for number in numbers]
    try:
        yield request
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
