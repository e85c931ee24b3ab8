"""Fifty misfortunes of trainings: each is resumed, and ends as if nothing had happened.

They are killed at any moment and within saves, by either signal; the disk fills up in the middle of a write; a power
cut takes a part of the last save; the clock is set anew meanwhile. The moments come from a seed.

A server process has imported Atrous, and forks for each training, which saves the seconds of the import; from there on
it is `atrous.cli.main`, in a session and a main thread of its own. `test_run_folder.py` kills whole command lines.
"""

import contextlib
import errno
import io
import itertools
import json
import math
import multiprocessing
import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta, tzinfo
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple, Self

import numpy as np
import pytest

import atrous
from atrous import cli, environment, run_metrics
from atrous.config import to_yaml
from atrous.report import facts
from atrous.run_folder import RunFolder
from tests.conftest import tiny_config
from tests.processes import PRELOADED
from tests.runs import assert_same, losses, weights

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

Moment = Literal["any", "half written", "written", "renamed"]
SAVES: tuple[Moment, ...] = ("half written", "written", "renamed")
Damage = Literal["cut off", "zeroed", "emptied"]
DAMAGES: tuple[Damage, ...] = ("cut off", "zeroed", "emptied")
NUM_MISFORTUNES = 50
HANGS = 300.0  # seconds after which a training is given up
PATIENCE = 30.0  # seconds until processes whose parent was killed must be gone: PyTorch's workers look every five
ENDS = {signal.SIGKILL: {-signal.SIGKILL}, signal.SIGTERM: {-signal.SIGTERM, 130, 128 + signal.SIGTERM}}


class Kill(NamedTuple):
    signal: signal.Signals
    is_for_group: bool
    moment: Moment
    when: float  # the share of an undisturbed training's time, or the number of the file that is being saved

    def send(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if self.is_for_group else os.kill)(pid, self.signal)


class Jump(NamedTuple):
    """Of the clock that tells the date. The one that measures time goes on."""

    hours: float
    when: float  # the share of an undisturbed training's time


class Misfortune(NamedTuple):
    workers: int = 0
    kill: Kill | None = None
    room: float = math.inf  # on the disk, as a share of the bytes that an undisturbed training writes
    damage: Damage | None = None  # what a power cut that comes with the kill does to the last save
    jump: Jump | None = None

    @property
    def codes(self) -> set[int]:
        """With which a training may end."""
        return ENDS[self.kill.signal] if self.kill is not None else {2}

    @property
    def kind(self) -> str:
        kinds = {"damaged save": self.damage, "clock": self.jump, "full disk": self.kill is None}
        return next((kind for kind, is_so in kinds.items() if is_so), self.kill.signal.name if self.kill else "")


def misfortunes(seed: int) -> Iterator[Misfortune]:
    """Without end: of five, two kills, of which one comes while a file is saved, and one of each other kind."""
    rng = np.random.default_rng(seed)

    def kill(moment: Moment, *, is_hard: bool = False, files: tuple[int, int] = (1, 9)) -> Kill:
        name = signal.SIGTERM if rng.random() < 0.4 and not is_hard else signal.SIGKILL
        when = float(rng.uniform() if moment == "any" else rng.integers(*files))
        return Kill(name, bool(rng.integers(2)), moment, when)

    while True:
        for number in range(5):
            one = Misfortune(int(rng.choice((0, 2))), kill("any" if number % 2 else SAVES[rng.integers(len(SAVES))]))
            if number == 2:
                one = one._replace(kill=None, room=float(rng.uniform()))
            elif number == 3:  # when there are mostly two saves
                late = kill(SAVES[rng.integers(len(SAVES))], is_hard=True, files=(6, 12))
                one = one._replace(kill=late, damage=DAMAGES[rng.integers(len(DAMAGES))])
            elif number == 4:
                hours = float(rng.choice((-1, 1)) * rng.uniform(1, 30))
                one = one._replace(kill=kill("any"), jump=Jump(hours, float(rng.uniform())))
            yield one


