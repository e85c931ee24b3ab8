"""What a task is: what is learnt, how outputs become labels, how labels are measured and shown to people."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from atrous.data.label_space import LabelSpace
from atrous.data.survey import Survey
from atrous.deployed import Decoder
from atrous.distributed import World
from atrous.errors import ConfigError, listing
from atrous.inference.seen import Seen
from atrous.settings import Settings
from atrous.types import Batch, Color, Facts, Image, Outputs, Sample

Targets = Mapping[str, Tensor]
UNKNOWN = "–"  # noqa: RUF001 - in place of a figure
ALL = "all"  # metrics


class Objective(Protocol):
    """What a training minimises."""

    def targets(self, batch: Batch) -> Targets:
        """What the loss compares outputs with, on the batch's device."""

    def counts(self, targets: Targets, step: int) -> Tensor | None:
        """How many items (pixels, things) one pass averages over, [K] float64; None: each pass has its own mean.

        Counts are summed over the passes and processes of an update before any loss is computed, so that every item of
        an update weighs the same.
        """

    def terms(self, outputs: Outputs, targets: Targets, counts: Tensor | None, step: int) -> dict[str, Tensor]:
        """The terms whose sum is minimised. `counts` are those of the whole update."""


class TrainingData(NamedTuple):
    """What an objective may know of the training data."""

    space: LabelSpace
    survey: Survey | None  # what `Task.survey` has counted
    device: torch.device


class Surveyor(Protocol):
    def __call__(
        self,
        samples: Sequence[Sample],
        space: LabelSpace,
        world: World,
        *,
        workers: int = 0,
        advance: Callable[[int], None] = ...,
    ) -> Survey: ...


class Labels(NamedTuple):
    """What a task decodes for one image, at the image's size, on the device that computed it."""

    semantic: Tensor | None = None  # [H, W] classes
    panoptic: Tensor | None = None  # [H, W] class * divisor + number of the thing
    scores: Tensor | None = None  # [N, 2] the number of a thing in `panoptic`, and how certain it is, 0 to 1
    classes: Tensor | None = None  # [C] probabilities of the whole image
    probabilities: Tensor | None = None  # [C, H, W], where the protocol computes them

    def cpu(self) -> "Labels":
        return Labels(*(x if x is None else x.cpu() for x in self))


class Table(NamedTuple):
    """Figures by row, usually one row per class. The first column is the one to sort by."""

    columns: tuple[str, ...]
    rows: Mapping[str, tuple[float | int | None, ...]]  # None: undefined, such as the IoU of an absent class
    totals: tuple[float | int | None, ...] = ()  # a last row: means and sums
    unit: str = ""  # the column that counts all that is labelled, such as pixels

    def first_column(self) -> dict[str, float | int | None]:
        return {name: row[0] for name, row in self.rows.items()}


class Figures(NamedTuple):
    """What a metric reports. Terminal, JSON, model file and page all show this one value."""

    scores: Mapping[str, float]  # by name, fractions, NaN if undefined; the first is the headline, which never is
    titles: Mapping[str, str]  # of the scores, as people write them
    table: Table
    confusion: NDArray[Any] | None = None  # [C, C] counts, rows truth, columns prediction
    notes: Mapping[str, str] = {}  # how the figures were counted: lines of the protocol

    @property
    def headline(self) -> str:
        """The name of the score that decides which model is the best."""
        return next(iter(self.scores))

    @property
    def unit(self) -> str:
        """What is labelled and counted, such as pixels; empty if the table doesn't say."""
        return self.table.unit

    def describe(self, name: str) -> str:
        value = self.scores[name]
        return f"{self.titles[name]} {UNKNOWN if math.isnan(value) else f'{value:.4f}'}"

    def to_tree(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "scores": {name: None if math.isnan(value) else value for name, value in self.scores.items()},
            "classes": {name: dict(zip(self.table.columns, row, strict=True)) for name, row in self.table.rows.items()},
            **({} if self.confusion is None else {"confusion": self.confusion.tolist()}),
        }


def one_column(
    name: str, title: str, score: float, values: Sequence[float | None], classes: Sequence[str], column: str = ""
) -> Figures:
    """The figures of a metric with one score, and one value for each class. The column is called as the score is."""
    rows = {label: (value,) for label, value in zip(classes, values, strict=True)}
    total = None if math.isnan(score) else score
    return Figures({name: score}, {name: title}, Table((column or title,), rows, (total,)))


def joined(parts: Sequence[Figures]) -> Figures:
    """The figures of several metrics over the same classes as one value."""
    first, *others = parts
    for other in others:
        first = Figures(
            {**first.scores, **other.scores},
            {**first.titles, **other.titles},
            _side_by_side(first.table, other.table),
            other.confusion if first.confusion is None else first.confusion,
            {**first.notes, **other.notes},
        )
    return first


