"""`atrous evaluate`: what it refuses before the work."""

import inspect
from pathlib import Path

import pytest

from atrous import report
from atrous.commands import evaluate
from tests.command_line import failure


def test_evaluate_checks_first_whether_it_can_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--json", "--report"):
        message = failure(capsys, "evaluate", "/nowhere.safetensors", option, "/proc/nowhere/page")
        assert "output folder /proc/nowhere" in message
        assert f"cannot write {tmp_path}" in failure(capsys, "evaluate", "/nowhere.safetensors", option, str(tmp_path))


def test_the_size_of_a_report_is_that_of_a_run() -> None:
    assert inspect.signature(evaluate.evaluate).parameters["report_size"].default == report.MAX_BYTES / 1e6
