"""Fifty kills of trainings, at any moment and within saves: each is resumed, and ends as if nothing had happened.

A server process has imported Atrous, and forks for each training, which saves the seconds of the import; from there on
it is `atrous.cli.main`, in a session and a main thread of its own. `test_run_folder.py` kills whole command lines.
"""

import contextlib
import itertools
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest

import atrous
from atrous import cli, run_folder
from atrous.config import to_yaml
from atrous.run_folder import RunFolder
from tests.conftest import tiny_config
from tests.runs import assert_same, weights

Moment = Literal["any", "half written", "written", "renamed"]
SAVES: tuple[Moment, ...] = ("half written", "written", "renamed")
NUM_KILLS = 50
HANGS = 300.0  # seconds after which a training is given up
PATIENCE = 30.0  # seconds until processes whose parent was killed must be gone: PyTorch's workers look every five
ENDS = {signal.SIGKILL: {-signal.SIGKILL}, signal.SIGTERM: {-signal.SIGTERM, 130, 128 + signal.SIGTERM}}


class Kill(NamedTuple):
    signal: signal.Signals
    is_for_group: bool
    workers: int
    moment: Moment
    when: float  # the share of an undisturbed training's time, or the number of the file that is being saved

    def send(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if self.is_for_group else os.kill)(pid, self.signal)


def kills(seed: int) -> Iterator[Kill]:
    """Without end: half of them at any time, half of them while a file is saved."""
    rng = np.random.default_rng(seed)
    for number in itertools.count():
        moment: Moment = "any" if number % 2 else SAVES[rng.integers(len(SAVES))]
        when = float(rng.uniform() if moment == "any" else rng.integers(1, 9))
        name = signal.SIGTERM if rng.random() < 0.4 else signal.SIGKILL
        yield Kill(name, bool(rng.integers(2)), int(rng.choice((0, 2))), moment, when)


# ---- a training in a process of its own


class Training(NamedTuple):
    process: BaseProcess
    kill: Kill | None
    start: float  # of the command line: forking takes longer on a busy machine


Start = Callable[[list[str], Kill | None], Training]


def train(ready: Connection, arguments: list[str], kill: Kill | None) -> None:
    """What a forked process does: the command line, and its kill if that comes within a save."""
    os.setsid()
    for stream in (sys.stdout, sys.stderr):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    if kill is not None and kill.moment != "any":
        set_trap(kill)
    ready.send(None)
    cli.main(arguments)


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
    context.set_forkserver_preload(["tests.test_kills", "atrous.train", "atrous.report", "torch.utils.data"])

    def begin(arguments: list[str], kill: Kill | None) -> Training:
        ours, theirs = context.Pipe()
        process = context.Process(target=train, args=(theirs, arguments, kill))
        process.start()
        assert ours.poll(HANGS), "no process is forked"
        return Training(process, kill, time.monotonic())

    return begin


def ended(training: Training, whole_time: float = 0) -> int:
    """Send the kill if its time comes before the end; the exit code."""
    process, kill, start = training
    assert process.pid is not None
    if kill is not None and kill.moment == "any":
        process.join(start + kill.when * whole_time - time.monotonic())
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
    rows = run_folder.read_rows(run.metrics)
    return [{key: value for key, value in row.items() if key != "images_per_second"} for row in rows]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc to find the processes in")
@pytest.mark.timeout(1800)  # it takes two minutes on a free machine, and seven on a busy one
def test_fifty_kills_change_nothing(start: Start, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(to_yaml(tiny_config("train.steps=40", "train.save_every=2", "train.eval_every=10")))
    whole, runs = (
        RunFolder(tmp_path / "run"),
        (RunFolder(tmp_path / str(number) / "run") for number in itertools.count()),
    )
    arguments = ["train", str(recipe), "--device", "cpu", "--out"]
    undisturbed = start([*arguments, str(whole.path), "--workers", "0"], None)
    assert ended(undisturbed) == 0
    whole_time = time.monotonic() - undisturbed.start

    run, codes, sessions = next(runs), list[tuple[Kill, int]](), list[int]()
    for kill in kills(seed=0):
        is_last = len(codes) == NUM_KILLS
        options = ["--workers", str(kill.workers), *(["--resume"] if run.has_begun else [])]
        training = start([*arguments, str(run.path), *options], None if is_last else kill)
        code = ended(training, whole_time)
        sessions.append(training.process.pid or 0)
        if code == 0:
            require_same_files(run, whole)
            run = next(runs)
        else:
            codes.append((kill, code))
        if is_last:
            break
    assert not [(kill, code) for kill, code in codes if code not in ENDS[kill.signal]]
    assert {kill.moment for kill, _ in codes} == {"any", *SAVES}

    patience = time.monotonic() + PATIENCE
    while any(living(session) for session in sessions) and time.monotonic() < patience:
        time.sleep(0.5)
    assert not [line for session in sessions for line in living(session)]