def _side_by_side(left: Table, right: Table) -> Table:
    """Both tables' columns; a row that one of them lacks is empty there."""
    missing = [(None,) * len(table.columns) for table in (left, right)]
    rows = {
        name: (*left.rows.get(name, missing[0]), *right.rows.get(name, missing[1]))
        for name in (*left.rows, *right.rows)
    }
    totals = (*(left.totals or missing[0]), *(right.totals or missing[1])) if left.totals or right.totals else ()
    return Table((*left.columns, *right.columns), rows, totals, left.unit or right.unit)


class Metric(NamedTuple):
    """A statistic that is added (`+`) over images and processes, and then reported.

    Counts are tensors, and add up. A figure that isn't a sum, such as average precision, has a list with an item from
    each image, and lists are joined; its report must not depend on their order.
    """

    statistic: Callable[[Labels, Sample, LabelSpace], Any]
    report: Callable[[Any, LabelSpace], Figures]
    is_costly: bool = False  # only computed on request


class Result(NamedTuple):
    """A file that `atrous predict` writes for each image, into a folder named for what is in it."""

    suffix: str
    encode: Callable[[Labels, LabelSpace], bytes]


def _image_alone(sample: Sample, space: LabelSpace) -> Image:
    return sample.image


def _nothing(labels: Labels, space: LabelSpace) -> Mapping[str, Color]:
    return {}


class Task(NamedTuple):
    """A row of TASKS. Training, evaluation, prediction and report call it, and know no task by name."""

    loss: type[Settings]  # the section `loss`
    decoding: type[Settings]  # the section `decode`
    objective: Callable[[Any, Facts, Sequence[str], TrainingData], Objective]  # config, network, its heads, data
    decode: Callable[[Seen, LabelSpace, Any], list[Labels]]
    metrics: Mapping[str, Metric]  # the headline of the first decides which model is the best
    paint: Callable[[Image, Labels, LabelSpace, float], Image]  # the image under its labels; alpha 0 (image) to 1
    panels: Callable[[Sample, Labels, LabelSpace], list[tuple[str, Image]]]  # of an image in a report, with captions
    legend: Mapping[str, Color]  # colours in the panels that stand for no class
    results: Mapping[str, Result]  # by folder
    needs: tuple[str, ...]  # fields of a Sample, checked before step 1
    survey: Surveyor | None = None  # counts what the labels hold, before step 1; None: they aren't label maps
    class_weights: Callable[[Any, TrainingData], Tensor | None] | None = None  # [C] in a loss with this config
    paint_truth: Callable[[Sample, LabelSpace], Image] = _image_alone  # the image under its true labels
    painted: Callable[[Labels, LabelSpace], Mapping[str, Color]] = _nothing  # names and colours in a painted image
    compared: tuple[str, ...] = ()  # captions of the two panels that a report lays over each other
    meaning: str = ""  # of the headline, in words that follow its value
    decoders: Callable[[LabelSpace, Any], Mapping[str, Decoder]] | None = None  # of maps in exported graphs, by name
    is_local: bool = False  # a pixel's label follows from the network's output there, so rows are decoded in any parts

    def measuring(self, names: Sequence[str] | None = None) -> "Task":
        """The task with some of its metrics: see `chosen`."""
        return self._replace(metrics=chosen(self.metrics, names))

    def report(self, totals: Mapping[str, Any], space: LabelSpace) -> Figures:
        """The figures of the metrics whose statistics these are."""
        return joined([metric.report(totals[name], space) for name, metric in self.metrics.items() if name in totals])

    def statistics(self, labels: Labels, sample: Sample, space: LabelSpace) -> dict[str, Any]:
        return {name: metric.statistic(labels, sample, space) for name, metric in self.metrics.items()}


class Chooseable(Protocol):
    @property
    def is_costly(self) -> bool: ...


Choice = TypeVar("Choice", bound=Chooseable)


def chosen(metrics: Mapping[str, Choice], names: Sequence[str] | None) -> dict[str, Choice]:
    """The metrics of these names, in their own order; None: those that aren't costly; `all`: all of them.

    Raises ConfigError for a name that there isn't, and if there is none.
    """
    unknown = [name for name in names or () if name not in metrics and name != ALL]
    if unknown or (names is not None and not names):
        known = f"there are {', '.join(metrics)}, and {ALL}"
        raise ConfigError(f"metrics: {f'no metric {listing(unknown)}' if unknown else 'none is named'}; {known}")
    return {
        name: metric
        for name, metric in metrics.items()
        if (not metric.is_costly if names is None else bool({name, ALL} & {*names}))
    }


def summed(statistics: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The sum of what `Task.statistics` returned for several images; {} for none."""
    total: dict[str, Any] = {}
    for one in statistics:
        total = {name: total[name] + value for name, value in one.items()} if total else dict(one)
    return total
