"""The class of every pixel, from the cells of the small map: pixels between four neighbours.

Where one class is the largest at all four corners of a cell, it is so in all of the cell: bilinear interpolation keeps
the order. Only the other cells, those on the borders between classes, are interpolated, and there only the classes that
could win: a class whose largest corner is below another's smallest corner can't.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from atrous.ops.tiles import each_of, positions

BAND_BYTES = 1 << 20  # of the small map: fits a core's own cache
CHUNK_BYTES = 1 << 19  # of interpolated scores
MOST_BORDERS = 0.4  # of all cells; if there are more, it is faster to interpolate all
SLACK = 16  # times the rounding error of a score, by which one that can win may seem too small


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
    """Some of the cells, by their upper left corners."""

    y: Tensor  # [N]
    x: Tensor  # [N]
    corners: list[Tensor]  # four [N, K]: upper left, upper right, lower left, lower right
    classes: Tensor  # [N, K], ascending


def argmax(small: Tensor, classes: Tensor, align_corners: bool) -> bool:
    """Fill `classes` [B, H, W] from logits [B, C, h, w] on the CPU. False, and nothing, if borders are everywhere."""
    axes = (axis_of(*sides, align_corners, small) for sides in zip(small.shape[2:], classes.shape[1:], strict=True))
    rows, columns = axes
    images = small.permute(0, 2, 3, 1).contiguous()
    batch, height, width, _ = images.shape
    winners = torch.empty(batch, height + 1, width + 1, dtype=classes.dtype)  # the last ones repeated
    step = max(1, BAND_BYTES // images[0, 0].nbytes)
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
    """The cells in groups of about equally many classes that could win."""
    if not len(y):
        return []
    height, width, num_classes = small.shape
    below, right = (y + 1).clamp_(max=height - 1), (x + 1).clamp_(max=width - 1)
    flat = small.view(-1, num_classes)
    corners = [flat.index_select(0, row * width + column) for row in (y, below) for column in (x, right)]  # [N, C]
    highest = torch.maximum(torch.maximum(corners[0], corners[1]), torch.maximum(corners[2], corners[3]))
    lowest = torch.minimum(torch.minimum(corners[0], corners[1]), torch.minimum(corners[2], corners[3]))
    least = lowest.amax(1, keepdim=True)
    least -= SLACK * torch.finfo(small.dtype).eps * highest.abs().amax(1, keepdim=True)
    can_win = highest >= least
    number = can_win.sum(1)
    table = _table(can_win, number)
    groups = []
    for size in torch.unique(number).tolist():
        (own,) = (number == size).nonzero(as_tuple=True)
        classes = table[own, :size]
        groups.append(Cells(y[own], x[own], [corner[own].gather(1, classes) for corner in corners], classes))
    return groups


def _table(can_win: Tensor, number: Tensor) -> Tensor:
    """[N, C] bool as [N, K]: the numbers of those that are true, ascending, then zeros."""
    cell, label = can_win.nonzero().unbind(1)
    place = torch.arange(len(cell)) - (number.cumsum(0) - number)[cell]
    table = torch.zeros(len(can_win), int(number.max()), dtype=torch.int64)
    table[cell, place] = label
    return table


def _interpolate(maps: Maps, cells: Cells) -> None:
    """Interpolate the scores of the candidates over the pixels of each cell, and write the first of the largest."""
    height, width = int(maps.rows.number[cells.y].max()), int(maps.columns.number[cells.x].max())
    step = max(1, CHUNK_BYTES // (cells.classes.shape[1] * height * width * maps.small.element_size()))
    for start in range(0, len(cells.y), step):
        part = slice(start, start + step)
        y, below = _pixels(maps.rows, cells.y[part], height)
        x, right = _pixels(maps.columns, cells.x[part], width)
        one, two, three, four = (corner[part, :, None] for corner in cells.corners)  # [N, K, 1]
        left_share, right_share = 1 - right[:, None], right[:, None]  # [N, 1, columns]
        upper = (one * left_share).addcmul_(two, right_share)[:, :, None]  # [N, K, 1, columns]
        lower = (three * left_share).addcmul_(four, right_share)[:, :, None]
        scores = (upper * (1 - below)[:, None, :, None]).addcmul_(lower, below[:, None, :, None])
        won = _first_largest(scores, cells.classes[part].to(maps.classes.dtype))
        maps.classes[y[:, :, None], x[:, None]] = won


def _pixels(axis: Axis, cells: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """The rows (or columns) of the large map in each cell, [N, length], the last repeated, and their shares."""
    place = torch.minimum(torch.arange(length), axis.number[cells, None] - 1)
    index = axis.start[cells, None] + place
    return index, axis.share[index]


def _first_largest(scores: Tensor, classes: Tensor) -> Tensor:
    """[N, K, rows, columns] and [N, K] -> [N, rows, columns]."""
    best, won = scores[:, 0], classes[:, 0, None, None].expand(scores[:, 0].shape)
    for index in range(1, scores.shape[1]):
        one = scores[:, index]
        won = torch.where(one > best, classes[:, index, None, None], won)
        best = torch.maximum(best, one)
    return won
