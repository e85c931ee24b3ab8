"""`train.quantize_after`: what a training that learns to round does, writes, resumes and refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from atrous import artefact, run_state, segmenter, train
from atrous.distributed import World
from atrous.errors import AtrousWarning, ConfigError
from atrous.interrupt import Interrupted, StopFlag
from atrous.layers import quantization
from atrous.model_file import Header
from atrous.models import Model
from atrous.run_folder import RunFolder
from atrous.training.data import splits_of
from tests.conftest import tiny_config
from tests.runs import QUIET, Tiny, assert_same, losses, stop_after, validations, weights

AFTER_2 = ("train.quantize_after=2", "train.eval_every=2", "train.ema=0.5")


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of four steps, the last two with rounded values. For reading only."""
    return train.train(tiny_config(*AFTER_2), tmp_path_factory.mktemp("quantized") / "run", console=QUIET)


def test_the_steps_before_are_those_of_a_training_without(quantized: RunFolder, tiny: Tiny, tmp_path: Path) -> None:
    plain = train.train(tiny(*AFTER_2, "train.quantize_after=none"), tmp_path / "run", console=QUIET)
    one, two = ([row["loss"] for row in losses(run)] for run in (quantized, plain))
    assert one[:2] == two[:2]
    assert one[2] != two[2]
    one, two = ([row["scores"] for row in validations(run)] for run in (quantized, plain))
    assert one[0] == two[0]


def test_the_model_file_keeps_floats_and_ranges_and_rounds(quantized: RunFolder) -> None:
    model = segmenter.load(quantized.last).model
    ranges = dict(quantization.ranges(model))
    assert len(ranges) == len(quantization.convolutions(model))
    assert quantization.rounds(model)
    assert all(one.low <= 0 <= one.high for one in ranges.values())
    assert all(tensor.dtype == torch.float32 for tensor in model.parameters())


def test_the_best_model_is_one_that_rounds(quantized: RunFolder) -> None:
    best = segmenter.load(quantized.best)
    assert best.results["step"] > 2
    assert quantization.rounds(best.model)


def test_what_was_measured_while_training_is_measured_again_from_the_file(quantized: RunFolder) -> None:
    best = segmenter.load(quantized.best)
    assert best.training is not None
    _, samples = splits_of(best.training)
    again = train.measure(best, samples, World(0, 1, torch.device("cpu")), 0, StopFlag())
    assert again.figures.to_tree()["scores"] == best.results["scores"]
    assert best.results["protocol"]["convolutions"] == "8-bit integers"


def test_another_runtime_gets_it_in_integers(
    quantized: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exports: list[artefact.Export] = []

    def write(model: Model, header: Header, path: Path, export: artefact.Export) -> None:
        exports.append(export)
        raise ConfigError("not written here")

    monkeypatch.setenv("ATROUS_CACHE", str(tmp_path))
    monkeypatch.setattr(artefact, "write", write)
    with pytest.warns(AtrousWarning, match="exporting .* for pt2, once"), pytest.raises(ConfigError, match="not writ"):
        segmenter.load(quantized.best, runtime="pt2")
    assert exports == [artefact.Export("pt2", int8=True, grouping=False)]


@pytest.mark.parametrize("step", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_run_that_was_stopped_is_resumed_bit_for_bit(
    step: int, quantized: RunFolder, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_after(step, patch)
        with pytest.raises(Interrupted):
            train.train(tiny(*AFTER_2), tmp_path / "run", console=QUIET)
    run = train.train(tiny(*AFTER_2), tmp_path / "run", resume=True, console=QUIET)
    assert_same(weights(quantized), weights(run))
    assert [row["scores"] for row in validations(run)] == [row["scores"] for row in validations(quantized)]


def test_checkpointed_activations_change_nothing(quantized: RunFolder, tiny: Tiny, tmp_path: Path) -> None:
    run = train.train(tiny(*AFTER_2, "train.activation_checkpointing=true"), tmp_path / "run", console=QUIET)
    assert_same(weights(quantized), weights(run))


def test_bf16_and_smaller_passes_go_with_it(tiny: Tiny, tmp_path: Path) -> None:
    more = (
        "train.quantize_after=0",
        "train.precision=bf16",
        "train.accumulate=2",
        "train.batch=4",
        "train.micro_batch=2",
    )
    run = train.train(tiny(*more, "train.steps=2"), tmp_path / "run", console=QUIET)
    assert quantization.rounds(segmenter.load(run.best).model)


def test_patience_does_not_end_a_training_before_it_rounds(tiny: Tiny, tmp_path: Path) -> None:
    more = ("train.quantize_after=2", "train.eval_every=1", "train.patience=1", "optim.lr=1e-12")
    run = train.train(tiny(*more), tmp_path / "run", console=QUIET)
    assert max(row["step"] for row in validations(run)) >= 3


def test_another_output_stride_has_the_same_ranges(quantized: RunFolder) -> None:
    model = segmenter.load(quantized.best)
    other = model.with_output_stride(8)
    assert quantization.rounds(other.model)
    assert_same(model.model.state_dict(), other.model.state_dict())


def test_a_training_may_begin_with_its_weights(quantized: RunFolder, tiny: Tiny, tmp_path: Path) -> None:
    run = train.train(tiny("train.steps=1", f"train.init={quantized.best}"), tmp_path / "run", console=QUIET)
    assert not quantization.has_ranges(segmenter.load(run.best).model)
    reused: dict[str, Any] = json.loads((run.path / "reused.json").read_text())
    assert not reused["fresh"]
    assert not reused["unused"]


def test_a_resumed_run_may_not_switch_it(quantized: RunFolder, tiny: Tiny, tmp_path: Path) -> None:
    run = train.train(tiny("train.steps=1"), tmp_path / "run", console=QUIET)
    with pytest.raises(ConfigError, match=r"train\.quantize_after is 0 here but None in"):
        train.train(tiny("train.quantize_after=0"), run.path, resume=True, console=QUIET)
    assert run_state.read_state(run.state)["step"] == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("train.quantize_after=-1",), "train.quantize_after=-1"),
        (("train.quantize_after=4",), "quantize_after=4 must be less than steps=4: no step would be left"),
        (("train.quantize_after=soon",), "train.quantize_after=soon"),
        (("train.quantize_after=1.5",), "train.quantize_after=1.5"),
        (("train.quantize_after=0", "train.parallel=fsdp"), "quantize_after needs parallel=ddp"),
    ],
)
def test_settings_that_can_not_be_are_refused(settings: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_config(*settings)


def test_in_epochs_it_must_end_before_the_training(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train.quantize_after=900 must be less than the training's \d+ steps"):
        train.train(tiny("train.epochs=1", "train.quantize_after=900"), tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run").exists()
