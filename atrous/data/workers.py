"""The processes that read samples. They leave signals to their parent, never outlive it, and if one dies, that is told.

PyTorch hears of a death by SIGCHLD, and raises it out of whatever line the main thread is at: in the middle of an
update, or of a save. Here it is raised only where a sample is waited for.
"""

import atexit
import contextlib
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pickle import UnpicklingError
from types import FrameType, TracebackType
from typing import Any

from torch._C import _error_if_any_worker_fails
from torch.utils.data import DataLoader
from torch.utils.data._utils import signal_handling

from atrous.errors import ProcessDied
from atrous.interrupt import SIGNALS, uninterrupted

GRACE = 2.0  # seconds for a worker to finish what it reads before it is ended
DYING = 1.0  # seconds between the end of a worker's connection and its own
ORPHAN_POLL = 1.0  # seconds after which a worker notices the death of its parent
CRASHES = ("SIGBUS", "SIGSEGV", "SIGFPE")  # of which PyTorch would let the worker print a line of its own
REASONS = {  # how a worker ended, or what PyTorch says of it: the likely cause, and what to do. The first one counts
    "SIGBUS|shared memory|shm|No space left": "there is too little shared memory: enlarge /dev/shm (docker run "
    "--shm-size=8g), or set fewer --workers, or --workers 0",
    "open files|ancdata": "too many files are open: raise the limit (ulimit -n 65536), or set --workers 0",
    "SIGKILL|allocate memory": "the system ended it, perhaps for lack of memory: set fewer --workers, or --workers 0",
    "SIG": "a library that decodes images may have crashed: --workers 0 shows where",
    "": "it may have run out of memory, or of shared memory (/dev/shm): set fewer --workers, or --workers 0",
}
UNGUARDED = 'a script that trains must do so under `if __name__ == "__main__":`, because these processes import it'


def items(loader: DataLoader[Any]) -> Iterator[Any]:
    """What a loader yields. Raises ProcessDied if one of its workers dies, or can't be started or reached."""
    if loader.num_workers == 0:
        yield from loader
        return
    require_guarded_script()
    with _workers(loader) as iterator:
        while (item := _next(iterator)) is not None:
            yield item


def require_guarded_script() -> None:
    """End a process that imports the user's script in order to read samples, and comes upon its work once more."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        print(f"atrous: {UNGUARDED}; or set workers=0", file=sys.stderr, flush=True)
        raise SystemExit(1)


# ---- in the parent


@contextlib.contextmanager
def _workers(loader: DataLoader[Any]) -> Iterator[Any]:
    """Start the workers, and end them afterwards, or with the program."""
    reader, writer = multiprocessing.Pipe(duplex=False)
    loader.worker_init_fn = partial(_begin, reader)
    end = partial(writer.send_bytes, b"end")
    atexit.register(end)  # comes before multiprocessing's own, which would wait for them
    signal_handling._set_SIGCHLD_handler()
    try:
        with _at_deaths(_wait_for_the_next_sample):
            with uninterrupted(), _signals_blocked(), _explained([]):
                iterator: Any = iter(loader)
            try:
                yield iterator
            finally:
                end()
                iterator._shutdown_workers()  # now: a notebook keeps the frames of its last error, and so the workers
    finally:
        atexit.unregister(end)
        reader.close()
        writer.close()


def _next(iterator: Any) -> Any:  # noqa: ANN401
    """The next item, None at the end."""
    with _explained(iterator._workers), _at_deaths(_raise_death):
        _raise_death()
        return next(iterator, None)


Handler = Callable[[int, FrameType | None], None]


@contextlib.contextmanager
def _at_deaths(handler: Handler) -> Iterator[None]:
    """Handle the death of a worker so. In other threads than the main one PyTorch looks every five seconds instead."""
    before = None
    with contextlib.suppress(ValueError, AttributeError):  # another thread; no such signal
        before = signal.signal(signal.SIGCHLD, handler)
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGCHLD, before)


def _wait_for_the_next_sample(number: int, frame: FrameType | None) -> None:
    """A death is not told now: `_next` asks for it."""


def _raise_death(number: int = 0, frame: FrameType | None = None) -> None:
    _error_if_any_worker_fails()


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Let new processes begin with blocked signals, so that none meets them before they ignore it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _explained(workers: Sequence[BaseProcess]) -> Iterator[None]:
    """Failures of the workers, and of the connections to them, as one line. Exceptions that a worker raised pass."""
    try:
        yield
    except (RuntimeError, OSError, EOFError, UnpicklingError) as error:
        if not _is_of_workers(error):
            raise
        end = _end_of(workers) or (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise ProcessDied(f"a process that reads images died ({end}); {_reason(end, str(error))}") from error


def _reason(end: str, error: str) -> str:
    if end.startswith("exit code") and multiprocessing.get_start_method() != "fork":
        return f"its own message says why; {UNGUARDED}"
    return next(reason for pattern, reason in REASONS.items() if re.search(pattern, f"{end} {error}"))


def _end_of(workers: Sequence[BaseProcess]) -> str | None:
    """How a worker ended: SIGKILL, or "exit code 1". Its connection may break a moment before it is dead."""
    dead = wait([worker.sentinel for worker in workers], DYING)
    codes = [worker.exitcode for worker in workers if worker.sentinel in dead and worker.exitcode]
    return next((signal.Signals(-code).name if code < 0 else f"exit code {code}" for code in codes), None)


def _is_of_workers(error: Exception) -> bool:
    text = str(error)
    if re.search(r"shared memory|shm_open|/torch_\d|open files|ancdata", text):
        return True
    if text.startswith("Caught "):  # a worker's own exception
        return False
    return not isinstance(error, RuntimeError) or text.startswith(("DataLoader worker (pid", "Pin memory thread"))


# ---- in a worker


def _begin(reader: Connection, worker: int) -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    for name in set(CRASHES) & signal.Signals.__members__.keys():
        signal.signal(signal.Signals[name], signal.SIG_DFL)
    signal.set_wakeup_fd(-1)  # the parent's
    sys.excepthook = _tell_error
    threading.Thread(target=_end_with_parent, args=(reader, os.getppid()), daemon=True).start()


def _tell_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """In the thread that hands over batches: a parent that is interrupted meanwhile breaks the connection."""
    if not isinstance(error, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)


def _end_with_parent(reader: Connection, parent: int) -> None:
    """End this process when the parent says so, or is no more. It may be in the middle of a file that never comes."""
    process = multiprocessing.parent_process()
    assert process is not None, "a worker has a parent"
    while not (ready := wait([reader, process.sentinel], ORPHAN_POLL)) and os.getppid() == parent:
        pass
    if reader in ready:
        time.sleep(GRACE)
    os._exit(0)
