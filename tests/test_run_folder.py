"""What a run keeps on disk: never overwritten by accident, whole after a kill, resumed bit for bit."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console

import atrous
from atrous import run_folder, run_metrics, run_opening, run_state, train
from atrous.config import to_yaml
from atrous.distributed import World
from atrous.errors import ConfigError, DataError, ModelFileError
from atrous.models.format_1 import BACKBONE
from atrous.run_folder import RunFolder
from atrous.run_state import State
from tests.conftest import tiny_config
from tests.runs import FINISHED, QUIET, Tiny, assert_same, copied, folder_config, leftover, losses, validations, weights
from tests.test_files import full_disk

ALONE = World(0, 1, torch.device("cpu"))


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
    with pytest.raises(RuntimeError, match="a bug"), run_opening.opened(run, tiny(), ALONE, resume=False) as opening:
        assert opening.state is None
        run_metrics.log(run, {"step": 1})
        run_folder.write_reused(run, {"source": "x"})
        raise RuntimeError("a bug")
    assert [path.name for path in run.path.iterdir()] == ["notes.txt"]


def test_only_the_first_process_writes(tiny: Tiny, tmp_path: Path) -> None:
    other = RunFolder(tmp_path / "run", is_writer=False)
    run_metrics.log(other, {"step": 1})
    run_state.write_state(other, {"step": 1})
    run_folder.write_reused(other, {"source": "x"})
    run_folder.write_changes(other, tiny(), ["x"], 1)
    with run_opening.opened(other, tiny(), ALONE, resume=False) as opening:
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

    whole = run_state.read_state(run.state)
    run.config.unlink()
    refused(r"holds models, but config\.yaml is missing", ModelFileError)
    run.config.write_text("train: {steps: [")
    refused(r"config\.yaml: line 1: not YAML", ConfigError)
    run.config.write_text(config)
    other = atrous.create("fcn", backbone="resnet_tiny", num_classes=8).model.state_dict()
    run_state.write_state(run, {**whole, "model": other})
    refused(r"last\.pt: the weights are not those of the model", ModelFileError)
    run_state.write_state(run, {**whole, "averaged": None})
    refused(r"last\.pt: the weights are not those of the model", ModelFileError)
    sgd = torch.optim.SGD(torch.nn.Linear(2, 2).parameters(), lr=1.0).state_dict()
    for optimizer in ({}, sgd, {"param_groups": 3}, {**whole["optimizer"], "state": {0: {"exp_avg": torch.zeros(1)}}}):
        run_state.write_state(run, {**whole, "optimizer": optimizer})
        refused(r"last\.pt: the optimizer is not that of the run", ModelFileError)
    run.state.unlink()
    run.previous.unlink()
    refused(r"holds models, but state/last\.pt is missing; another run can start .*train\.init=.*last", ModelFileError)


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
    run.config.write_text(yaml.safe_dump(flat(yaml.safe_load(run.config.read_text()))))
    assert "depth_multiplier: 0.1\n  divisible_by" in run.config.read_text()
    with run_opening.opened(run, tiny_config(*FINISHED), ALONE, resume=True) as opening:
        assert opening.state is not None
        assert opening.state["step"] == 4
    with pytest.raises(ConfigError, match=r"--resume: model\.backbone\.depth_multiplier is 0\.2 here but 0\.1"):
        run_opening.resumed(run, tiny_config(*FINISHED, "model.backbone.depth_multiplier=0.2"), ALONE)


def test_half_written_files_of_a_killed_process_are_removed(finished: RunFolder, tmp_path: Path) -> None:
    run = copied(finished, tmp_path / "run")
    leftovers = [leftover(path) for path in (*run.files, run.process)]
    others = [run.path / name for name in (".config.yaml.swp", ".metrics.json.12", ".mine")]
    for path in others:
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
    assert run_state.read_state(RunFolder(tmp_path / "run").state)["step"] == 4
    image.write_bytes(content)
    with pytest.raises(DataError, match=r"val: 1 of another size \(1\); add --accept-changed-data"):
        train.train(config, tmp_path / "run", resume=True, console=QUIET)
    run = train.train(config, tmp_path / "run", resume=True, accept_changed_data=True, console=QUIET)
    assert run.report.exists()


def test_a_full_disk_keeps_what_was_saved(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny("train.steps=4", "train.save_every=2", "train.eval_every=100")
    real = run_state.write_state
    calls = 0

    def write(run: RunFolder, state: State) -> None:
        nonlocal calls
        calls += 1
        with full_disk(10_000_000 if calls == 1 else 1000):
            real(run, state)

    monkeypatch.setattr(run_state, "write_state", write)
    with pytest.raises(OSError, match=r"cannot write .*last\.pt"):
        train.train(config, tmp_path / "run", console=QUIET)
    assert run_state.read_state(RunFolder(tmp_path / "run").state)["step"] == 2


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
    assert run_state.read_state(run.state)["step"] == 4


def test_equal_trainings_write_equal_files(finished: RunFolder, tmp_path: Path) -> None:
    """Byte for byte, so that two folders can be compared."""
    again = train.train(tiny_config(*FINISHED), tmp_path / "again", console=QUIET)
    pairs = ((again.state, finished.state), (again.config, finished.config), (again.last, finished.last))
    for path, other in (*pairs, (again.best, finished.best)):
        assert path.read_bytes() == other.read_bytes()


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
    rows = run_metrics.read_rows(run.metrics)
    return max((row["step"] for row in rows), default=0)
