"""The shapes in a label map: connected regions, specks among them, and edges that were smoothed."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from atrous.types import LabelMap

Mask = NDArray[np.bool_]  # [H, W]
Runs = NDArray[np.int64]

SPECK = 4  # pixels of the largest region that counts as one
STEP = 2  # between values of an edge that has room for one in between
FARTHEST = 2**31 - 1
FEW_EDGES = 24  # triplets of pixels across edges, below which nothing is said of smoothness


class Box(NamedTuple):
    """Pixels of an upright picture; `bottom` and `right` are outside."""

    top: int
    left: int
    bottom: int
    right: int


def region_numbers(labels: LabelMap) -> tuple[Runs, Runs]:
    """The number of each pixel's region [H, W], and how many pixels each number has [N].

    A region is pixels of one label that are connected by their sides.

    Runs of equal pixels in a row are joined with those below them until nothing changes.
    """
    begins = np.ones(labels.shape, bool)
    begins[:, 1:] = labels[:, 1:] != labels[:, :-1]
    runs = (np.cumsum(begins) - 1).reshape(labels.shape)
    is_joint = labels[:-1] == labels[1:]
    is_joint[:, 1:] &= begins[:-1, 1:] | begins[1:, 1:] | ~is_joint[:, :-1]  # once for each pair of runs
    lengths = np.bincount(runs.ravel())
    root = _joined(np.arange(len(lengths)), runs[:-1][is_joint], runs[1:][is_joint])
    sizes = np.bincount(root, lengths, len(lengths)).astype(np.int64)
    return root[runs], sizes


def _joined(root: Runs, above: Runs, below: Runs) -> Runs:
    """The least run that each one is connected with."""
    while True:
        one, other = root[above], root[below]
        is_apart = one != other
        if not is_apart.any():
            return root
        above, below, one, other = above[is_apart], below[is_apart], one[is_apart], other[is_apart]
        least = np.minimum(one, other)
        np.minimum.at(root, one, least)
        np.minimum.at(root, other, least)
        while (root[root] != root).any():
            root = root[root]


def specks(labels: LabelMap, ignored: Sequence[int] = ()) -> list[Box]:
    """Where a few pixels of one label, none of the `ignored`, lie within another one, from top to bottom."""
    numbers, sizes = region_numbers(labels)
    is_small = sizes[numbers] <= SPECK
    if not is_small.any():
        return []
    rows, columns = np.nonzero(is_small)
    own = numbers[rows, columns]
    around = _labels_around(labels, numbers, rows, columns)  # [8, K], -1: of the region itself, or outside
    lowest, highest = np.full(len(sizes), 2**31), np.full(len(sizes), -1)
    for neighbours in around:
        known = neighbours >= 0
        np.minimum.at(lowest, own[known], neighbours[known])
        np.maximum.at(highest, own[known], neighbours[known])
    value = labels[rows, columns].astype(np.int64)
    is_speck = (lowest[own] == highest[own]) & (lowest[own] != value) & ~np.isin(value, ignored)
    return _boxes(rows[is_speck], columns[is_speck], own[is_speck])


def _labels_around(labels: LabelMap, numbers: Runs, rows: Runs, columns: Runs) -> list[Runs]:
    own, result = numbers[rows, columns], []
    for y, x in ((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)):
        down, right = (rows + y).clip(0, labels.shape[0] - 1), (columns + x).clip(0, labels.shape[1] - 1)
        result.append(np.where(numbers[down, right] == own, -1, labels[down, right].astype(np.int64)))
    return result


def _boxes(rows: Runs, columns: Runs, regions: Runs) -> list[Box]:
    """Of each region, given all its pixels."""
    boxes: dict[int, Box] = {}
    for y, x, region in zip(rows.tolist(), columns.tolist(), regions.tolist(), strict=True):
        old = boxes.get(region, Box(y, x, y + 1, x + 1))
        boxes[region] = Box(min(old.top, y), min(old.left, x), max(old.bottom, y + 1), max(old.right, x + 1))
    return list(boxes.values())


def box_of(mask: Mask) -> Box | None:
    """Around all that is True."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    return Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)


