"""The rows of a run's metrics: damage costs only the row that it hits."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from atrous.errors import listing
from atrous.files import write_atomically
from atrous.models.format_1 import upgraded_row
from atrous.run_folder import RunFolder

KINDS = {"loss": float | int, "scores": dict, "classes": dict, "micro_batch": int}  # of values in a row of metrics


def log(run: RunFolder, row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Add a row to the run's metrics; returns it."""
    if not run.is_writer:
        return row
    try:
        with run.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    except OSError as error:
        raise OSError(error.errno, f"cannot write {run.metrics}: {error.strerror}") from error
    return row


def flush(path: Path) -> None:
    """Let rows outlive a power cut if the state that follows them does."""
    if path.exists():
        with path.open("ab") as file:
            os.fsync(file.fileno())


class Lines(NamedTuple):
    """The content of a file of metrics."""

    rows: list[dict[str, Any]]  # of each step and of each validation the last one; and where the memory ran out
    broken: list[int]  # numbers of lines with anything else


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics. Damage costs only the row that it hits."""
    return _read_lines(path).rows


def _read_lines(path: Path) -> Lines:
    rows: dict[tuple[int, bool, int | None], dict[str, Any]] = {}
    broken: list[int] = []
    for number, line in enumerate(path.read_bytes().split(b"\n") if path.exists() else (), start=1):
        pieces = [piece for piece in re.split(rb'(?=\{"step":)', line) if piece.strip()]  # of rows run together
        good = [row for piece in pieces if (row := _row(piece)) is not None]
        places = [(row["step"], "loss" in row, row.get("micro_batch")) for row in good]
        if len(good) < len(pieces) or not rows.keys().isdisjoint(places):
            broken.append(number)
        rows.update(zip(places, good, strict=True))
    return Lines(list(rows.values()), broken)


def _row(text: bytes) -> dict[str, Any] | None:
    """The row, or None for damaged text."""
    try:
        row = json.loads(text.decode())
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or type(row.get("step")) is not int or len(row) == 1:
        return None
    is_whole = all(isinstance(row[key], kind) for key, kind in KINDS.items() if key in row)
    return upgraded_row(row) if is_whole else None


def drop_rows_after(path: Path, step: int, validation: int) -> list[str]:
    """Drop rows that a kill lost and the run will repeat: steps after `step`, validations after `validation`.

    Damaged lines are dropped as well, and told.
    """
    rows, broken = _read_lines(path)
    if path.exists():
        rows = [row for row in rows if "micro_batch" in row or row["step"] <= (step if "loss" in row else validation)]
        write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows))
    lines = f"line{'s'[: len(broken) - 1]} {listing(broken, limit=10)}"
    return [f"{path}: what is damaged or repeated in {lines} is left out"] if broken else []
