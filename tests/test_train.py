"""Training: what it writes, that updates are those of the mathematics, and what it refuses."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor, distributed
from torch.utils._python_dispatch import TorchDispatchMode

import atrous
from atrous import data, evaluate, parallel, run_metrics, run_state, train
from atrous.config import Config, load, override, to_yaml
from atrous.data.survey import Mask
from atrous.distributed import World
from atrous.errors import AtrousError, ConfigError, DataError
from atrous.interrupt import Interrupted
from atrous.report import Evaluation
from atrous.run_folder import RunFolder
from atrous.training import passes, saves
from atrous.training.passes import Losses
from tests.conftest import TINY, save, tiny_config
from tests.runs import (
    QUIET,
    Terms,
    Tiny,
    assert_close,
    assert_same,
    change_losses,
    folder_config,
    losses,
    validations,
    weights,
)

CPU = torch.device("cpu")


def test_a_run_leaves_the_best_and_last_model_metrics_and_a_report(finished: RunFolder) -> None:
    assert {path.name for path in finished.path.iterdir()} == {
        "config.yaml",
        "data.json",
        "reused.json",
        "best.safetensors",
        "facts.json",
        "last.safetensors",
        "metrics.jsonl",
        "report.html",
        "state",
    }
    assert [row["step"] for row in losses(finished)] == [1, 2, 3, 4]
    assert [row["step"] for row in validations(finished)] == [2, 4]
    assert losses(finished)[0].keys() == {"step", "loss", "learning_rate", "images_per_second"}
    best = atrous.load(finished.best)
    assert best.results["scores"]["miou"] == max(row["scores"]["miou"] for row in validations(finished))
    assert best.results["protocol"]["images"] == "3"
    assert best.training == tiny_config("train.eval_every=2")
    for row in validations(finished):
        assert row["scores"].keys() == {"miou", "pixel_accuracy", "mean_accuracy"}
        assert tuple(row["classes"]) == best.label_space.names


HEADS = {  # without deeplab_v1, whose 20 M parameters take too long to save
    "deeplab_v2": ("output_stride=8", "rates=1,2", "image_pyramid=0.5,1"),
    "deeplab_v3": ("aspp.channels=8", "aspp.squeeze=sigmoid", "aspp.pooling_window=33,33"),
    "dense_prediction_cell": ("cell_channels=8", "output_stride=8", "decoder.channels=8"),
    "lraspp": ("backbone=mobilenet_v3_small_seg",),
}


@pytest.mark.parametrize("name", HEADS)
def test_every_head_is_trained_and_predicts(name: str, tmp_path: Path) -> None:
    common = [text for text in TINY if not text.startswith(("model.aspp", "model.decoder"))]
    overrides = [f"model.name={name}", *(f"model.{setting}" for setting in HEADS[name])]
    short = ("train.steps=2", "train.eval_every=2", "train.batch_norm=frozen", "optim.lr=0.001")
    config = load("synthetic/deeplab_v3plus_tiny", [*common, *overrides, *short])
    run = train.train(config, tmp_path / "run", console=QUIET)
    assert len(losses(run)) == 2
    assert np.isfinite([row["loss"] for row in losses(run)]).all()
    best = atrous.load(run.best)
    assert best.model.config.name == name
    assert best.predict(np.zeros((30, 41, 3), np.uint8)).semantic.shape == (30, 41)


def test_the_seed_decides_everything(tiny: Tiny, tmp_path: Path) -> None:
    one, same, other = (
        train.train(tiny(f"train.seed={seed}", "train.steps=2"), tmp_path / name, console=QUIET)
        for name, seed in (("one", 1), ("same", 1), ("other", 2))
    )
    assert_same(weights(one), weights(same))
    with pytest.raises(AssertionError):
        assert_same(weights(one), weights(other))


PLAIN = ("train.batch_norm=frozen", "model.aspp.dropout=0", "optim.name=sgd", "optim.lr=0.1")


def test_accumulated_passes_equal_one_batch(tiny: Tiny, tmp_path: Path) -> None:
    common = (*PLAIN, "train.steps=2")
    one = train.train(tiny("train.batch=4", *common), tmp_path / "one", console=QUIET)
    two = train.train(tiny("train.batch=2", "train.accumulate=2", *common), tmp_path / "two", console=QUIET)
    assert_close(weights(one), weights(two))
    rows = zip(losses(one), losses(two), strict=True)
    assert all(row["loss"] == pytest.approx(other["loss"], rel=1e-4) for row, other in rows)


def test_frozen_batch_norm_keeps_its_statistics_and_tunes_the_rest(tiny: Tiny, tmp_path: Path) -> None:
    run = train.train(tiny("train.batch_norm=frozen", "train.batch=1"), tmp_path / "run", console=QUIET)
    means = [tensor for name, tensor in weights(run).items() if "running_mean" in name]
    assert all(torch.equal(mean, torch.zeros_like(mean)) for mean in means)
    scales = [tensor for name, tensor in weights(run).items() if name.endswith("norm.weight")]
    assert any(not torch.equal(scale, torch.ones_like(scale)) for scale in scales)


def test_bf16_and_hard_pixels_and_class_weights_train(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny("train.precision=bf16", "loss.hard_pixels=0.3", "loss.class_weights=counts", "train.steps=2")
    run = train.train(config, tmp_path / "run", console=QUIET)
    assert all(np.isfinite(row["loss"]) for row in losses(run))


def test_a_folder_of_own_images_is_learnt(folder_data: Path, tmp_path: Path) -> None:
    own = [text for text in TINY if not text.startswith("data.")]
    long = ("train.steps=40", "train.eval_every=40", "train.batch_norm_momentum=0.3", "optim.lr=0.03")
    data = ("data.format=folder", f"data.root={folder_data}", "augment.crop=33,49")
    config = load("synthetic/deeplab_v3plus_tiny", [*own, *data, *long])
    best = atrous.load(train.train(config, tmp_path / "run", console=QUIET).best)
    assert best.label_space.names == ("left", "right")
    assert best.results["scores"]["miou"] > 0.7


def test_a_crop_larger_than_the_images_is_padded(folder_data: Path, tmp_path: Path) -> None:
    config = folder_config(folder_data, "augment.crop=81,97", "train.steps=1")
    assert train.train(config, tmp_path / "run", console=QUIET).best.exists()


# ---- many processes


@pytest.mark.slow
def test_two_processes_equal_one_with_twice_the_batch(tiny: Tiny, tmp_path: Path) -> None:
    """With frozen batch norm, whose statistics without a GPU are each process's own, and no dropout."""
    common = (*PLAIN, "train.steps=3")
    one = train.train(tiny("train.batch=4", *common), tmp_path / "one", console=QUIET)
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(tiny("train.batch=2", *common)))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*torchrun, "-m", "atrous", "train", str(path), "--out", str(tmp_path / "two"), "--workers", "0"]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True)
    two = RunFolder(tmp_path / "two")
    start = dict(atrous.create(tiny().model, num_classes=8).model.state_dict())
    assert_close(weights(one), weights(two))
    assert any(not torch.equal(tensor, start[name]) for name, tensor in weights(one).items())
    rows = [[row["loss"] for row in losses(run)] for run in (one, two)]
    assert rows[0] == pytest.approx(rows[1], rel=1e-4)
    assert atrous.load(one.best).results["confusion"] == pytest.approx(
        np.array(atrous.load(two.best).results["confusion"]), abs=50
    )
    assert two.report.exists()


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """The world of rank 0 of two processes, which is alone in its process group."""
    world = World(0, 2, CPU)
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    monkeypatch.setattr("atrous.distributed.join", lambda device: world)
    yield world
    distributed.destroy_process_group()


