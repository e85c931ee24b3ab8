"""Training: what it leaves on disk, that it goes on bit for bit, and what it refuses."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

import atrous
from atrous import run_folder, train
from atrous.config import Config, to_yaml
from atrous.inference import InferenceConfig, predict_labels
from atrous.losses import semantic_loss
from atrous.models.contract import Model
from atrous.progress import Interrupted
from atrous.run_folder import RunFolder
from tests.conftest import save

Tiny = Callable[..., Config]
QUIET = Console(quiet=True)


def weights(run: RunFolder) -> dict[str, Tensor]:
    state = run_folder.read_state(run.state)
    found: dict[str, Tensor] = state["model"]
    return found


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def assert_close(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=2e-6, rtol=1e-4, msg=name)


def test_a_run_leaves_the_best_and_last_model_metrics_and_a_report(tiny: Tiny, tmp_path: Path) -> None:
    run = train.train(tiny("train.eval_every=2"), tmp_path / "run", console=QUIET)
    assert {path.name for path in run.path.iterdir()} == {
        "config.yaml",
        "best.safetensors",
        "last.safetensors",
        "metrics.jsonl",
        "report.html",
        "state",
    }
    rows = run_folder.read_rows(run.metrics)
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4]
    assert [row["step"] for row in rows if "miou" in row] == [2, 4]
    assert rows[0].keys() == {"step", "loss", "learning_rate", "images_per_second"}
    best = atrous.load(run.best)
    assert best.results["miou"] == max(row["miou"] for row in rows if "miou" in row)
    assert best.results["protocol"]["images"] == "3"
    assert best.training == tiny("train.eval_every=2")


HEADS = {  # but for deeplab_v1, whose 20 M parameters take too long to save
    "deeplab_v2": ("output_stride=8", "rates=1,2", "image_pyramid=0.5,1"),
    "deeplab_v3": ("squeeze=sigmoid", "pooling_window=33,33"),
    "dense_prediction_cell": ("cell_channels=8", "output_stride=8"),
    "lraspp": ("backbone=mobilenet_v3_small_seg",),
}


@pytest.mark.parametrize("name", HEADS)
def test_every_head_can_be_learnt_and_used(name: str, tiny: Tiny, tmp_path: Path) -> None:
    overrides = [f"model.{setting}" for setting in HEADS[name]]
    short = ("train.steps=2", "train.eval_every=2", "train.batch_norm=frozen", "optim.lr=0.001")
    run = train.train(tiny(f"model.name={name}", *overrides, *short), tmp_path / "run", console=QUIET)
    losses = [row["loss"] for row in run_folder.read_rows(run.metrics) if "loss" in row]
    assert len(losses) == 2
    assert np.isfinite(losses).all()
    best = atrous.load(run.best)
    assert best.model.config.name == name
    assert best.predict(np.zeros((30, 41, 3), np.uint8)).semantic.shape == (30, 41)


def test_the_seed_decides_all(tiny: Tiny, tmp_path: Path) -> None:
    runs = [
        train.train(tiny(f"train.seed={seed}"), tmp_path / name, console=QUIET)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert_same(weights(runs[0]), weights(runs[1]))
    with pytest.raises(AssertionError):
        assert_same(weights(runs[0]), weights(runs[2]))


def stop_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Ctrl-C come in the middle of a step."""
    real = semantic_loss
    calls = 0

    def loss(*args: object, **kwargs: object) -> dict[str, Tensor]:
        nonlocal calls
        calls += 1
        if calls == step:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr("atrous.train.semantic_loss", loss)


@pytest.mark.parametrize(
    "overrides", [(), ("train.ema=0.9", "optim.name=sgd", "train.accumulate=2", "optim.clip_norm=1")]
)
def test_ctrl_c_saves_and_a_resumed_run_is_bit_for_bit_the_whole_one(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...]
) -> None:
    config = tiny("train.steps=5", "train.save_every=100", "train.eval_every=100", *overrides)
    whole = train.train(config, tmp_path / "whole", console=QUIET)
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        with pytest.raises(
            Interrupted, match=r"stopped after step \d of 5, saved; go on with: atrous train .* --resume"
        ):
            train.train(config, tmp_path / "parts", console=QUIET)
    parts = train.train(config, tmp_path / "parts", resume=True, console=QUIET)
    assert_same(weights(whole), weights(parts))
    assert_same(dict(atrous.load(whole.last).model.state_dict()), dict(atrous.load(parts.last).model.state_dict()))
    assert [row["step"] for row in run_folder.read_rows(parts.metrics) if "loss" in row] == [1, 2, 3, 4, 5]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="no /proc to find the processes in")
