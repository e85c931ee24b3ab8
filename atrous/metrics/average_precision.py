"""Average precision of masks, as COCO's own program (pycocotools) counts it, for things that don't overlap.

It isn't a sum: each image adds its predictions, already matched with the truth, and they are ranked at the end.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atrous.metrics.pairs import Pairs

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of the IoU
RECALLS = np.linspace(0, 1, 101)  # at which the precision is averaged
MOST = 100  # predictions of a class in an image that count
FALSE, TRUE, NEITHER = range(3)  # what a prediction is at a threshold; neither: in a crowd


class Ranking(NamedTuple):
    """What one image adds: P predicted things, by falling score."""

    name: str  # of the image: equal scores are ranked by it, so that figures don't depend on who saw which image
    classes: NDArray[np.int64]  # [P]
    scores: NDArray[np.float64]  # [P]
    outcomes: NDArray[np.int8]  # [P, T]
    truths: NDArray[np.int64]  # [C] true things, without crowds


class Candidate(NamedTuple):
    """A true thing that a prediction of the same class may be."""

    truth: int
    iou: float  # in a crowd, the share of the prediction that lies in it
    is_crowd: bool


class Precision(NamedTuple):
    """Means over the classes with a true thing; NaN if there is none."""

    ap: float  # over all thresholds
    ap50: float  # at an IoU of 0.5
    ap75: float
    by_class: NDArray[np.float64]  # [K, 3], the same; NaN without a true thing


def statistic(pairs: Pairs, scores: Tensor, name: str) -> Ranking:
    """`scores` is [N, 2]: the number of a predicted thing, and how certain it is, 0 where it isn't said.

    The void of the truth has no meaning here, as in the original: what is predicted there is wrong. If the pairs have
    boundaries, the IoU is the lesser of both, and the precision is boundary AP (arXiv:2103.16562, section 6).
    """
    certain = {int(number): score for number, score in scores.tolist()}
    is_thing = [*pairs.things.tolist(), False]  # void has none
    predictions = {
        int(segment): (int(category), certain.get(int(number), 0.0))
        for segment, category, number in zip(
            pairs.predicted_segment, pairs.predicted_class, pairs.predicted_id, strict=True
        )
        if is_thing[category]
    }
    ranked = _ranked(predictions)
    candidates = _candidates(pairs)
    classes, certainty = zip(*(predictions[segment] for segment in ranked), strict=True) if ranked else ((), ())
    counted = {
        int(segment): int(category)
        for segment, category, is_crowd in zip(pairs.true_segment, pairs.true_class, pairs.is_crowd, strict=True)
        if is_thing[category] and not is_crowd
    }
    return Ranking(
        name,
        np.array(classes, np.int64),
        np.array(certainty, np.float64),
        _outcomes([candidates.get(segment, []) for segment in ranked]),
        np.bincount(np.array(list(counted.values()), np.int64), minlength=pairs.num_classes),
    )


def _ranked(predictions: Mapping[int, tuple[int, float]]) -> list[int]:
    """Those of highest score, at most `MOST` of a class; of equal ones that with the lower number comes first."""
    number = Counter[int]()
    ranked = []
    for segment in sorted(predictions, key=lambda one: (-predictions[one][1], one)):
        category, _ = predictions[segment]
        number[category] += 1
        if number[category] <= MOST:
            ranked.append(segment)
    return ranked


def _candidates(pairs: Pairs) -> dict[int, list[Candidate]]:
    """By prediction, crowds last, those that any threshold lets through."""
    of_crowd = pairs.whole.shared.double() / pairs.whole.prediction
    iou = torch.where(pairs.is_crowd, of_crowd, pairs.iou(without_void=False))
    near = (pairs.true_class == pairs.predicted_class) & ~pairs.is_void & (iou >= THRESHOLDS[0])
    candidates: dict[int, list[Candidate]] = {}
    columns = (pairs.predicted_segment, pairs.true_segment, iou, pairs.is_crowd)
    for prediction, *values in zip(*(column[near].tolist() for column in columns), strict=True):
        candidates.setdefault(prediction, []).append(Candidate(*values))
    return {prediction: sorted(own, key=lambda one: one.is_crowd) for prediction, own in candidates.items()}


def _outcomes(candidates: Sequence[Sequence[Candidate]]) -> NDArray[np.int8]:  # [P, T]
    """Each prediction in turn takes the true thing that it agrees with most, of those that aren't taken."""
    outcomes = np.full((len(candidates), len(THRESHOLDS)), FALSE, np.int8)
    for column, threshold in enumerate(THRESHOLDS):
        taken: set[int] = set()
        for row, own in enumerate(candidates):
            best = _best(own, float(threshold), taken)
            if best is not None:
                outcomes[row, column] = NEITHER if best.is_crowd else TRUE
                taken |= set() if best.is_crowd else {best.truth}
    return outcomes


def _best(candidates: Sequence[Candidate], threshold: float, taken: Collection[int]) -> Candidate | None:
    """Of equally good ones the last, as the original has it; a crowd only if there is nothing else."""
    free = [one for one in candidates if one.truth not in taken and one.iou >= min(threshold, 1 - 1e-10)]
    alone = [one for one in free if not one.is_crowd] or free
    return max(reversed(alone), key=lambda one: one.iou, default=None)


def report(rankings: Iterable[Ranking], things: Sequence[int]) -> Precision:
    """Over the classes `things`, K of them."""
    by_name = sorted(rankings, key=lambda one: one.name)
    rows = [_precision(by_name, category) for category in things]
    by_class = np.array([[row.mean(), row[0], row[5]] for row in rows]).reshape(len(things), 3)
    known = by_class[~np.isnan(by_class[:, 0])]
    ap, ap50, ap75 = known.mean(0).tolist() if len(known) else [math.nan] * 3
    return Precision(ap, ap50, ap75, by_class)


def _precision(rankings: Sequence[Ranking], category: int) -> NDArray[np.float64]:  # [T]
    """Of one class, at each threshold: the mean precision over the recalls; NaN without a true thing."""
    number = sum(int(one.truths[category]) for one in rankings)
    if number == 0:
        return np.full(len(THRESHOLDS), math.nan)
    own = [one.classes == category for one in rankings]
    scores = np.concatenate([one.scores[mine] for one, mine in zip(rankings, own, strict=True)])
    outcomes = np.concatenate([one.outcomes[mine] for one, mine in zip(rankings, own, strict=True)])
    ranked = outcomes[np.argsort(-scores, kind="stable")]
    true, false = (np.cumsum(ranked == one, axis=0, dtype=np.float64) for one in (TRUE, FALSE))
    precision = true / (true + false + np.spacing(1))
    highest = np.maximum.accumulate(precision[::-1])[::-1]  # at this recall or above
    return np.array([_mean_at_recalls(*column) for column in zip(true.T / number, highest.T, strict=True)])


def _mean_at_recalls(recall: NDArray[np.float64], precision: NDArray[np.float64]) -> float:
    """A recall that isn't reached has precision 0."""
    return float(np.append(precision, 0.0)[np.searchsorted(recall, RECALLS)].mean())