def test_processes_exchange_two_messages_a_step(
    group: World, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts and stop flags go together, and so do gradients and whether all have theirs.

    A logged step has two more: whether losses are finite, and their mean.
    """
    messages: list[str] = []
    steps: list[int] = []

    def counted(name: str) -> None:
        real = getattr(distributed, name)

        def call(*args: object, **kwargs: object) -> object:
            messages.append(name)
            return real(*args, **kwargs)

        monkeypatch.setattr(distributed, name, call)

    def note_step(number: int, terms: Terms) -> Terms:
        steps.append(len(messages))
        return terms

    for name in ("all_reduce", "broadcast", "all_gather_object", "barrier"):
        counted(name)
    change_losses(monkeypatch, note_step)
    config = tiny("train.steps=5", "train.log_every=4", "train.eval_every=5", "train.save_every=5")
    train.train(config, tmp_path / "run", console=QUIET)
    assert list(np.diff(steps)) == [2, 2, 2, 4]
    assert set(messages[steps[0] : steps[-1]]) == {"all_reduce"}


def test_buffers_are_not_sent_at_each_step(group: World, tiny: Tiny) -> None:
    """PyTorch would send them before each pass; `copy_buffers_from_first` does where they are read."""
    network = parallel.spread(atrous.create(tiny().model, num_classes=8).model, None, "ddp", group)
    assert isinstance(network, parallel.Replicated)
    assert not network.will_sync_module_buffers()


# ---- what is logged, and when


def test_losses_are_read_only_where_they_are_logged_or_saved(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading one waits for the device."""
    reads: list[tuple[str, int]] = []
    mean_terms, require_finite = passes.mean_terms, passes.require_finite

    def mean(rows: list[Losses], world: World) -> dict[str, float]:
        reads.append(("logged", rows[-1].step))
        return mean_terms(rows, world)

    def finite(rows: list[Losses], world: World) -> None:
        reads.append(("checked", rows[-1].step if rows else 0))
        require_finite(rows, world)

    monkeypatch.setattr(train, "mean_terms", mean)
    for module in (passes, saves):
        monkeypatch.setattr(module, "require_finite", finite)
    config = tiny("train.steps=7", "train.log_every=3", "train.eval_every=100", "train.save_every=5")
    run = train.train(config, tmp_path / "run", console=QUIET)
    logged = [("logged", 3), ("checked", 3)], [("logged", 6), ("checked", 6)], [("logged", 7), ("checked", 7)]
    assert reads == [*logged[0], ("checked", 5), *logged[1], *logged[2], ("checked", 0)]
    assert [row["step"] for row in losses(run)] == [3, 6, 7]


class Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the tensors whose value was read."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        self.count += str(func).startswith(("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select"))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("overrides", [(), ("loss.hard_pixels=0.5", "optim.clip_norm=1", "train.accumulate=2")])
def test_no_step_between_two_logs_reads_a_value(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...]
) -> None:
    """On a GPU each read waits for the device. AdamW reads its counters of steps, which stay on the CPU."""
    counts: list[int] = []
    reads = Reads()

    def note(number: int, terms: Terms) -> Terms:
        counts.append(reads.count)
        return terms

    change_losses(monkeypatch, note)
    rare = ("train.steps=4", "train.log_every=4", "train.eval_every=4", "train.save_every=4")
    with reads:
        train.train(tiny(*rare, "optim.name=sgd", "train.ema=0.9", *overrides), tmp_path / "run", console=QUIET)
    assert len(set(counts)) == 1
    assert reads.count > counts[0]  # by the log and the validation


