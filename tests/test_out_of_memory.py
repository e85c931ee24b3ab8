"""A step that runs out of memory is computed again in smaller passes: the same update, said and stored."""

import io
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from rich.console import Console

import atrous
from atrous import cli, run_metrics, run_state, train
from atrous.config import Config, load, to_yaml
from atrous.errors import ConfigError, OutOfMemory
from atrous.models import Model
from atrous.run_folder import RunFolder
from atrous.training import passes
from atrous.types import Batch
from tests.conftest import tiny_config
from tests.runs import QUIET, Terms, Tiny, assert_close, assert_same, change_losses, losses, weights

PLAIN = ("train.batch_norm=frozen", "model.aspp.dropout=0")  # what makes every image count alone
CPU_ERROR = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"
ERRORS = (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), RuntimeError(CPU_ERROR), MemoryError())


def fail_at(monkeypatch: pytest.MonkeyPatch, limit: int, error: BaseException, first: int = 1) -> list[int]:
    """From pass number `first` on, fail for more than `limit` images; returns the sizes of all passes, as they come."""
    sizes: list[int] = []
    real = Model.features

    def features(self: Model, images: torch.Tensor) -> dict[str, torch.Tensor]:
        if not torch.is_grad_enabled():
            return real(self, images)
        sizes.append(len(images))
        found = real(self, images)  # batch norms have seen the images
        if len(sizes) >= first and len(images) > limit:
            raise error
        return found

    monkeypatch.setattr(Model, "features", features)
    return sizes


def recording() -> Console:
    return Console(file=io.StringIO(), width=500)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def rows_of(run: RunFolder) -> list[dict[str, object]]:
    return [row for row in run_metrics.read_rows(run.metrics) if "micro_batch" in row]


# ---- the update is the same


