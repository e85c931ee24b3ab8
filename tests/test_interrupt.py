"""Ctrl-C and SIGTERM: the step is finished, the run is saved, and resumed it is bit for bit the uninterrupted one."""

import os
import signal
import threading
from pathlib import Path

import pytest
from torch import Tensor

import atrous
from atrous import train
from atrous.inference import InferenceConfig, Seen, look
from atrous.interrupt import Interrupted, StopFlag, stop_signals
from atrous.types import Network
from tests.runs import QUIET, Tiny, assert_same, losses, stop_after, validations, weights

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def test_a_signal_sets_the_flag_and_a_second_one_ends_the_program() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    for number in SIGNALS:
        with pytest.raises(KeyboardInterrupt), stop_signals() as flag:
            assert not flag.is_set()
            os.kill(os.getpid(), number)
            assert flag.is_set()
            os.kill(os.getpid(), number)
    assert [signal.getsignal(number) for number in SIGNALS] == before


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