# ---- smoothed edges


def smoothness(values: LabelMap) -> float:
    """The share of edges that climb by a value in between, which programs that resize or compress leave behind.

    Of three pixels in a row whose outer ones differ by two or more, the middle one equals one of them in labels as they
    are drawn. Labels that people drew have 0.02 at most, resized ones 0.3, those that were JPEG 0.15 or more.
    """
    smooth, sharp = 0, 0
    signed: NDArray[Any] = values.astype(np.int16 if values.dtype == np.uint8 else np.int32)
    for lines in (signed, signed.T):
        before, here, after = (lines[:, start : lines.shape[1] - 2 + start] for start in range(3))
        is_edge = abs(after - before) >= STEP
        smooth += int(np.count_nonzero(is_edge & _between(before, here, after)))
        sharp += int(np.count_nonzero(is_edge & ((here == before) | (here == after))))
    return smooth / (smooth + sharp) if smooth + sharp >= FEW_EDGES else 0.0


def climbing(values: LabelMap) -> Mask:
    """The pixels between two neighbours in a row or column of which one has a smaller, the other a larger value."""
    signed = values.astype(np.int32)
    mask = np.zeros(values.shape, bool)
    mask[:, 1:-1] |= _between(signed[:, :-2], signed[:, 1:-1], signed[:, 2:])
    mask[1:-1] |= _between(signed[:-2], signed[1:-1], signed[2:])
    return mask


def _between(before: NDArray[Any], here: NDArray[Any], after: NDArray[Any]) -> Mask:
    return np.asarray(((before < here) & (here < after)) | ((before > here) & (here > after)))


def interior(values: NDArray[Any]) -> Mask:
    """The pixels whose eight neighbours have their own value."""
    same = np.zeros(values.shape, bool)
    if min(values.shape) < 3:
        return same
    rows = (values[:-2] == values[1:-1]) & (values[1:-1] == values[2:])
    columns = (values[:, :-2] == values[:, 1:-1]) & (values[:, 1:-1] == values[:, 2:])
    same[1:-1, 1:-1] = rows[:, :-2] & rows[:, 1:-1] & rows[:, 2:] & columns[:-2] & columns[1:-1] & columns[2:]
    return same


def snapped(codes: NDArray[Any], levels: NDArray[Any], is_sure: Mask) -> NDArray[Any]:
    """The codes [H, W], each that isn't sure replaced by that of a sure pixel next to it, of the nearest `levels`.

    `levels` [H, W, K] are numbers in which a mixture of two codes lies between them. Works inward from the sure pixels,
    one pixel in each pass; where no pixel is sure, the codes stay.
    """
    codes, levels, is_sure, own = codes.copy(), levels.astype(np.int32), is_sure.copy(), levels.astype(np.int32)
    while not is_sure.all():
        nearest, values, distance = codes.copy(), levels.copy(), np.full(codes.shape, FARTHEST)
        for there, here in _neighbours():
            away = np.where(is_sure[there], abs(levels[there] - own[here]).sum(axis=-1), FARTHEST)
            is_nearer = away < distance[here]
            for target, source in ((distance, away), (nearest, codes[there]), (values, levels[there])):
                target[here][is_nearer] = source[is_nearer]
        is_new = ~is_sure & (distance < FARTHEST)
        if not is_new.any():
            break
        codes[is_new], levels[is_new] = nearest[is_new], values[is_new]
        is_sure |= is_new
    return codes


def _neighbours() -> list[tuple[tuple[slice, slice], tuple[slice, slice]]]:
    """For the four sides: where a neighbour lies, and where the pixels lie that have it."""
    all_, first, last = slice(None), slice(None, -1), slice(1, None)
    pairs = [(first, last), (last, first)]
    return [((there, all_), (here, all_)) for there, here in pairs] + [
        ((all_, there), (all_, here)) for there, here in pairs
    ]


def dilated(mask: Mask) -> Mask:
    """With the eight neighbours of each pixel."""
    padded = np.pad(mask, 1)
    rows = padded[:-2] | padded[1:-1] | padded[2:]
    return np.asarray(rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:])
