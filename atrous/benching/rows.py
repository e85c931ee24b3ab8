"""What a benchmark has measured of a runtime and precision, and how."""

import math
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from atrous.types import Size


class Options(NamedTuple):
    """How each row is measured."""

    size: Size | None = None  # height, width; None: as the model was trained, or the photo's own
    image: Path | None = None  # a photo; None: a painted street
    batch: int = 4  # images in one call, for the throughput
    rounds: int = 5  # turns of each row
    seconds: float = 10.0  # of predicting, over all rounds, for each row
    repeats: int | None = None  # predictions in a round, in place of seconds
    threads: int | None = None  # None: as many as the process has cores
    device: str | None = None


DEFAULTS = Options()


class Entry(NamedTuple):
    """What a row measures."""

    path: Path
    runtime: str
    precision: str
    file: Path | None = None  # that was exported for the runtime


class Row(NamedTuple):
    entry: Entry
    error: str = ""
    size: Size = (0, 0)
    opened: float = math.nan  # seconds until the first prediction was done
    times: tuple[float, ...] = ()  # seconds of predictions of one image
    batch_times: tuple[float, ...] = ()  # seconds of predictions of a batch
    batch: int = 1
    peak: int = 0  # bytes of the whole process while it predicts single images
    batch_peak: int = 0
    evaluation: Mapping[str, Any] | None = None
    title: str = ""  # of the score, the headline of the evaluation

    @property
    def latency(self) -> float:
        """The median, in seconds."""
        return median(self.times) if self.times else math.nan

    @property
    def p90(self) -> float:
        """Nine of ten predictions take no longer."""
        return sorted(self.times)[math.ceil(0.9 * len(self.times)) - 1] if self.times else math.nan

    @property
    def throughput(self) -> float:
        """Images per second, one after the other."""
        return len(self.times) / sum(self.times) if self.times else math.nan

    @property
    def batch_throughput(self) -> float:
        return self.batch * len(self.batch_times) / sum(self.batch_times) if self.batch_times else math.nan

    @property
    def score(self) -> float | None:
        return None if self.evaluation is None else next(iter(self.evaluation["scores"].values()))

    def to_tree(self) -> dict[str, Any]:
        figures = {
            "median_seconds": self.latency,
            "p90_seconds": self.p90,
            "images_per_second": self.throughput,
            "batch": self.batch,
            "batch_images_per_second": self.batch_throughput,
            "opening_seconds": self.opened,
            "peak_bytes": self.peak,
            "batch_peak_bytes": self.batch_peak,
        }
        known = {name: value for name, value in figures.items() if math.isfinite(value) and value}
        return {
            "model": str(self.entry.path),
            "runtime": self.entry.runtime,
            "precision": self.entry.precision,
            **(known if self.times else {}),
            "seconds": list(self.times),
            "batch_seconds": list(self.batch_times),
            "evaluation": self.evaluation,
            "error": self.error,
        }


class Bench(NamedTuple):
    rows: tuple[Row, ...]  # the fastest first; those that failed last
    remarks: tuple[str, ...]  # what was not measured, and why
    facts: Mapping[str, str]  # how it was measured
    title: str  # of the score, empty if none was measured

    @property
    def is_complete(self) -> bool:
        return not any(row.error for row in self.rows)

    def to_tree(self) -> dict[str, Any]:
        return {
            "rows": [row.to_tree() for row in self.rows],
            "not_measured": list(self.remarks),
            "protocol": dict(self.facts),
        }
