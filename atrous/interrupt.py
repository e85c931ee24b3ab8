"""Ctrl-C, SIGTERM and their kind: a training finishes its current step, saves, and ends; shorter work ends at once.

SIGTERM comes from schedulers, `timeout` and torchrun, SIGHUP from a terminal that is closed, SIGUSR1 and SIGUSR2 from
schedulers that are asked to warn before the time limit. What is ignored when Atrous starts, as SIGHUP is under `nohup`,
stays ignored. Where a program that uses Atrous handles the last three itself, they are left to it.
"""

import contextlib
import math
import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")  # not every system has all of them
SIGNALS = tuple(signal.Signals[name] for name in NAMES if name in signal.Signals.__members__)
ALWAYS_OURS = (signal.SIGINT, signal.SIGTERM)  # even where a program has its own handler

GIVE_UP = 3  # the Ctrl-C that ends a training without saving
ONE_PRESS = 1.0  # seconds: signals that follow sooner are one (`timeout` sends each twice, people press many times)
PATIENCE = 5.0  # seconds that a long call may go on after a signal that ends the program at once
STOPPING = "stopping after this step, then saving"
THIRD = " (the third Ctrl-C ends at once, without saving)"
STILL = "still stopping; the next Ctrl-C ends at once and loses the steps since the last save"
LOST = "ended without saving; --resume goes on from the last save"


class Interrupted(BaseException):
    """A signal ended the work. The message says what is saved, and how to resume.

    It is no Exception, which code that skips what fails would swallow, and no KeyboardInterrupt, which typer handles.
    """

    def __init__(self, message: str = "interrupted", number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.number = number

    @property
    def exit_code(self) -> int:
        """As shells have it: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.number


class StopFlag:
    """Set by a signal or, from any thread, by `set`.

    A signal raises Interrupted in the main thread, but not within `deferred`. There it is acknowledged on the terminal,
    whoever does the work asks `is_set`, and only the third Ctrl-C ends it.
    """

    def __init__(self) -> None:
        self.number: int | None = None  # of the first signal
        self.is_quiet = os.environ.get("RANK", "0") != "0"  # of the processes of a training the first one speaks
        self._is_deferred = self._saves = self._is_watched = False
        self._presses = 0
        self._last, self._raised = -ONE_PRESS, math.inf  # times of the last signal, and of the last interruption

    def is_set(self) -> bool:
        return self.number is not None

    def set(self, number: int = signal.SIGINT) -> None:
        """Ask for the end. Only the first call counts."""
        self.number = self.number or number

    def check(self) -> None:
        """Raise Interrupted if it is set, and not deferred."""
        if self.number is not None and not self._is_deferred:
            self._raised = time.monotonic()
            raise Interrupted(number=self.number)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Within, nothing is interrupted: the work saves and ends by itself."""
        before = self._is_deferred, self._saves
        self._is_deferred = self._saves = True
        try:
            yield
        finally:
            self._is_deferred, self._saves = before

    @contextlib.contextmanager
    def at_once(self, is_at_once: bool = True) -> Iterator[None]:
        """Within a part of `deferred`, a signal, also an earlier one, raises Interrupted after all."""
        before, self._is_deferred = self._is_deferred, not is_at_once
        try:
            self.check()
            yield
        finally:
            self._is_deferred = before

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The handler, in the main thread. What unwinds already is not interrupted again, unless that takes long."""
        is_first, is_late = not self.is_set(), time.monotonic() - self._raised > PATIENCE
        self.set(number)
        if number == getattr(signal, "SIGHUP", None):
            _leave_closed_terminal()
        if not self._is_watched and self._is_given_up(number):
            raise Interrupted(self._farewell(), number)
        if is_first or is_late:
            self.check()

    def _is_given_up(self, number: int) -> bool:
        """Acknowledge a signal on the terminal, unless it was the last one that a person has patience for."""
        now = time.monotonic()
        is_new, self._last = now - self._last > ONE_PRESS, now
        self._presses += is_new and number == signal.SIGINT
        if is_new and self._saves and not self.is_quiet and self._presses < GIVE_UP:
            more = THIRD if number == signal.SIGINT else ""
            _tell(STILL if self._presses == GIVE_UP - 1 else STOPPING + more)
        return is_new and self._presses >= GIVE_UP

    def _farewell(self) -> str:
        return LOST if self._saves else str(Interrupted())

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Acknowledge signals from a thread, at once: handlers wait until a long call, such as a backward pass, ends.

        Only for a program of ours: one that doesn't listen is ended from outside its main thread.
        """
        if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "pthread_kill"):
            yield
            return
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        self._is_watched, hook, sys.unraisablehook = True, sys.unraisablehook, self._try_again
        threading.Thread(target=self._watch, args=(reader,), daemon=True).start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(-1)
            self._is_watched, sys.unraisablehook = False, hook
            os.write(writer, b"\0")
            os.close(writer)

    def _watch(self, reader: int) -> None:
        while number := os.read(reader, 1)[0]:
            if number not in SIGNALS:  # such as the end of a child process
                continue
            if self._is_given_up(number):
                _end(self._farewell(), number)
            threading.Thread(target=self._end_if_stuck, args=(number,), daemon=True).start()
        os.close(reader)

    def _try_again(self, lost: "sys.UnraisableHookArgs") -> None:
        """Python drops what is raised in some callbacks, such as those of a fork."""
        if not isinstance(lost.exc_value, Interrupted):
            sys.__unraisablehook__(lost)
        elif self.number is not None:
            threading.Timer(0.05, signal.pthread_kill, [threading.main_thread().ident, self.number]).start()
            self.number = None

    def _end_if_stuck(self, number: int) -> None:
        """End a program that has nothing to save, and whose main thread has not heard of the signal."""
        time.sleep(PATIENCE)
        if not self.is_set() and not self._saves:
            _end(self._farewell(), number)


