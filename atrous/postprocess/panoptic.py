"""Panoptic-DeepLab's grouping of pixels into things, and its merging with the semantic map (arXiv:1911.10194, 3.2).

Functions of one image. H, W are its size, K the number of centres, C of classes. The original has two programs for the
merging, which differ where `Merging` says so.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from atrous.errors import DataError
from atrous.ops import nearest_center


class Merging(NamedTuple):
    """How a semantic map and a map of things become one panoptic map."""

    divisor: int  # a segment's number is its class * divisor + the number of the thing, 0 for stuff
    void: int  # what pixels of no segment hold
    stuff_area: int = 0  # pixels that a stuff class needs in an image to be kept; 0: any
    is_limit_void: bool = False  # at exactly `stuff_area` pixels: void, as in the original's compiled operator
    is_thing_without_center: bool = False  # without any centre, all thing pixels are one thing (likewise), else void


def peaks(heatmap: Tensor, *, threshold: float = 0.1, kernel: int = 7) -> Tensor:  # [H, W], or many: [B, H, W]
    """The heatmap where it is above `threshold` and a maximum of its `kernel` x `kernel` surroundings, else 0."""
    scores = torch.where(heatmap > threshold, heatmap, 0.0)
    padding = (kernel - 1) // 2
    padded = F.pad(scores, (padding, kernel - 1 - padding) * 2)
    surroundings = F.max_pool2d(padded[None], kernel, stride=1)[0]
    return torch.where(scores == surroundings, scores, 0.0)


def find_centers(peaks: Tensor, *, top_k: int = 200) -> Tensor:
    """The places of the peaks in reading order: [K, 2] (y, x).

    If there are more than `top_k`, those that are higher than the top_k-th are taken, as in the original: one less, and
    still fewer if several are as high as that one. 0: all.
    """
    places = peaks.nonzero()
    if not 0 < top_k < len(places):
        return places
    scores = peaks[places[:, 0], places[:, 1]]
    return places[scores > scores.topk(top_k).values[-1]]


def group_pixels(centers: Tensor, offsets: Tensor, is_thing: Tensor) -> Tensor:
    """Number each thing pixel by the centre that it points nearest to: [H, W] int64, 1 to K; 0 for all other pixels.

    `offsets` is [2, H, W] (dy, dx), `is_thing` [H, W] bool. Of equally near centres the first one is taken.
    """
    instances = torch.zeros(is_thing.shape, dtype=torch.int64, device=is_thing.device)
    if not len(centers):
        return instances
    pixels = is_thing.nonzero()
    targets = pixels + offsets[:, pixels[:, 0], pixels[:, 1]].T
    instances[is_thing] = nearest_center(targets, centers) + 1
    return instances


def merge(semantic: Tensor, instances: Tensor, things: Tensor, how: Merging) -> Tensor:
    """The panoptic map, [H, W] int64: class * divisor + number of the thing within its class, from 1.

    `semantic` is [H, W] classes, `instances` [H, W] numbers of things, 0 for none, `things` [C] bool. The class of a
    thing is that of most of its pixels, the smaller one of a tie. Things of a class are numbered in the order in which
    they appear, row by row. Raises DataError for more things of a class than the divisor has numbers for.
    """
    is_thing = things[semantic]
    if how.is_thing_without_center and not instances.any():
        instances = is_thing.long()
    panoptic = torch.full_like(instances, how.void)
    kept = _stuff_to_keep(semantic, ~is_thing, len(things), how)
    panoptic = torch.where(kept[semantic] & ~is_thing, semantic * how.divisor, panoptic)
    numbers = _thing_numbers(semantic, instances, is_thing, len(things), how.divisor)
    return torch.where(is_thing & (instances > 0), numbers[instances], panoptic)


def _stuff_to_keep(semantic: Tensor, is_stuff: Tensor, num_classes: int, how: Merging) -> Tensor:  # [C] bool
    return is_large(torch.bincount(semantic[is_stuff], minlength=num_classes), how)


def is_large(areas: Tensor, how: Merging) -> Tensor:
    """Whether so many pixels of a stuff class are kept."""
    if how.is_limit_void and how.stuff_area > 0:
        return areas > how.stuff_area
    return areas >= how.stuff_area


def _thing_numbers(semantic: Tensor, instances: Tensor, is_thing: Tensor, num_classes: int, divisor: int) -> Tensor:
    """The panoptic number of each thing, [K + 1]; without meaning where it has no pixel."""
    own, classes = instances[is_thing], semantic[is_thing]
    count = int(instances.max()) + 1 if instances.numel() else 1
    votes = torch.bincount(own * num_classes + classes, minlength=count * num_classes).view(count, num_classes)
    category = votes.argmax(1)  # the first of equal ones
    first = torch.full((count,), instances.numel(), device=instances.device)
    places = is_thing.flatten().nonzero()[:, 0]
    first = first.scatter_reduce(0, own, places, "amin")
    is_earlier = (first[None] < first[:, None]) & (category[None] == category[:, None])
    is_earlier[:, 0] = False  # number 0 is no thing
    numbers = is_earlier.sum(1) + 1
    if count > divisor:
        _require_numbers(int(numbers[1:].where(votes[1:].any(1), 0).max()), divisor)
    return category * divisor + numbers


def _require_numbers(largest: int, divisor: int) -> None:
    """Refuse more things of a class than have a number below the divisor: the others would be of another class."""
    if largest >= divisor:
        raise DataError(
            f"{largest} things of one class, but panoptic_divisor={divisor} leaves numbers up to {divisor - 1}; a "
            "higher decode.threshold or a smaller decode.top_k finds fewer"
        )


def score_map(peaks: Tensor, centers: Tensor, instances: Tensor) -> Tensor:  # [H, W]
    """The height of each pixel's own centre; 0 where it has none."""
    heights = torch.cat([peaks.new_zeros(1), peaks[centers[:, 0], centers[:, 1]]])
    return heights[instances]
