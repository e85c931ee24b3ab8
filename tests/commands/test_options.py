"""What options stand for when they are not given."""

import os
from types import SimpleNamespace

import pytest

from atrous.commands import options


def test_processes_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        options, "os", SimpleNamespace(sched_getaffinity=lambda _: {0, 1, 2, 3, 4, 9}, environ=os.environ)
    )
    for processes, cores in (("1", 6), ("2", 3), ("16", 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        assert options.own_cores() == cores