@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_run_goes_on_bit_for_bit(tiny: Tiny, tmp_path: Path, processes: int) -> None:
    """SIGKILL, which nothing can be done about, at three moments of the run."""
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(tiny("train.steps=40", "train.save_every=3", "train.eval_every=10")))
    whole, killed = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "killed")
    start(path, whole, processes).wait()
    for moment in (4, 11, 24):
        run = start(path, killed, processes)
        while run.poll() is None and last_step(killed) < moment:
            time.sleep(0.02)
        kill_all(str(killed.path))
        run.wait()
    assert start(path, killed, processes).wait() == 0
    assert_same(weights(whole), weights(killed))
    steps = [row["step"] for row in run_folder.read_rows(killed.metrics) if "loss" in row]
    assert steps == list(range(1, 41))


def kill_all(argument: str) -> None:
    """SIGKILL each process with that argument, until there is none: torchrun's workers are in sessions of their own."""
    while pids := [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline") if has(path, argument)]:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def has(command_line: Path, argument: str) -> bool:
    try:
        return argument.encode() in command_line.read_bytes().split(b"\0")
    except OSError:  # it is gone
        return False


def start(config: Path, run: RunFolder, processes: int) -> "subprocess.Popen[bytes]":
    """A training, resumed if there is anything to resume."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *(torchrun if processes > 1 else []), "-m", "atrous", "train", str(config)]
    return subprocess.Popen(
        [*command, "--out", str(run.path), "--workers", "1", "--resume"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def last_step(run: RunFolder) -> int:
    rows = run_folder.read_rows(run.metrics)
    return max((row["step"] for row in rows), default=0)


@pytest.mark.slow
def test_two_processes_equal_one_with_twice_the_batch(tiny: Tiny, tmp_path: Path) -> None:
    """With frozen batch norm, whose statistics are else each process's own where there is no GPU, and no dropout."""
    common = ("train.batch_norm=frozen", "model.dropout=0", "train.steps=3", "optim.name=sgd", "optim.lr=0.1")
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
    losses = [[row["loss"] for row in run_folder.read_rows(run.metrics) if "loss" in row] for run in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert atrous.load(one.best).results["confusion"] == pytest.approx(
        np.array(atrous.load(two.best).results["confusion"]), abs=50
    )
    assert (two.path / "report.html").exists()


def test_accumulated_passes_equal_one_batch(tiny: Tiny, tmp_path: Path) -> None:
    common = ("train.batch_norm=frozen", "model.dropout=0", "train.steps=2", "optim.name=sgd", "optim.lr=0.1")
    one = train.train(tiny("train.batch=4", *common), tmp_path / "one", console=QUIET)
    two = train.train(tiny("train.batch=2", "train.accumulate=2", *common), tmp_path / "two", console=QUIET)
    assert_close(weights(one), weights(two))


def test_frozen_batch_norm_keeps_its_statistics_and_tunes_the_rest(tiny: Tiny, tmp_path: Path) -> None:
    run = train.train(tiny("train.batch_norm=frozen", "train.batch=1"), tmp_path / "run", console=QUIET)
    found = weights(run)
    assert all(
        torch.equal(tensor, torch.zeros_like(tensor)) for name, tensor in found.items() if "running_mean" in name
    )
    scales = [tensor for name, tensor in found.items() if name.endswith("norm.weight")]
    assert any(not torch.equal(tensor, torch.ones_like(tensor)) for tensor in scales)


def test_bf16_and_hard_pixels_and_class_weights_train(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny("train.precision=bf16", "loss.hard_pixels=0.3", "loss.class_weights=counts", "train.steps=2")
    run = train.train(config, tmp_path / "run", console=QUIET)
    assert all(np.isfinite(row["loss"]) for row in run_folder.read_rows(run.metrics) if "loss" in row)


def test_a_folder_of_own_images_is_learnt(folder_data: Path, tmp_path: Path) -> None:
    from tests.conftest import TINY

    own = [text for text in TINY if not text.startswith("data.")]
    config = atrous.config.load(
        "synthetic/deeplab_v3plus_tiny",
        [
            *own,
            "data.format=folder",
            f"data.root={folder_data}",
            "train.steps=40",
            "train.eval_every=40",
            "train.batch_norm_momentum=0.3",
            "optim.lr=0.03",
            "augment.crop=33,49",
        ],
    )
    run = train.train(config, tmp_path / "run", console=QUIET)
    best = atrous.load(run.best)
    assert best.label_space.names == ("left", "right")
    assert best.results["miou"] > 0.7


def stopping_labels(model: Model, images: Tensor, config: InferenceConfig) -> Tensor:
    os.kill(os.getpid(), signal.SIGINT)
    return predict_labels(model, images, config)


@pytest.mark.parametrize("when", ["last_step", "validating"])
def test_ctrl_c_at_the_end_can_be_gone_on_from(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    config = tiny("train.steps=2", "train.eval_every=2")
    with monkeypatch.context() as patch:
        if when == "last_step":
            stop_after(2, patch)
        else:
            patch.setattr("atrous.evaluate.predict_labels", stopping_labels)
        with pytest.raises(Interrupted):
            train.train(config, tmp_path / "run", console=QUIET)
    run = train.train(config, tmp_path / "run", resume=True, console=QUIET)
    assert [row["step"] for row in run_folder.read_rows(run.metrics) if "miou" in row] == [2]
    assert run.report.exists()


def test_a_broken_validation_image_loses_no_training(folder_data: Path, tmp_path: Path) -> None:
    image = folder_data / "images" / "val" / "1.png"
    whole = image.read_bytes()
    image.write_bytes(whole[:200])
    config = folder_config(folder_data)
    with pytest.raises(ValueError, match=r"images/val/1\.png"):
        train.train(config, tmp_path / "run", console=QUIET)
    assert run_folder.read_state(RunFolder(tmp_path / "run").state)["step"] == 4
    image.write_bytes(whole)
    assert train.train(config, tmp_path / "run", resume=True, console=QUIET).report.exists()


# ---- refused


def test_a_run_is_not_overwritten(tiny: Tiny, tmp_path: Path) -> None:
    run = train.train(tiny("train.steps=1"), tmp_path / "run", console=QUIET)
    before = run.last.read_bytes()
    with pytest.raises(ValueError, match="holds a run already; add --resume"):
        train.train(tiny("train.steps=1"), tmp_path / "run", console=QUIET)
    with pytest.raises(ValueError, match=r"--resume: train.steps is 9 here but 1 in .*config.yaml"):
        train.train(tiny("train.steps=9"), tmp_path / "run", resume=True, console=QUIET)
    assert run.last.read_bytes() == before


def test_a_folder_that_is_not_a_whole_run_is_not_touched(tiny: Tiny, tmp_path: Path) -> None:
    run = train.train(tiny("train.steps=1"), tmp_path / "run", console=QUIET)
    kept = run.config.read_text()
    run.config.unlink()
    with pytest.raises(ValueError, match=r"holds models, but not config\.yaml"):
        train.train(tiny("train.steps=1"), run.path, resume=True, console=QUIET)
    run.config.write_text("train: {steps: [")
    with pytest.raises(ValueError, match=r"config\.yaml: not a YAML file"):
        train.train(tiny("train.steps=1"), run.path, resume=True, console=QUIET)
    run.config.write_text(kept)
    run.state.unlink()
    with pytest.raises(ValueError, match=r"holds models, but not state/last\.pt"):
        train.train(tiny("train.steps=1"), run.path, resume=True, console=QUIET)


def test_the_user_s_own_config_in_the_folder_stays(folder_data: Path, tmp_path: Path) -> None:
    config = folder_config(folder_data)
    path = tmp_path / "run" / "config.yaml"
    path.parent.mkdir()
    path.write_text(to_yaml(config))
    image = folder_data / "images" / "train" / "3.png"
    image.write_bytes(image.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"3\.png"):
        train.train(config, path.parent, console=QUIET)
    assert atrous.config.load(str(path)) == config
    with pytest.raises(ValueError, match=r"--out: train\.steps is 9 here but 4"):
        train.train(folder_config(folder_data, "train.steps=9"), path.parent, console=QUIET)
    assert atrous.config.load(str(path)) == config


def test_data_that_moved_can_be_gone_on_with(folder_data: Path, tmp_path: Path) -> None:
    run = train.train(folder_config(folder_data), tmp_path / "run", console=QUIET)
    moved = folder_data.rename(tmp_path / "moved")
    assert train.train(folder_config(moved), run.path, resume=True, console=QUIET).report.exists()


def test_a_damaged_state_is_named(tiny: Tiny, tmp_path: Path) -> None:
    run = train.train(tiny("train.steps=1"), tmp_path / "run", console=QUIET)
    run.state.write_bytes(run.state.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"last\.pt: not a whole training state"):
        train.train(tiny("train.steps=1"), tmp_path / "run", resume=True, console=QUIET)


def test_resume_where_nothing_was_saved_starts_anew(tiny: Tiny, tmp_path: Path) -> None:
    fresh = train.train(tiny("train.steps=2"), tmp_path / "fresh", console=QUIET)
    resumed = train.train(tiny("train.steps=2"), tmp_path / "resumed", resume=True, console=QUIET)
    assert_same(weights(fresh), weights(resumed))


def test_a_loss_that_is_not_finite_names_step_terms_and_images(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = semantic_loss

    def loss(*args: object, **kwargs: object) -> dict[str, Tensor]:
        return {name: term * float("nan") for name, term in real(*args, **kwargs).items()}  # type: ignore[arg-type]

    monkeypatch.setattr("atrous.train.semantic_loss", loss)
    with pytest.raises(FloatingPointError, match=r"not finite at step 1 \(semantic nan\) for train_\d+, train_\d+"):
        train.train(tiny(), tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (("train.batch=1",), r"train\.batch=1 with train\.batch_norm=tuned"),
        (("model.num_classes=5",), "model.num_classes is 5, but the label space has 8 classes"),
        (("loss.class_weights=[1,2]",), "loss.class_weights: 2 values for 8 classes"),
        (("data.val=nowhere",), "nowhere"),
    ],
)
def test_what_would_fail_later_is_refused_now(
    tiny: Tiny, tmp_path: Path, overrides: tuple[str, ...], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        train.train(tiny(*overrides), tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run").exists()


def folder_config(root: Path, *overrides: str) -> Config:
    given = [
        "data.format=folder",
        f"data.root={root}",
        "augment.crop=33,49",
        "train.batch=2",
        "train.steps=4",
        *overrides,
    ]
    return atrous.config.load("synthetic/deeplab_v3plus_tiny", ["model.depth_multiplier=0.1", *given])


def test_a_broken_image_stops_the_run_and_leaves_nothing_behind(folder_data: Path, tmp_path: Path) -> None:
    image = folder_data / "images" / "train" / "3.png"
    image.write_bytes(image.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"images/train/3\.png"):
        train.train(folder_config(folder_data), tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run").exists()


def test_a_broken_image_is_skipped_and_counted_where_that_is_asked_for(
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
    with pytest.raises(ValueError, match=r"7.*6.*2\.png|2\.png.*7.*6|2\.png.*6.*7"):
        train.train(folder_config(folder_data), tmp_path / "run", console=QUIET)


def test_a_crop_larger_than_the_images_is_padded(folder_data: Path, tmp_path: Path) -> None:
    run = train.train(
        folder_config(folder_data, "augment.crop=81,97", "train.steps=1"), tmp_path / "run", console=QUIET
    )
    assert run.best.exists()


def test_a_full_disk_keeps_what_was_saved(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.test_files import full_disk

    config = tiny("train.steps=4", "train.save_every=2", "train.eval_every=100")
    real = run_folder.write_state
    calls = 0

    def write(path: Path, state: run_folder.State) -> None:
        nonlocal calls
        calls += 1
        with full_disk(10_000_000 if calls == 1 else 1000):
            real(path, state)

    monkeypatch.setattr(run_folder, "write_state", write)
    with pytest.raises(OSError, match=r"cannot write .*last\.pt"):
        train.train(config, tmp_path / "run", console=QUIET)
    state = run_folder.read_state(RunFolder(tmp_path / "run").state)
    assert state["step"] == 2


def test_an_output_that_is_a_file_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(OSError, match="output folder"):
        train.train(tiny(), tmp_path / "run", console=QUIET)
    assert (tmp_path / "run").read_text() == "mine"


def test_a_cut_off_line_of_metrics_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"step": 1}) + "\n" + json.dumps({"step": 2}) + '\n{"step": 3, "lo')
    assert [row["step"] for row in run_folder.read_rows(path)] == [1, 2]
    run_folder.drop_rows_after(path, 1, 0)
    assert path.read_text() == '{"step": 1}\n'
