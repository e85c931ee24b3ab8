"""Outlines as pixels: polygons, rectangles, ellipses and run lengths, as the programs that people draw with fill them.

A point is (x, y). Two conventions are in use. Pillow's, of labelme: corners lie on the centres of pixels, whole
numbers, and the outline itself is filled. COCO's, of its own programs and of CVAT: pixel (i, j) covers j to j + 1. Both
fill by the even-odd rule: a part that an outline encloses twice is a hole. What lies outside of the image is cut off.

A region is as large as its bounding box within the image, so that a thousand small objects cost what they cover.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL import ImageDraw

from atrous.data import pillow
from atrous.data.label_space import Label
from atrous.errors import DataError
from atrous.types import Size

Points = NDArray[np.float64]  # [N, 2] (x, y)
Floats = NDArray[np.float64]  # [N]
Mask = NDArray[np.bool_]  # [H, W]

MAX_POINT = 2.0**52  # beyond it, a float no longer holds every whole number
_FAR = 2**14  # pixels beyond the image up to which Pillow's own drawing is exact and quick
_FINE = 5  # COCO's programs draw on a grid that is this many times finer
_EDGES = 512  # that are drawn at a time


class Region(NamedTuple):
    """Pixels of an image: those where `mask` is set, whose first pixel lies at (top, left)."""

    top: int
    left: int
    mask: Mask


class Shape(NamedTuple):
    """One outlined object, or a part of it."""

    label: Label  # a class, or the ignored value
    region: Region
    instance: int = 0  # the number of the object; 0: it has none


def paint(shapes: Iterable[Shape], size: Size, background: Label = 0) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """The label map and the map of instances, [H, W]: a later shape covers an earlier one."""
    semantic, instance = np.full(size, background, np.uint8), np.zeros(size, np.int32)
    for shape in shapes:
        top, left, mask = shape.region
        place = slice(top, top + mask.shape[0]), slice(left, left + mask.shape[1])
        semantic[place][mask] = shape.label
        instance[place][mask] = shape.instance
    return semantic, instance


def as_points(values: object) -> Points:
    """A list of [x, y] pairs, or of x, y, x, y. Raises DataError that says what is wrong."""
    try:
        points = np.array(values, np.float64)
    except (ValueError, TypeError, OverflowError):
        raise DataError("its points are not pairs of numbers") from None
    if points.ndim == 1 and points.size % 2 == 0:
        points = points.reshape(-1, 2)
    if points.ndim != 2 or points.shape[1] != 2:
        raise DataError("its points are not pairs of numbers")
    if not (np.abs(points) < MAX_POINT).all():
        raise DataError("a point of it is infinite, or as good as")
    return points


def require_polygon(points: Points) -> Points:
    if len(points) < 3:
        raise DataError(f"a polygon of {len(points)} point{'s'[: len(points) != 1]}; it takes three")
    return points


def require_pixels(size: Size) -> Size:
    """Refuse a size, as a file claims it, that no image may have."""
    height, width = size
    if min(size) <= 0:
        raise DataError(f"an image of {width} x {height} pixels (width x height)")
    if height * width > pillow.limit_of_pixels():
        raise DataError(f"an image of {width} x {height} pixels (width x height); set {pillow.LIMIT} to allow it")
    return size


def nothing() -> Region:
    return Region(0, 0, np.zeros((0, 0), bool))


# ---- Pillow's convention


def polygon(points: Points, size: Size) -> Region:
    return _drawn("polygon", np.trunc(_near(require_polygon(points), size)), size)


def rectangle(points: Points, size: Size) -> Region:
    """Between two opposite corners, both of which belong to it."""
    corners = np.clip(points, -1, np.array(size[::-1]) + 1)
    return _drawn("rectangle", np.trunc([corners.min(0), corners.max(0)]), size)


def circle(center: Points, radius: float, size: Size) -> Region:
    if radius > _FAR:
        raise DataError(f"a circle with a radius of {radius:.4g} pixels")
    return _drawn("ellipse", np.trunc([center - radius, center + radius]), size)


def _drawn(kind: str, points: Points, size: Size) -> Region:
    """The canvas begins where the image does: Pillow rounds edges otherwise, a little, where they are moved."""
    (left, top), (right, bottom) = points.min(0), points.max(0)
    rows, columns = _within(top, bottom, size[0]), _within(left, right, size[1])
    if not (len(rows) and len(columns)):
        return nothing()
    canvas = PIL.Image.new("L", (columns.stop, rows.stop))
    getattr(ImageDraw.Draw(canvas), kind)([tuple(point) for point in points.tolist()], fill=1, outline=1)
    box = canvas.crop((columns.start, rows.start, columns.stop, rows.stop))
    return Region(rows.start, columns.start, np.asarray(box) > 0)


def _within(low: float, high: float, length: int) -> range:
    """The pixels of an axis that lie between two points, both included."""
    return range(int(max(low, 0)), int(min(high, length - 1)) + 1)


def _near(points: Points, size: Size) -> Points:
    """A polygon cut off well outside of the image: Pillow walks along outlines, however far they go."""
    for axis, length in enumerate(size[::-1]):
        for sign, bound in ((1, length + _FAR), (-1, _FAR)):
            if (sign * points[:, axis] > bound).any():
                points = _cut(points, axis, sign, bound)
    return points


def _cut(points: Points, axis: int, sign: int, bound: float) -> Points:
    """The part of a polygon where sign * coordinate <= bound (Sutherland and Hodgman 1974)."""
    corners: list[Points] = []
    for start, end in zip(np.roll(points, 1, axis=0), points, strict=True):
        before, after = sign * start[axis] - bound, sign * end[axis] - bound
        if (before > 0) != (after > 0):
            corners.append(start + (end - start) * (before / (before - after)))
        if after <= 0:
            corners.append(end)
    return np.array(corners) if corners else np.full((3, 2), -1.0)


# ---- COCO's convention


def coco_polygons(polygons: Sequence[Points], size: Size) -> Region:
    """The union of polygons, each pixel as cocoapi's `frPyObjects` and `merge` have it."""
    regions = [_coco_polygon(require_polygon(points), size) for points in polygons]
    return union([region for region in regions if region.mask.size])


