"""Boundary IoU (arXiv:2103.16562, section 4) by class, summed over images: the IoU of the pixels near the edges."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from atrous.ops import boundary, overlaps, sums


class BoundaryScores(NamedTuple):
    mean: float  # over the classes with a boundary in truth or prediction; NaN if none has
    by_class: tuple[float | None, ...]  # None: neither in the truth nor in the prediction


def statistic(prediction: Tensor, truth: Tensor, num_classes: int, *, width: int, ignore: int = 255) -> Tensor:
    """Pixels of the boundaries that both share, and of either: [C, 2] int64, of maps [H, W] of classes.

    A boundary is `width` pixels wide and lies within its class. Where the truth is ignored nothing is counted. Raises
    ValueError if the maps differ in size.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {tuple(prediction.shape)} and truth {tuple(truth.shape)} differ in shape")
    is_counted = truth.int() != ignore  # an 8-bit comparison would wrap at 256
    edges = (_edges(classes, width, num_classes, is_counted) for classes in (prediction, truth))
    pairs = overlaps(*edges)
    of_truth, of_prediction, of_both = (
        sums(classes, pixels, num_classes + 1)[:num_classes]
        for classes, pixels in (
            (pairs.truth, pairs.pixels),
            (pairs.prediction, pairs.pixels),
            (pairs.truth, pairs.pixels * (pairs.truth == pairs.prediction)),
        )
    )
    return torch.stack([of_both, of_truth + of_prediction - of_both], 1)


def _edges(classes: Tensor, width: int, num_classes: int, is_counted: Tensor) -> Tensor:
    """The class of each pixel near the edge of its class, elsewhere `num_classes`, as for what isn't counted."""
    numbers = classes.int()
    is_edge = boundary(numbers, width) & is_counted & (numbers >= 0) & (numbers < num_classes)
    return numbers.where(is_edge, num_classes)


def report(total: Tensor) -> BoundaryScores:
    by_class = tuple(shared / either if either else None for shared, either in total.tolist())
    known = [value for value in by_class if value is not None]
    return BoundaryScores(sum(known) / len(known) if known else math.nan, by_class)
