"""What a run keeps on disk: never overwritten by accident, whole after a kill, resumed bit for bit."""

import contextlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console
from safetensors.torch import save_file

import atrous
from atrous import run_folder, train
from atrous.config import to_tree, to_yaml
from atrous.distributed import World
from atrous.errors import ConfigError, DataError, ModelFileError
from atrous.models.format_1 import BACKBONE
from atrous.run_folder import RunFolder, State
from tests.conftest import MOBILENET, tiny_config
from tests.runs import QUIET, Tiny, assert_same, copied, folder_config, losses, validations, weights
from tests.test_files import full_disk

ALONE = World(0, 1, torch.device("cpu"))
FINISHED = ("train.eval_every=2",)  # of the run in `finished`


# ---- a new run


def test_a_run_is_not_overwritten(finished: RunFolder, tmp_path: Path) -> None:
    run = copied(finished, tmp_path / "run")
    for resume, overrides, reason in (
        (False, FINISHED, "already holds a run; add --resume"),
        (
            True,
            (*FINISHED, "optim.lr=1"),
            r"--resume: optim.lr is 1.0 here but 0.004 in .*config.yaml; use the run's own",
        ),
        (
            True,
            (*FINISHED, "optim.lr=1", "train.seed=3"),
            r"optim.lr is 1.0 here but 0.004 in .*config.yaml \(and 1 more\)",
        ),
        (
            True,
            (*FINISHED, "train.steps=3"),
            r"train.steps is 3, but the run in .* has done 4 steps; set train.steps=4 or",
        ),
    ):
        with pytest.raises(ConfigError, match=reason):
            train.train(tiny_config(*overrides), run.path, resume=resume, console=QUIET)
    for path in finished.files:
        other = run.path / path.relative_to(finished.path)
        assert path.exists() == other.exists()
        assert not path.exists() or path.read_bytes() == other.read_bytes()


def test_an_output_that_is_a_file_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(OSError, match="output folder"):
        train.train(tiny(), tmp_path / "run", console=QUIET)
    assert (tmp_path / "run").read_text() == "mine"


def test_the_user_s_own_config_in_the_folder_stays(folder_data: Path, tmp_path: Path) -> None:
    config = folder_config(folder_data)
    path = tmp_path / "run" / "config.yaml"
    path.parent.mkdir()
    path.write_text(to_yaml(config))
    image = folder_data / "images" / "train" / "3.png"
    image.write_bytes(image.read_bytes()[:200])
    with pytest.raises(DataError, match=r"3\.png"):
        train.train(config, path.parent, console=QUIET)
    assert atrous.config.load(str(path)) == config
    with pytest.raises(ConfigError, match=r"--out: train\.steps is 9 here but 4"):
        train.train(folder_config(folder_data, "train.steps=9"), path.parent, console=QUIET)
    assert atrous.config.load(str(path)) == config


