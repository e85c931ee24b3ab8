"""Logits upsampled to the size of the image and consumed at once, so that [B, C, H, W] is never in memory.

Bilinear upsampling is two small matrix products, over columns and over rows, and its adjoint the same two transposed. A
tile of the large map is computed, reduced while it is in the cache to the result (losses and their gradient, or
classes), and discarded. The products obey `torch.set_float32_matmul_precision`.
"""

import math
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from itertools import pairwise, product
from threading import Barrier
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable
from torch.nn import functional as F

CPU_TILE_BYTES = 1 << 20  # fits a core's own cache
GPU_TILE_BYTES = 256 << 20  # enough to keep the device busy
TILE_COLUMNS = 128  # at least, if the map is that wide: long rows for the vector units
SMALLEST_DIVISOR = 1e-5  # as in the original: the loss of no pixels is 0
UNCOUNTED = -100  # PyTorch's default for ignored targets

T = TypeVar("T")


class Band(NamedTuple):
    """Neighbouring rows (or columns) of the large map, and those of the small map from which they are interpolated."""

    large: slice
    small: slice
    mix: Tensor  # [large, small] weights; each row sums to one


class Tile(NamedTuple):
    image: int
    rows: Band
    columns: Band

    @property
    def small(self) -> tuple[int, slice, slice, slice]:
        """Its index into [B, C, h, w]."""
        return self.image, slice(None), self.rows.small, self.columns.small

    @property
    def large(self) -> tuple[int, slice, slice]:
        """Its index into [B, H, W]."""
        return self.image, self.rows.large, self.columns.large


class Problem(NamedTuple):
    """The arguments that all tiles share."""

    logits: Tensor  # [B, C, h, w], in the precision of the computation
    labels: Tensor  # [B, H, W]
    ignore: int
    weights: Tensor | None  # [C]
    pixel_weights: Tensor | None  # [B, H, W]
    align_corners: bool


class Losses(NamedTuple):
    """Of a tile, or of all: each pixel's weighted cross entropy, and the gradient of their sum."""

    pixels: Tensor  # [rows, columns], or [B, H, W]
    num_counted: Tensor  # [] pixels that count
    slope: Tensor | None  # [C, h', w'], or [B, C, h, w]; None: not needed


