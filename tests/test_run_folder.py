"""What a run keeps on disk: never overwritten by accident, whole after a kill, resumed bit for bit."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import atrous
from atrous import run_folder, train
from atrous.config import to_yaml
from atrous.distributed import World
from atrous.errors import ConfigError, DataError, ModelFileError
from atrous.models.format_1 import BACKBONE
from atrous.run_folder import RunFolder, State
from tests.conftest import tiny_config
from tests.runs import QUIET, Tiny, assert_same, copied, folder_config, losses, weights
from tests.test_files import full_disk

ALONE = World(0, 1, torch.device("cpu"))
FINISHED = ("train.eval_every=2",)  # of the run in `finished`


# ---- a new run


def test_a_run_is_not_overwritten(finished: RunFolder, tmp_path: Path) -> None:
    run = copied(finished, tmp_path / "run")
    for resume, overrides, reason in (
        (False, FINISHED, "already holds a run; add --resume"),
        (True, ("train.eval_every=2", "train.steps=9"), r"--resume: train.steps is 9 here but 4 in .*config.yaml"),
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
    with pytest.raises(RuntimeError, match="a bug"), run_folder.opened(run, tiny(), ALONE, resume=False) as state:
        assert state is None
        run_folder.log(run, {"step": 1})
        run_folder.write_reused(run, {"source": "x"})
        raise RuntimeError("a bug")
    assert [path.name for path in run.path.iterdir()] == ["notes.txt"]


def test_only_the_first_process_writes(tiny: Tiny, tmp_path: Path) -> None:
    other = RunFolder(tmp_path / "run", is_writer=False)
    run_folder.log(other, {"step": 1})
    run_folder.write_state(other, {"step": 1})
    run_folder.write_reused(other, {"source": "x"})
    with run_folder.opened(other, tiny(), ALONE, resume=False) as state:
        assert state is None
    assert not other.path.exists()


def test_a_run_is_removed_with_the_folders_that_only_it_needs(finished: RunFolder, tmp_path: Path) -> None:
    alone, shared = (copied(finished, tmp_path / name) for name in ("alone", "shared"))
    (shared.path / "notes.txt").write_text("mine")
    for run in (alone, shared):
        run_folder.remove(run)
    assert not alone.path.exists()
    assert [path.name for path in shared.path.iterdir()] == ["notes.txt"]


# ---- resumed


def test_resuming_where_nothing_was_saved_starts_a_run(tiny: Tiny, tmp_path: Path) -> None:
    fresh = train.train(tiny("train.steps=2"), tmp_path / "fresh", console=QUIET)
    resumed = train.train(tiny("train.steps=2"), tmp_path / "resumed", resume=True, console=QUIET)
    assert_same(weights(fresh), weights(resumed))


def test_a_folder_that_is_not_a_whole_run_is_refused(finished: RunFolder, tmp_path: Path) -> None:
    run = copied(finished, tmp_path / "run")
    config = run.config.read_text()

    def refused(reason: str, kind: type[ValueError]) -> None:
        with pytest.raises(kind, match=reason):
            train.train(tiny_config(*FINISHED), run.path, resume=True, console=QUIET)

    run.config.unlink()
    refused(r"holds models, but config\.yaml is missing", ModelFileError)
    run.config.write_text("train: {steps: [")
    refused(r"config\.yaml: line 1: not YAML", ConfigError)
    run.config.write_text(config)
    state = run.state.read_bytes()
    for damaged in (b"", state[:1000], state[:-1], state[:2000] + bytes([state[2000] ^ 1]) + state[2001:]):
        run.state.write_bytes(damaged)
        refused(r"last\.pt: not a complete training state", ModelFileError)
    torch.save([1], run.state)
    refused(r"last\.pt: not the state of a training", ModelFileError)
    other = atrous.create("fcn", backbone="resnet_tiny", num_classes=8).model.state_dict()
    run_folder.write_state(run, {"step": 1, "measured": 0, "model": other, "optimizer": {}})
    refused(r"last\.pt: the weights are not those of the model", ModelFileError)
    run.state.unlink()
    refused(r"holds models, but state/last\.pt is missing", ModelFileError)


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
    with run_folder.opened(run, tiny_config(*FINISHED), ALONE, resume=True) as state:
        assert state is not None
        assert state["step"] == 4
    with pytest.raises(ConfigError, match=r"--resume: model\.backbone\.depth_multiplier is 0\.2 here but 0\.1"):
        run_folder.resumed(run, tiny_config(*FINISHED, "model.backbone.depth_multiplier=0.2"))


def test_half_written_files_of_a_killed_process_are_removed(finished: RunFolder, tmp_path: Path) -> None:
    run = copied(finished, tmp_path / "run")
    leftovers = [path.with_name(f".{path.name}.123") for path in (run.best, run.state)]
    for path in leftovers:
        path.write_text("half")
    run_folder.resumed(run, tiny_config(*FINISHED))
    assert not any(path.exists() for path in leftovers)


def test_a_broken_validation_image_loses_no_training(folder_data: Path, tmp_path: Path) -> None:
    image = folder_data / "images" / "val" / "1.png"
    content = image.read_bytes()
    image.write_bytes(content[:200])
    config = folder_config(folder_data)
    with pytest.raises(DataError, match=r"images/val/1\.png"):
        train.train(config, tmp_path / "run", console=QUIET)
    assert run_folder.read_state(RunFolder(tmp_path / "run").state)["step"] == 4
    image.write_bytes(content)
    assert train.train(config, tmp_path / "run", resume=True, console=QUIET).report.exists()


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


# ---- metrics


def test_a_line_of_metrics_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        json.dumps({"step": 1, "loss": 0.5}) + "\n" + json.dumps({"step": 2, "loss": 0.5}) + '\n{"step": 3, "lo'
    )
    assert [row["step"] for row in run_folder.read_rows(path)] == [1, 2]
    run_folder.drop_rows_after(path, 1, 0)
    assert path.read_text() == '{"step": 1, "loss": 0.5}\n'


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


def test_damaged_metrics_are_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for line in (b"{}", b"[1]", b"5", b"\xff\xfe", b'{"step": "x"}'):
        path.write_bytes(b'{"step": 1, "loss": 0.5}\n' + line + b'\n{"step": 2, "loss": 0.5}\n')
        with pytest.raises(DataError, match=r"metrics\.jsonl: line 2 is not a row of metrics; remove it"):
            run_folder.read_rows(path)


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
        [*command, "--out", str(run.path), "--workers", "1", "--resume"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def last_step(run: RunFolder) -> int:
    rows = run_folder.read_rows(run.metrics)
    return max((row["step"] for row in rows), default=0)