def do_damage(path: Path, damage: Damage, rng: np.random.Generator) -> None:
    """What may be left of a file whose blocks were not all on the disk."""
    content = path.read_bytes()
    place = int(rng.integers(len(content)))
    block = place // 4096 * 4096
    contents: dict[Damage, bytes] = {
        "cut off": content[:place],
        "zeroed": content[:block] + bytes(len(content[block : block + 4096])) + content[block + 4096 :],
        "emptied": b"",
    }
    path.unlink()  # it may be one file with the save before, which was on the disk before this one was begun
    path.write_bytes(contents[damage])


# ---- a training in a process of its own


class Training(NamedTuple):
    process: BaseProcess
    messages: Connection
    misfortune: Misfortune
    start: float  # of the command line: forking takes longer on a busy machine


class Scale(NamedTuple):
    """What an undisturbed training needs."""

    seconds: float = 0
    size: float = math.inf  # of all that it writes, in bytes


Start = Callable[[list[str], Path, Misfortune, Scale], Training]


def train(messages: Connection, arguments: list[str], log: Path, misfortune: Misfortune, scale: Scale) -> None:
    """What a forked process does: the command line, and what happens to it from within."""
    os.setsid()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(file, stream.fileno())
    kill, jump = misfortune.kill, misfortune.jump
    if kill is not None and kill.moment != "any":
        set_trap(kill)
    if jump is not None:
        set_clock(jump, time.monotonic() + jump.when * scale.seconds)
    disk = Disk(misfortune.room * scale.size)
    setattr(io, "open", disk.open)  # noqa: B010 - a type checker would refuse the assignment
    messages.send(None)
    try:
        cli.main(arguments)
    finally:
        messages.send(disk.used)


