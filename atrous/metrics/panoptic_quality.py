"""Panoptic quality (arXiv:1801.00868, section 4), counted as COCO's and Cityscapes' own programs count it.

A panoptic map holds class * divisor + number. Void is every pixel whose class is ignored or not a class. Pixels of the
truth with number 0 in a class of things are a crowd: several things that nobody told apart.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

SPAN = 1 << 31  # larger than any number in a panoptic map
IOU, TRUE_POSITIVES, FALSE_POSITIVES, FALSE_NEGATIVES = range(4)  # columns of the statistic


class Quality(NamedTuple):
    """Means over the classes that occur in truth or prediction; 0 if none does."""

    pq: float  # panoptic quality: sq * rq of each class
    sq: float  # segmentation quality: mean IoU of the segments that are matched
    rq: float  # recognition quality: F1 of the matching
    num_classes: int


class Overlaps(NamedTuple):
    """The pairs of a true and a predicted segment that share pixels, N of them."""

    truth: Tensor  # [N] numbers
    prediction: Tensor  # [N]
    pixels: Tensor  # [N]


def statistic(
    prediction: Tensor, truth: Tensor, things: Tensor, *, divisor: int, ignore: int, crowd_is_void: bool = False
) -> Tensor:
    """Sum of IoUs, true positives, false positives, false negatives of each class: [C, 4] float64.

    `prediction` and `truth` are [H, W], `things` [C] bool. A prediction of which more than half lies in void, or in a
    crowd of its own class, is no false positive. With `crowd_is_void` crowds are void, as in deeplab2's own evaluation.
    """
    pairs = overlaps(prediction, truth)
    num_classes = len(things)
    truth_class, predicted_class = (_classes(ids, divisor, num_classes, ignore) for ids in pairs[:2])
    has_things = torch.cat([things, things.new_zeros(1)]).to(truth.device)  # void has none
    is_crowd = has_things[truth_class] & (pairs.truth % divisor == 0)
    if crowd_is_void:
        truth_class = torch.where(is_crowd, num_classes, truth_class)
    is_void = truth_class == num_classes

    true_segment, true_area = _areas(pairs.truth, pairs.pixels)
    predicted_segment, predicted_area = _areas(pairs.prediction, pairs.pixels)
    void_area = _sums(predicted_segment, pairs.pixels * is_void, len(predicted_area))
    union = true_area[true_segment] + predicted_area[predicted_segment] - pairs.pixels - void_area[predicted_segment]
    iou = pairs.pixels.double() / union
    is_match = (truth_class == predicted_class) & ~is_void & ~is_crowd & (iou > 0.5)

    unclaimed = pairs.pixels * (is_void | (is_crowd & (truth_class == predicted_class)))
    is_excused = 2 * _sums(predicted_segment, unclaimed, len(predicted_area)) > predicted_area
    is_missed = _without_match(true_segment, is_match) & ~is_crowd
    is_false = _without_match(predicted_segment, is_match) & ~is_excused[predicted_segment]
    columns = (
        (truth_class, iou * is_match),
        (truth_class, is_match.double()),
        (predicted_class, (is_false & _is_first(predicted_segment)).double()),
        (truth_class, (is_missed & _is_first(true_segment)).double()),
    )
    return torch.stack([_sums(classes, values, num_classes + 1)[:num_classes] for classes, values in columns], 1)


def overlaps(prediction: Tensor, truth: Tensor) -> Overlaps:
    """Raises ValueError if the maps differ in size. Runs of equal pairs are counted first, because sorting is slow."""
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {tuple(prediction.shape)} and truth {tuple(truth.shape)} differ in shape")
    runs, lengths = _runs(prediction.flatten(), truth.flatten())
    pairs, place = torch.unique(runs, return_inverse=True)
    return Overlaps(pairs // SPAN, pairs % SPAN, _sums(place, lengths, len(pairs)))


def _runs(prediction: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """truth * SPAN + prediction of each run of equal pixels, and its length. NumPy takes a tenth of PyTorch's time."""
    if truth.device.type != "cpu":
        runs, lengths = torch.unique_consecutive(truth.long() * SPAN + prediction, return_counts=True)
        return runs, lengths
    true, predicted = truth.numpy(), prediction.numpy()
    is_change = true[1:] != true[:-1]
    is_change |= predicted[1:] != predicted[:-1]
    starts = np.concatenate([[0], np.flatnonzero(is_change) + 1])[: len(true)]
    lengths = torch.from_numpy(np.diff(starts, append=len(true)))
    return torch.from_numpy(true[starts].astype(np.int64) * SPAN + predicted[starts].astype(np.int64)), lengths


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


def _classes(ids: Tensor, divisor: int, num_classes: int, ignore: int) -> Tensor:
    """The class of each segment; `num_classes` for void."""
    classes = ids // divisor
    return torch.where((classes >= num_classes) | (classes == ignore), num_classes, classes).long()


def _areas(ids: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """The segment of each pair, as a place [N], and the area of each segment."""
    segments, place = torch.unique(ids, return_inverse=True)
    return place, _sums(place, pixels, len(segments))


def _sums(place: Tensor, values: Tensor, count: int) -> Tensor:
    return torch.zeros(count, dtype=values.dtype, device=values.device).scatter_add_(0, place, values)


def _without_match(segment: Tensor, is_match: Tensor) -> Tensor:
    """For each pair, whether its segment is matched in no pair."""
    return (_sums(segment, is_match.long(), int(segment.max()) + 1 if len(segment) else 0) == 0)[segment]


def _is_first(segment: Tensor) -> Tensor:
    """For each pair, whether it is the first one of its segment: each segment counts once."""
    places = torch.arange(len(segment), device=segment.device)
    first = torch.full_like(segment, len(segment)).scatter_reduce(0, segment, places, "amin")
    return first[segment] == places