def union(regions: Sequence[Region]) -> Region:
    if not regions:
        return nothing()
    top, left = min(region.top for region in regions), min(region.left for region in regions)
    bottom = max(region.top + region.mask.shape[0] for region in regions)
    right = max(region.left + region.mask.shape[1] for region in regions)
    mask = np.zeros((bottom - top, right - left), bool)
    for region in regions:
        rows = slice(region.top - top, region.top - top + region.mask.shape[0])
        mask[rows, region.left - left : region.left - left + region.mask.shape[1]] |= region.mask
    return Region(top, left, mask)


def _coco_polygon(points: Points, size: Size) -> Region:
    """Every crossing of the outline with the middle of a column flips the pixels below it."""
    fine = np.trunc(_FINE * points + 0.5)
    (left, top), (right, bottom) = np.floor(points.min(0)) - 1, np.ceil(points.max(0)) + 1
    rows, columns = _within(top, bottom, size[0]), _within(left, right, size[1])
    if not (len(rows) and len(columns)):
        return nothing()
    flips = np.zeros((len(rows) + 1, len(columns)), np.uint8)
    for start in range(0, len(fine), _EDGES):
        ends = np.roll(fine, -1, axis=0)[start : start + _EDGES]
        for x, y in _crossings(fine[start : start + _EDGES], ends, columns):
            np.add.at(flips, (np.clip(y - rows.start, 0, len(rows)), x - columns.start), 1)
    return Region(rows.start, columns.start, np.cumsum(flips[:-1], axis=0, dtype=np.uint8) % 2 == 1)