class _KnownGradient(Function):
    """A scalar whose gradient was computed along with its value."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, loss: Tensor, slope: Tensor, divisor: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(slope, divisor)
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:  # noqa: ANN401
        slope, divisor = ctx.saved_tensors
        return slope * (upstream / divisor), None, None, None  # autograd casts to the type of the logits


def upsample_cross_entropy(
    logits: Tensor,  # [B, C, h, w]
    labels: Tensor,  # [B, H, W], any integer type
    *,
    ignore: int = 255,
    class_weights: Tensor | None = None,  # [C]
    pixel_weights: Tensor | None = None,  # [B, H, W]
    hard_pixels: float = 1.0,  # the share of pixels that counts
    align_corners: bool = True,
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """TensorFlow DeepLab's loss at the size of the labels: the sum of the weighted cross entropies of all pixels that
    count, divided by the number of these pixels, not by their weights.

    With `hard_pixels` below one, only the int(hard_pixels * B * H * W) hardest pixels count, and the divisor is the
    number of those whose loss isn't zero (hard example mining). `normalizer` replaces the divisor, for sums over
    processes and accumulated steps. A label outside 0..C-1 is ignored, too; reading the data refuses it. Computed and
    returned in float32 (float64 for float64), for finite logits; differentiable once, with respect to the logits only.
    Raises ValueError for shapes that don't fit and for `hard_pixels` outside (0, 1].
    """
    _require_fit(logits, labels, class_weights, hard_pixels)
    needs_slope = torch.is_grad_enabled() and logits.requires_grad
    with torch.no_grad(), torch.autocast(logits.device.type, enabled=False):
        small = logits.detach().to(_precision(logits))
        weights = None if class_weights is None else class_weights.to(small)
        pixel_weights = None if pixel_weights is None else pixel_weights.to(small)
        problem = Problem(small, labels, ignore, weights, pixel_weights, align_corners)
        is_all = hard_pixels == 1
        sums = _sum_all(problem, needs_slope) if is_all else _sum_hardest(problem, hard_pixels, needs_slope)
        total, count, slope = sums
        divisor = _divisor(count if normalizer is None else normalizer, small)
        loss = total / divisor
    return loss if slope is None else cast(Tensor, _KnownGradient.apply(logits, loss, slope, divisor))  # type: ignore[no-untyped-call]


def upsample_cross_entropy_reference(
    logits: Tensor,  # [B, C, h, w]
    labels: Tensor,  # [B, H, W]
    *,
    ignore: int = 255,
    class_weights: Tensor | None = None,  # [C]
    pixel_weights: Tensor | None = None,  # [B, H, W]
    hard_pixels: float = 1.0,  # the share of pixels that counts
    align_corners: bool = True,
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """The plain version of `upsample_cross_entropy`, with all of [B, C, H, W] in memory."""
    _require_fit(logits, labels, class_weights, hard_pixels)
    full = _resize(logits.to(_precision(logits)), (labels.shape[1], labels.shape[2]), align_corners)
    target = _target(labels, logits.shape[1], ignore)
    weight = None if class_weights is None else class_weights.to(full)
    losses = F.cross_entropy(full, target, weight, reduction="none", ignore_index=UNCOUNTED)  # [B, H, W]
    losses = losses if pixel_weights is None else losses * pixel_weights
    count = (target != UNCOUNTED).sum()
    if hard_pixels < 1:
        losses = losses.flatten().topk(int(hard_pixels * target.numel())).values
        count = (losses != 0).sum()
    return losses.sum() / _divisor(count if normalizer is None else normalizer, full)


def upsample_argmax(logits: Tensor, size: tuple[int, int], *, align_corners: bool = True) -> Tensor:
    """The class of every pixel at `size` (height, width): [B, H, W], uint8 for up to 256 classes, else int32.

    Of equal logits the lowest class wins. `logits` [B, C, h, w] must be finite. Computed in float32 or float64.
    """
    batch, num_classes = logits.shape[:2]
    classes = torch.empty((batch, *size), dtype=_class_type(num_classes), device=logits.device)
    with torch.no_grad(), torch.autocast(logits.device.type, enabled=False):
        small = logits.detach().to(_precision(logits))
        rank = torch.arange(num_classes - 1, -1, -1).to(small)[:, None]  # [C, 1]
        tiles = _tiles(small, size, align_corners)
        for tile, piece in zip(tiles, _each(partial(_tile_argmax, small, rank), tiles), strict=True):
            classes[tile.large] = piece
    return classes


def upsample_argmax_reference(logits: Tensor, size: tuple[int, int], *, align_corners: bool = True) -> Tensor:
    """The plain version of `upsample_argmax`, with all of [B, C, H, W] in memory."""
    full = _resize(logits.to(_precision(logits)), size, align_corners)
    return full.argmax(1).to(_class_type(logits.shape[1]))


def _sum_all(problem: Problem, needs_slope: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """The sum of all losses, the number of pixels that count, and the slope if it is needed."""
    losses = _losses(problem, None, needs_slope)
    return losses.pixels.sum(), losses.num_counted, losses.slope


def _sum_hardest(problem: Problem, hard_pixels: float, needs_slope: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """The sum of the hardest pixels' losses, how many of them aren't zero, and the slope, from a second pass."""
    pixels = _losses(problem, None, False).pixels
    values, index = pixels.flatten().topk(int(hard_pixels * pixels.numel()), sorted=False)
    factor = torch.zeros_like(pixels).flatten().index_fill_(0, index, 1).view_as(pixels)
    return values.sum(), (values != 0).sum(), _losses(problem, factor, True).slope if needs_slope else None


def _losses(problem: Problem, factor: Tensor | None, needs_slope: bool) -> Losses:
    """The losses of all pixels, times `factor` [B, H, W]."""
    small, labels = problem.logits, problem.labels
    tiles = _tiles(small, (labels.shape[1], labels.shape[2]), problem.align_corners)
    pixels = torch.empty(labels.shape, dtype=small.dtype, device=small.device)
    slope = torch.zeros_like(small)
    counts = []
    for tile, part in zip(tiles, _each(partial(_tile_losses, problem, factor, needs_slope), tiles), strict=True):
        pixels[tile.large] = part.pixels
        counts.append(part.num_counted)
        if part.slope is not None:
            slope[tile.small] += part.slope
    return Losses(pixels, torch.stack(counts).sum(), slope if needs_slope else None)


def _tile_losses(problem: Problem, factor: Tensor | None, needs_slope: bool, tile: Tile) -> Losses:
    target = _target(problem.labels[tile.large], problem.logits.shape[1], problem.ignore)[:, None]  # [rows, 1, columns]
    is_counted, label = target != UNCOUNTED, target.clamp(min=0)
    weight = is_counted if problem.weights is None else problem.weights[label] * is_counted
    for factors in (problem.pixel_weights, factor):
        weight = weight if factors is None else weight * factors[tile.large][:, None]
    scores = _upsample(problem.logits, tile)
    scores -= scores.amax(1, keepdim=True)
    target_scores = scores.gather(1, label)
    total = scores.exp_().sum(1, keepdim=True)
    pixels = ((total.log() - target_scores) * weight)[:, 0]
    if not needs_slope:
        return Losses(pixels, is_counted.sum(), None)
    scores.mul_(weight / total).scatter_add_(1, label, -weight.to(scores))
    return Losses(pixels, is_counted.sum(), _fold(scores, tile))


def _tile_argmax(small: Tensor, rank: Tensor, tile: Tile) -> Tensor:
    """The winner by its rank from the last: many times faster than `argmax`, as classes are not adjacent in memory."""
    scores = _upsample(small, tile)
    best = scores.eq_(scores.amax(1, keepdim=True)).mul_(rank).amax(1)
    return (len(rank) - 1 - best).to(_class_type(len(rank)))


def _each(function: Callable[[Tile], T], tiles: list[Tile]) -> Iterable[T]:
    """`function` of every tile, in order. On a CPU each thread has its own tile: threads that share one mostly wait."""
    threads = torch.get_num_threads()
    if tiles[0].rows.mix.device.type != "cpu" or threads == 1:
        return map(function, tiles)
    return _workers(threads, os.getpid()).map(function, tiles)


@cache
def _workers(count: int, process: int) -> ThreadPoolExecutor:
    """`count` threads that each compute alone. Cached for each process, since a fork does not copy threads."""
    pool = ThreadPoolExecutor(count, "upsample", initializer=_compute_alone)
    together = Barrier(count)
    list(pool.map(lambda _: together.wait(), range(count)))  # every thread has started
    torch.set_num_threads(count)  # each thread has its own setting, but new threads inherit the latest
    return pool


def _compute_alone() -> None:
    torch.set_num_threads(1)
    torch.get_num_threads()  # a thread inherits at its first query or operation; after this one it won't


def _upsample(small: Tensor, tile: Tile) -> Tensor:
    """The tile of the large map: [rows, C, columns], so that every step has long vectors."""
    patch = small[tile.small].transpose(0, 1)  # [h', C, w']
    wide = patch @ tile.columns.mix.T  # [h', C, columns]
    return (tile.rows.mix @ wide.flatten(1)).view(-1, *wide.shape[1:])


def _fold(gradient: Tensor, tile: Tile) -> Tensor:
    """The adjoint of `_upsample`: [C, h', w']."""
    wide = (tile.rows.mix.T @ gradient.flatten(1)).view(-1, *gradient.shape[1:])  # [h', C, columns]
    return (wide @ tile.columns.mix).transpose(0, 1)


def _tiles(small: Tensor, size: tuple[int, int], align_corners: bool) -> list[Tile]:
    """The large map in pieces of about the best size for the device."""
    batch, num_classes, *grid = small.shape
    budget = CPU_TILE_BYTES if small.device.type == "cpu" else GPU_TILE_BYTES
    pixels = budget // (num_classes * small.element_size())
    columns = min(size[1], max(TILE_COLUMNS, math.isqrt(pixels)))
    lengths = (max(1, pixels // columns), columns)
    rows, columns_ = (_bands(*axis, align_corners, small) for axis in zip(grid, size, lengths, strict=True))
    return [Tile(*parts) for parts in product(range(batch), rows, columns_)]


def _bands(small: int, large: int, longest: int, align_corners: bool, like: Tensor) -> list[Band]:
    """One axis in pieces of about equal length, at most `longest`."""
    count = math.ceil(large / longest)
    edges = [round(large * number / count) for number in range(count + 1)]
    return [_band(small, large, slice(*ends), align_corners, like) for ends in pairwise(edges)]


def _band(small: int, large: int, piece: slice, align_corners: bool, like: Tensor) -> Band:
    step = (small - 1) / max(large - 1, 1) if align_corners else small / large
    start = 0.0 if align_corners else step / 2 - 0.5
    first, last = (min(max(start + step * end, 0.0), small - 1.0) for end in (piece.start, piece.stop - 1))
    near = slice(math.floor(first), math.ceil(last) + 1)
    index = torch.arange(piece.start, piece.stop, dtype=torch.float64, device=like.device)
    position = (start + step * index).clamp(0, small - 1)
    distance = (position[:, None] - torch.arange(near.start, near.stop, device=like.device)).abs()
    return Band(piece, near, (1 - distance).clamp(min=0).to(like.dtype))


def _target(labels: Tensor, num_classes: int, ignore: int) -> Tensor:
    """The labels as int64, UNCOUNTED where they don't count; compared as int64, since uint8 wraps at 256."""
    target = labels.long()
    return target.where((target != ignore) & (target >= 0) & (target < num_classes), UNCOUNTED)


def _divisor(count: Tensor | float, like: Tensor) -> Tensor:
    return torch.as_tensor(count).to(like).clamp(min=SMALLEST_DIVISOR)


def _precision(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def _class_type(num_classes: int) -> torch.dtype:
    return torch.uint8 if num_classes <= 256 else torch.int32


def _resize(logits: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    return F.interpolate(logits, size, mode="bilinear", align_corners=align_corners)


def _require_fit(logits: Tensor, labels: Tensor, class_weights: Tensor | None, hard_pixels: float) -> None:
    if labels.dim() != 3 or logits.dim() != 4 or len(labels) != len(logits):
        raise ValueError(
            f"logits and labels must be [B, C, h, w] and [B, H, W], got {tuple(logits.shape)} and {tuple(labels.shape)}"
        )
    if class_weights is not None and class_weights.shape != (logits.shape[1],):
        raise ValueError(
            f"class_weights must have one value for each of {logits.shape[1]} classes, got {tuple(class_weights.shape)}"
        )
    if not 0 < hard_pixels <= 1:
        raise ValueError(f"hard_pixels must be a share above 0 and at most 1, got {hard_pixels}")
