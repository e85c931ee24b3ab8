"""Activation checkpointing in a training: the same weights, whatever else is set, and a resumed run may switch it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from atrous import run_metrics, train
from atrous.config import to_yaml
from atrous.run_folder import RunFolder
from tests.runs import QUIET, Tiny, assert_same, losses, weights

ON = "train.activation_checkpointing=true"


@pytest.mark.parametrize("overrides", [(), ("train.precision=bf16", "train.ema=0.9", "train.accumulate=2")])
def test_a_training_ends_with_the_same_weights(overrides: tuple[str, ...], tiny: Tiny, tmp_path: Path) -> None:
    one = train.train(tiny("train.steps=3", *overrides), tmp_path / "one", console=QUIET)
    two = train.train(tiny("train.steps=3", *overrides, ON), tmp_path / "two", console=QUIET)
    assert_same(weights(one), weights(two))
    assert [row["loss"] for row in losses(one)] == [row["loss"] for row in losses(two)]
    assert [row for row in run_metrics.read_rows(one.metrics) if "scores" in row] == [
        row for row in run_metrics.read_rows(two.metrics) if "scores" in row
    ]


def test_a_resumed_run_may_switch_it(tiny: Tiny, tmp_path: Path) -> None:
    constant = ("optim.schedule=constant", "train.eval_every=2")
    whole = train.train(tiny(*constant), tmp_path / "whole", console=QUIET)
    run = train.train(tiny(*constant, "train.steps=2"), tmp_path / "run", console=QUIET)
    train.train(tiny(*constant, ON), run.path, resume=True, console=QUIET)
    assert_same(weights(whole), weights(run))
    changes = [json.loads(line)["change"] for line in run.changes.read_text().splitlines()]
    assert "train.activation_checkpointing is now True, not False" in changes


@pytest.mark.slow
def test_processes_recompute_too(tiny: Tiny, tmp_path: Path) -> None:
    runs = []
    for name, overrides in (("plain", ()), ("recomputed", (ON,))):
        path = tmp_path / f"{name}.yaml"
        path.write_text(to_yaml(tiny("train.steps=3", *overrides)))
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        command = [*torchrun, "-m", "atrous", "train", str(path), "--out", str(tmp_path / name), "--workers", "0"]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True)
        runs.append(RunFolder(tmp_path / name))
    assert_same(*map(weights, runs))
