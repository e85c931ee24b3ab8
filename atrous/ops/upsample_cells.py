"""The class of every pixel, from the cells of the small map: pixels between four neighbours.

Where one class is the largest at all four corners of a cell, it is so in all of the cell: bilinear interpolation keeps
the order. Only the other cells, those on the borders between classes, are interpolated, and there only the classes that
could win: a class whose largest corner is below another's smallest corner can't.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from atrous.ops.tiles import each_of, positions

BAND_BYTES = 6 << 20  # of the small map, at most: each band has its cost in Python, where threads wait for each other
CHUNK_BYTES = 1 << 19  # of interpolated scores
MOST_BORDERS = 0.4  # of all cells; if there are more, it is faster to interpolate all
SLACK = 16  # times the rounding error of the largest score, by which one that can win may seem too small


class Axis(NamedTuple):
    """How the rows (or columns) of the large map lie between those of the small one."""

    near: Tensor  # [large] the neighbour before, in the small map
    share: Tensor  # [large] of the neighbour after it
    start: Tensor  # [small] the first row of the large map at or after this one
    number: Tensor  # [small] how many there are before the next


class Maps(NamedTuple):
    """Of one image."""

    small: Tensor  # [h, w, C]
    winners: Tensor  # [h + 1, w + 1] the first of the largest
    classes: Tensor  # [H, W], to be filled
    rows: Axis
    columns: Axis


class Band(NamedTuple):
    """Some of the rows of the small map, and the cells below them."""

    maps: Maps
    rows: slice


class Cells(NamedTuple):
    """Some of the cells, by their upper left corners. The cells are the last axis: long rows for the vector units."""

    y: Tensor  # [N]
    x: Tensor  # [N]
    corners: list[Tensor]  # four [K, N]: upper left, upper right, lower left, lower right
    classes: Tensor  # [K, N], ascending; the last is repeated where there are fewer


def argmax(small: Tensor, classes: Tensor, align_corners: bool) -> bool:
    """Fill `classes` [B, H, W] from logits [B, C, h, w] on the CPU. False, and nothing, if borders are everywhere."""
    axes = (axis_of(*sides, align_corners, small) for sides in zip(small.shape[2:], classes.shape[1:], strict=True))
    rows, columns = axes
    images = small.permute(0, 2, 3, 1).contiguous()
    batch, height, width, _ = images.shape
    winners = torch.empty(batch, height + 1, width + 1, dtype=classes.dtype)  # the last ones repeated
    step = math.ceil(height / math.ceil(images[0].nbytes / BAND_BYTES))
    bands = [slice(top, min(top + step, height)) for top in range(0, height, step)]
    parts = [
        Band(Maps(*maps, rows, columns), band) for maps in zip(images, winners, classes, strict=True) for band in bands
    ]
    list(each_of(_find_winners, parts))
    borders = list(each_of(_borders, parts))
    if sum(map(len, borders)) > MOST_BORDERS * batch * height * width:
        return False
    list(each_of(_fill, list(zip(parts, borders, strict=True))))
    return True


def axis_of(small: int, large: int, align_corners: bool, like: Tensor) -> Axis:
    position = positions(small, large, align_corners, torch.arange(large, dtype=torch.float64))
    near = position.long()
    count = torch.bincount(near, minlength=small)
    return Axis(near, (position - near).to(like.dtype), count.cumsum(0) - count, count)


@torch.inference_mode()  # threads don't inherit it
def _find_winners(band: Band) -> None:
    """NumPy finds them five times as fast as PyTorch."""
    (small, winners, *_), rows = band
    own = winners[rows]
    own[:, :-1] = torch.from_numpy(small[rows].numpy().argmax(-1))
    own[:, -1] = own[:, -2]
    if rows.stop == len(small):
        winners[-1] = own[-1]


@torch.inference_mode()
def _borders(band: Band) -> Tensor:
    """[N, 2]: the cells with pixels in which more than one class could win."""
    maps, rows = band
    winners = maps.winners[rows.start : rows.stop + 1]
    one = winners[:-1, :-1]
    differs = (one != winners[:-1, 1:]) | (one != winners[1:, :-1]) | (one != winners[1:, 1:])
    differs &= (maps.rows.number[rows] > 0)[:, None] & (maps.columns.number > 0)
    return differs.nonzero()


@torch.inference_mode()
def _fill(work: tuple[Band, Tensor]) -> None:
    """All pixels of the large map from the first row of the band on, to the row after it."""
    (maps, rows), borders = work
    last = rows.stop - 1
    own = slice(int(maps.rows.start[rows.start]), int(maps.rows.start[last] + maps.rows.number[last]))
    wide = maps.winners[rows].index_select(1, maps.columns.near)
    torch.index_select(wide, 0, maps.rows.near[own] - rows.start, out=maps.classes[own])
    y, x = borders.unbind(1)
    for cells in _with_candidates(maps.small, y + rows.start, x):
        _interpolate(maps, cells)


def _with_candidates(small: Tensor, y: Tensor, x: Tensor) -> list[Cells]:
    """The cells in two groups: those with two classes that could win, nearly all, and those with more."""
    if not len(y):
        return []
    height, width, num_classes = small.shape
    below, right = (y + 1).clamp_(max=height - 1), (x + 1).clamp_(max=width - 1)
    corners = [row * width + column for row in (y, below) for column in (x, right)]  # [N]
    cell, label = _can_win(small.view(-1, num_classes), corners).nonzero().unbind(1)
    number = torch.bincount(cell)
    first = number.cumsum(0) - number
    groups = []
    for is_own in (number == 2, number > 2):
        (own,) = is_own.nonzero(as_tuple=True)
        if len(own):
            place = torch.arange(int(number[own].max()))[:, None]
            classes = label[first[own] + torch.minimum(place, number[own] - 1)]
            values = [small.take(corner[own] * num_classes + classes) for corner in corners]
            groups.append(Cells(y[own], x[own], values, classes))
    return groups


def _can_win(flat: Tensor, corners: list[Tensor]) -> Tensor:
    """[N, C]: the classes that are the largest somewhere in each cell, and perhaps some that nearly are."""
    values = [flat.index_select(0, corner) for corner in corners]
    highest = torch.maximum(torch.maximum(values[0], values[1]), torch.maximum(values[2], values[3]))
    lowest = torch.minimum(torch.minimum(values[0], values[1]), torch.minimum(values[2], values[3]))
    least = lowest.amax(1, keepdim=True)
    least -= SLACK * torch.finfo(flat.dtype).eps * highest.abs().max()
    return highest >= least


def _interpolate(maps: Maps, cells: Cells) -> None:
    """Interpolate the scores of the candidates over the pixels of each cell, and write the first of the largest."""
    height, width = int(maps.rows.number[cells.y].max()), int(maps.columns.number[cells.x].max())
    step = max(1, CHUNK_BYTES // (len(cells.classes) * height * width * maps.small.element_size()))
    for start in range(0, len(cells.y), step):
        part = slice(start, start + step)
        y, below = _pixels(maps.rows, cells.y[part], height)
        x, right = _pixels(maps.columns, cells.x[part], width)
        one, two, three, four = (corner[:, None, part] for corner in cells.corners)  # [K, 1, N]
        upper = (one * (1 - right)).addcmul_(two, right)[:, None]  # [K, 1, columns, N]
        lower = (three * (1 - right)).addcmul_(four, right)[:, None]
        below = below[:, None]  # [rows, 1, N]
        scores = (upper * (1 - below)).addcmul_(lower, below)
        won = _first_largest(scores, cells.classes[:, None, None, part].to(maps.classes.dtype))
        pixels = y[:, None] * maps.classes.shape[1] + x
        maps.classes.view(-1).scatter_(0, pixels.flatten(), won.flatten())


def _pixels(axis: Axis, cells: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """The rows (or columns) of the large map in each cell, [length, N], the last repeated, and their shares."""
    place = torch.minimum(torch.arange(length)[:, None], axis.number[cells] - 1)
    index = axis.start[cells] + place
    return index, axis.share[index]


def _first_largest(scores: Tensor, classes: Tensor) -> Tensor:
    """[K, rows, columns, N] and [K, 1, 1, N] -> [rows, columns, N]."""
    best, won = scores[0], classes[0]
    for one, label in zip(scores[1:], classes[1:], strict=True):
        won = torch.where(one > best, label, won)
        best = torch.maximum(best, one)
    return won
