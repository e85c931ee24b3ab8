"""Ctrl-C and SIGTERM: a long run finishes its current step, saves, and ends."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Interrupted(Exception):  # noqa: N818 - not an error
    """Ctrl-C or SIGTERM. The work so far is saved, and the message says how to resume.

    It is not a KeyboardInterrupt, because typer handles that one, and its message, itself.
    """


class StopFlag:
    """Set by Ctrl-C or SIGTERM. A second Ctrl-C ends the program at once."""

    def __init__(self) -> None:
        self._is_set = False

    def is_set(self) -> bool:
        return self._is_set

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self._is_set:
            raise KeyboardInterrupt
        self._is_set = True


@contextlib.contextmanager
def stop_signals() -> Iterator[StopFlag]:
    """Let a step finish after a signal. Outside the main thread, signals are handled as before."""
    flag = StopFlag()
    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    handlers = {number: signal.signal(number, flag) for number in numbers}
    try:
        yield flag
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