class Disk:
    """One that fills up: the write that is too much is done in part, and none after it."""

    def __init__(self, room: float) -> None:
        self.room, self.used, self.is_full, self.open_file = room, 0, False, io.open

    def open(self, file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> IO[Any]:  # noqa: ANN401 - as io.open
        is_read, is_other = not set(mode) & set("wax"), "+" in mode or isinstance(file, int)
        if is_read or is_other:
            return self.open_file(file, mode, *args, **kwargs)
        raw = io.BufferedWriter(File(self, file, mode.replace("b", "").replace("t", "")))
        return raw if "b" in mode else io.TextIOWrapper(raw, encoding="utf-8")


class File(io.FileIO):
    def __init__(self, disk: Disk, path: Any, mode: str) -> None:  # noqa: ANN401 - any path
        super().__init__(path, mode)
        self.disk = disk

    def write(self, content: "ReadableBuffer", /) -> int:
        view, disk = memoryview(content).cast("B"), self.disk
        left = 0 if disk.is_full else min(len(view), int(min(disk.room, 2**62)) - disk.used)
        disk.is_full = left < len(view)
        written = super().write(view[:left]) if left else 0
        disk.used += written
        if not written and len(view):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written


def set_clock(jump: Jump, moment: float) -> None:
    """Let the clock show another time from `moment` on."""
    now, now_ns = time.time, time.time_ns

    def shift() -> float:
        return jump.hours * 3600 if time.monotonic() > moment else 0.0

    class Date(date):
        @classmethod
        def today(cls) -> Self:
            return cls.fromtimestamp(now() + shift())

    class Time(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return super().now(tz) + timedelta(seconds=shift())

    for owner, name, value in (
        (time, "time", lambda: now() + shift()),
        (time, "time_ns", lambda: now_ns() + int(shift() * 1e9)),
        (environment, "date", Date),
        (facts, "datetime", Time),
    ):
        setattr(owner, name, value)


def set_trap(kill: Kill) -> None:
    """Files are written aside, synced and renamed: kill this process at one of these moments of the chosen file."""
    sync, replace = os.fsync, os.replace
    numbers = {moment: itertools.count(1) for moment in SAVES}

    def is_due(moment: Moment) -> bool:
        return next(numbers[moment]) == kill.when and moment == kill.moment

    def trapped_sync(file: int) -> None:
        is_new = Path(f"/proc/self/fd/{file}").readlink().name.startswith(".")
        if is_new and is_due("half written"):
            if kill.signal == signal.SIGKILL:
                os.truncate(file, os.fstat(file).st_size // 2)
            kill.send(os.getpid())
        sync(file)
        if is_new and is_due("written"):
            kill.send(os.getpid())

    def trapped_replace(old: Any, new: Any) -> None:  # noqa: ANN401 - any path
        replace(old, new)
        if is_due("renamed"):
            kill.send(os.getpid())

    setattr(os, "fsync", trapped_sync)  # noqa: B010 - a type checker would refuse the assignment
    setattr(os, "replace", trapped_replace)  # noqa: B010


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Start:
    """Starts a training. The server from which it is forked lives as long as the tests."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the server must have no threads: a fork loses them
    forkserver._forkserver._stop()  # type: ignore[attr-defined] # another test's, which has imported nothing
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.test_kills", *PRELOADED])

    def begin(arguments: list[str], log: Path, misfortune: Misfortune, scale: Scale) -> Training:
        ours, theirs = context.Pipe()
        process = context.Process(target=train, args=(theirs, arguments, log, misfortune, scale))
        process.start()
        theirs.close()
        assert ours.poll(HANGS), "no process is forked"
        ours.recv()
        return Training(process, ours, misfortune, time.monotonic())

    return begin


def ended(training: Training, scale: Scale) -> int:
    """Send the kill if its time comes before the end; the exit code."""
    process, kill = training.process, training.misfortune.kill
    assert process.pid is not None
    if kill is not None and kill.moment == "any":
        process.join(max(0, training.start + kill.when * scale.seconds - time.monotonic()))
        if process.is_alive():
            kill.send(process.pid)
    process.join(HANGS)
    assert process.exitcode is not None, "it hangs"
    return process.exitcode


def living(session: int) -> list[str]:
    """The command lines of a session's processes, without zombies."""
    stats = {
        path.parent: text.rpartition(")")[2].split()
        for path in Path("/proc").glob("[0-9]*/stat")
        if (text := read(path))
    }
    return [
        read(folder / "cmdline") for folder, fields in stats.items() if fields[0] != "Z" and int(fields[3]) == session
    ]


def read(path: Path) -> str:
    with contextlib.suppress(OSError):  # the process has ended
        return path.read_text(errors="replace")
    return ""


# ---- the result


def require_same_files(run: RunFolder, whole: RunFolder) -> None:
    """Equal but for times: models with their headers, states, metrics, configurations; and nothing left over."""
    assert {path.relative_to(run.path) for path in run.path.rglob("*")} == {
        path.relative_to(whole.path) for path in whole.path.rglob("*")
    }
    assert run.config.read_bytes() == whole.config.read_bytes()
    assert timeless_rows(run) == timeless_rows(whole)
    assert_same(weights(run), weights(whole))
    for path, other in ((run.best, whole.best), (run.last, whole.last)):
        model, other_model = atrous.load(path), atrous.load(other)
        assert_same(model.model.state_dict(), other_model.model.state_dict())
        assert timeless(model.header.to_metadata()) == timeless(other_model.header.to_metadata())


def timeless(metadata: dict[str, str]) -> dict[str, Any]:
    """A header without the date and the machine of its figures."""
    results = {key: value for key, value in json.loads(metadata["results"]).items() if key != "environment"}
    return {**metadata, "results": results}


def timeless_rows(run: RunFolder) -> list[dict[str, Any]]:
    rows = run_metrics.read_rows(run.metrics)
    return [{key: value for key, value in row.items() if key != "images_per_second"} for row in rows]


def require_sane_times(run: RunFolder, log: Path, elapsed: float) -> None:
    """Whatever the clock showed, nothing took longer than it took, or less than no time."""
    told = facts.read(run.facts)
    assert told is not None
    assert 0 < told.seconds <= elapsed
    assert all(0 < row["images_per_second"] < 1e6 for row in losses(run))
    left = re.findall(r"(\S+) min left", log.read_text())
    assert left
    assert all(0 <= float(minutes) < HANGS for minutes in left)


class Attempts:
    """One run after another, each in as many trainings as it takes."""

    def __init__(self, start: Start, folder: Path, recipe: Path) -> None:
        self.start, self.folder, self.recipe = start, folder, recipe
        self.number, self.elapsed = itertools.count(), 0.0
        self.sessions: list[int] = []
        self.scale = Scale()
        self.next_run()

    def next_run(self) -> None:
        self.run, self.elapsed = RunFolder(self.folder / str(next(self.number)) / "run"), 0.0
        self.run.path.parent.mkdir()

    @property
    def log(self) -> Path:
        return self.run.path.with_name("log")

    def once(self, misfortune: Misfortune) -> int:
        """Train, or resume the run; the exit code."""
        options = ["--device", "cpu", "--workers", str(misfortune.workers), *(["--resume"] * self.run.has_begun)]
        arguments = ["train", str(self.recipe), "--out", str(self.run.path), *options]
        start = time.monotonic()
        training = self.start(arguments, self.log, misfortune, self.scale)
        code = ended(training, self.scale)
        self.elapsed += time.monotonic() - start
        self.sessions.append(training.process.pid or 0)
        if not self.scale.seconds:
            self.scale = Scale(time.monotonic() - training.start, training.messages.recv())
        training.messages.close()
        return code


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc to find the processes in")
@pytest.mark.timeout(3600)  # it takes two minutes on a free machine, and many on a very busy one
def test_fifty_misfortunes_change_nothing(start: Start, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(to_yaml(tiny_config("train.steps=20", "train.save_every=2", "train.eval_every=10")))
    attempts, rng = Attempts(start, tmp_path, recipe), np.random.default_rng(1)
    assert attempts.once(Misfortune()) == 0
    whole = attempts.run
    attempts.next_run()

    ends, damages = list[tuple[Misfortune, int]](), Counter[str]()
    for misfortune in misfortunes(seed=0):
        is_last, run = len(ends) == NUM_MISFORTUNES, attempts.run
        code = attempts.once(Misfortune() if is_last else misfortune)
        if code == 0:
            require_same_files(run, whole)
            require_sane_times(run, attempts.log, attempts.elapsed)
            attempts.next_run()
        else:
            assert code in misfortune.codes, (misfortune, attempts.log.read_text()[-1000:])
            ends.append((misfortune, code))
        if run.best.exists():
            atrous.load(run.best)
        if code and misfortune.kind == "full disk":
            assert os.strerror(errno.ENOSPC) in attempts.log.read_text().splitlines()[-1]
        if code and misfortune.damage and run.previous.exists():
            damages[misfortune.damage] += 1
            do_damage(run.state, misfortune.damage, rng)
        if is_last:
            break
    kinds = Counter(misfortune.kind for misfortune, _ in ends)
    assert kinds.keys() == {"SIGKILL", "SIGTERM", "full disk", "damaged save", "clock"}
    assert min(kinds.values()) >= 5, kinds
    assert {misfortune.kill.moment for misfortune, _ in ends if misfortune.kill} == {"any", *SAVES}
    assert damages.keys() == set(DAMAGES)

    patience = time.monotonic() + PATIENCE
    while any(living(session) for session in attempts.sessions) and time.monotonic() < patience:
        time.sleep(0.5)
    assert not [line for session in attempts.sessions for line in living(session)]
