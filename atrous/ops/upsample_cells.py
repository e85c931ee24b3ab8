"""The class of every pixel, from the cells of the small map: pixels between four neighbours.

Where one class is the largest at all four corners of a cell, it is so in all of the cell: bilinear interpolation keeps
the order. Only the other cells, those on the borders between classes, are interpolated, and there only the classes that
could win: a class whose largest corner is below another's smallest corner can't.

In NumPy: the steps are so short that waiting for PyTorch's second thread, for which those of another runtime may have
to make room, takes longer than all of them.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atrous.ops.tiles import each_of, positions

Array: TypeAlias = NDArray[Any]
S = TypeVar("S")
T = TypeVar("T")
Corners: TypeAlias = list[Array]  # upper left, upper right, lower left, lower right

BAND_BYTES = 6 << 20  # of the small map, at most: each band has its cost in Python, where threads wait for each other
CHUNK_BYTES = 1 << 19  # of interpolated scores
MOST_BORDERS = 0.4  # of all cells; if there are more, it is faster to interpolate all
SLACK = 16  # times the rounding error of the largest score, by which one that can win may seem too small


class Axis(NamedTuple):
    """How the rows (or columns) of the large map lie between those of the small one."""

    near: Array  # [large] the neighbour before, in the small map
    share: Array  # [large] of the neighbour after it
    start: Array  # [small] the first row of the large map at or after this one
    number: Array  # [small] how many there are before the next


class Maps(NamedTuple):
    """Of one image."""

    logits: Array  # [h, w, C] as they came, in whatever order in memory
    small: Array  # [h, w, C] in this order
    winners: Array  # [h + 1, w + 1] the first of the largest
    classes: Array  # [H, W], to be filled
    rows: Axis
    columns: Axis


class Band(NamedTuple):
    """Some of the rows of the small map, and the cells below them."""

    maps: Maps
    rows: slice


class Cells(NamedTuple):
    """Some of the cells, by their upper left corners. The cells are the last axis: long rows for the vector units."""

    y: Array  # [N]
    x: Array  # [N]
    corners: Corners  # [K, N] each
    classes: Array  # [K, N], ascending; the last is repeated where there are fewer


def argmax(small: Tensor, classes: Tensor, align_corners: bool) -> bool:
    """Fill `classes` [B, H, W] from logits [B, C, h, w] on the CPU. False, and nothing, if borders are everywhere."""
    axes = (axis_of(*sides, align_corners, small) for sides in zip(small.shape[2:], classes.shape[1:], strict=True))
    rows, columns = axes
    logits = small.permute(0, 2, 3, 1).numpy()
    images = logits if logits.flags.c_contiguous else np.empty(logits.shape, logits.dtype)
    batch, height, width, _ = logits.shape
    winners = np.empty((batch, height + 1, width + 1), classes.numpy().dtype)  # the last ones repeated
    step = math.ceil(height / math.ceil(images[0].nbytes / BAND_BYTES))
    bands = [slice(top, min(top + step, height)) for top in range(0, height, step)]
    parts = [
        Band(Maps(*maps, rows, columns), band)
        for maps in zip(logits, images, winners, classes.numpy(), strict=True)
        for band in bands
    ]
    list(_each(_find_winners, parts))
    borders = list(_each(_borders, parts))
    if sum(len(y) for y, _ in borders) > MOST_BORDERS * batch * height * width:
        return False
    list(_each(_fill, list(zip(parts, borders, strict=True))))
    return True


def _each(function: Callable[[S], T], parts: Sequence[S]) -> Iterable[T]:
    """A single part is not worth waking another thread."""
    return map(function, parts) if len(parts) == 1 else each_of(function, parts)


def axis_of(small: int, large: int, align_corners: bool, like: Tensor) -> Axis:
    position = positions(small, large, align_corners, torch.arange(large, dtype=torch.float64))
    near = position.long()
    count = torch.bincount(near, minlength=small)
    values = (near, (position - near).to(like.dtype), count.cumsum(0) - count, count)
    return Axis(*(value.numpy() for value in values))


def _find_winners(band: Band) -> None:
    (logits, small, winners, *_), rows = band
    if logits.ctypes.data != small.ctypes.data:
        small[rows] = logits[rows]
    own = winners[rows]
    own[:, :-1] = small[rows].argmax(-1)
    own[:, -1] = own[:, -2]
    if rows.stop == len(small):
        winners[-1] = own[-1]


def _borders(band: Band) -> tuple[Array, Array]:
    """Rows and columns [N] of the cells with pixels in which more than one class could win."""
    maps, rows = band
    winners = maps.winners[rows.start : rows.stop + 1]
    one = winners[:-1, :-1]
    differs = (one != winners[:-1, 1:]) | (one != winners[1:, :-1]) | (one != winners[1:, 1:])
    differs &= (maps.rows.number[rows] > 0)[:, None] & (maps.columns.number > 0)
    y, x = np.divmod(np.flatnonzero(differs), differs.shape[1])
    return y + rows.start, x


def _fill(work: tuple[Band, tuple[Array, Array]]) -> None:
    """All pixels of the large map from the first row of the band on, to the row after it."""
    (maps, rows), (y, x) = work
    last = rows.stop - 1
    own = slice(int(maps.rows.start[rows.start]), int(maps.rows.start[last] + maps.rows.number[last]))
    wide = maps.winners[rows][:, maps.columns.near]
    np.take(wide, maps.rows.near[own] - rows.start, 0, maps.classes[own], mode="clip")
    for cells in _with_candidates(maps.small, y, x):
        _interpolate(maps, cells)


def _with_candidates(small: Array, y: Array, x: Array) -> list[Cells]:
    """The cells in two groups: those with two classes that could win, nearly all, and those with more."""
    if not len(y):
        return []
    height, width, num_classes = small.shape
    below, right = np.minimum(y + 1, height - 1), np.minimum(x + 1, width - 1)
    flat = small.reshape(-1, num_classes)
    values = [flat.take(row * width + column, 0) for row in (y, below) for column in (x, right)]  # [N, C]
    cell, label = np.divmod(np.flatnonzero(_can_win(values)), num_classes)
    number = np.bincount(cell, minlength=len(y))
    first = number.cumsum() - number
    groups = []
    for own in (np.flatnonzero(number == 2), np.flatnonzero(number > 2)):
        if len(own):
            place = np.arange(number[own].max())[:, None]
            classes = label[first[own] + np.minimum(place, number[own] - 1)]
            corners = [value.reshape(-1).take(own * num_classes + classes) for value in values]
            groups.append(Cells(y[own], x[own], corners, classes))
    return groups


def _can_win(values: Corners) -> Array:
    """[N, C]: the classes that are the largest somewhere in each cell, and perhaps some that nearly are."""
    highest, lowest = reduce(np.maximum, values), reduce(np.minimum, values)
    largest = np.abs(highest).max(initial=0, where=np.isfinite(highest))  # a class that never wins has -inf
    least = lowest.max(1, keepdims=True) - SLACK * np.finfo(lowest.dtype).eps * largest
    can_win: Array = highest >= least
    return can_win


def _interpolate(maps: Maps, cells: Cells) -> None:
    """Interpolate the scores of the candidates over the pixels of each cell, and write the first of the largest."""
    height, width = int(maps.rows.number[cells.y].max()), int(maps.columns.number[cells.x].max())
    step = max(1, CHUNK_BYTES // (len(cells.classes) * height * width * maps.small.itemsize))
    for start in range(0, len(cells.y), step):
        part = slice(start, start + step)
        y, below = _pixels(maps.rows, cells.y[part], height)
        x, right = _pixels(maps.columns, cells.x[part], width)
        classes = cells.classes[:, part].astype(maps.classes.dtype)
        won = _first_largest([corner[:, part] for corner in cells.corners], classes, below, right)
        maps.classes.reshape(-1)[y[:, None] * maps.classes.shape[1] + x] = won


def _pixels(axis: Axis, cells: Array, length: int) -> tuple[Array, Array]:
    """The rows (or columns) of the large map in each cell, [length, N], the last repeated, and their shares."""
    place = np.minimum(np.arange(length)[:, None], axis.number[cells] - 1)
    index = axis.start[cells] + place
    return index, axis.share[index]


def _first_largest(corners: Corners, classes: Array, below: Array, right: Array) -> Array:
    """[K, N] and [K, N] -> [rows, columns, N]. Of two, the difference of their scores tells: half the work."""
    if len(classes) == 2:
        lead = _between([corner[1] - corner[0] for corner in corners], below, right)
        return _choice(lead > 0, classes[1], classes[0])
    best = _between([corner[0] for corner in corners], below, right)
    won = np.broadcast_to(classes[0], best.shape)
    for place in range(1, len(classes)):
        one = _between([corner[place] for corner in corners], below, right)
        won = _choice(one > best, classes[place], won)
        np.maximum(best, one, out=best)
    return won


def _choice(condition: Array, one: Array, other: Array) -> Array:
    chosen: Array = np.where(condition, one, other)
    return chosen


def _between(corners: Corners, below: Array, right: Array) -> Array:
    """One value at each corner [N] -> [rows, columns, N]."""
    one, two, three, four = corners
    upper, lower = one + (two - one) * right, three + (four - three) * right  # [columns, N]
    values: Array = upper + (lower - upper) * below[:, None]
    return values
