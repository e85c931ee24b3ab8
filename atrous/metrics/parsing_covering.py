"""Parsing covering (arXiv:1902.05093, section 4.2), counted as DeepLab's own evaluation counts it.

Void isn't counted on either side: the original drops all pixels whose true class is ignored, crowds among them.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from atrous.metrics.pairs import Pairs
from atrous.ops import sums


class Covering(NamedTuple):
    mean: float  # over the classes in the truth; NaN if there is none
    by_class: tuple[float | None, ...]  # None: not in the truth


def statistic(pairs: Pairs, *, by: int = 1) -> Tensor:
    """Area times the IoU of the best prediction of the same class, and area, by class: [C, 2] float64.

    Areas are divided by `by`: the original takes the pixels of the image, so that images count alike. The pairs must
    have been made with `crowd_is_void`.
    """
    iou = pairs.iou() * (pairs.true_class == pairs.predicted_class)
    best = torch.zeros_like(iou).scatter_reduce_(0, pairs.true_segment, iou, "amax")
    share = pairs.whole.shared.double() / by  # over the pairs of a segment, these add up to its area
    columns = (share * best[pairs.true_segment], share)
    count = pairs.num_classes
    return torch.stack([sums(pairs.true_class, values, count + 1)[:count] for values in columns], 1)


def report(total: Tensor) -> Covering:
    covered, area = total.unbind(1)
    by_class = tuple(a / b if b else None for a, b in zip(covered.tolist(), area.tolist(), strict=True))
    known = [value for value in by_class if value is not None]
    return Covering(sum(known) / len(known) if known else math.nan, by_class)
