"""Processes that can't join the others, or were not started like them, say so in one line."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from atrous import distributed, train
from atrous.config import Config
from atrous.distributed import World
from atrous.errors import ConfigError, ProcessDied
from tests.processes import answers_of
from tests.runs import QUIET


@pytest.fixture
def port() -> Iterator[int]:
    """One that another program has."""
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen()
    number: int = server.getsockname()[1]
    yield number
    server.close()


def start_as(monkeypatch: pytest.MonkeyPatch, **variables: object) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))


def test_a_port_that_is_taken(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    start_as(monkeypatch, RANK=0, WORLD_SIZE=2, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    with pytest.raises(ProcessDied, match="process 0 of 2 could not join the others: another program has that port;"):
        distributed.join("cpu")


def test_what_torchrun_would_have_set(monkeypatch: pytest.MonkeyPatch) -> None:
    start_as(monkeypatch, WORLD_SIZE=2)
    with pytest.raises(ProcessDied, match=r"start the processes with torchrun.*RANK expected"):
        distributed.join("cpu")
    start_as(monkeypatch, WORLD_SIZE="two")
    with pytest.raises(ConfigError, match="WORLD_SIZE is 'two', not a number"):
        distributed.join("cpu")
    start_as(monkeypatch, RANK=2, WORLD_SIZE=2)
    with pytest.raises(ConfigError, match="RANK=2 of WORLD_SIZE=2"):
        distributed.join("cpu")


def test_restarts_are_those_of_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    assert distributed.restarts() == (0, 0)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    assert distributed.restarts() == (1, 3)


def test_restarts_of_several_machines_need_a_store_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not distributed.is_store_old()
    for name, value in {"USE_AGENT_STORE": "True", "MAX_RESTARTS": "3"}.items():
        monkeypatch.setenv(f"TORCHELASTIC_{name}", value)
    assert not distributed.is_store_old()
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    assert distributed.is_store_old()
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "False")
    assert not distributed.is_store_old()


def test_a_training_that_torchrun_would_repeat_must_resume(
    tiny: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    with pytest.raises(ConfigError, match=r"torchrun --max-restarts=3 runs this command again .* --resume-or-start"):
        train.train(tiny(), tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run").exists()


def first_of(world: World, tree: Any) -> str:  # noqa: ANN401
    """What a process has of rank 0's tree, in words."""
    return repr(distributed.tree_from_first(tree if world.rank == 0 else None, world.device))


def test_a_tree_of_the_first_process_reaches_the_others(tmp_path: Path) -> None:
    weights = torch.arange(6.0).view(2, 3).T  # not contiguous
    tree = {"step": 3, "model": {"a": weights, "b": torch.tensor(7)}, "averaged": None, "groups": [{"betas": (1, 2)}]}
    assert distributed.tree_from_first(tree, torch.device("cpu")) is tree
    assert answers_of(2, tmp_path, first_of, tree) == [repr(tree)] * 2


def test_processes_that_were_not_started_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    distributed.require_same("steps: 3", "the settings")
    monkeypatch.setattr(distributed, "gather", lambda values: ["steps: 4", *values, "steps: 4", "steps: 5"])
    with pytest.raises(
        ConfigError, match=r"^the settings of process 1, 3 differ from those of process 0: start all alike$"
    ):
        distributed.require_same("steps: 3", "the settings")
