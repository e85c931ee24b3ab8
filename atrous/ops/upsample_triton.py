"""Triton kernels for upsampled losses and arg-max: `[B, C, H, W]` exists nowhere, not even in tiles.

Forward, each program takes some pixels of the large map through all classes, with a running maximum and sum. Backward,
each program takes some pixels of the small map and gathers from the large pixels that touch them; so nothing is added
from two places at once, and the same input gives the same bits.

Import this file only where Triton is installed. Kernels compute in the type of the logits, float32 or float64.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from atrous.ops.problem import UNCOUNTED, PixelLosses, Problem, targets_of
from atrous.ops.tiles import positions

PIXELS = 128  # of the large map, to a program
SMALL_PIXELS, CLASSES = 32, 16  # of the small map, to a program
SMALL_DOUBT = 0.01  # 1 - exp(-x) loses digits below; four terms of its series don't


class Axis(NamedTuple):
    """How the rows (or columns) of the large map lie between those of the small map."""

    near: Tensor  # [large] int32: the neighbour before
    share: Tensor  # [large] of the neighbour after it
    first: Tensor  # [small] int32: the first row of the large map that touches this one
    stop: Tensor  # [small] int32: past the last
    longest: int  # stop - first, at most


# ---- kernels


@triton.jit
def _bilinear(
    plane: tl.tensor, near_y: tl.tensor, near_x: tl.tensor, share_y: tl.tensor, share_x: tl.tensor,
    height: int, width: int, is_inside: tl.tensor,
) -> tl.tensor:  # fmt: skip
    """The upsampled logits of some pixels, from the four neighbours of each."""
    above, left = near_y * width, near_x
    below = tl.minimum(near_y + 1, height - 1) * width
    right = tl.minimum(near_x + 1, width - 1)
    rest = 1 - share_x
    top = tl.load(plane + above + left, is_inside, 0) * rest + tl.load(plane + above + right, is_inside, 0) * share_x
    bottom = tl.load(plane + below + left, is_inside, 0) * rest + tl.load(plane + below + right, is_inside, 0) * share_x
    return top * (1 - share_y) + bottom * share_y


@triton.jit
def _focused(
    loss: tl.tensor, label_loss: tl.tensor, focal: tl.constexpr, smallest: tl.constexpr, series_below: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    """The focal factor of each pixel, and what its own slope adds."""
    series = label_loss * (1 - label_loss / 2 * (1 - label_loss / 3 * (1 - label_loss / 4)))
    doubt = tl.where(label_loss < series_below, series, 1 - tl.exp(-label_loss))
    log_doubt = tl.log(tl.maximum(doubt, smallest))
    slope = loss * focal * tl.exp((focal - 1) * log_doubt - label_loss)
    return tl.exp(focal * log_doubt), tl.where(doubt > smallest, slope, 0)


@triton.jit
def _loss_kernel(
    logits: tl.tensor, labels: tl.tensor, weights: tl.tensor,
    near_y: tl.tensor, share_y: tl.tensor, near_x: tl.tensor, share_x: tl.tensor,
    losses: tl.tensor, highest: tl.tensor, on_all: tl.tensor, on_label: tl.tensor, on_each: tl.tensor,
    num_classes: int, height: int, width: int, large_height: int, large_width: int,
    smoothing: tl.constexpr, focal: tl.constexpr, smallest: tl.constexpr, series_below: tl.constexpr,
    block: tl.constexpr,
) -> None:  # fmt: skip
    """Each pixel's loss, and the factors of its slope, for `_slope_kernel`."""
    num_pixels = large_height * large_width
    pixel = tl.program_id(0) * block + tl.arange(0, block)
    image = tl.program_id(1).to(tl.int64)
    is_inside = pixel < num_pixels
    place = image * num_pixels + pixel
    y, x = pixel // large_width, pixel % large_width
    top, left = tl.load(near_y + y, is_inside, 0), tl.load(near_x + x, is_inside, 0)
    down, along = tl.load(share_y + y, is_inside, 0), tl.load(share_x + x, is_inside, 0)
    label = tl.load(labels + place, is_inside, 0)
    weight = tl.load(weights + place, is_inside, 0)
    plane = logits + image * num_classes * height * width

    best = tl.full([block], float("-inf"), logits.dtype.element_ty)
    total = tl.zeros([block], logits.dtype.element_ty)
    score = tl.zeros([block], logits.dtype.element_ty)  # of the label
    all_scores = tl.zeros([block], logits.dtype.element_ty)
    for index in range(num_classes):
        one = _bilinear(plane, top, left, down, along, height, width, is_inside)
        higher = tl.maximum(best, one)
        total = total * tl.exp(best - higher) + tl.exp(one - higher)
        best = higher
        score = tl.where(label == index, one, score)
        all_scores += one
        plane += height * width

    log_total = tl.log(total)
    label_loss = (best - score) + log_total
    loss = label_loss
    if smoothing > 0:
        loss = (1 - smoothing) * label_loss + smoothing * ((best - all_scores / num_classes) + log_total)
    factor, pull = tl.full([block], 1, loss.dtype), tl.zeros([block], loss.dtype)
    if focal > 0:
        factor, pull = _focused(loss, label_loss, focal, smallest, series_below)
    tl.store(losses + place, loss * factor * weight, is_inside)
    tl.store(highest + place, best, is_inside)
    tl.store(on_all + place, weight * (factor + pull) / total, is_inside)
    tl.store(on_label + place, weight * ((1 - smoothing) * factor + pull), is_inside)
    tl.store(on_each + place, weight * factor * smoothing / num_classes, is_inside)


