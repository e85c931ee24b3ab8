"""Average precision of masks as Cityscapes' own program counts it, for things that don't overlap.

It differs from COCO's: void, crowds and things of fewer than 100 pixels excuse a prediction, the precision isn't raised
to that of higher recalls, and the area under its curve is summed in steps between the scores.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from atrous.metrics.pairs import Pairs

THRESHOLDS = np.arange(0.5, 1.0, 0.05)  # of the IoU, which must be above
SMALLEST = 100  # pixels of a true thing that counts


class Marks(NamedTuple):
    """Of one class in an image, at one threshold."""

    scores: list[float]  # of the predictions that count
    is_true: list[bool]
    missed: int  # true things


class Matches(NamedTuple):
    """What an image adds for a class."""

    category: int
    has_truth: bool
    has_prediction: bool
    marks: list[Marks]  # by threshold


class Precision(NamedTuple):
    """Means over the classes with a true thing; NaN if there is none."""

    ap: float  # over all thresholds
    ap50: float  # at an IoU of 0.5
    by_class: NDArray[np.float64]  # [K, 2], the same; NaN without a true thing


class _Thing(NamedTuple):
    category: int
    area: int
    counts: bool = True  # a true one that is no crowd, and large enough
    score: float = 0.0
    excused: int = 0  # pixels of a prediction in void, crowds and small things


def statistic(pairs: Pairs, scores: Tensor) -> list[Matches]:
    """`scores` is [N, 2]: the number of a predicted thing, and how certain it is, 0 where it isn't said."""
    truths, predictions = _truths(pairs), _predictions(pairs, scores)
    ious = (pairs.true_segment, pairs.predicted_segment, pairs.iou(without_void=False))
    is_same = (pairs.true_class == pairs.predicted_class) & ~pairs.is_void
    near = [
        (true, predicted, iou)
        for true, predicted, iou in zip(*(column[is_same].tolist() for column in ious), strict=True)
        if iou > THRESHOLDS[0]
    ]
    matches = []
    for category in np.flatnonzero(pairs.things.numpy()).tolist():
        true = {segment: one for segment, one in truths.items() if one.category == category and one.counts}
        predicted = {segment: one for segment, one in predictions.items() if one.category == category}
        marks = [
            _marks(true, predicted, [one for one in near if one[2] > threshold], threshold) for threshold in THRESHOLDS
        ]
        matches.append(Matches(category, bool(true), bool(predicted), marks))
    return matches


def _truths(pairs: Pairs) -> dict[int, _Thing]:
    columns = (pairs.true_segment, pairs.true_class, pairs.whole.truth, pairs.is_crowd)
    return {
        segment: _Thing(category, area, not is_crowd and area >= SMALLEST)
        for segment, category, area, is_crowd in zip(*(column.tolist() for column in columns), strict=True)
    }


def _predictions(pairs: Pairs, scores: Tensor) -> dict[int, _Thing]:
    certain = {int(number): score for number, score in scores.tolist()}
    is_same = pairs.true_class == pairs.predicted_class
    is_small = is_same & ~pairs.is_void & (pairs.whole.truth < SMALLEST)
    crowds = pairs.whole.shared * (is_same & pairs.is_crowd) + pairs.whole.shared * is_small  # small crowds count twice
    columns = (pairs.predicted_segment, pairs.predicted_class, pairs.whole.prediction, pairs.predicted_id,
               pairs.whole.void, crowds)  # fmt: skip
    things: dict[int, _Thing] = {}
    for segment, category, area, number, void, crowd in zip(*(column.tolist() for column in columns), strict=True):
        before = things.get(segment, _Thing(category, area, True, certain.get(number, 0.0), void))
        things[segment] = before._replace(excused=before.excused + crowd)
    return things


def _marks(
    truths: Mapping[int, _Thing],
    predictions: Mapping[int, _Thing],
    near: Sequence[tuple[int, int, float]],
    threshold: float,
) -> Marks:
    """Of several predictions of one thing, that with the highest score is right."""
    scores: list[float] = []
    is_true: list[bool] = []
    missed = 0
    for segment in truths:
        own = sorted((predictions[other].score for true, other, _ in near if true == segment), reverse=True)
        scores += own
        is_true += [index == 0 for index in range(len(own))]
        missed += not own
    matched = {other for _, other, _ in near}
    false = [
        one.score
        for segment, one in predictions.items()
        if segment not in matched and one.excused / one.area <= threshold
    ]
    return Marks(scores + false, is_true + [False] * len(false), missed)


def report(matches: Iterable[Matches], things: Sequence[int]) -> Precision:
    """Over the classes `things`, K of them."""
    by_category: dict[int, list[Matches]] = {category: [] for category in things}
    for one in matches:
        by_category.get(one.category, []).append(one)
    rows = [_precision(own) for own in by_category.values()]
    by_class = np.array([[row.mean(), row[0]] for row in rows]).reshape(len(things), 2)
    known = by_class[~np.isnan(by_class[:, 0])]
    ap, ap50 = known.mean(0).tolist() if len(known) else [math.nan] * 2
    return Precision(ap, ap50, by_class)


def _precision(matches: Sequence[Matches]) -> NDArray[np.float64]:  # [T]
    if not any(one.has_truth for one in matches):
        return np.full(len(THRESHOLDS), math.nan)
    if not any(one.has_prediction for one in matches):
        return np.zeros(len(THRESHOLDS))
    return np.array([_area(column) for column in zip(*(one.marks for one in matches), strict=True)])


def _area(marks: Sequence[Marks]) -> float:
    """Under the curve of precision over recall, in steps between the middles of neighbouring recalls."""
    scores = np.array([score for one in marks for score in one.scores])
    is_true = np.array([flag for one in marks for flag in one.is_true], bool)
    missed = sum(one.missed for one in marks)
    order = np.argsort(scores, kind="stable")
    _, first = np.unique(scores[order], return_index=True)
    before = np.concatenate([[0], np.cumsum(is_true[order])])
    true = before[-1] - before[first]  # with this score or a higher one
    precision = np.append(true / (len(scores) - first), 1.0)
    recall = np.append(true / (before[-1] + missed), 0.0)
    around = np.concatenate([recall[:1], recall, [0.0]])
    return float(precision @ (around[:-2] - around[2:])) / 2