def test_a_run_that_breaks_before_it_has_saved_removes_only_its_own_files(tiny: Tiny, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    (run.path / "notes.txt").write_text("mine")
    with pytest.raises(RuntimeError, match="a bug"), run_folder.opened(run, tiny(), ALONE, resume=False) as opening:
        assert opening.state is None
        run_folder.log(run, {"step": 1})
        run_folder.write_reused(run, {"source": "x"})
        raise RuntimeError("a bug")
    assert [path.name for path in run.path.iterdir()] == ["notes.txt"]


def test_only_the_first_process_writes(tiny: Tiny, tmp_path: Path) -> None:
    other = RunFolder(tmp_path / "run", is_writer=False)
    run_folder.log(other, {"step": 1})
    run_folder.write_state(other, {"step": 1})
    run_folder.write_reused(other, {"source": "x"})
    run_folder.write_changes(other, tiny(), ["x"], 1)
    with run_folder.opened(other, tiny(), ALONE, resume=False) as opening:
        assert opening.state is None
    assert not other.path.exists()


def test_a_run_is_removed_with_the_folders_that_only_it_needs(finished: RunFolder, tmp_path: Path) -> None:
    alone, shared = (copied(finished, tmp_path / name) for name in ("alone", "shared"))
    (shared.path / "notes.txt").write_text("mine")
    for run in (alone, shared):
        run_folder.remove(run)
    assert not alone.path.exists()
    assert [path.name for path in shared.path.iterdir()] == ["notes.txt"]


# ---- resumed


def test_resume_or_start_starts_a_run_where_there_is_none(tiny: Tiny, tmp_path: Path) -> None:
    fresh = train.train(tiny("train.steps=2"), tmp_path / "fresh", console=QUIET)
    resumed = train.train(tiny("train.steps=2"), tmp_path / "resumed", resume="or_start", console=QUIET)
    assert_same(weights(fresh), weights(resumed))


def test_resuming_where_no_run_is_names_what_is_there_and_the_nearest_runs(
    finished: RunFolder, tiny: Tiny, tmp_path: Path
) -> None:
    for name in ("street", "forest"):
        copied(finished, tmp_path / "runs" / name)
    (tmp_path / "runs" / "notes").mkdir()
    (tmp_path / "runs" / "notes" / "config.yaml").write_text("not of a run")
    (tmp_path / "runs" / "file").write_text("")
    before = tree(tmp_path)
    for place, reason in (
        ("runs/file", r"no run in .*/runs/file \(a file, not a folder\); the nearest: "),
        (
            "runs/stret",
            r"no run in .*/runs/stret \(no such folder\); the nearest: .*/runs/street, .*/runs/forest; without",
        ),
        ("runs", r"no run in .*/runs \(the folder holds file, forest, notes, street\); the nearest: "),
        ("runs/notes", r"no run in .*/notes \(the folder holds config.yaml\)"),
        ("elsewhere/a/b", r"no such folder\); the nearest: .*; without --resume a new one starts there"),
    ):
        with pytest.raises(ConfigError, match=reason):
            train.train(tiny(), tmp_path / place, resume=True, console=QUIET)
    assert tree(tmp_path) == before


def tree(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def test_a_run_that_was_killed_before_its_first_save_is_resumed_from_its_start(tiny: Tiny, tmp_path: Path) -> None:
    whole = train.train(tiny(), tmp_path / "whole", console=QUIET)
    killed = RunFolder(tmp_path / "killed")
    killed.state.parent.mkdir(parents=True)
    killed.lock.write_text("")
    killed.config.write_text(to_yaml(tiny()))
    killed.metrics.write_text('{"step": 1, "loss": 9.0}\n')
    console = Console(width=200)
    with console.capture() as capture:
        train.train(tiny("train.save_every=1"), killed.path, resume=True, console=console)
    assert "nothing was saved yet, so the run starts from step 0" in capture.get()
    assert "train.save_every is now 1, not 2" in capture.get()
    assert_same(weights(whole), weights(killed))
    assert [row["loss"] for row in losses(killed)] == [row["loss"] for row in losses(whole)]


def test_a_folder_that_is_not_a_whole_run_is_refused(finished: RunFolder, tmp_path: Path) -> None:
    run = copied(finished, tmp_path / "run")
    config = run.config.read_text()

    def refused(reason: str, kind: type[ValueError]) -> None:
        with pytest.raises(kind, match=reason):
            train.train(tiny_config(*FINISHED), run.path, resume=True, console=QUIET)

    whole = run_folder.read_state(run.state)
    run.config.unlink()
    refused(r"holds models, but config\.yaml is missing", ModelFileError)
    run.config.write_text("train: {steps: [")
    refused(r"config\.yaml: line 1: not YAML", ConfigError)
    run.config.write_text(config)
    other = atrous.create("fcn", backbone="resnet_tiny", num_classes=8).model.state_dict()
    run_folder.write_state(run, {**whole, "model": other})
    refused(r"last\.pt: the weights are not those of the model", ModelFileError)
    run_folder.write_state(run, {**whole, "averaged": None})
    refused(r"last\.pt: the weights are not those of the model", ModelFileError)
    sgd = torch.optim.SGD(torch.nn.Linear(2, 2).parameters(), lr=1.0).state_dict()
    for optimizer in ({}, sgd, {"param_groups": 3}, {**whole["optimizer"], "state": {0: {"exp_avg": torch.zeros(1)}}}):
        run_folder.write_state(run, {**whole, "optimizer": optimizer})
        refused(r"last\.pt: the optimizer is not that of the run", ModelFileError)
    run.state.unlink()
    run.previous.unlink()
    refused(r"holds models, but state/last\.pt is missing; another run can start .*train\.init=.*last", ModelFileError)


def damaged_states(state: bytes, folder: Path) -> Iterator[tuple[bytes, str]]:
    """What a disk, a copy or a mistake may put in the place of a state, and what is said."""
    middle = len(state) // 2
    for content in (
        b"",
        state[:1000],
        state[:-1],
        state[: middle - 9] + state[middle:],
        b"a diary\n" * 99,
    ):
        yield content, "not a complete training state"
    for length in (1, 3, 9, 40, 65, 72):  # the checksum at the end, and what marks it
        yield state[:-length] + bytes([state[-length] ^ 1]) + state[len(state) - length + 1 :], "not a complete"
    path = folder / "foreign"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "a")
    yield path.read_bytes(), "it is cut off, damaged or of another program"
    torch.save([torch.optim.SGD], path)  # a pickle with a class
    yield path.read_bytes(), "it holds other Python objects than tensors, numbers and text"
    yield pickle.dumps({"step": 1}), "it is cut off, damaged or of another program"
    save_file({"a": torch.zeros(2)}, path)
    yield path.read_bytes(), "it is cut off, damaged or of another program"
    torch.save([1], path)
    yield path.read_bytes(), "not the state of a training: missing or of another kind: step, taken, measured, best, mo"


def test_states_that_are_damaged_foreign_or_incomplete_are_one_line(finished: RunFolder, tmp_path: Path) -> None:
    run = copied(finished, tmp_path / "run")
    whole = run_folder.read_state(run.state)
    run.previous.unlink()
    for content, reason in damaged_states(run.state.read_bytes(), tmp_path):
        run.state.write_bytes(content)
        with pytest.raises(ModelFileError, match=rf"{run.state}: .*{reason}") as error:
            run_folder.recovered_state(run)
        assert str(error.value).endswith(f"; another run can start from its weights: train.init={run.last}")
        assert "\n" not in str(error.value)
    for key in run_folder.PARTS:
        wrong = {**whole, key: "?"}
        for state in (wrong, {name: value for name, value in wrong.items() if name != key or key == "averaged"}):
            run_folder.write_state(run, state)
            with pytest.raises(ModelFileError, match=f"not the state of a training: .*: {key}$"):
                run_folder.read_state(run.state)


def test_the_save_before_a_damaged_one_takes_its_place(finished: RunFolder, tmp_path: Path) -> None:
    whole, before = finished.state.read_bytes(), run_folder.read_state(finished.previous)
    for number, content in enumerate((whole[: len(whole) // 3], bytes(len(whole)), b"", None)):
        run, console = copied(finished, tmp_path / str(number)), Console(width=400)
        run.state.unlink() if content is None else run.state.write_bytes(content)
        with console.capture() as capture:
            train.train(tiny_config(*FINISHED), run.path, resume=True, console=console)
        told = f"; the run goes on from the save before it, of step {before['step']}\n"
        assert capture.get().count(told) == 1
        assert f"{run.state}: not a complete training state" in capture.get()
        assert_same(weights(run), weights(finished))
        assert [row["scores"] for row in validations(run)] == [row["scores"] for row in validations(finished)]


def test_without_a_whole_save_a_line_says_how_to_go_on(finished: RunFolder, tmp_path: Path) -> None:
    run = copied(finished, tmp_path / "run")
    for state in run.states:
        state.write_bytes(b"")
    with pytest.raises(ModelFileError, match=rf"and previous.pt can't be read either; .* train.init={run.last}$"):
        run_folder.recovered_state(run)
    run.last.unlink()
    run.best.unlink()
    with pytest.raises(ModelFileError, match=rf"delete {run.state.parent}, and the run starts from step 0$"):
        run_folder.recovered_state(run)
    shutil.rmtree(run.state.parent)
    train.train(tiny_config(*FINISHED), run.path, resume=True, console=QUIET)
    assert_same(weights(run), weights(finished))


def test_the_state_before_a_damaged_one_outlives_the_next_save(finished: RunFolder, tmp_path: Path) -> None:
    """A save that fails after a damaged one leaves a whole state, too."""
    run = copied(finished, tmp_path / "run")
    run.state.write_bytes(b"half")
    state, _ = run_folder.recovered_state(run)
    with full_disk(1000), pytest.raises(OSError, match=r"cannot write .*last\.pt"):
        run_folder.write_state(run, state)
    for path in run.states:
        assert_same(run_folder.read_state(path)["model"], state["model"])


def test_each_flipped_bit_of_a_state_is_told(finished: RunFolder, tmp_path: Path) -> None:
    """In states of today and, but for padding, in those without our checksum, as older versions wrote them."""
    content, rng = finished.state.read_bytes(), np.random.default_rng(0)
    path = tmp_path / "last.pt"
    for place, bit in zip(rng.integers(0, len(content), 40), rng.integers(0, 8, 40), strict=True):
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(bit)
        path.write_bytes(damaged)
        with pytest.raises(ModelFileError, match="not a complete training state"):
            run_folder.read_state(path)
    old = bytearray(content.rpartition(run_folder.CHECKSUM)[0])
    weight = next(iter(run_folder.read_state(finished.state)["model"].values())).numpy().tobytes()
    old[old.index(weight) + 5] ^= 16
    path.write_bytes(old)
    with pytest.raises(ModelFileError, match="it is cut off, damaged or of another program"):
        run_folder.read_state(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_neither_read_nor_written(
    finished: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    run = copied(finished, tmp_path / "run")
    state = run_folder.read_state(run.state)
    content = run.state.read_bytes()
    state["optimizer"]["state"][1]["exp_avg"][0] = value
    with pytest.raises(FloatingPointError, match=r"optimizer\.state\.1\.exp_avg is not finite after step 4; the last"):
        run_folder.write_state(run, state)
    assert run.state.read_bytes() == content
    monkeypatch.setattr(run_folder, "_not_finite", lambda _: iter(()))
    run_folder.write_state(run, state)
    monkeypatch.undo()
    with pytest.raises(
        ModelFileError, match=r"last\.pt: optimizer\.state\.1\.exp_avg holds values that are not finite"
    ):
        run_folder.read_state(run.state)


def test_data_that_moved_can_be_resumed_with(folder_data: Path, tmp_path: Path) -> None:
    run = train.train(folder_config(folder_data), tmp_path / "run", console=QUIET)
    moved = folder_data.rename(tmp_path / "moved")
    assert train.train(folder_config(moved), run.path, resume=True, console=QUIET).report.exists()


def flat(tree: dict[str, Any]) -> dict[str, Any]:
    """The tiny recipe's config as runs of format 1 have it."""
    aspp, decoder, backbone = (tree["model"].pop(name) for name in ("aspp", "decoder", "backbone"))
    settings = {**BACKBONE, "depth_multiplier": 0.1, "aspp_channels": aspp["channels"], "rates": aspp["rates"]}
    settings |= {"decoder_channels": decoder["channels"], "low_level_channels": decoder["low_level_channels"]}
    model = {**tree["model"], "backbone": backbone["name"], **settings}
    loss = {**{key: value for key, value in tree["loss"].items() if key != "weights"}, "auxiliary": 0.4}
    return {**{key: value for key, value in tree.items() if key != "decode"}, "model": model, "loss": loss}


def test_a_run_whose_config_has_flat_model_settings_is_resumed(finished: RunFolder, tmp_path: Path) -> None:
    run = copied(finished, tmp_path / "run")
    config = tiny_config(*FINISHED, *MOBILENET)
    run.config.write_text(yaml.safe_dump(flat(to_tree(config))))
    assert "depth_multiplier: 0.1\n  divisible_by" in run.config.read_text()
    with run_folder.opened(run, config, ALONE, resume=True) as opening:
        assert opening.state is not None
        assert opening.state["step"] == 4
    wider = tiny_config(*FINISHED, *MOBILENET, "model.backbone.depth_multiplier=0.2")
    with pytest.raises(ConfigError, match=r"--resume: model\.backbone\.depth_multiplier is 0\.2 here but 0\.1"):
        run_folder.resumed(run, wider, ALONE)


def test_half_written_files_of_a_killed_process_are_removed(finished: RunFolder, tmp_path: Path) -> None:
    run = copied(finished, tmp_path / "run")
    leftovers = [path.with_name(f".{path.name}.123") for path in (*run.files, run.process)]
    others = [run.path / name for name in (".config.yaml.swp", ".metrics.json.12", ".mine")]
    for path in (*leftovers, *others):
        path.write_text("half")
    with run_folder.locked(run):
        assert not any(path.exists() for path in leftovers)
    assert all(path.exists() for path in others)


def test_a_broken_validation_image_loses_no_training(folder_data: Path, tmp_path: Path) -> None:
    image = folder_data / "images" / "val" / "1.png"
    content = image.read_bytes()
    image.write_bytes(content[:200])
    config = folder_config(folder_data)
    with pytest.raises(DataError, match=r"images/val/1\.png"):
        train.train(config, tmp_path / "run", console=QUIET)
    assert run_folder.read_state(RunFolder(tmp_path / "run").state)["step"] == 4
    image.write_bytes(content)
    with pytest.raises(DataError, match=r"val: 1 of another size \(1\); add --accept-changed-data"):
        train.train(config, tmp_path / "run", resume=True, console=QUIET)
    run = train.train(config, tmp_path / "run", resume=True, accept_changed_data=True, console=QUIET)
    assert run.report.exists()


def test_a_full_disk_keeps_what_was_saved(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny("train.steps=4", "train.save_every=2", "train.eval_every=100")
    real = run_folder.write_state
    calls = 0

    def write(run: RunFolder, state: State) -> None:
        nonlocal calls
        calls += 1
        with full_disk(10_000_000 if calls == 1 else 1000):
            real(run, state)

    monkeypatch.setattr(run_folder, "write_state", write)
    with pytest.raises(OSError, match=r"cannot write .*last\.pt"):
        train.train(config, tmp_path / "run", console=QUIET)
    assert run_folder.read_state(RunFolder(tmp_path / "run").state)["step"] == 2


# ---- brought up to date


def test_a_kill_between_the_state_and_the_models_is_mended_when_the_run_is_resumed(
    finished: RunFolder, tmp_path: Path
) -> None:
    """The state is of step 4, but the newest model is still that of step 2, or not there at all."""
    run = copied(finished, tmp_path / "run")
    whole = atrous.load(run.last).model.state_dict()
    early = train.train(tiny_config("train.eval_every=2", "train.steps=2"), tmp_path / "early", console=QUIET)
    for spoil in (lambda: shutil.copy(early.last, run.last), run.last.unlink, lambda: run.last.write_bytes(b"half")):
        spoil()
        run.report.unlink()
        train.train(tiny_config(*FINISHED), run.path, resume=True, console=QUIET)
        assert_same(atrous.load(run.last).model.state_dict(), whole)
        assert run.report.exists()
    time_of_save = run.last.stat().st_mtime_ns
    train.train(tiny_config(*FINISHED), run.path, resume=True, console=QUIET)
    assert run.last.stat().st_mtime_ns == time_of_save


def test_a_lost_best_model_is_said_and_replaced(finished: RunFolder, tmp_path: Path) -> None:
    run, console = copied(finished, tmp_path / "run"), Console(width=300)
    best = max(row["scores"]["miou"] for row in validations(finished))
    run.best.unlink()
    with console.capture() as capture:
        train.train(tiny_config(*FINISHED), run.path, resume=True, console=console)
    assert f"best.safetensors is missing: the model that scored {best:.4f} is lost, and the best" in capture.get()
    assert atrous.load(run.best).results["step"] == 4
    assert [row["scores"] for row in validations(run)] == [row["scores"] for row in validations(finished)]
    train.train(tiny_config(*FINISHED, "train.steps=6"), run.path, resume=True, console=QUIET)
    assert [row["step"] for row in validations(run)] == [2, 4, 6]


def test_a_damaged_best_model_is_named_before_the_first_step(finished: RunFolder, tmp_path: Path) -> None:
    run = copied(finished, tmp_path / "run")
    run.best.write_bytes(run.best.read_bytes()[:-1])
    before = run.config.read_bytes()
    with pytest.raises(
        ModelFileError, match=r"best\.safetensors: .*; delete it, and the best validation to come takes"
    ):
        train.train(tiny_config(*FINISHED, "train.steps=6"), run.path, resume=True, console=QUIET)
    assert run.config.read_bytes() == before
    assert run_folder.read_state(run.state)["step"] == 4


def test_equal_trainings_write_equal_files(finished: RunFolder, tmp_path: Path) -> None:
    """Byte for byte, so that two folders can be compared."""
    again = train.train(tiny_config(*FINISHED), tmp_path / "again", console=QUIET)
    pairs = ((again.state, finished.state), (again.config, finished.config), (again.last, finished.last))
    for path, other in (*pairs, (again.best, finished.best)):
        assert path.read_bytes() == other.read_bytes()


# ---- settings and data that change


def resume_output(run: RunFolder, *overrides: str, **options: Any) -> str:  # noqa: ANN401 - those of train.train
    console = Console(width=400)
    with console.capture() as capture:
        train.train(tiny_config(*overrides), run.path, resume=True, console=console, **options)
    return capture.get()


def test_settings_that_nothing_is_learnt_from_may_change_and_are_said_and_stored(
    finished: RunFolder, tmp_path: Path
) -> None:
    run = copied(finished, tmp_path / "run")
    changed = ("train.eval_every=3", "train.save_every=7", "train.log_every=5", "data.on_error=skip", "train.steps=5")
    printed = resume_output(run, *changed)
    for line in (
        "train.eval_every is now 3, not 2",
        "data.on_error is now skip, not stop",
        "train.steps is now 5, not 4",
    ):
        assert line in printed
    assert "the learning rate (optim.schedule=cosine) follows train.steps: at step 5 it is " in printed
    assert atrous.config.load(str(run.config)) == tiny_config(*changed)
    lines = [json.loads(line) for line in run.changes.read_text().splitlines()]
    assert len(lines) == 5
    assert {"step": 4, "change": "train.steps is now 5, not 4"} in lines
    assert atrous.load(run.last).training == tiny_config(*changed)
    assert [row["step"] for row in losses(run)] == [1, 2, 3, 4, 5]
    assert "is now" not in resume_output(run, *changed)
    assert len(run.changes.read_text().splitlines()) == 5


def test_a_longer_run_with_a_constant_learning_rate_is_the_whole_one(tiny: Tiny, tmp_path: Path) -> None:
    constant = ("optim.schedule=constant", "train.eval_every=2")
    whole = train.train(tiny("train.steps=4", *constant), tmp_path / "whole", console=QUIET)
    run = train.train(tiny("train.steps=2", *constant), tmp_path / "run", console=QUIET)
    printed = resume_output(run, "train.steps=4", *constant)
    assert "train.steps is now 4, not 2" in printed
    assert "learning rate" not in printed
    assert_same(weights(whole), weights(run))
    assert_same(atrous.load(whole.best).model.state_dict(), atrous.load(run.best).model.state_dict())


def add(root: Path) -> None:
    for folder in ("images", "masks"):
        shutil.copy(root / folder / "train" / "0.png", root / folder / "train" / "7.png")


def take_away(root: Path) -> None:
    for folder in ("images", "masks"):
        (root / folder / "val" / "1.png").unlink()


def rename(root: Path) -> None:
    for folder in ("images", "masks"):
        (root / folder / "train" / "2.png").rename(root / folder / "train" / "two.png")


def grow(root: Path) -> None:
    for index in (1, 3):
        with (root / "masks" / "train" / f"{index}.png").open("ab") as file:
            file.write(b"\0")


CHANGES: dict[Callable[[Path], None], str] = {
    add: "train: 1 added (7)",
    take_away: "val: 1 removed (1)",
    rename: "train: 1 renamed (2 to two)",
    grow: "train: 2 of another size (1, 3)",
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_data_is_refused_until_it_is_accepted(
    folder_data: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    run = train.train(folder_config(folder_data, "train.eval_every=2"), tmp_path / "run", console=QUIET)
    state = run.state.read_bytes()
    change(folder_data)
    longer = folder_config(folder_data, "train.eval_every=2", "train.steps=5")
    with pytest.raises(DataError) as error:
        train.train(longer, run.path, resume=True, console=QUIET)
    assert str(error.value).startswith(f"--resume: the data is not that of the run in {run.path}: {CHANGES[change]}; ")
    assert "add --accept-changed-data" in str(error.value)
    assert run.state.read_bytes() == state
    assert "steps: 4" in run.config.read_text()
    console = Console(width=400)
    with console.capture() as capture:
        train.train(longer, run.path, resume=True, accept_changed_data=True, console=console)
    assert CHANGES[change] in capture.get()
    assert CHANGES[change] in run.changes.read_text()
    train.train(longer, run.path, resume=True, console=QUIET)


def test_accepted_data_is_stored_before_the_next_step(
    folder_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train.train(folder_config(folder_data), tmp_path / "run", console=QUIET)
    add(folder_data)

    def killed(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(train, "finish", killed)
        with pytest.raises(MemoryError):
            train.train(folder_config(folder_data), run.path, resume=True, accept_changed_data=True, console=QUIET)
    train.train(folder_config(folder_data), run.path, resume=True, console=QUIET)


CLASSES = {
    "names: [left, top]": "class 1 is 'top' here but 'right' there",
    "names: [right, left]": "class 0 is 'right' here but 'left' there, class 1 is 'left' here but 'right' there",
    "names: [left, right, top]": "class 2 is 'top' here but absent there",
    "names: [left, right]\nignore: 7": "the ignored value is 7 here but 255 there",
    "names: {1: left, 0: right}": "class 0 is 'right' here but 'left' there",
}


@pytest.mark.parametrize("content", CLASSES)
def test_changed_classes_are_always_refused(folder_data: Path, tmp_path: Path, content: str) -> None:
    run = train.train(folder_config(folder_data), tmp_path / "run", console=QUIET)
    (folder_data / "classes.yaml").write_text(content)
    old = {
        name: value for name, value in run_folder.read_state(run.state).items() if name not in ("label_space", "files")
    }
    for state in (run_folder.read_state(run.state), old):  # the model file knows the classes, too
        run_folder.write_state(run, state)
        with pytest.raises(DataError) as error:
            train.train(folder_config(folder_data), run.path, resume=True, accept_changed_data=True, console=QUIET)
        assert f"the classes are not those of the run in {run.path}: {CLASSES[content]}" in str(error.value)
    assert atrous.load(run.last).label_space.names == ("left", "right")


def test_a_state_that_does_not_know_its_data_is_resumed_with_a_word(finished: RunFolder, tmp_path: Path) -> None:
    run = copied(finished, tmp_path / "run")
    state = run_folder.read_state(run.state)
    run_folder.write_state(run, {name: value for name, value in state.items() if name not in ("label_space", "files")})
    assert "whether the data has changed is not known" in resume_output(run, *FINISHED)
    assert "not known" not in resume_output(run, *FINISHED)


# ---- one process at a time


HOLDER = """
import sys, time
from pathlib import Path
from atrous import run_folder
import multiprocessing
with run_folder.locked(run_folder.RunFolder(Path(sys.argv[1]))):
    multiprocessing.get_context("fork").Process(target=time.sleep, args=(5,), daemon=True).start()
    sys.stdout.write("held\\n")
    sys.stdout.close()
    time.sleep(60)
"""


def test_a_second_training_in_one_folder_is_refused_until_the_first_ends_or_is_killed(
    finished: RunFolder, tiny: Tiny, tmp_path: Path
) -> None:
    run = copied(finished, tmp_path / "run")
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(run.path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    before = tree(run.path)
    for call in (
        lambda: train.train(tiny_config(*FINISHED), run.path, resume=True, console=QUIET),
        lambda: train.train(tiny_config(*FINISHED), run.path, console=QUIET),
        lambda: run_folder.remove(run),
    ):
        with pytest.raises(ConfigError, match=rf"another training is running there \(process {holder.pid} on \S+\)$"):
            call()
    assert tree(run.path) == before
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert train.train(tiny_config(*FINISHED), run.path, resume=True, console=QUIET).report.exists()
    assert not run.process.exists()


def test_a_training_in_a_thread_keeps_another_one_out(tiny: Tiny, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    with run_folder.locked(run), pytest.raises(ConfigError, match=rf"running there \(process {os.getpid()} on"):
        train.train(tiny(), run.path, console=QUIET)
    assert run.path.exists()


# ---- metrics


def test_a_line_of_metrics_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        json.dumps({"step": 1, "loss": 0.5}) + "\n" + json.dumps({"step": 2, "loss": 0.5}) + '\n{"step": 3, "lo'
    )
    assert [row["step"] for row in run_folder.read_rows(path)] == [1, 2]
    assert run_folder.drop_rows_after(path, 1, 0) == [f"{path}: what is damaged or repeated in line 3 is left out"]
    assert path.read_text() == '{"step": 1, "loss": 0.5}\n'
    assert run_folder.drop_rows_after(path, 1, 0) == []


def test_rows_that_will_be_done_again_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for scores in ({"scores": {"miou": 0.5}}, {"miou": 0.5}):  # today's, and those of older runs
        rows: list[dict[str, Any]] = [
            {"step": 2, "loss": 0.5},
            {"step": 2, **scores},
            {"step": 4, "loss": 0.5},
            {"step": 4, **scores},
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        run_folder.drop_rows_after(path, step=4, validation=2)
        assert run_folder.read_rows(path) == rows[:3]


ROW = b'{"step": 2, "loss": 0.5}'
BROKEN_LINES = {  # a line after that of step 1 and before that of step 9: the steps that survive
    b'{"step": 2, "lo': [],
    b'": 0.5}': [],
    b"\0" * 500: [],
    b"\0\0" + ROW: [2],
    ROW + b'{"step": 3, "loss": 0.25}': [2, 3],
    b'{"step": 2, "l' + b'{"step": 3, "loss": 0.25}': [3],
    b"\xff\xfe": [],
    b'{"step": 2, "loss": 0.5, "cl\xff": 1}': [],
    b"\xef\xbb\xbf" + ROW: [2],
    b"{}": [],
    b"[1]": [],
    b"5": [],
    b"null": [],
    b'{"step": "x", "loss": 1}': [],
    b'{"step": true, "loss": 1}': [],
    b'{"step": 2.5, "loss": 1}': [],
    b'{"step": 2}': [],
    b'{"step": 2, "loss": "low"}': [],
    b'{"step": 2, "scores": 3}': [],
    b'{"loss": 0.5}': [],
    b'{"step": ' + b"9" * 5000 + b"}": [],
    b"[" * 100_000: [],
    b'{"step": 1, "loss": 0.125}': [],
}


@pytest.mark.parametrize("line", BROKEN_LINES, ids=lambda line: repr(line[:20]))
def test_a_broken_line_of_metrics_costs_only_itself(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "loss": 0.5}\n\n' + line + b'\r\n{"step": 9, "scores": {"a": 0.5}}\n')
    expected = [1, *BROKEN_LINES[line], 9]
    assert [row["step"] for row in run_folder.read_rows(path)] == expected
    said = run_folder.drop_rows_after(path, 9, 9)
    is_broken = line != ROW + b'{"step": 3, "loss": 0.25}'  # two whole rows lose nothing
    assert said == ([f"{path}: what is damaged or repeated in line 3 is left out"] if is_broken else [])
    assert [json.loads(text)["step"] for text in path.read_text().splitlines()] == expected


def test_of_repeated_steps_the_last_one_counts(tmp_path: Path) -> None:
    """As two trainings at once left them behind before runs were locked."""
    path = tmp_path / "metrics.jsonl"
    steps = [(1, 0.5), (2, 0.4), (1, 0.3), (3, 0.2), (2, 0.1)]
    path.write_text("".join(json.dumps({"step": step, "loss": loss}) + "\n" for step, loss in steps))
    assert [(row["step"], row["loss"]) for row in run_folder.read_rows(path)] == [(1, 0.3), (2, 0.1), (3, 0.2)]
    assert "in lines 3, 5 is left out" in run_folder.drop_rows_after(path, 9, 9)[0]


def test_a_state_without_a_checksum_is_read(finished: RunFolder, tmp_path: Path) -> None:
    """As older versions wrote it."""
    run = copied(finished, tmp_path / "run")
    torch.save(run_folder.read_state(run.state), run.state)
    assert run_folder.CHECKSUM not in run.state.read_bytes()
    assert_same(weights(run), weights(finished))


# ---- killed


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="no /proc to find the processes in")
@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_run_is_resumed_bit_for_bit(tiny: Tiny, tmp_path: Path, processes: int) -> None:
    """SIGKILL, which no process can catch, at three moments of the run."""
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
    assert [row["step"] for row in losses(killed)] == list(range(1, 41))


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
        [*command, "--out", str(run.path), "--workers", "1", "--resume-or-start"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def last_step(run: RunFolder) -> int:
    rows = run_folder.read_rows(run.metrics)
    return max((row["step"] for row in rows), default=0)
