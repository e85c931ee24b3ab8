"""How a panoptic map is measured against the true one, whether a network has just made it or a file holds it."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from atrous.data.label_space import LabelSpace
from atrous.metrics import (
    average_precision,
    boundary_iou,
    cityscapes_precision,
    confusion,
    panoptic_quality,
    parsing_covering,
)
from atrous.metrics.average_precision import Ranking
from atrous.metrics.cityscapes_precision import Matches
from atrous.metrics.pairs import Pairs, segment_pairs
from atrous.ops import boundary_width
from atrous.tasks.class_map import report_boundary_iou
from atrous.tasks.contract import Figures, Table, one_column
from atrous.types import Size

Row = tuple[float | int | None, ...]


class Maps(NamedTuple):
    """A predicted and a true map of class * divisor + number, [H, W], on the CPU."""

    name: str  # of the image
    prediction: Tensor
    truth: Tensor
    things: Tensor  # [C] bool: the classes whose number 0 is a crowd
    divisor: int
    ignore: int
    scores: Tensor | None  # [N, 2] the number of a predicted thing, and how certain it is
    true_classes: Tensor | None = None  # [H, W], where the numbers of the truth don't say them

    @property
    def size(self) -> Size:
        height, width = self.truth.shape
        return height, width

    def pairs(self, *, crowd_is_void: bool = False, width: int | None = None) -> Pairs:
        return segment_pairs(
            self.prediction,
            self.truth,
            self.things,
            divisor=self.divisor,
            ignore=self.ignore,
            crowd_is_void=crowd_is_void,
            boundary_width=width,
        )

    def classes(self) -> tuple[Tensor, Tensor]:
        """Predicted and true, [H, W] int32; the number of classes where a pixel has none."""
        predicted, true = (ids // self.divisor for ids in (self.prediction, self.truth))
        true = true if self.true_classes is None else self.true_classes
        return self._without_void(predicted), self._without_void(true)

    def _without_void(self, classes: Tensor) -> Tensor:
        is_class = (classes < len(self.things)) & (classes != self.ignore)
        return classes.int().where(is_class, len(self.things))


class Measure(NamedTuple):
    statistic: Callable[[Maps], Any]  # is added over images
    report: Callable[[Any, LabelSpace], Figures]
    is_costly: bool = False


# ---- panoptic quality


def quality(maps: Maps) -> Tensor:  # [C, 4]
    return panoptic_quality.statistic(maps.pairs())


def boundary_quality(maps: Maps) -> Tensor:  # [C, 4]
    return panoptic_quality.statistic(maps.pairs(width=boundary_width(maps.size)))


def report_quality(total: Tensor, space: LabelSpace) -> Figures:
    total = total[: space.num_classes]
    is_thing = torch.tensor([index in space.things for index in range(space.num_classes)])
    everything, of_things, of_stuff = (
        panoptic_quality.mean_quality(total, among) for among in (is_thing | ~is_thing, is_thing, ~is_thing)
    )
    by_class, occurs = panoptic_quality.report(total)
    rows: dict[str, Row] = {}
    for index, name in enumerate(space.names):
        counts = [int(count) for count in total[index, 1:].tolist()]
        rows[name] = (*by_class[index].tolist(), *counts) if occurs[index] else (None, None, None, 0, 0, 0)
    sums = [int(count) for count in total[:, 1:].sum(0).tolist()]
    scores = {
        "pq": everything.pq,
        "sq": everything.sq,
        "rq": everything.rq,
        "pq_things": of_things.pq if of_things.num_classes else math.nan,
        "pq_stuff": of_stuff.pq if of_stuff.num_classes else math.nan,
    }
    titles = {"pq": "PQ", "sq": "SQ", "rq": "RQ", "pq_things": "PQ of things", "pq_stuff": "PQ of stuff"}
    totals = (everything.pq, everything.sq, everything.rq, *sums)
    note = (
        f"mean over {everything.num_classes} of {space.num_classes} classes, {of_things.num_classes} of things; crowds "
        "count as in COCO's own program"
    )
    table = Table(("PQ", "SQ", "RQ", "matched", "false", "missed"), rows, totals)
    return Figures(scores, titles, table, notes={"panoptic quality": note})


def report_boundary_quality(total: Tensor, space: LabelSpace) -> Figures:
    total = total[: space.num_classes]
    by_class, occurs = panoptic_quality.report(total)
    values = [row[0] if known else None for row, known in zip(by_class.tolist(), occurs.tolist(), strict=True)]
    mean = panoptic_quality.mean_quality(total, [True] * space.num_classes)
    score = mean.pq if mean.num_classes else math.nan
    return one_column("boundary_pq", "boundary PQ", score, values, space.names)


# ---- other figures of the segments


def covering(maps: Maps) -> Tensor:  # [C, 2]
    return parsing_covering.statistic(maps.pairs(crowd_is_void=True), by=max(1, maps.truth.numel()))


def report_covering(total: Tensor, space: LabelSpace) -> Figures:
    scores = parsing_covering.report(total[: space.num_classes])
    return one_column("pc", "PC", scores.mean, scores.by_class, space.names)


def precision(maps: Maps) -> list[Ranking]:
    """Empty without scores: then there is no order, and so no average precision."""
    return [] if maps.scores is None else [average_precision.statistic(maps.pairs(), maps.scores, maps.name)]


def boundary_precision(maps: Maps) -> list[Ranking]:
    if maps.scores is None:
        return []
    return [average_precision.statistic(maps.pairs(width=boundary_width(maps.size)), maps.scores, maps.name)]


def report_precision(rankings: Sequence[Ranking], space: LabelSpace) -> Figures:
    result = average_precision.report(rankings, space.things)
    by_class = zip(space.things, result.by_class.tolist(), strict=True)
    rows: dict[str, Row] = {space.names[index]: tuple(map(_known, values)) for index, values in by_class}
    scores = {"ap": result.ap, "ap50": result.ap50, "ap75": result.ap75}
    titles = {"ap": "AP", "ap50": "AP50", "ap75": "AP75"}
    table = Table(("AP", "AP50", "AP75"), rows, tuple(map(_known, scores.values())))
    note = "of masks, as COCO's own program counts it" if rankings else "none, because the predictions have no scores"
    return Figures(scores, titles, table, notes={"average precision": note})


def report_boundary_precision(rankings: Sequence[Ranking], space: LabelSpace) -> Figures:
    result = average_precision.report(rankings, space.things)
    values = dict(zip(space.things, map(_known, result.by_class[:, 0].tolist()), strict=True))
    by_class = [values.get(index) for index in range(space.num_classes)]
    return one_column("boundary_ap", "boundary AP", result.ap, by_class, space.names)


def cityscapes(maps: Maps) -> list[Matches]:
    return [] if maps.scores is None else cityscapes_precision.statistic(maps.pairs(), maps.scores)


def report_cityscapes(matches: Sequence[Matches], space: LabelSpace) -> Figures:
    result = cityscapes_precision.report(matches, space.things)
    by_class = zip(space.things, result.by_class.tolist(), strict=True)
    rows: dict[str, Row] = {space.names[index]: tuple(map(_known, values)) for index, values in by_class}
    scores = {"cityscapes_ap": result.ap, "cityscapes_ap50": result.ap50}
    titles = {"cityscapes_ap": "Cityscapes' AP", "cityscapes_ap50": "Cityscapes' AP50"}
    return Figures(scores, titles, Table((*titles.values(),), rows, tuple(map(_known, scores.values()))))


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


# ---- the classes of the map


def merged(maps: Maps) -> Tensor:  # [C, C + 1]
    """The last column counts what is predicted as void."""
    num_classes = len(maps.things)
    prediction, truth = maps.classes()
    return confusion.statistic(prediction, truth, num_classes + 1, ignore=num_classes)[:num_classes]


def report_merged(total: Tensor, space: LabelSpace) -> Figures:
    count = space.num_classes
    scores = confusion.report(torch.cat([total[:count, :count], total[:count, -1:]], 1))
    score = scores.miou if any(value is not None for value in scores.iou) else math.nan
    return one_column("merged_miou", "mIoU of the merged map", score, scores.iou, space.names, "merged IoU")


def boundary_overlap(maps: Maps) -> Tensor:  # [C, 2]
    prediction, truth = maps.classes()
    num_classes, width = len(maps.things), boundary_width(maps.size)
    return boundary_iou.statistic(prediction, truth, num_classes, width=width, ignore=num_classes)


MEASURES = {
    "pq": Measure(quality, report_quality),
    "pc": Measure(covering, report_covering),
    "ap": Measure(precision, report_precision),
    "cityscapes_ap": Measure(cityscapes, report_cityscapes, is_costly=True),
    "merged_miou": Measure(merged, report_merged),
    "boundary_pq": Measure(boundary_quality, report_boundary_quality, is_costly=True),
    "boundary_ap": Measure(boundary_precision, report_boundary_precision, is_costly=True),
    "boundary_iou": Measure(boundary_overlap, report_boundary_iou, is_costly=True),
}
