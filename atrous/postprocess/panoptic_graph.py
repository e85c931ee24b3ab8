"""Grouping and merging (`postprocess.panoptic`) as one graph for other programs: many images, no loop, no branch.

Its numbers are those of `group_pixels` and `merge`. B is the number of images, K of the centres in all of them, P of
the pixels of things; each image has one more centre, of the things that have none.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from atrous.postprocess.panoptic import Merging, is_large, peaks

PARTS = 8  # of the pixels, one after the other: all distances at once take more memory than the network
FAR = 1e18  # pixels: no centre is as far, and its square is finite


class Grouping(NamedTuple):
    """What decides which centres there are, and what becomes of them."""

    things: Tensor  # [C] bool
    threshold: float
    kernel: int
    top_k: int  # at least 1
    merging: Merging


def panoptic_map(semantic: Tensor, center: Tensor, offset: Tensor, how: Grouping) -> Tensor:
    """[B, H, W] int32, from classes [B, H, W], heights [B, 1, H, W] and offsets [B, 2, H, W] at the image's size."""
    semantic = semantic.long()
    is_thing = how.things[semantic]
    pixels = is_thing.nonzero()  # [P, 3]: image, y, x
    image, y, x = pixels.unbind(1)
    centers = find_centers(center[:, 0], how)
    targets = pixels[:, 1:] + offset.permute(0, 2, 3, 1)[image, y, x]
    images = torch.cat([centers[:, 0], torch.arange(semantic.shape[0])])  # [K + B]: of each thing
    owner = nearest(image, targets, centers, images)
    numbers = thing_numbers(owner, semantic[image, y, x], images, how)
    if not how.merging.is_thing_without_center:
        numbers = torch.where(torch.arange(numbers.shape[0]) < centers.shape[0], numbers, how.merging.void)
    return stuff(semantic, is_thing, how).index_put((image, y, x), numbers[owner]).int()


def find_centers(center: Tensor, how: Grouping) -> Tensor:
    """[K, 3]: image, y, x. Of an image with more than `top_k` peaks, those above the last of the best `top_k`."""
    heights = peaks(center, threshold=how.threshold, kernel=how.kernel)  # [B, H, W]
    padded = F.pad(heights.flatten(1), (0, how.top_k + 1))  # the image may have fewer pixels
    best = padded.topk(how.top_k + 1).values
    limit = torch.where(best[:, how.top_k] > 0, best[:, how.top_k - 1], 0.0)
    return (heights > limit[:, None, None]).nonzero()


def nearest(image: Tensor, targets: Tensor, centers: Tensor, images: Tensor) -> Tensor:
    """The centre of its image that each target [P, 2] is nearest to, the first of equally near ones: [P].

    K + b, if image b has no centre. A graph without loops holds as many comparisons as there are PARTS.
    """
    count = image.shape[0]
    length = (count + PARTS - 1) // PARTS
    missing = PARTS * length - count
    y, x, own = (F.pad(values, (0, missing)).view(PARTS, length, 1) for values in (*targets.unbind(1), image))
    far = torch.full((images.shape[0] - centers.shape[0],), FAR)
    places = [torch.cat([values.to(far.dtype), far]) for values in centers[:, 1:].unbind(1)]
    parts = [_nearest(y[part], x[part], own[part], images, *places) for part in range(PARTS)]
    return torch.cat(parts).narrow(0, 0, count)


def _nearest(y: Tensor, x: Tensor, own: Tensor, images: Tensor, ys: Tensor, xs: Tensor) -> Tensor:
    """Of targets [P, 1], among centres [K]."""
    dy, dx = y - ys, x - xs
    distances = (dy * dy + dx * dx).sqrt()  # [P, K]
    return torch.where(own == images, distances, torch.inf).argmin(1)


def thing_numbers(owner: Tensor, classes: Tensor, images: Tensor, how: Grouping) -> Tensor:
    """The panoptic number of each thing, from its image [K + B], and the thing and the class of each pixel [P]."""
    num_things, num_classes = images.shape[0], len(how.things)
    keys = owner * num_classes + classes
    votes = keys.new_zeros(num_things * num_classes).scatter_add(0, keys, torch.ones_like(keys))
    votes = votes.view(num_things, num_classes)
    category = votes.argmax(1)  # the first of equal ones
    first = first_pixels(owner, votes.sum(1))
    groups = images * num_classes + category
    is_earlier = (first[None] < first[:, None]) & (groups[None] == groups[:, None])
    return category * how.merging.divisor + is_earlier.sum(1) + 1


def first_pixels(owner: Tensor, areas: Tensor) -> Tensor:
    """The place among the pixels [P] of the first one of each thing; P for a thing without any."""
    count = owner.shape[0]
    ordered = F.pad((owner * count + torch.arange(count)).sort().values, (0, 1))
    start = areas.cumsum(0) - areas
    return torch.where(areas > 0, ordered[start] - torch.arange(areas.shape[0]) * count, count)


def stuff(semantic: Tensor, is_thing: Tensor, how: Grouping) -> Tensor:
    """class * divisor for the pixels of stuff classes that are large enough, else void: [B, H, W]."""
    num_images, num_classes = semantic.shape[0], len(how.things)
    keys = semantic + torch.arange(num_images)[:, None, None] * num_classes
    areas = semantic.new_zeros(num_images * num_classes).scatter_add(0, keys.flatten(), (~is_thing).long().flatten())
    is_kept = is_large(areas, how.merging)[keys] & ~is_thing
    return torch.where(is_kept, semantic * how.merging.divisor, how.merging.void)
