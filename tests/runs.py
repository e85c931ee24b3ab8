"""What tests of runs share: their rows and weights, copies to spoil, and a Ctrl-C in the middle of a step."""

import os
import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from rich.console import Console
from torch import Tensor

from atrous import run_metrics, run_state
from atrous.config import Config, load
from atrous.files import beside
from atrous.losses.semantic import semantic_loss
from atrous.run_folder import RunFolder

Tiny = Callable[..., Config]
Terms = dict[str, Tensor]
QUIET = Console(quiet=True)
FINISHED = ("train.eval_every=2",)  # settings of the run in the fixture `finished`


def weights(run: RunFolder) -> Terms:
    """Of the state that the run would be resumed from."""
    model: Terms = run_state.read_state(run.state)["model"]
    return model


def losses(run: RunFolder) -> list[dict[str, Any]]:
    """The rows of logged steps."""
    return [row for row in run_metrics.read_rows(run.metrics) if "loss" in row]


def validations(run: RunFolder) -> list[dict[str, Any]]:
    """The rows of validations."""
    return [row for row in run_metrics.read_rows(run.metrics) if "scores" in row]


def copied(run: RunFolder, path: Path) -> RunFolder:
    """A copy that a test may change."""
    shutil.copytree(run.path, path)
    return RunFolder(path)


def assert_same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def assert_close(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=2e-6, rtol=1e-4, msg=name)


def change_losses(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[int, Terms], Terms], task: str = "semantic"
) -> None:
    """Pass each pass's loss terms, with its number from 1, through `change`."""
    calls = 0

    def loss(*args: Any, **kwargs: Any) -> Terms:  # noqa: ANN401
        nonlocal calls
        calls += 1
        return change(calls, semantic_loss(*args, **kwargs))

    monkeypatch.setattr(f"atrous.tasks.{task}.semantic_loss", loss)


def stop_after(step: int, monkeypatch: pytest.MonkeyPatch, task: str = "semantic") -> None:
    """Press Ctrl-C in the middle of a pass."""

    def change(number: int, terms: Terms) -> Terms:
        if number == step:
            os.kill(os.getpid(), signal.SIGINT)
        return terms

    change_losses(monkeypatch, change, task)


def folder_config(root: Path, *overrides: str) -> Config:
    """Four steps on a dataset of the `folder` layout."""
    small = ("augment.crop=33,49", "train.batch=2", "train.steps=4", "model.backbone.depth_multiplier=0.1")
    return load("synthetic/deeplab_v3plus_tiny", ["data.format=folder", f"data.root={root}", *small, *overrides])


def leftover(path: Path) -> Path:
    """What a process that was killed while it wrote the file leaves of it."""
    with patch("os.getpid", return_value=2**22 + 1):  # Linux has no number above 2**22
        half = beside(path)
    half.write_bytes(b"half")
    return half