@contextlib.contextmanager
def stop_signals(flag: StopFlag | None = None) -> Iterator[StopFlag]:
    """Let signals set `flag`, or that of a `stop_signals` around this one.

    Outside the main thread signals can't be handled: they are left to the program, which may `set` the flag instead.
    """
    outer = signal.getsignal(signal.SIGTERM)
    if flag is None and isinstance(outer, StopFlag):
        outer.check()
        yield outer
        return
    flag = flag or StopFlag()
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    ours = [number for number, handler in handlers.items() if _is_ours(number, handler)]
    try:
        with contextlib.suppress(ValueError):  # not the main thread
            for number in ours:
                signal.signal(number, flag)
        yield flag
    finally:
        with contextlib.suppress(ValueError):
            for number in ours:
                signal.signal(number, handlers[number])


def _is_ours(number: int, handler: object) -> bool:
    return handler in (signal.SIG_DFL, signal.default_int_handler) or (number in ALWAYS_OURS and callable(handler))


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """For the instant of a fork, whose callbacks drop what is raised in them."""
    flag = signal.getsignal(signal.SIGTERM)
    with flag.at_once(False) if isinstance(flag, StopFlag) else contextlib.nullcontext():
        yield
    if isinstance(flag, StopFlag):
        flag.check()


def ignore_signals() -> None:
    """At the end of a program, which has its exit code."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _tell(message: str) -> None:
    """Print a line from a handler or a thread, where `print` could meet itself."""
    clear = "\r\x1b[2K" if os.isatty(2) else ""  # the progress bar, which is drawn again below
    with contextlib.suppress(OSError):
        os.write(2, f"{clear}atrous: {message}\n".encode())


def _end(message: str, number: int) -> None:
    """End the program without unwinding it. A terminal gets its cursor back, which a progress bar hides."""
    _tell(message + ("\x1b[?25h" if os.isatty(2) else ""))
    os._exit(Interrupted(number=number).exit_code)


def _leave_closed_terminal() -> None:
    """Print nowhere from now on: to write to a terminal that was closed is an error, and comes before the save."""
    for output in (1, 2):
        with contextlib.suppress(OSError):
            if stat.S_ISCHR(os.fstat(output).st_mode) and not os.isatty(output):
                os.dup2(os.open(os.devnull, os.O_WRONLY), output)
