"""Ctrl-C and SIGTERM: the step is finished, the run is saved, and resumed it is bit for bit the uninterrupted one."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

import atrous
from atrous import train
from atrous.config import to_yaml
from atrous.inference import InferenceConfig
from atrous.inference.look import look
from atrous.inference.seen import Seen
from atrous.interrupt import SIGNALS, Interrupted, StopFlag, stop_signals
from atrous.run_state import read_state
from atrous.types import Network
from tests.runs import QUIET, Tiny, assert_same, losses, stop_after, validations, weights


@pytest.fixture(autouse=True)
def _as_in_a_terminal() -> Iterator[None]:
    """Under `nohup`, and in some CI systems, tests are started with ignored signals, which their children inherit."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_signal_interrupts_at_once_and_only_once() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    for number in SIGNALS:
        with stop_signals() as flag:
            with pytest.raises(Interrupted, match=r"^interrupted$") as raised:
                os.kill(os.getpid(), number)
            assert raised.value.exit_code == 128 + number
            assert flag.is_set()
            os.kill(os.getpid(), number)  # while the first one unwinds
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_what_saves_is_not_interrupted_before_the_third_ctrl_c(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atrous.interrupt.ONE_PRESS", 0.0)
    with pytest.raises(Interrupted, match=r"^ended without saving"), stop_signals() as flag, flag.deferred():
        for expected in ("stopping after this step, then saving", "still stopping; the next Ctrl-C ends at once"):
            os.kill(os.getpid(), signal.SIGINT)
            assert f"atrous: {expected}" in capfd.readouterr().err
            os.kill(os.getpid(), signal.SIGTERM)  # a scheduler that repeats itself has no patience to lose
        os.kill(os.getpid(), signal.SIGINT)


def test_signals_that_follow_one_another_at_once_are_one(capfd: pytest.CaptureFixture[str]) -> None:
    with stop_signals() as flag, flag.deferred():
        for _ in range(9):
            os.kill(os.getpid(), signal.SIGINT)
    assert capfd.readouterr().err.count("\n") == 1


def test_a_deferred_signal_interrupts_the_parts_that_may_be() -> None:
    with stop_signals() as flag, flag.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        with flag.at_once(False):
            pass
        with pytest.raises(Interrupted), flag.at_once():
            pytest.fail("not interrupted")


def test_ignored_signals_and_handlers_of_the_program_stay() -> None:
    """SIGHUP under nohup, SIGINT of a background job; USR1 of a program that uses Atrous."""

    def own(number: int, frame: object) -> None:
        seen.append(number)

    seen: list[int] = []
    wanted: dict[int, Any] = {signal.SIGHUP: signal.SIG_IGN, signal.SIGINT: signal.SIG_IGN, signal.SIGUSR1: own}
    before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    try:
        with stop_signals() as flag:
            for number in wanted:
                os.kill(os.getpid(), number)
            assert not flag.is_set()
        assert seen == [signal.SIGUSR1]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_an_interruption_that_python_drops_comes_again() -> None:
    class Careless:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            Path()  # a call, before which the handler runs

    with stop_signals() as flag, flag.watched(), pytest.raises(Interrupted):
        careless = Careless()
        del careless
        time.sleep(5)


def test_in_another_thread_signals_are_left_to_the_program() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    flags: list[StopFlag] = []

    def work() -> None:
        with stop_signals() as flag:
            assert [signal.getsignal(number) for number in SIGNALS] == before
            flags.append(flag)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not flags[0].is_set()


def test_a_training_in_a_thread_is_stopped_by_its_flag(tiny: Tiny, tmp_path: Path) -> None:
    stop, ends, config = StopFlag(), [], tiny("train.steps=1000")

    def work() -> None:
        try:
            train.train(config, tmp_path / "run", console=QUIET, stop=stop)
        except Interrupted as interruption:
            ends.append(str(interruption))

    thread = threading.Thread(target=work)
    thread.start()
    while not (tmp_path / "run" / "state" / "last.pt").exists():
        time.sleep(0.02)
    stop.set()
    thread.join(60)
    assert len(ends) == 1
    assert re.match(r"stopped (and saved after step \d+ of 1000|while validating); .*resume with: ", ends[0])


def test_a_training_within_an_event_loop_is_stopped_by_ctrl_c(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a notebook."""

    async def cell() -> None:
        train.train(tiny("train.steps=5", "train.eval_every=5"), tmp_path / "run", console=QUIET)

    stop_after(2, monkeypatch)
    with pytest.raises(Interrupted, match="stopped and saved after step 2 of 5"):
        asyncio.run(cell())


INTERRUPTED = (  # settings, logged steps
    (("train.log_every=1",), [1, 2, 3, 4, 5]),
    (("train.ema=0.9", "optim.name=sgd", "train.accumulate=2", "optim.clip_norm=1"), [1, 2, 3, 4, 5]),
    (("train.log_every=4",), [4, 5]),  # stopped, and saved, between two logs
)


@pytest.mark.parametrize(("overrides", "steps"), INTERRUPTED)
def test_ctrl_c_saves_and_a_resumed_run_is_bit_for_bit_the_whole_one(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...], steps: list[int]
) -> None:
    config = tiny("train.steps=5", "train.save_every=100", "train.eval_every=100", *overrides)
    whole = train.train(config, tmp_path / "whole", console=QUIET)
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        with pytest.raises(
            Interrupted, match=r"stopped and saved after step \d of 5; resume with: atrous train .* --resume"
        ):
            train.train(config, tmp_path / "parts", console=QUIET)
    parts = train.train(config, tmp_path / "parts", resume=True, console=QUIET)
    assert_same(weights(whole), weights(parts))
    assert_same(atrous.load(whole.last).model.state_dict(), atrous.load(parts.last).model.state_dict())
    assert [row["step"] for row in losses(parts)] == steps
    assert losses(parts)[-1]["loss"] == losses(whole)[-1]["loss"]


def stopping_look(network: Network, images: Tensor, config: InferenceConfig, *, probabilities: bool = False) -> Seen:
    os.kill(os.getpid(), signal.SIGINT)
    return look(network, images, config, probabilities=probabilities)


@pytest.mark.parametrize("when", ["last_step", "validating"])
def test_a_run_that_was_stopped_at_its_end_is_resumed_with_its_validation(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    config = tiny("train.steps=2", "train.eval_every=2")
    with monkeypatch.context() as patch:
        if when == "last_step":
            stop_after(2, patch)
        else:
            patch.setattr("atrous.segmenter.look", stopping_look)
        with pytest.raises(Interrupted, match="stopped while validating; the training is saved; resume with: "):
            train.train(config, tmp_path / "run", console=QUIET)
    run = train.train(config, tmp_path / "run", resume=True, console=QUIET)
    assert [row["step"] for row in validations(run)] == [2]
    assert run.report.exists()


# ---- whole programs, as a terminal and a scheduler end them

ROOT = Path(__file__).parents[1]


def start(*arguments: str, launcher: tuple[str, ...] = ("-m", "atrous"), **options: Any) -> subprocess.Popen[str]:  # noqa: ANN401
    return subprocess.Popen(
        [sys.executable, *launcher, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def arguments_of(tiny: Tiny, folder: Path, *overrides: str, workers: int) -> list[str]:
    path = folder / "run.yaml"
    path.write_text(
        to_yaml(tiny("train.steps=100000", "train.eval_every=100000", "train.save_every=100000", *overrides))
    )
    return ["train", str(path), "--out", str(folder / "run"), "--workers", str(workers), "--device", "cpu"]


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    while process.poll() is None and not path.exists():
        time.sleep(0.02)


def processes_of(argument: str) -> list[int]:
    commands = {path: path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()}
    return [int(path.parent.name) for path, command in commands.items() if argument.encode() in command]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_to_the_whole_group_saves_in_one_line(
    tiny: Tiny, tmp_path: Path, number: signal.Signals, workers: int
) -> None:
    process = start(*arguments_of(tiny, tmp_path, workers=workers))
    wait_for(tmp_path / "run" / "metrics.jsonl", process)
    os.killpg(process.pid, number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    *acknowledged, last = error.splitlines()
    assert re.fullmatch(r"atrous: stopped and saved after step \d+ of 100000; resume with: atrous train .*", last)
    assert all(line.startswith("atrous: stopping after this step, then saving") for line in acknowledged), error
    assert len(acknowledged) <= 1
    assert read_state(tmp_path / "run" / "state" / "last.pt")["step"] >= 1
    assert processes_of(str(tmp_path)) == []


@pytest.mark.slow
def test_workers_end_when_their_parent_is_killed(tiny: Tiny, tmp_path: Path) -> None:
    process = start(*arguments_of(tiny, tmp_path, workers=2))
    wait_for(tmp_path / "run" / "metrics.jsonl", process)
    assert len(processes_of(str(tmp_path))) == 3
    process.kill()
    process.communicate(timeout=60)
    deadline = time.monotonic() + 10
    while processes_of(str(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_of(str(tmp_path)) == []


@pytest.mark.slow
def test_a_worker_that_dies_leaves_a_saved_training(tiny: Tiny, tmp_path: Path) -> None:
    process = start(*arguments_of(tiny, tmp_path, workers=2))
    wait_for(tmp_path / "run" / "metrics.jsonl", process)
    os.kill(max(processes_of(str(tmp_path))), signal.SIGKILL)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert re.fullmatch(r"atrous: a process that reads images died \(SIGKILL\); .*; saved after step \d+; .*\n", error)
    assert read_state(tmp_path / "run" / "state" / "last.pt")["step"] >= 1


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.3, 0.8, 1.3, 1.8, 2.3])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_start_is_one_line(tiny: Tiny, tmp_path: Path, number: signal.Signals, delay: float) -> None:
    """Imports of numpy and torch turn what interrupts them into errors of their own."""
    process = start(*arguments_of(tiny, tmp_path, workers=0))
    time.sleep(delay)
    os.killpg(process.pid, number)
    _, error = process.communicate(timeout=60)
    if process.returncode != -number:  # Python itself was not up yet
        assert process.returncode == 128 + number
        assert error.startswith("atrous: ")
        assert "Traceback" not in error


@pytest.mark.slow
def test_a_closed_terminal_does_not_cost_the_training(tiny: Tiny, tmp_path: Path) -> None:
    """Printing to it is an error, which must not come before the save."""
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "atrous", *arguments_of(tiny, tmp_path, workers=1)]
    process = subprocess.Popen(
        ["setsid", "--ctty", *command],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        text=True,
    )
    os.close(theirs)
    wait_for(tmp_path / "run" / "metrics.jsonl", process)
    os.close(ours)
    assert process.wait(timeout=60) == 128 + signal.SIGHUP
    assert read_state(tmp_path / "run" / "state" / "last.pt")["step"] >= 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_torchrun_ends_all_processes_of_a_saved_training(tiny: Tiny, tmp_path: Path, number: signal.Signals) -> None:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "atrous")
    process = start(*arguments_of(tiny, tmp_path, workers=1), launcher=launcher)
    wait_for(tmp_path / "run" / "metrics.jsonl", process)
    os.killpg(process.pid, number)
    _, error = process.communicate(timeout=90)
    ours = [line for line in error.splitlines() if line.startswith("atrous: ")]
    assert "stopped and saved after step" in ours[-1]
    assert len(ours) <= 2
    assert read_state(tmp_path / "run" / "state" / "last.pt")["step"] >= 1
    assert processes_of(str(tmp_path)) == []


@pytest.mark.slow
def test_the_death_of_a_process_of_many_is_one_line(tiny: Tiny, tmp_path: Path) -> None:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "atrous")
    process = start(*arguments_of(tiny, tmp_path, workers=0), launcher=launcher)
    wait_for(tmp_path / "run" / "metrics.jsonl", process)
    os.kill(max(processes_of(str(tmp_path))), signal.SIGKILL)
    _, error = process.communicate(timeout=90)
    assert "atrous: another process of this run ended" in error or "atrous: stopped and saved" in error
    assert "fault of Atrous" not in error
    assert processes_of(str(tmp_path)) == []
