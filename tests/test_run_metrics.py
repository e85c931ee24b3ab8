"""The rows of a run's metrics, whole or damaged."""

import json
from pathlib import Path
from typing import Any

import pytest

from atrous import run_metrics


def test_a_line_of_metrics_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        json.dumps({"step": 1, "loss": 0.5}) + "\n" + json.dumps({"step": 2, "loss": 0.5}) + '\n{"step": 3, "lo'
    )
    assert [row["step"] for row in run_metrics.read_rows(path)] == [1, 2]
    assert run_metrics.drop_rows_after(path, 1, 0) == [f"{path}: what is damaged or repeated in line 3 is left out"]
    assert path.read_text() == '{"step": 1, "loss": 0.5}\n'
    assert run_metrics.drop_rows_after(path, 1, 0) == []


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
        run_metrics.drop_rows_after(path, step=4, validation=2)
        assert run_metrics.read_rows(path) == rows[:3]


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
    assert [row["step"] for row in run_metrics.read_rows(path)] == expected
    said = run_metrics.drop_rows_after(path, 9, 9)
    is_broken = line != ROW + b'{"step": 3, "loss": 0.25}'  # two whole rows lose nothing
    assert said == ([f"{path}: what is damaged or repeated in line 3 is left out"] if is_broken else [])
    assert [json.loads(text)["step"] for text in path.read_text().splitlines()] == expected


def test_of_repeated_steps_the_last_one_counts(tmp_path: Path) -> None:
    """As two trainings at once left them behind before runs were locked."""
    path = tmp_path / "metrics.jsonl"
    steps = [(1, 0.5), (2, 0.4), (1, 0.3), (3, 0.2), (2, 0.1)]
    path.write_text("".join(json.dumps({"step": step, "loss": loss}) + "\n" for step, loss in steps))
    assert [(row["step"], row["loss"]) for row in run_metrics.read_rows(path)] == [(1, 0.3), (2, 0.1), (3, 0.2)]
    assert "in lines 3, 5 is left out" in run_metrics.drop_rows_after(path, 9, 9)[0]
