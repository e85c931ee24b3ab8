"""Dice loss of upsampled logits, from two passes over tiles: the sums of each class, then the gradient that they give.

[B, C, H, W] is never in memory.
"""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from atrous.ops.problem import (
    UNCOUNTED,
    Problem,
    Sum,
    divisor_of,
    full_precision,
    mean_of,
    require_fit,
    resize,
    targets_of,
)
from atrous.ops.tiles import Tile, each_tile, fold_tile, tiles_of, upsample_tile


class Areas(NamedTuple):
    """Of each class, in pixels times their weights."""

    common: Tensor  # [C] the probability of the class where it is the label
    predicted: Tensor  # [C] its probability
    true: Tensor  # [C]


def upsample_dice(
    logits: Tensor,  # [B, C, h, w]
    labels: Tensor,  # [B, H, W], any integer type
    *,
    ignore: int = 255,
    class_weights: Tensor | None = None,  # [C]
    pixel_weights: Tensor | None = None,  # [B, H, W]
    align_corners: bool = True,
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """1 - 2 common / (predicted + true) of each class in an image, averaged over the classes that its labels contain.

    common, predicted and true are sums over the pixels of the image that count: of the probability of the class where
    it is the label, of its probability, and of its labels (arXiv:1606.04797, without the squares). `class_weights`
    multiply the terms of the classes, `pixel_weights` what the pixels add. An image counts in proportion to its pixels
    that count; `normalizer` replaces their number in all images, for sums over processes and accumulated steps.
    Precision, ignored labels, gradient and errors as in `upsample_cross_entropy`.
    """
    require_fit(logits, labels, class_weights, pixel_weights)
    problem = Problem(logits, labels, ignore, class_weights, pixel_weights, align_corners)
    return mean_of(_sum, problem, normalizer)


def upsample_dice_reference(
    logits: Tensor,  # [B, C, h, w]
    labels: Tensor,  # [B, H, W]
    *,
    ignore: int = 255,
    class_weights: Tensor | None = None,  # [C]
    pixel_weights: Tensor | None = None,  # [B, H, W]
    align_corners: bool = True,
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """The plain version of `upsample_dice`, with all of [B, C, H, W] in memory."""
    require_fit(logits, labels, class_weights, pixel_weights)
    full = resize(logits.to(full_precision(logits)), (labels.shape[1], labels.shape[2]), align_corners)
    target = targets_of(labels, logits.shape[1], ignore)[:, None]  # [B, 1, H, W]
    weight = (target != UNCOUNTED).to(full)
    count = weight.sum((1, 2, 3))  # [B]
    weight = weight if pixel_weights is None else weight * pixel_weights[:, None]
    is_class = target == torch.arange(logits.shape[1], device=logits.device)[:, None, None]
    probabilities = full.softmax(1)
    common, predicted, true = (
        (one * weight).sum((2, 3)) for one in (probabilities * is_class, probabilities, is_class)
    )
    losses = torch.where(true > 0, 1 - 2 * common / (predicted + true).where(true > 0, 1), 0)  # [B, C]
    losses = losses if class_weights is None else losses * class_weights.to(full)
    images = losses.sum(1) / (true > 0).sum(1).clamp(min=1)
    return (images * count).sum() / divisor_of(count.sum() if normalizer is None else normalizer, full)


def _sum(problem: Problem, needs_slope: bool) -> Sum:
    """Each image's loss times its pixels that count, added."""
    small = problem.logits
    tiles = tiles_of(small, problem.size, problem.align_corners)
    areas, counts = _areas(problem, tiles)
    class_weights = torch.ones_like(areas.true) if problem.weights is None else problem.weights
    is_present = areas.true > 0  # [B, C]
    share = class_weights * is_present * (counts / is_present.sum(1).clamp(min=1))[:, None]
    both = (areas.predicted + areas.true).where(is_present, 1)
    total = (share * (1 - 2 * areas.common / both)).sum()
    if not needs_slope:
        return Sum(total.to(small), counts.sum(), None)
    slopes = (2 * share * areas.common / both**2).to(small), (-2 * share / both).to(small)  # in predicted, in common
    slope = torch.zeros_like(small)
    for tile, piece in zip(tiles, each_tile(partial(_tile_slope, problem, *slopes), tiles), strict=True):
        slope[tile.small] += piece
    return Sum(total.to(small), counts.sum(), slope)


def _areas(problem: Problem, tiles: list[Tile]) -> tuple[Areas, Tensor]:
    """The areas [B, C], and the number of pixels that count [B]; in float64, since they are sums of millions."""
    batch, num_classes = problem.logits.shape[:2]
    areas = problem.logits.new_zeros((3, batch, num_classes), dtype=torch.float64)
    counts = areas.new_zeros(batch)
    for tile, (piece, count) in zip(tiles, each_tile(partial(_tile_areas, problem), tiles), strict=True):
        areas[:, tile.image] += piece
        counts[tile.image] += count
    return Areas(*areas), counts


def _tile_areas(problem: Problem, tile: Tile) -> tuple[Tensor, Tensor]:
    """[3, C], and []."""
    label, weight, is_counted = _labels_and_weights(problem, tile)
    probabilities = upsample_tile(problem.logits, tile).softmax(1).mul_(weight)
    predicted = probabilities.sum(2).sum(0)
    index, empty = label.flatten(), torch.zeros_like(predicted)
    common = empty.index_add(0, index, probabilities.gather(1, label).flatten())
    true = empty.index_add(0, index, weight.flatten())
    return torch.stack([common, predicted, true]).double(), is_counted.sum()


def _tile_slope(problem: Problem, in_predicted: Tensor, in_common: Tensor, tile: Tile) -> Tensor:
    """Through the softmax: p * (slope in p - the mean of these slopes by p)."""
    label, weight, _ = _labels_and_weights(problem, tile)
    own = in_common[tile.image][label]  # [rows, 1, columns]
    probabilities = upsample_tile(problem.logits, tile).softmax(1)
    label_share = probabilities.gather(1, label) * own
    all_shares = in_predicted[tile.image][:, None]  # [C, 1]
    mean = (probabilities * all_shares).sum(1, keepdim=True) + label_share
    slope = probabilities.mul_(all_shares - mean).scatter_add_(1, label, label_share).mul_(weight)
    return fold_tile(slope, tile)


def _labels_and_weights(problem: Problem, tile: Tile) -> tuple[Tensor, Tensor, Tensor]:
    """Of each pixel: a class, the weight, 0 where the label doesn't count, and whether it does; [rows, 1, columns]."""
    target = targets_of(problem.labels[tile.large], problem.logits.shape[1], problem.ignore)[:, None]
    is_counted = target != UNCOUNTED
    weight = is_counted.to(problem.logits)
    if problem.pixel_weights is not None:
        weight = weight * problem.pixel_weights[tile.large][:, None]
    return target.clamp(min=0), weight, is_counted