def nan_from(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def change(number: int, terms: Terms) -> Terms:
        return {name: term * float("nan") if number >= step else term for name, term in terms.items()}

    change_losses(monkeypatch, change)


def test_a_loss_that_is_not_finite_names_step_terms_and_images(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nan_from(1, monkeypatch)
    with pytest.raises(FloatingPointError, match=r"not finite at step 1 \(semantic nan\) for train_\d+, train_\d+"):
        train.train(tiny(), tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_is_reported_at_the_next_log_with_its_own_step(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nan_from(2, monkeypatch)
    config = tiny("train.log_every=3", "train.save_every=100", "train.eval_every=100")
    with pytest.raises(FloatingPointError, match=r"not finite at step 2 \(semantic nan\) for train_\d+, train_\d+"):
        train.train(config, tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run").exists()


def test_weights_after_a_loss_that_is_not_finite_are_never_saved(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Saves are between logs here: after step 2, which is sound, and after step 4."""
    nan_from(3, monkeypatch)
    config = tiny("train.steps=9", "train.log_every=9", "train.save_every=2", "train.eval_every=9")
    with pytest.raises(FloatingPointError, match="not finite at step 3 "):
        train.train(config, tmp_path / "run", console=QUIET)
    run = RunFolder(tmp_path / "run")
    assert run_state.read_state(run.state)["step"] == 2
    for state in (weights(run), atrous.load(run.last).model.state_dict()):
        assert all(tensor.isfinite().all() for tensor in state.values())
    assert not run.best.exists()


# ---- refused


class Unexpected(Exception):  # noqa: N818 - no error of a run
    """Work that should not have started."""


def refuse_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(*args: object, **kwargs: object) -> Tensor:
        raise Unexpected

    for name in ("atrous.data.survey.read_each", "atrous.pretrained.begin", "atrous.train.objective_of"):
        monkeypatch.setattr(name, work)


def test_a_folder_that_holds_a_run_is_refused_before_classes_are_counted_and_weights_are_read(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_work(monkeypatch)
    config = tiny("loss.class_weights=counts", "train.init=https://example.org/weights.pth")
    run = RunFolder(tmp_path / "run")
    with pytest.raises(Unexpected):
        train.train(config, run.path, console=QUIET)
    run.state.parent.mkdir(parents=True)
    run.state.write_bytes(b"")
    with pytest.raises(ConfigError, match="already holds a run; add --resume"):
        train.train(config, run.path, console=QUIET)


REFUSED = (
    (("train.batch=1",), ConfigError, "train.batch=1 with train.batch_norm=tuned"),
    (("model.num_classes=5",), AtrousError, "model.num_classes is 5, but the label space has 8 classes"),
    (("loss.class_weights=[1,2]",), ConfigError, "loss.class_weights: 2 values for 8 classes"),
    (("loss.weights.auxiliary=1",), ConfigError, "loss.weights.auxiliary: the model has no such training head"),
    (("data.val=nowhere",), AtrousError, "nowhere"),
)


def test_what_would_fail_later_is_refused_at_the_start(tiny: Tiny, tmp_path: Path) -> None:
    for overrides, kind, reason in REFUSED:
        with pytest.raises(kind) as error:
            train.train(tiny(*overrides), tmp_path / "run", console=QUIET)
        assert reason in str(error.value)
        assert not (tmp_path / "run").exists(), overrides


def classifier_config(*overrides: str) -> Config:
    common = [text for text in TINY if not text.startswith(("model.aspp", "model.decoder"))]
    return load("synthetic/deeplab_v3plus_tiny", [*common, "model.name=image_classifier", *overrides])


def test_a_dataset_without_the_labels_that_the_model_needs_is_refused_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atrous.train.objective_of", None)
    with pytest.raises(DataError, match=r"data\.format=synthetic: its samples lack category, which the model needs"):
        train.train(classifier_config(), tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run").exists()


def test_a_broken_image_stops_the_run_and_leaves_nothing_behind(folder_data: Path, tmp_path: Path) -> None:
    image = folder_data / "images" / "train" / "3.png"
    image.write_bytes(image.read_bytes()[:200])
    with pytest.raises(DataError, match=r"images/train/3\.png"):
        train.train(folder_config(folder_data), tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run").exists()


def test_a_broken_image_is_skipped_and_reported_on_request(
    folder_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = folder_data / "images" / "train" / "3.png"
    image.write_bytes(image.read_bytes()[:200])
    config = folder_config(folder_data, "data.on_error=skip")
    train.train(config, tmp_path / "run", console=Console(width=300))
    assert "skipped: " in capsys.readouterr().out


def test_a_label_value_out_of_range_names_value_count_and_file(folder_data: Path, tmp_path: Path) -> None:
    mask = np.zeros((40, 60), np.uint8)
    mask[:2, :3] = 7
    save(folder_data / "masks" / "train" / "2.png", mask)
    with pytest.raises(DataError, match=r"7.*6.*2\.png|2\.png.*7.*6|2\.png.*6.*7"):
        train.train(folder_config(folder_data), tmp_path / "run", console=QUIET)


# ---- labels, looked at before the first step


def write_masks(root: Path, split: str, *values: int) -> None:
    """Masks of stripes with these values."""
    for path in sorted((root / "masks" / split).iterdir()):
        save(path, np.resize(np.array(values, np.uint8), (40, 60)))


LABELS_REFUSED = (  # values of the masks for training and validation, classes.yaml, and what is said
    ((0, 255), (0, 1), "[left, right]", r'to learn from: all \d+ .*50 % .*set "data.names={0: left, 255: right}"$'),
    ((0, 1), (0, 255), "[left, right]", r"to validate on: all .*the training labels have the values 0, 1: number"),
    ((0, 255), (0, 255), "[left, right, top]", r'to learn from: all .* are left .*name it, as in "data.names='),
    ((255,), (0, 1), "[left, right]", r"to learn from: all 14400 pixels of 6 masks have the ignored value 255"),
    ((1, 2), (1, 2), "[left, right]", r'0\.png: value 2 .*; 5 more of split .*set "data.names={1: left, 2: right}"$'),
    ((0, 0), (0, 1), "[left, right]", r"to learn from: .* are left; are these the right masks\?$"),
)


@pytest.mark.parametrize(("train_values", "val_values", "names", "reason"), LABELS_REFUSED)
def test_labels_of_which_nothing_can_be_learnt_are_refused_before_the_first_step(
    train_values: tuple[int, ...],
    val_values: tuple[int, ...],
    names: str,
    reason: str,
    folder_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("atrous.train.objective_of", None)
    write_masks(folder_data, "train", *train_values)
    write_masks(folder_data, "val", *val_values)
    (folder_data / "classes.yaml").write_text(f"names: {names}\n")
    with pytest.raises(DataError, match=reason):
        train.train(folder_config(folder_data), tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run").exists()


def test_what_is_odd_about_labels_is_told_and_kept_and_not_read_again(
    folder_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder_data / "classes.yaml").write_text("names: [left, right, top]\n")
    save(folder_data / "masks" / "train" / "5.png", np.full((40, 60), 255, np.uint8))
    shutil.copy(folder_data / "images" / "train" / "0.png", folder_data / "images" / "val" / "1.png")
    short = ("train.steps=1", "loss.class_weights=counts")
    run = train.train(folder_config(folder_data, *short), tmp_path / "run", console=Console(width=300))
    lines = capsys.readouterr().out.splitlines()
    assert "split 'train': no pixel of top (1 of 3 classes) in 6 masks (17 % of the pixels, in 1 mask, have the " in (
        lines[1][:105] + " "
    )
    assert "split 'train': 1 of 6 masks are ignored entirely: 5" in lines
    assert "split 'val': no pixel of top (1 of 3 classes) in 2 masks" in lines
    assert "1 of 2 images to validate on are also in the training split, so scores are too good: 1" in lines
    kept = json.loads(run.data.read_text())
    assert kept["train"]["images"] == 6
    assert kept["train"]["classes"]["left"] == {"pixels": 6000, "images": 5, "pixels_of_images": 12000}
    assert kept["val"]["classes"]["right"] == {"pixels": 2400, "images": 2, "pixels_of_images": 4800}
    assert kept["train"]["unlabelled"] == ["5"]

    def read_again(*args: object) -> None:
        raise AssertionError("the labels are read again")

    monkeypatch.setattr("atrous.data.survey.read_each", read_again)
    again = train.train(folder_config(folder_data, *short), run.path, resume=True, console=QUIET)
    assert json.loads(again.data.read_text()) == kept
    run.data.write_text("damaged")
    with pytest.raises(AssertionError, match="read again"):
        train.train(folder_config(folder_data, *short), run.path, resume=True, console=QUIET)


def test_class_weights_are_those_of_the_training(folder_data: Path) -> None:
    """3 x 1000 pixels of one class, 1 x 100 of the other in an image of 1000: see arXiv:1411.4734, 6.3.1."""
    config = folder_config(folder_data, "loss.class_weights=counts")
    samples, space = data.samples(config.data, "train"), data.label_space(config.data)
    write_masks(folder_data, "train", 0)
    mask = np.zeros((40, 60), np.uint8)
    mask[:4] = 1
    save(folder_data / "masks" / "train" / "0.png", mask)
    frequency = np.array([(6 - 0.1) / 6, 0.1])
    expected = torch.from_numpy(np.median(frequency) / frequency).float()
    counted = train.class_weights(config, samples, space)
    assert counted is not None
    torch.testing.assert_close(counted, expected)
    assert train.class_weights(folder_config(folder_data), samples, space) is None
    fixed = train.class_weights(folder_config(folder_data, "loss.class_weights=[1,3]"), samples, space)
    assert fixed is not None and fixed.tolist() == [1, 3]
    assert train.class_weights(classifier_config(), samples, space) is None


def test_an_interruption_while_labels_are_read_leaves_nothing_behind(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(read: object, indices: range, workers: int) -> Iterator[tuple[int, object]]:
        os.kill(os.getpid(), signal.SIGINT)
        yield 0, Mask("0", {0: 1})

    monkeypatch.setattr("atrous.data.survey.read_each", read)
    with pytest.raises(Interrupted, match="while the labels were read; nothing has been trained yet"):
        train.train(tiny(), tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run").exists()


# ---- length


def test_steps_and_epochs_take_each_others_place() -> None:
    config = tiny_config("train.epochs=2")
    assert config.train.epochs == 2
    again = override(config, ["train.steps=9"], "config")
    assert (again.train.steps, again.train.epochs) == (9, None)
    assert override(again, ["train.epochs=3", "train.batch=1"], "config").train.epochs == 3
    assert override(config, ["train.batch=1"], "config").train.epochs == 2


def test_a_run_of_epochs_stores_its_steps(tmp_path: Path) -> None:
    by_epochs, by_steps = (
        train.train(tiny_config(setting), tmp_path / setting, console=QUIET)
        for setting in ("train.epochs=0.5", "train.steps=3")
    )
    assert by_epochs.config.read_bytes() == by_steps.config.read_bytes()
    assert_same(weights(by_epochs), weights(by_steps))
    train.train(tiny_config("train.epochs=0.5"), by_epochs.path, resume=True, console=QUIET)  # the same experiment


def with_scores(patch: pytest.MonkeyPatch, scores: Sequence[float]) -> None:
    """Let the validations of a training have these scores."""
    whole, left = evaluate.evaluate, iter(scores)

    def evaluated(*arguments: Any, **options: Any) -> Evaluation:  # noqa: ANN401 - those of evaluate.evaluate
        evaluation = whole(*arguments, **options)
        score = next(left, 0.0)
        figures = evaluation.figures._replace(scores={**evaluation.figures.scores, "miou": score})
        return evaluation._replace(figures=figures)

    patch.setattr(evaluate, "evaluate", evaluated)


def test_a_training_ends_early_without_a_better_score_and_goes_on_when_told(tmp_path: Path) -> None:
    output = io.StringIO()
    console = Console(file=output, width=200)
    settings = ("train.steps=5", "train.eval_every=1", "train.save_every=100")
    with pytest.MonkeyPatch.context() as patch:
        with_scores(patch, [0.3, 0.2, 0.3])
        run = train.train(tiny_config(*settings, "train.patience=2"), tmp_path / "run", console=console)
    steps = [row["step"] for row in run_metrics.read_rows(run.metrics) if "scores" in row]
    assert steps == [1, 2, 3]
    assert "ended early, after step 3 of 5 (train.patience: 2 validations without a better score)" in output.getvalue()
    assert atrous.load(run.best).results["step"] == 1
    assert "3 of 5 steps" in run.report.read_text()

    train.train(tiny_config(*settings, "train.patience=2"), run.path, resume=True, console=QUIET)
    assert run_state.read_state(run.state)["step"] == 3
    train.train(tiny_config(*settings), run.path, resume=True, console=QUIET)
    assert run_state.read_state(run.state)["step"] == 5
    whole = train.train(tiny_config(*settings), tmp_path / "whole", console=QUIET)
    assert_same(weights(run), weights(whole))