@triton.jit
def _slope_kernel(
    logits: tl.tensor, labels: tl.tensor,
    highest: tl.tensor, on_all: tl.tensor, on_label: tl.tensor, on_each: tl.tensor,
    near_y: tl.tensor, share_y: tl.tensor, first_y: tl.tensor, stop_y: tl.tensor,
    near_x: tl.tensor, share_x: tl.tensor, first_x: tl.tensor, stop_x: tl.tensor, slope: tl.tensor,
    num_classes: int, height: int, width: int, large_height: int, large_width: int, longest: int,
    class_block: tl.constexpr, block: tl.constexpr,
) -> None:  # fmt: skip
    """The slope at some pixels of the small map, gathered from those of the large map that they touch."""
    blocks = (width + block - 1) // block
    row, column = tl.program_id(0) // blocks, tl.program_id(0) % blocks * block + tl.arange(0, block)
    index = tl.program_id(1) * class_block + tl.arange(0, class_block)[:, None]  # [class_block, 1]
    image = tl.program_id(2).to(tl.int64)
    is_column, is_class = column < width, index < num_classes
    planes = logits + (image * num_classes + index) * height * width
    maps = image * large_height * large_width
    start, stop = tl.load(first_x + column, is_column, 0), tl.load(stop_x + column, is_column, 0)

    total = tl.zeros([class_block, block], logits.dtype.element_ty)
    for y in range(tl.load(first_y + row), tl.load(stop_y + row)):
        top, down = tl.load(near_y + y), tl.load(share_y + y)
        row_share = tl.where(top == row, 1 - down, down)
        for step in range(longest):
            x = start + step
            is_inside = x < stop  # and so the column is one
            left, along = tl.load(near_x + x, is_inside, 0), tl.load(share_x + x, is_inside, 0)
            share = tl.where(is_inside, tl.where(left == column, 1 - along, along) * row_share, 0)
            place = maps + y * large_width + x
            best, factor = tl.load(highest + place, is_inside, 0), tl.load(on_all + place, is_inside, 0)
            label, pull = tl.load(labels + place, is_inside, 0), tl.load(on_label + place, is_inside, 0)
            each = tl.load(on_each + place, is_inside, 0)
            is_both = is_class & is_inside[None, :]
            score = _bilinear(planes, top, left[None, :], down, along[None, :], height, width, is_both)
            gradient = tl.exp(score - best[None, :]) * factor[None, :] - each[None, :]
            gradient -= tl.where(label[None, :] == index, pull[None, :], 0)
            total += tl.where(is_both, gradient * share[None, :], 0)
    place = (image * num_classes + index) * height * width + row * width + column[None, :]
    tl.store(slope + place, total, is_class & is_column[None, :])


@triton.jit
def _argmax_kernel(
    logits: tl.tensor, near_y: tl.tensor, share_y: tl.tensor, near_x: tl.tensor, share_x: tl.tensor, classes: tl.tensor,
    num_classes: int, height: int, width: int, large_height: int, large_width: int,
    block: tl.constexpr,
) -> None:  # fmt: skip
    num_pixels = large_height * large_width
    pixel = tl.program_id(0) * block + tl.arange(0, block)
    image = tl.program_id(1).to(tl.int64)
    is_inside = pixel < num_pixels
    y, x = pixel // large_width, pixel % large_width
    top, left = tl.load(near_y + y, is_inside, 0), tl.load(near_x + x, is_inside, 0)
    down, along = tl.load(share_y + y, is_inside, 0), tl.load(share_x + x, is_inside, 0)
    plane = logits + image * num_classes * height * width
    best = tl.full([block], float("-inf"), logits.dtype.element_ty)
    winner = tl.zeros([block], tl.int32)
    for index in range(num_classes):
        one = _bilinear(plane, top, left, down, along, height, width, is_inside)
        winner = tl.where(one > best, index, winner)  # of equal ones the first stays
        best = tl.maximum(best, one)
        plane += height * width
    tl.store(classes + image * num_pixels + pixel, winner.to(classes.dtype.element_ty), is_inside)


