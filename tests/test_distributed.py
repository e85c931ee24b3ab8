"""Processes that can't join the others, or were not started like them, say so in one line."""

import socket
from collections.abc import Iterator

import pytest

from atrous import distributed
from atrous.errors import ConfigError, ProcessDied


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


def test_processes_that_were_not_started_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    distributed.require_same("steps: 3", "the settings")
    monkeypatch.setattr(distributed, "gather", lambda values: ["steps: 4", *values, "steps: 4", "steps: 5"])
    with pytest.raises(
        ConfigError, match=r"^the settings of process 1, 3 differ from those of process 0: start all alike$"
    ):
        distributed.require_same("steps: 3", "the settings")