def _crossings(starts: Points, ends: Points, columns: range) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Where edges, on the fine grid, pass from 5 x + 2 to 5 x + 3: the column x, and the first row below."""
    is_flat = np.abs(ends - starts)[:, 0] >= np.abs(ends - starts)[:, 1]
    for axis, chosen in ((0, is_flat), (1, ~is_flat)):
        is_reversed = starts[chosen, axis] > ends[chosen, axis]
        low = np.where(is_reversed[:, None], ends[chosen], starts[chosen])
        high = np.where(is_reversed[:, None], starts[chosen], ends[chosen])
        edge, x = _columns_of(low[:, 0], high[:, 0], columns)
        (xs, ys), (xe, ye) = low[edge].T, high[edge].T
        y = _flat(xs, ys, xe, ye, x) if axis == 0 else _steep(xs, ys, xe, ye, x)
        yield x, np.ceil((y + 0.5) / _FINE - 0.5).clip(0, 2**31).astype(np.int64)


def _columns_of(first: Floats, second: Floats, columns: range) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The number of an edge, and each column whose middle it crosses."""
    low, high = np.minimum(first, second), np.maximum(first, second)
    begin = np.clip(np.ceil((low - 2) / _FINE), columns.start, columns.stop).astype(np.int64)
    end = np.clip(np.floor((high - 3) / _FINE) + 1, begin, columns.stop).astype(np.int64)
    edge = np.repeat(np.arange(len(low)), end - begin)
    place = np.arange(len(edge)) - np.repeat(np.cumsum(end - begin) - (end - begin), end - begin)
    return edge, begin[edge] + place


def _flat(xs: Floats, ys: Floats, xe: Floats, ye: Floats, x: NDArray[np.int64]) -> Floats:
    """The upper one of the outline's two points on either side of the middle of column x."""
    slope = (ye - ys) / np.maximum(xe - xs, 1)
    before, after = (np.trunc(ys + slope * (_FINE * x + side - xs) + 0.5) for side in (2, 3))
    return np.minimum(before, after)


def _steep(xs: Floats, ys: Floats, xe: Floats, ye: Floats, x: NDArray[np.int64]) -> Floats:
    """The last row before the outline, walked down, reaches the other side of the middle of column x."""
    slope = (xe - xs) / np.maximum(ye - ys, 1)
    target = np.float64(_FINE) * x + np.where(slope > 0, 3, 2)
    step = np.ceil((_FINE * x + 2.5 - xs) / np.where(slope == 0, 1, slope))
    for _ in range(2):  # rounding may have missed it by one
        step -= _has_passed(xs + slope * (step - 1), target, slope)
    step += ~_has_passed(xs + slope * step, target, slope)
    return ys + step - 1


def _has_passed(x: Floats, target: Floats, slope: Floats) -> NDArray[np.bool_]:
    column = np.trunc(x + 0.5)
    return np.where(slope > 0, column >= target, column <= target)


# ---- run lengths


def coco_rle(counts: Sequence[int], size: Size) -> Region:
    """Lengths of runs down the columns, the first one of pixels outside."""
    return Region(0, 0, _runs(counts, size[0] * size[1]).reshape(size[::-1]).T)


def box_rle(counts: Sequence[int], top: int, left: int, box: Size, size: Size) -> Region:
    """Lengths of runs along the rows of a box (CVAT), the first one of pixels outside."""
    return placed(_runs(counts, box[0] * box[1]).reshape(box), top, left, size)


def placed(mask: Mask, top: int, left: int, size: Size) -> Region:
    """A mask whose first pixel is (top, left), without what lies outside of the image."""
    rows, columns = _within(top, top + mask.shape[0] - 1, size[0]), _within(left, left + mask.shape[1] - 1, size[1])
    inner = mask[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    return Region(rows.start, columns.start, inner) if inner.size else nothing()


def _runs(counts: Sequence[int], num_pixels: int) -> Mask:
    lengths = np.array(counts, object)
    if not all(type(length) is int and length >= 0 for length in lengths) or sum(lengths) != num_pixels:
        raise DataError(f"its run lengths don't add up to the {num_pixels} pixels of its size")
    values = np.arange(len(lengths)) % 2 == 1
    return np.repeat(values, lengths.astype(np.int64))


def coco_counts(text: str) -> list[int]:
    """The run lengths that COCO's programs write as text: groups of five bits, differences from the run before last."""
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise DataError("its compressed run lengths are damaged")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        value -= (1 << shift) if bits & 16 else 0
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    return counts
