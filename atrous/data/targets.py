"""What Panoptic-DeepLab learns of things: their centres, and where each pixel's centre is (arXiv:1911.10194, 3.1).

Made from a batch of label maps, on its device, so that they fit the crop that the network sees. As deeplab2 makes them.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class ThingTargets(NamedTuple):
    """B images of H x W pixels."""

    heatmap: Tensor  # [B, 1, H, W] a Gaussian of height 1 at the centre of each thing
    offset: Tensor  # [B, 2, H, W] (dy, dx) from each pixel to the centre of its thing, in pixels; 0 elsewhere
    heatmap_weight: Tensor  # [B, 1, H, W] 1 wherever the pixel is labelled and not a crowd, else 0
    offset_weight: Tensor  # [B, 1, H, W] 1 on things, else 0
    semantic_weight: Tensor  # [B, H, W] `small_weight` on small things, else 1


class Things(NamedTuple):
    """N things in a batch, and the P pixels that are theirs."""

    places: Tensor  # [P, 3] image, y, x
    owner: Tensor  # [P] the thing of each pixel
    area: Tensor  # [N] pixels
    image: Tensor  # [N]
    centers: Tensor  # [N, 2] y, x, rounded half to even as in the original


def thing_targets(
    semantic: Tensor,  # [B, H, W] classes
    instance: Tensor,  # [B, H, W] numbers of things; 0: no thing
    is_thing_class: Tensor,  # [C] bool
    *,
    ignore: int = 255,
    sigma: float = 8.0,  # of the Gaussians, in pixels
    small_area: int = 4096,  # a thing below this many pixels is small
    small_weight: float = 3.0,
) -> ThingTargets:
    """Pixels of a thing class with number 0 are a crowd: they have a class, but neither centre nor offset.

    A number that is used in two classes means two things.
    """
    classes = semantic.long()
    is_labelled = (classes != ignore) & (classes < len(is_thing_class))
    is_thing = is_labelled & is_thing_class.to(classes.device)[classes.where(is_labelled, 0)]
    is_counted = is_thing & (instance > 0)
    things = find_things(classes, instance.long(), is_counted)

    image, y, x = things.places.unbind(1)
    offset = torch.zeros(len(classes), 2, *classes.shape[1:], device=classes.device)
    offset[image, :, y, x] = (things.centers[things.owner] - things.places[:, 1:]).float()
    weight = torch.ones(classes.shape, device=classes.device)
    weight[image, y, x] = torch.where(things.area[things.owner] < small_area, small_weight, 1.0)
    return ThingTargets(
        heatmap=gaussians(things, classes.shape, sigma)[:, None],
        offset=offset,
        heatmap_weight=(is_labelled & ~(is_thing & ~is_counted)).float()[:, None],
        offset_weight=is_counted.float()[:, None],
        semantic_weight=weight,
    )


def find_things(classes: Tensor, instance: Tensor, is_counted: Tensor) -> Things:
    places = is_counted.nonzero()
    span = int(instance.max()) + 1 if instance.numel() else 1
    num_classes = int(classes.max()) + 1 if classes.numel() else 1
    key = (places[:, 0] * num_classes + classes[is_counted]) * span + instance[is_counted]
    keys, owner, area = torch.unique(key, return_inverse=True, return_counts=True)
    sums = torch.zeros(len(keys), 2, dtype=torch.float64, device=classes.device)
    means = sums.index_add_(0, owner, places[:, 1:].double()) / area[:, None]
    return Things(places, owner, area, keys // (num_classes * span), means.round().long())


def gaussians(things: Things, shape: torch.Size, sigma: float) -> Tensor:  # [B, H, W]
    """Where they overlap, the higher one. Each is a square of about 6 sigma, cut off at the borders of the image."""
    reach = int(3 * sigma + 1)
    steps = torch.arange(-reach, reach + 1, device=things.centers.device)
    y, x = (
        things.centers[:, 0, None, None] + steps[:, None],
        things.centers[:, 1, None, None] + steps,
    )  # [N, n, 1], [N, 1, n]
    bell = torch.exp(-(steps[:, None] ** 2 + steps**2) / (2 * sigma**2)).expand(len(things.centers), -1, -1)
    _, height, width = shape
    is_inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    index = (things.image[:, None, None] * height + y) * width + x
    heatmap = torch.zeros(shape.numel(), device=bell.device)
    return heatmap.scatter_reduce_(0, index[is_inside], bell[is_inside], "amax").view(shape)