@pytest.mark.parametrize("error", ERRORS)
def test_a_run_that_steps_down_equals_one_that_did_not_need_to(
    error: BaseException, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(*PLAIN, "train.batch=4", "optim.name=sgd")
    undisturbed = train.train(config, tmp_path / "one", console=QUIET)
    console = recording()
    with monkeypatch.context() as patch:
        sizes = fail_at(patch, 1, error, first=3)
        run = train.train(config, tmp_path / "two", console=console)
    assert sizes == [4, 4, 4, 2, *[1] * 4, *[1] * 4]  # steps 1 and 2; 3, tried three times; 4
    assert_close(weights(undisturbed), weights(run))
    assert [row["loss"] for row in losses(run)] == pytest.approx([row["loss"] for row in losses(undisturbed)], rel=1e-5)
    assert [(row["step"], row["micro_batch"], row["images"]) for row in rows_of(run)] == [(2, 2, 4), (2, 1, 4)]
    assert text_of(console).count("WARNING: the") == 2
    assert "ran out of memory at step 3; this step is computed again" in text_of(console)
    assert load(str(run.config)).train.micro_batch == 1
    assert atrous.load(run.best).training is not None
    assert atrous.load(run.best).training.train.micro_batch == 1  # type: ignore[union-attr]
    assert "out of memory" in run.report.read_text(encoding="utf-8")


def test_statistics_are_those_of_the_pass_that_worked(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the failed pass did to batch norms, gradients and random numbers is undone."""
    config = tiny("train.batch=4", "train.micro_batch=2")
    undisturbed = train.train(config, tmp_path / "one", console=QUIET)
    sizes = fail_at(monkeypatch, 2, ERRORS[0])
    run = train.train(tiny("train.batch=4"), tmp_path / "two", console=QUIET)
    assert sizes == [4, *[2] * 8]
    assert_same(weights(undisturbed), weights(run))
    assert [row["loss"] for row in losses(undisturbed)] == [row["loss"] for row in losses(run)]


@pytest.mark.parametrize("overrides", [(), ("train.accumulate=2",), ("train.batch=5",)])
def test_a_micro_batch_changes_no_update(overrides: tuple[str, ...], tiny: Tiny, tmp_path: Path) -> None:
    config = tiny(*PLAIN, "train.batch=4", *overrides)
    one = train.train(config, tmp_path / "one", console=QUIET)
    two = train.train(tiny(*PLAIN, "train.batch=4", *overrides, "train.micro_batch=3"), tmp_path / "two", console=QUIET)
    assert_close(weights(one), weights(two))


def test_the_hardest_pixels_are_those_of_a_pass_which_is_said(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = recording()
    fail_at(monkeypatch, 2, ERRORS[0])
    config = tiny(*PLAIN, "train.batch=4", "loss.hard_pixels=0.5", "train.steps=1", "train.eval_every=1")
    run = train.train(config, tmp_path / "run", console=console)
    assert "the hardest pixels are chosen among those of a pass" in text_of(console)
    assert len(losses(run)) == 1


def test_memory_that_runs_out_in_the_backward_pass_counts_too(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(*PLAIN, "train.batch=4")
    undisturbed = train.train(config, tmp_path / "one", console=QUIET)

    def change(number: int, terms: Terms) -> Terms:
        if number == 2:
            next(iter(terms.values())).register_hook(fail)  # type: ignore[no-untyped-call]
        return terms

    def fail(gradient: torch.Tensor) -> None:
        raise RuntimeError(CPU_ERROR)

    change_losses(monkeypatch, change)
    run = train.train(config, tmp_path / "two", console=QUIET)
    assert_close(weights(undisturbed), weights(run))
    assert len(rows_of(run)) == 1


@pytest.mark.parametrize(("number", "parts", "sizes"), [(8, 2, [4, 4]), (7, 2, [3, 4]), (5, 3, [1, 2, 2]), (3, 1, [3])])
def test_parts_of_a_batch_are_even(number: int, parts: int, sizes: list[int]) -> None:
    batch = Batch(tuple(map(str, range(number))), torch.arange(number), semantic=torch.arange(number))
    split = batch.split(parts)
    assert [len(one.names) for one in split] == sizes
    assert torch.equal(torch.cat([one.images for one in split]), batch.images)
    assert [name for one in split for name in one.names] == list(batch.names)
    assert all(one.semantic is not None and one.instance is None for one in split)


# ---- where it ends


@pytest.mark.parametrize(("overrides", "least"), [((), 2), (("train.batch_norm=frozen",), 1)])
def test_the_smallest_pass_that_fails_ends_the_run_with_advice(
    overrides: tuple[str, ...],
    least: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(tiny_config("train.batch=4", "train.log_every=1", *overrides)))
    sizes = fail_at(monkeypatch, 0, ERRORS[1], first=3)
    assert cli.run(["train", str(path), "--out", str(tmp_path / "run"), "--workers", "0"]) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert f"the CPU is out of memory at step 3 with {least} image" in message
    assert "train.activation_checkpointing" in message and "augment.crop" in message and "atrous plan" in message
    assert sizes == [4, 4, *([4, 2] if least == 2 else [4, 2, 1])]
    assert (tmp_path / "run" / "state" / "last.pt").exists()  # of step 2


def test_other_errors_are_not_taken_for_it(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = fail_at(monkeypatch, 0, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        train.train(tiny(), tmp_path / "run", console=QUIET)
    assert sizes == [2]


def test_memory_that_runs_out_while_validating_is_told_as_such(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(*arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(train, "measure", measure)
    with pytest.raises(OutOfMemory, match=r"GPU is out of memory while validating.*evaluate.mode=sliding.*--resume"):
        train.train(tiny(), tmp_path / "run", console=QUIET)
    monkeypatch.undo()
    assert train.train(tiny(), tmp_path / "run", resume=True, console=QUIET).best.exists()


# ---- resuming


@pytest.fixture
def halved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[RunFolder, Config]:
    """A run that has stepped down from 4 images to 2, and the config that it was started with."""
    config = tiny_config(*PLAIN, "train.batch=4")
    with monkeypatch.context() as patch:
        fail_at(patch, 2, ERRORS[0])
        return train.train(config, tmp_path / "run", console=QUIET), config


def longer(config: Config, **settings: object) -> Config:
    return config.model_copy(update={"train": config.train.model_copy(update={"steps": 6, **settings})})


def test_a_resumed_run_goes_on_with_the_smaller_passes(
    halved: tuple[RunFolder, Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, config = halved
    sizes, console = fail_at(monkeypatch, 9, ERRORS[0]), recording()
    train.train(longer(config), run.path, resume=True, console=console)
    assert sizes == [2] * 4
    assert load(str(run.config)).train.micro_batch == 2
    assert "train.micro_batch=2" in text_of(console)
    assert len(rows_of(run)) == 1


def test_a_resumed_run_can_be_given_larger_passes_again(
    halved: tuple[RunFolder, Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, config = halved
    sizes, console = fail_at(monkeypatch, 9, ERRORS[0]), recording()
    train.train(longer(config, micro_batch=4), run.path, resume=True, console=console)
    assert sizes == [4] * 2
    assert "train.micro_batch is now 4, not 2" in text_of(console)


def test_tuned_batch_norms_need_two_images_in_each_pass(tiny: Tiny, tmp_path: Path) -> None:
    for number, batch in ((1, 4), (2, 3)):
        config = tiny(f"train.batch={batch}", f"train.micro_batch={number}")
        with pytest.raises(ConfigError, match=f"train.micro_batch={number} with train.batch_norm=tuned"):
            train.train(config, tmp_path / "run", console=QUIET)


# ---- many processes

SCRIPT = """
import os, sys, torch
from atrous import cli, models
real, count = models.Model.features, 0
def features(self, images):
    global count
    if torch.is_grad_enabled():
        count += 1
        if os.environ["RANK"] == "1" and count >= 2 and len(images) > 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")
    return real(self, images)
models.Model.features = features
sys.exit(cli.run(sys.argv[1:]))
"""


@pytest.mark.slow
def test_processes_step_down_together(tiny: Tiny, tmp_path: Path) -> None:
    """One of two runs out of memory; the weights are those of one undisturbed process."""
    one = train.train(tiny(*PLAIN, "train.batch=4"), tmp_path / "one", console=QUIET)
    config, script = tmp_path / "config.yaml", tmp_path / "script.py"
    config.write_text(to_yaml(tiny(*PLAIN, "train.batch=2")))
    script.write_text(SCRIPT)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    command = [*torchrun, "train", str(config), "--out", str(tmp_path / "two"), "--workers", "0", "--device", "cpu"]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    two = RunFolder(tmp_path / "two")
    assert_close(weights(one), weights(two))
    assert [row["micro_batch"] for row in rows_of(two)] == [1]
    assert load(str(two.config)).train.micro_batch == 1
    assert "another process ran out of memory at step 2" in done.stdout


def test_rows_of_metrics_tell_it(halved: tuple[RunFolder, Config]) -> None:
    run, _ = halved
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert rows[0] == {"step": 0, "micro_batch": 2, "images": 4, "reason": "the GPU ran out of memory"}
    assert [row["step"] for row in rows[1:]] == [1, 2, 3, 4, 4]


# ---- outside of the passes

OUTSIDE = (("a batch", passes, "vary", 3), ("an update", train, "update", 3), ("a save", run_state, "serialized", 2))


@pytest.mark.parametrize(
    ("module", "name", "number"), [case[1:] for case in OUTSIDE], ids=[case[0] for case in OUTSIDE]
)
def test_memory_that_runs_out_elsewhere_costs_no_save(
    module: ModuleType,
    name: str,
    number: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = tiny_config("train.batch=4", "train.ema=0.9")
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config))
    undisturbed = train.train(config, tmp_path / "one", console=QUIET)
    with monkeypatch.context() as patch:
        fail_in_call(patch, module, name, number)
        assert cli.run(["train", str(path), "--out", str(tmp_path / "two"), "--workers", "0", "--device", "cpu"]) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "the CPU is out of memory; a training needs less with" in message
    assert "the last save is kept; resume with: atrous train" in message
    run = train.train(config, tmp_path / "two", resume=True, console=QUIET)
    assert_same(weights(undisturbed), weights(run))


def test_memory_that_runs_out_before_the_first_save_is_told_so(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_in_call(monkeypatch, train, "update", 1)
    with pytest.raises(OutOfMemory, match="nothing has been saved yet"):
        train.train(tiny(), tmp_path / "run", console=QUIET)
    monkeypatch.undo()
    assert train.train(tiny(), tmp_path / "run", console=QUIET).best.exists()


def fail_in_call(monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, number: int) -> None:
    """Let call `number` of a function run out of memory when it has done its work."""
    real, calls = getattr(module, name), itertools.count(1)

    def failing(*arguments: object) -> object:
        result = real(*arguments)
        if next(calls) == number:
            raise RuntimeError(CPU_ERROR)
        return result

    monkeypatch.setattr(module, name, failing)
