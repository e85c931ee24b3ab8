"""Lovasz-softmax loss of upsampled logits (arXiv:1705.08790), exact, without [B, C, H, W].

Only one class at a time needs all pixels of an image, to sort its errors: its probabilities [H, W] are those of its own
logits, upsampled, over the sum of all classes' exponentials, which is one more map of that size.
"""

from collections.abc import Callable
from functools import partial

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
from atrous.ops.tiles import Tile, each_tile, fold_tile, tiles_of, upsample_tile, whole_tiles


def upsample_lovasz(
    logits: Tensor,  # [B, C, h, w]
    labels: Tensor,  # [B, H, W], any integer type
    *,
    ignore: int = 255,
    class_weights: Tensor | None = None,  # [C]
    pixel_weights: Tensor | None = None,  # [B, H, W]
    align_corners: bool = True,
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """Lovasz-softmax of each image: 1 - IoU, made continuous in the probabilities, averaged over the classes that its
    labels contain.

    `class_weights` multiply the terms of the classes; with `pixel_weights`, areas are sums of these. An image counts in
    proportion to its pixels that count; `normalizer` replaces their number in all images, for sums over processes and
    accumulated steps. Precision, ignored labels, gradient and errors as in `upsample_cross_entropy`.
    """
    require_fit(logits, labels, class_weights, pixel_weights)
    problem = Problem(logits, labels, ignore, class_weights, pixel_weights, align_corners)
    return mean_of(_sum, problem, normalizer)


def upsample_lovasz_reference(
    logits: Tensor,  # [B, C, h, w]
    labels: Tensor,  # [B, H, W]
    *,
    ignore: int = 255,
    class_weights: Tensor | None = None,  # [C]
    pixel_weights: Tensor | None = None,  # [B, H, W]
    align_corners: bool = True,
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """The plain version of `upsample_lovasz`, with all of [B, C, H, W] in memory."""
    require_fit(logits, labels, class_weights, pixel_weights)
    full = resize(logits.to(full_precision(logits)), (labels.shape[1], labels.shape[2]), align_corners).softmax(1)
    target = targets_of(labels, logits.shape[1], ignore)
    weights = torch.ones_like(full[:, 0]) if pixel_weights is None else pixel_weights.to(full)
    total = full.sum() * 0
    for image, label, weight in zip(full, target, weights, strict=True):
        is_counted = label != UNCOUNTED
        present = [index for index in range(len(image)) if ((label == index) * weight).any()]
        for index in present:
            is_class, w = (label == index)[is_counted].to(full), weight[is_counted]
            errors, order = (is_class - image[index][is_counted]).abs().sort(descending=True)
            factor = 1 if class_weights is None else class_weights[index].to(full)
            total = total + (errors * jaccard_slope(is_class[order], w[order])).sum() * (
                factor * is_counted.sum() / len(present)
            )
    count = (target != UNCOUNTED).sum()
    return total / divisor_of(count if normalizer is None else normalizer, full)


def jaccard_slope(is_class: Tensor, weights: Tensor) -> Tensor:
    """What each pixel, in the order of falling errors, adds to 1 - IoU when it and all before it are wrong: [N].

    Algorithm 1 of arXiv:1705.08790, with weighted areas; summed in float64.
    """
    true, rest = is_class.double() * weights, (1 - is_class.double()) * weights
    area = true.sum()
    loss = 1 - (area - true.cumsum(0)) / (area + rest.cumsum(0))
    return loss.diff(prepend=loss.new_zeros(1)).to(is_class)


def _sum(problem: Problem, needs_slope: bool) -> Sum:
    """Each image's loss times its pixels that count, added."""
    small = problem.logits
    target = targets_of(problem.labels, small.shape[1], problem.ignore)
    is_counted = target != UNCOUNTED
    weights = is_counted.to(small) if problem.pixel_weights is None else problem.pixel_weights * is_counted
    counts = is_counted.sum((1, 2))  # [B]
    factors = _class_factors(problem, target, weights) * counts[:, None]  # [B, C]
    tiles = tiles_of(small, problem.size, problem.align_corners)
    log_totals = _maps(tiles, partial(_tile_log_total, small), weights)
    drift = torch.zeros_like(weights)  # the mean of the slopes in the probabilities, by the probabilities
    slope = torch.zeros_like(small)
    total = small.new_zeros((), dtype=torch.float64)
    for whole in whole_tiles(small, problem.size, problem.align_corners):
        image = whole.image
        for index in factors[image].nonzero()[:, 0].tolist():
            logits = small[:, index : index + 1]
            probability = (upsample_tile(logits, whole)[:, 0] - log_totals[image]).exp_()
            is_class = (target[image] == index).to(small)
            loss, gradient = _class_loss(probability, is_class, weights[image])
            total += loss * factors[image, index]
            if needs_slope:
                gradient *= probability * factors[image, index]
                drift[image] += gradient
                slope[whole.small][index] += fold_tile(gradient[:, None], whole)[0]
    if not needs_slope:
        return Sum(total.to(small), counts.sum(), None)
    shift = partial(_tile_shift, small, log_totals, drift)
    for tile, piece in zip(tiles, each_tile(shift, tiles), strict=True):
        slope[tile.small] -= piece
    return Sum(total.to(small), counts.sum(), slope)


def _class_factors(problem: Problem, target: Tensor, weights: Tensor) -> Tensor:
    """What the loss of each class counts in the mean of its image: [B, C], 0 where no pixel has it as its label."""
    batch, num_classes = problem.logits.shape[:2]
    areas = weights.new_zeros((batch, num_classes), dtype=torch.float64)
    areas.scatter_add_(1, target.clamp(min=0).flatten(1), weights.double().flatten(1))
    is_present = (areas > 0).to(weights)
    share = is_present / is_present.sum(1, keepdim=True).clamp(min=1)
    return share if problem.weights is None else share * problem.weights


def _class_loss(probability: Tensor, is_class: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of one class in one image, and its slope in the probability: [] and [H, W]."""
    errors, order = (is_class - probability).abs_().flatten().sort(descending=True)
    steps = jaccard_slope(is_class.flatten()[order], weights.flatten()[order])
    slope = torch.empty_like(steps).index_copy_(0, order, steps).view_as(is_class)
    return (errors.double() * steps).sum(), slope * (1 - 2 * is_class)


def _tile_log_total(small: Tensor, tile: Tile) -> Tensor:
    return upsample_tile(small, tile).logsumexp(1)


def _tile_shift(small: Tensor, log_totals: Tensor, drift: Tensor, tile: Tile) -> Tensor:
    """Every class's probability times the drift."""
    probabilities = (upsample_tile(small, tile) - log_totals[tile.large][:, None]).exp_()
    return fold_tile(probabilities.mul_(drift[tile.large][:, None]), tile)


def _maps(tiles: list[Tile], function: Callable[[Tile], Tensor], like: Tensor) -> Tensor:
    """What `function` computes of each tile, as one map [B, H, W]."""
    result = torch.empty_like(like)
    for tile, piece in zip(tiles, each_tile(function, tiles), strict=True):
        result[tile.large] = piece
    return result
