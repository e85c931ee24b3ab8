"""Logits upsampled to the size of the image and consumed at once, so that [B, C, H, W] is never in memory.

A tile of the large map is computed, reduced while it is in the cache to the result (losses and their gradient, or
classes), and discarded. On CUDA, where Triton is installed, kernels of its own do the same pixel by pixel.
"""

import math
import warnings
from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from atrous.ops import upsample_cells
from atrous.ops.problem import (
    UNCOUNTED,
    PixelLosses,
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


class Kernels(NamedTuple):
    """One implementation of both."""

    losses: Callable[[Problem, Tensor | None, bool], PixelLosses]
    argmax: Callable[[Tensor, Tensor, bool], None]


def upsample_cross_entropy(
    logits: Tensor,  # [B, C, h, w]
    labels: Tensor,  # [B, H, W], any integer type
    *,
    ignore: int = 255,
    class_weights: Tensor | None = None,  # [C]
    pixel_weights: Tensor | None = None,  # [B, H, W]
    label_smoothing: float = 0.0,  # the share of a label that is spread over all classes
    focal: float = 0.0,  # the exponent
    hard_pixels: float = 1.0,  # the share of pixels that counts
    align_corners: bool = True,
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """TensorFlow DeepLab's loss at the size of the labels: the sum of the weighted cross entropies of all pixels that
    count, divided by the number of these pixels, not by their weights.

    `label_smoothing` compares with 1 - label_smoothing of the label and label_smoothing / C of every class. `focal`
    multiplies a pixel's loss by (1 - its label's probability) ** focal (arXiv:1708.02002). The weight of a label's
    class multiplies all of the pixel's loss, as in TensorFlow.
    With `hard_pixels` below one, only the int(hard_pixels * B * H * W) hardest pixels count, and the divisor is the
    number of those whose loss isn't zero (hard example mining). `normalizer` replaces the divisor, for sums over
    processes and accumulated steps. A label outside 0..C-1 is ignored, too; reading the data refuses it. Computed and
    returned in float32 (float64 for float64), for finite logits; differentiable once, with respect to the logits only.
    Raises ValueError for shapes that don't fit and for shares and exponents outside their range.
    """
    require_fit(logits, labels, class_weights, pixel_weights)
    _require_range(label_smoothing, focal, hard_pixels)
    problem = Problem(logits, labels, ignore, class_weights, pixel_weights, align_corners, label_smoothing, focal)
    return mean_of(_sum_all if hard_pixels == 1 else partial(_sum_hardest, hard_pixels), problem, normalizer)


def upsample_cross_entropy_reference(
    logits: Tensor,  # [B, C, h, w]
    labels: Tensor,  # [B, H, W]
    *,
    ignore: int = 255,
    class_weights: Tensor | None = None,  # [C]
    pixel_weights: Tensor | None = None,  # [B, H, W]
    label_smoothing: float = 0.0,  # the share of a label that is spread over all classes
    focal: float = 0.0,  # the exponent
    hard_pixels: float = 1.0,  # the share of pixels that counts
    align_corners: bool = True,
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """The plain version of `upsample_cross_entropy`, with all of [B, C, H, W] in memory."""
    require_fit(logits, labels, class_weights, pixel_weights)
    _require_range(label_smoothing, focal, hard_pixels)
    full = resize(logits.to(full_precision(logits)), (labels.shape[1], labels.shape[2]), align_corners)
    target = targets_of(labels, logits.shape[1], ignore)
    cross_entropy = partial(F.cross_entropy, full, target, reduction="none", ignore_index=UNCOUNTED)
    losses = cross_entropy(label_smoothing=label_smoothing)  # [B, H, W]
    if focal:
        losses = losses * (1 - cross_entropy().neg().exp()).clamp_min(torch.finfo(full.dtype).eps) ** focal
    losses = losses if class_weights is None else losses * class_weights.to(full)[target.clamp(min=0)]
    losses = losses if pixel_weights is None else losses * pixel_weights
    count = (target != UNCOUNTED).sum()
    if hard_pixels < 1:
        losses = losses.flatten().topk(int(hard_pixels * target.numel())).values
        count = (losses != 0).sum()
    return losses.sum() / divisor_of(count if normalizer is None else normalizer, full)


def upsample_argmax(logits: Tensor, size: tuple[int, int], *, align_corners: bool = True) -> Tensor:
    """The class of every pixel at `size` (height, width): [B, H, W], uint8 for up to 256 classes, else int32.

    Of equal logits the lowest class wins. `logits` [B, C, h, w] must be finite. Computed in float32 or float64.
    """
    with torch.no_grad(), torch.autocast(logits.device.type, enabled=False):
        small = logits.detach().to(full_precision(logits))
        classes = torch.empty((len(small), *size), dtype=_class_type(small.shape[1]), device=small.device)
        kernels_for(small.device).argmax(small, classes, align_corners)
    return classes


def upsample_argmax_reference(logits: Tensor, size: tuple[int, int], *, align_corners: bool = True) -> Tensor:
    """The plain version of `upsample_argmax`, with all of [B, C, H, W] in memory."""
    full = resize(logits.to(full_precision(logits)), size, align_corners)
    return full.argmax(1).to(_class_type(logits.shape[1]))


def _sum_all(problem: Problem, needs_slope: bool) -> Sum:
    """The sum of all losses, and the number of pixels that count."""
    losses = _losses(problem, None, needs_slope)
    return Sum(losses.pixels.sum(), losses.num_counted, losses.slope)


def _sum_hardest(hard_pixels: float, problem: Problem, needs_slope: bool) -> Sum:
    """The sum of the hardest pixels' losses, how many of them aren't zero, and the slope, from a second pass."""
    pixels = _losses(problem, None, False).pixels
    values, index = pixels.flatten().topk(int(hard_pixels * pixels.numel()), sorted=False)
    factor = torch.zeros_like(pixels).flatten().index_fill_(0, index, 1).view_as(pixels)
    return Sum(values.sum(), (values != 0).sum(), _losses(problem, factor, True).slope if needs_slope else None)


def _losses(problem: Problem, factor: Tensor | None, needs_slope: bool) -> PixelLosses:
    """The losses of all pixels, times `factor` [B, H, W]."""
    return kernels_for(problem.logits.device).losses(problem, factor, needs_slope)


# ---- which implementation


def kernels_for(device: torch.device) -> Kernels:
    """Triton's on CUDA, where it is installed and agrees with the tiles; elsewhere the tiles, on CPUs with cells."""
    return _kernels_of_gpu(device) if device.type == "cuda" else CPU if device.type == "cpu" else TILED


@cache
def _kernels_of_gpu(device: torch.device) -> Kernels:
    """PyTorch's CUDA wheels bring Triton, but a driver, a compiler or an old device can keep it from working."""
    try:
        from atrous.ops import upsample_triton
    except ImportError:
        return TILED
    kernels = Kernels(upsample_triton.losses, upsample_triton.argmax)
    fault = _fault(kernels, device)
    if fault is None:
        return kernels
    warnings.warn(f"Triton's kernels are not used on {device}, which takes longer: {fault}", stacklevel=2)
    return TILED


def _fault(kernels: Kernels, device: torch.device) -> str | None:
    """Why the kernels can't be used; found on a small problem, since silent differences are the worst fault."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 21, 5, 6, generator=generator).to(device)
    labels = torch.randint(0, 21, (2, 17, 19), generator=generator).to(device)
    problem = Problem(logits, labels, 3, None, None, True)
    try:
        ours, tiled = kernels.losses(problem, None, True), tiled_losses(problem, None, True)
        classes = [torch.empty(labels.shape, dtype=torch.uint8, device=device) for _ in range(2)]
        kernels.argmax(logits, classes[0], True)
        tiled_argmax(logits, classes[1], True)
    except Exception as error:  # of the compiler, the driver or the device: each has its own
        return f"{type(error).__name__}: {error}".splitlines()[0]
    pairs = ((one, other) for one, other in zip(ours, tiled, strict=True) if one is not None and other is not None)
    is_same = all(torch.allclose(one.double(), other.double(), rtol=1e-2, atol=1e-2) for one, other in pairs)
    is_near = is_same and bool((classes[0] == classes[1]).double().mean() > 0.98)  # products may be in TF32
    return None if is_near else "their results differ from the plain ones"


# ---- by tiles


def tiled_losses(problem: Problem, factor: Tensor | None, needs_slope: bool) -> PixelLosses:
    small, labels = problem.logits, problem.labels
    tiles = tiles_of(small, problem.size, problem.align_corners)
    pixels = torch.empty(labels.shape, dtype=small.dtype, device=small.device)
    slope = torch.zeros_like(small)
    counts = []
    for tile, part in zip(tiles, each_tile(partial(_tile_losses, problem, factor, needs_slope), tiles), strict=True):
        pixels[tile.large] = part.pixels
        counts.append(part.num_counted)
        if part.slope is not None:
            slope[tile.small] += part.slope
    return PixelLosses(pixels, torch.stack(counts).sum(), slope if needs_slope else None)


def _tile_losses(problem: Problem, factor: Tensor | None, needs_slope: bool, tile: Tile) -> PixelLosses:
    num_classes = problem.logits.shape[1]
    target = targets_of(problem.labels[tile.large], num_classes, problem.ignore)[:, None]  # [rows, 1, columns]
    is_counted, label = target != UNCOUNTED, target.clamp(min=0)
    weight = is_counted if problem.weights is None else problem.weights[label] * is_counted
    for factors in (problem.pixel_weights, factor):
        weight = weight if factors is None else weight * factors[tile.large][:, None]
    scores = upsample_tile(problem.logits, tile)
    scores -= scores.amax(1, keepdim=True)
    target_scores = scores.gather(1, label)
    smoothing = problem.label_smoothing
    aim = (1 - smoothing) * target_scores + smoothing * scores.mean(1, keepdim=True) if smoothing else target_scores
    total = scores.exp_().sum(1, keepdim=True)
    log_total = total.log()
    losses = log_total - aim
    factor_, pull = _focus(losses, log_total - target_scores, problem.focal) if problem.focal else (1.0, 0.0)
    on_all, on_label = weight * (factor_ + pull), weight * ((1 - smoothing) * factor_ + pull)
    pixels = (losses * factor_ * weight)[:, 0]
    if not needs_slope:
        return PixelLosses(pixels, is_counted.sum(), None)
    scores.mul_(on_all / total).scatter_add_(1, label, -on_label.to(scores))
    if smoothing:
        scores -= (on_all - on_label) / num_classes
    return PixelLosses(pixels, is_counted.sum(), fold_tile(scores, tile))


def _focus(losses: Tensor, label_losses: Tensor, focal: float) -> tuple[Tensor, Tensor]:
    """The focal factor of each pixel, and what its own slope adds: `losses` times the factor's slope in -log p."""
    doubt = torch.expm1(-label_losses).neg_()  # 1 - p
    smallest = torch.finfo(doubt.dtype).eps
    is_moving, doubt = doubt > smallest, doubt.clamp_min(smallest)  # as the reference clamps
    slope = focal * doubt ** (focal - 1) * torch.exp(-label_losses)
    return doubt**focal, losses * slope * is_moving


def tiled_argmax(small: Tensor, classes: Tensor, align_corners: bool) -> None:
    """Fill `classes` [B, H, W]."""
    rank = torch.arange(small.shape[1] - 1, -1, -1).to(small)[:, None]  # [C, 1]
    tiles = tiles_of(small, (classes.shape[1], classes.shape[2]), align_corners)
    for tile, piece in zip(tiles, each_tile(partial(_tile_argmax, small, rank), tiles), strict=True):
        classes[tile.large] = piece


def cells_argmax(small: Tensor, classes: Tensor, align_corners: bool) -> None:
    """Interpolate on the borders between classes alone; everywhere, if these are, as in an untrained network's map."""
    if not upsample_cells.argmax(small, classes, align_corners):
        tiled_argmax(small, classes, align_corners)


def _tile_argmax(small: Tensor, rank: Tensor, tile: Tile) -> Tensor:
    """The winner by its rank from the last: many times faster than `argmax`, as classes are not adjacent in memory."""
    scores = upsample_tile(small, tile)
    best = scores.eq_(scores.amax(1, keepdim=True)).mul_(rank).amax(1)
    return (len(rank) - 1 - best).to(_class_type(len(rank)))


def _class_type(num_classes: int) -> torch.dtype:
    return torch.uint8 if num_classes <= 256 else torch.int32


def _require_range(label_smoothing: float, focal: float, hard_pixels: float) -> None:
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must be a share from 0 up to, but below, 1, got {label_smoothing}")
    if not 0 <= focal < math.inf:
        raise ValueError(f"focal must be an exponent of 0 or more, got {focal}")
    if not 0 < hard_pixels <= 1:
        raise ValueError(f"hard_pixels must be a share above 0 and at most 1, got {hard_pixels}")


TILED = Kernels(tiled_losses, tiled_argmax)
CPU = Kernels(tiled_losses, cells_argmax)