# ---- their callers, as `upsample.Kernels` has them


def losses(problem: Problem, factor: Tensor | None, needs_slope: bool) -> PixelLosses:
    """The losses of all pixels, times `factor` [B, H, W]."""
    logits, (height, width) = problem.logits.contiguous(), problem.size
    batch, num_classes, *grid = logits.shape
    labels, weights = _labels_and_weights(problem, factor)
    rows, columns = _axes(logits, problem.size, problem.align_corners)
    maps = [torch.empty_like(weights) for _ in range(5)]
    sizes = (num_classes, *grid, height, width)
    smallest = torch.finfo(logits.dtype).eps
    with _device_of(logits):
        _loss_kernel[(triton.cdiv(height * width, PIXELS), batch)](
            logits, labels, weights, rows.near, rows.share, columns.near, columns.share, *maps, *sizes,
            smoothing=problem.label_smoothing, focal=problem.focal, smallest=smallest,
            series_below=SMALL_DOUBT, block=PIXELS,
        )  # fmt: skip
        slope = _slope(logits, labels, maps[1:], rows, columns, sizes) if needs_slope else None
    num_counted = (targets_of(problem.labels, num_classes, problem.ignore) != UNCOUNTED).sum()
    return PixelLosses(maps[0], num_counted, slope)


def _slope(
    logits: Tensor, labels: Tensor, maps: list[Tensor], rows: Axis, columns: Axis, sizes: tuple[int, ...]
) -> Tensor:
    batch, num_classes, height, width = logits.shape
    slope = torch.empty_like(logits)
    _slope_kernel[(height * triton.cdiv(width, SMALL_PIXELS), triton.cdiv(num_classes, CLASSES), batch)](
        logits, labels, *maps, *rows[:4], *columns[:4], slope, *sizes, columns.longest,
        class_block=CLASSES, block=SMALL_PIXELS,
    )  # fmt: skip
    return slope


def argmax(small: Tensor, classes: Tensor, align_corners: bool) -> None:
    """Fill `classes` [B, H, W]."""
    logits, (batch, height, width) = small.contiguous(), classes.shape
    rows, columns = _axes(logits, (height, width), align_corners)
    tables = (rows.near, rows.share, columns.near, columns.share)
    with _device_of(logits):
        _argmax_kernel[(triton.cdiv(height * width, PIXELS), batch)](
            logits, *tables, classes, *logits.shape[1:], height, width, block=PIXELS
        )


def _labels_and_weights(problem: Problem, factor: Tensor | None) -> tuple[Tensor, Tensor]:
    """Of each pixel: a class (any where the label does not count), and what its loss is multiplied by."""
    target = targets_of(problem.labels, problem.logits.shape[1], problem.ignore)
    label, weight = target.clamp(min=0), (target != UNCOUNTED).to(problem.logits.dtype)
    weight = weight if problem.weights is None else problem.weights[label] * weight
    for factors in (problem.pixel_weights, factor):
        weight = weight if factors is None else weight * factors
    return label.int().contiguous(), weight.contiguous()


def _axes(logits: Tensor, size: tuple[int, int], align_corners: bool) -> tuple[Axis, Axis]:
    height, width = logits.shape[-2:]
    like = (align_corners, logits.dtype, logits.device)
    return _axis(height, size[0], *like), _axis(width, size[1], *like)


@lru_cache(64)
def _axis(small: int, large: int, align_corners: bool, dtype: torch.dtype, device: torch.device) -> Axis:
    """Computed on the CPU, so that no step waits for the device; kept, as sizes rarely change."""
    position = positions(small, large, align_corners, torch.arange(large, dtype=torch.float64))
    near, index = position.floor(), torch.arange(small, dtype=torch.float64)
    first, stop = torch.searchsorted(near, index - 1), torch.searchsorted(near, index, right=True)
    near_, first_, stop_ = (one.int().to(device) for one in (near, first, stop))
    return Axis(near_, (position - near).to(device, dtype), first_, stop_, int((stop - first).max()))


@contextmanager
def _device_of(tensor: Tensor) -> Iterator[Any]:
    """Triton launches on the current device."""
    if tensor.device.type != "cuda":
        yield
        return
    with torch.cuda.device(tensor.device):
        yield
