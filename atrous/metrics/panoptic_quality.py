"""Panoptic quality (arXiv:1801.00868, section 4), counted as COCO's and Cityscapes' own programs count it."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from atrous.metrics.pairs import Pairs
from atrous.ops import sums

IOU, TRUE_POSITIVES, FALSE_POSITIVES, FALSE_NEGATIVES = range(4)  # columns of the statistic


class Quality(NamedTuple):
    """Means over the classes that occur in truth or prediction; 0 if none does."""

    pq: float  # panoptic quality: sq * rq of each class
    sq: float  # segmentation quality: mean IoU of the segments that are matched
    rq: float  # recognition quality: F1 of the matching
    num_classes: int


def statistic(pairs: Pairs) -> Tensor:
    """Sum of IoUs, true positives, false positives, false negatives of each class: [C, 4] float64.

    A prediction of which more than half lies in void, or in a crowd of its own class, is no false positive. If the
    pairs have boundaries, the IoU is the lesser of both, and the quality is boundary PQ (arXiv:2103.16562, section 6).
    """
    iou = pairs.iou()
    is_same = pairs.true_class == pairs.predicted_class
    is_match = is_same & ~pairs.is_void & ~pairs.is_crowd & (iou > 0.5)

    unclaimed = pairs.whole.shared * (pairs.is_void | (pairs.is_crowd & is_same))
    is_excused = (
        2 * sums(pairs.predicted_segment, unclaimed, len(iou))[pairs.predicted_segment] > pairs.whole.prediction
    )
    is_missed = _without_match(pairs.true_segment, is_match) & ~pairs.is_crowd
    is_false = _without_match(pairs.predicted_segment, is_match) & ~is_excused
    columns = (
        (pairs.true_class, iou * is_match),
        (pairs.true_class, is_match.double()),
        (pairs.predicted_class, (is_false & _is_first(pairs.predicted_segment)).double()),
        (pairs.true_class, (is_missed & _is_first(pairs.true_segment)).double()),
    )
    count = pairs.num_classes
    return torch.stack([sums(classes, values, count + 1)[:count] for classes, values in columns], 1)


def report(total: Tensor) -> tuple[Tensor, Tensor]:
    """Panoptic, segmentation and recognition quality by class, [C, 3] float64, and which classes occur, [C] bool."""
    iou, true, false, missed = total.unbind(1)
    count = true + 0.5 * false + 0.5 * missed
    recognition, segmentation = true / count.clamp_min(0.5), iou / true.clamp_min(1)
    return torch.stack([iou / count.clamp_min(0.5), segmentation, recognition], 1), count > 0


def mean_quality(total: Tensor, among: Sequence[bool] | Tensor) -> Quality:
    """Over the classes `among` [C] that occur, as panopticapi averages them."""
    by_class, occurs = report(total)
    chosen = by_class[occurs & torch.as_tensor(among)]
    pq, sq, rq = (chosen.mean(0) if len(chosen) else torch.zeros(3)).tolist()
    return Quality(pq, sq, rq, len(chosen))


def _without_match(segment: Tensor, is_match: Tensor) -> Tensor:
    """For each pair, whether its segment is matched in no pair."""
    return (sums(segment, is_match.long(), len(segment)) == 0)[segment]


def _is_first(segment: Tensor) -> Tensor:
    """For each pair, whether it is the first one of its segment: each segment counts once."""
    places = torch.arange(len(segment), device=segment.device)
    first = torch.full_like(segment, len(segment)).scatter_reduce(0, segment, places, "amin")
    return first[segment] == places
