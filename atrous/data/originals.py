"""Steps of augmentation as the original programs compute them, quirks included; `transforms` puts them in order.

TensorFlow DeepLab, deeplab2 and the fork "forma" resize with aligned corners, semseg as OpenCV does; none of them
antialiases. Images are float32 [H, W, 3] in 0..255 between the steps, as they are there.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from atrous.types import Image, Size

Pixels = NDArray[Any]  # an image [H, W, 3], which is interpolated, or a map [H, W], which is not
Indices = NDArray[np.int64]
Floats = NDArray[np.float32]
Part = tuple[slice, slice]  # rows, columns
Points = tuple[NDArray[np.float64], NDArray[np.float64]]  # y, x [H, W]

FRACTION_BITS, COORDINATE_BITS = 5, 10  # OpenCV's: 1/32 of a pixel for images; coordinates are whole 1/1024
BINOMIAL = np.array([1, 4, 6, 4, 1], np.float32) / 16  # cv2.GaussianBlur(image, (5, 5), 0)


# Resampling


class Axis(NamedTuple):
    """How one side of an image is resampled."""

    side: int  # source pixels
    scaled: int  # pixels of the result
    step: float  # source pixels from one of the result to the next
    rule: Literal["aligned_corners", "opencv"]


def aligned_axis(side: int, scaled: int) -> Axis:
    """The centres of the first and the last pixel stay where they are (specs of TensorFlow's align_corners)."""
    return Axis(side, scaled, (side - 1) / (scaled - 1) if scaled > 1 else 0.0, "aligned_corners")


def opencv_axis(side: int, factor: float) -> Axis:
    """`cv2.resize(..., fx=factor)`: the step is that of the factor, not that of the rounded size."""
    return Axis(side, max(1, round(side * factor)), 1 / factor, "opencv")


def opencv_axis_to(side: int, scaled: int) -> Axis:
    """`cv2.resize(..., dsize)`."""
    return Axis(side, scaled, 1 / (scaled / side), "opencv")


def resample(pixels: Pixels, axes: tuple[Axis, Axis], part: Part) -> Pixels:
    """Rows and columns `part` of the resampled pixels; an image becomes float32."""
    if pixels.ndim == 2:
        rows, columns = (_nearest(axis, span) for axis, span in zip(axes, part, strict=True))
        return np.asarray(pixels.take(rows, axis=0).take(columns, axis=1))
    (above, below, down), (left, right, across) = (_neighbours(a, s) for a, s in zip(axes, part, strict=True))
    first = int(above.min())
    band = pixels[first : int(below.max()) + 1].astype(np.float32)
    band = _mixed(band.take(left, axis=1), band.take(right, axis=1), across[:, None])
    return _mixed(band.take(above - first, axis=0), band.take(below - first, axis=0), down[:, None, None])


def _mixed(one: Floats, other: Floats, weight: Floats) -> Floats:
    return one + (other - one) * weight


def _nearest(axis: Axis, span: slice) -> Indices:
    """TensorFlow rounds halves up; OpenCV takes the pixel at the upper left corner, not at the centre."""
    places = np.arange(span.start, span.stop)
    if axis.rule == "opencv":
        nearest = np.floor(places * axis.step)
    else:
        nearest = np.floor(places.astype(np.float32) * np.float32(axis.step) + np.float32(0.5))
    return nearest.astype(np.int64).clip(0, axis.side - 1)


def _neighbours(axis: Axis, span: slice) -> tuple[Indices, Indices, Floats]:
    """The two source pixels that each one lies between, and the weight of the second."""
    places = np.arange(span.start, span.stop)
    if axis.rule == "opencv":
        exact = ((places + 0.5) * axis.step - 0.5).astype(np.float32)
    else:
        exact = places.astype(np.float32) * np.float32(axis.step)
    low = np.floor(exact).astype(np.int64)
    weight = exact - low.astype(np.float32)
    return low.clip(0, axis.side - 1), (low + 1).clip(0, axis.side - 1), weight.astype(np.float32)


def read_at(pixels: Pixels, y: Indices, x: Indices, outside: float | Sequence[float]) -> Pixels:
    """The pixels at these places, `outside` beyond the border."""
    height, width = pixels.shape[:2]
    values: Pixels = pixels[y.clip(0, height - 1), x.clip(0, width - 1)]
    values[(y < 0) | (y >= height) | (x < 0) | (x >= width)] = outside
    return values


def read_between(
    image: Floats, y: Indices, x: Indices, down: Floats, across: Floats, outside: float | Sequence[float]
) -> Floats:
    """The mean of the four pixels from (y, x) on, weighted by the distances `down` and `across`."""
    down, across = down[..., None], across[..., None]
    top = _mixed(read_at(image, y, x, outside), read_at(image, y, x + 1, outside), across)
    bottom = _mixed(read_at(image, y + 1, x, outside), read_at(image, y + 1, x + 1, outside), across)
    return _mixed(top, bottom, down)


# Sizes


def scaled_by_float32(size: Size, scale: float) -> Size:
    """TensorFlow's product of a side and a scale, cut off: in float32, which sometimes is one pixel less."""
    height, width = (max(1, int(np.float32(side) * np.float32(scale))) for side in size)
    return height, width


def in_range_by_float32(size: Size, least: int, most: int | None, factor: int | None) -> Size:
    """TensorFlow DeepLab's resize_to_range."""
    limit = None if most is None else most - (most - 1) % (factor or 1)
    return _multiples(_in_range(size, least, limit, math.floor), factor)


def in_range_of_2019(size: Size, least: int, most: int | None, factor: int | None) -> Size:
    """That of the fork: sides are rounded up, and a limit of k * factor + 1 becomes (k - 1) * factor + 1."""
    limit = most
    if most is not None and factor is not None:
        limit = max(1, most + (factor - (most - 1) % factor) % factor - factor)
    return _multiples(_in_range(size, least, limit, math.ceil), factor)


def _in_range(size: Size, least: int, limit: int | None, whole: Any) -> Size:  # noqa: ANN401 - floor or ceil
    height, width = _rescaled(size, np.float32(least) / np.float32(min(size)), whole)
    if limit is not None and max(height, width) > limit:
        height, width = _rescaled(size, np.float32(limit) / np.float32(max(size)), whole)
    return height, width


def in_range_of_sides(size: Size, least: Size | None, most: Size | None, factor: int | None) -> Size:
    """deeplab2's resize_to_range: each side has limits of its own, and the two scalings are rounded one by one."""
    if least is not None:
        size = _rescaled(size, np.float32(max(least[0] / size[0], least[1] / size[1])), math.floor)
    if most is not None:
        height, width = (side - (side - 1) % (factor or 1) for side in most)
        size = _rescaled(size, np.float32(min(height / size[0], width / size[1], 1.0)), math.floor)
    return _multiples(size, factor)


def _rescaled(size: Size, scale: np.float32, whole: Any) -> Size:  # noqa: ANN401 - floor or ceil
    height, width = (max(1, int(whole(np.float32(side) * scale))) for side in size)
    return height, width


def _multiples(size: Size, factor: int | None) -> Size:
    """Enlarged to multiples of `factor`, plus 1."""
    step = factor or 1
    return size[0] + -(size[0] - 1) % step, size[1] + -(size[1] - 1) % step


def num_scales(low: float, high: float, step: float, *, in_float32: bool) -> int:
    """Of the evenly spaced scales. deeplab2 reads its settings in float32: 0.5 to 2 in steps of 0.1 are 15, not 16."""
    if in_float32:
        low, high, step = (float(np.float32(value)) for value in (low, high, step))
    return int((high - low) / step + 1)


# semseg: rotation and blur, as OpenCV computes them


class Turn(NamedTuple):
    """From (x, y) in the rotated image to the point of the unrotated one, in 1/1024 of a pixel."""

    size: Size
    matrix: NDArray[np.float64]  # [2, 3]


def turn(size: Size, angle: float) -> Turn:
    """Counter-clockwise by `angle` degrees about the pixel (width / 2, height / 2): half a pixel off the centre."""
    height, width = size
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    x, y = width / 2, height / 2
    return Turn(size, np.array([[cos, -sin, x - cos * x + sin * y], [sin, cos, y - sin * x - cos * y]]))


def turned_places(turned: Turn, part: Part, rounding: int) -> tuple[Indices, Indices]:
    """y, x in 1/1024 of a pixel for each pixel of `part` of the rotated image; each term is rounded by itself."""
    unit = 2.0**COORDINATE_BITS
    y, x = (np.arange(span.start, span.stop) for span in part)

    def places(row: NDArray[np.float64]) -> Indices:
        along = np.rint(row[0] * x * unit).astype(np.int64)
        down = np.rint((row[1] * y + row[2]) * unit).astype(np.int64)
        return np.asarray(down[:, None] + along + rounding)

    return places(turned.matrix[1]), places(turned.matrix[0])


def rotate(
    pixels: Pixels, axes: tuple[Axis, Axis], turned: Turn, part: Part, outside: float | Sequence[float]
) -> Pixels:
    """Rows and columns `part` of the pixels that are resampled by `axes` and then rotated, as cv2.warpAffine does."""
    is_map = pixels.ndim == 2
    bits = COORDINATE_BITS if is_map else COORDINATE_BITS - FRACTION_BITS
    y, x = (place >> bits for place in turned_places(turned, part, 2 ** (bits - 1)))
    if is_map:
        return _read_resampled(pixels, axes, y, x, outside)
    unit = 2**FRACTION_BITS
    down, across = ((place % unit).astype(np.float32) / np.float32(unit) for place in (y, x))
    return _read_resampled(pixels, axes, y // unit, x // unit, outside, (down, across))


def _read_resampled(
    pixels: Pixels,
    axes: tuple[Axis, Axis],
    y: Indices,
    x: Indices,
    outside: float | Sequence[float],
    between: tuple[Floats, Floats] | None = None,
) -> Pixels:
    """The resampled pixels at (y, x); nothing is resampled but the box around these places."""
    rows, columns = _box(y, axes[0].scaled), _box(x, axes[1].scaled)
    seen = resample(pixels, axes, (rows, columns))
    y, x = y - rows.start, x - columns.start
    return read_at(seen, y, x, outside) if between is None else read_between(seen, y, x, *between, outside)


def _box(places: Indices, side: int) -> slice:
    """From the first to the last of the places and its neighbour, within the side; never empty."""
    start = int(places.min().clip(0, side - 1))
    return slice(start, int((places.max() + 2).clip(start + 1, side)))


def blur_binomial(image: Floats) -> Floats:
    """5 x 5, the border reflected about its own pixels."""
    for axis in (0, 1):
        padding = [(2, 2) if axis == other else (0, 0) for other in range(3)]
        wide = np.pad(image, padding, "reflect")
        side = image.shape[axis]
        parts = (wide.take(range(start, start + side), axis=axis) for start in range(len(BINOMIAL)))
        image = np.sum([weight * part for weight, part in zip(BINOMIAL, parts, strict=True)], axis=0)
    return image


# The fork "forma": affine perturbation, colours, blur


def perturbed_places(crop: Size, affine: Sequence[float]) -> Points:
    """For each pixel of the crop the (y, x) that it shows, perturbed about the crop's centre.

    `affine` is what is added to the identity [[1, 0, 0], [0, 1, 0]], row by row: the third of each is in pixels.
    """
    a, b, right, c, d, down = affine
    y, x = np.mgrid[: crop[0], : crop[1]].astype(np.float64)
    middle_y, middle_x = (crop[0] - 1) / 2, (crop[1] - 1) / 2
    from_y, from_x = y - middle_y, x - middle_x
    return y + c * from_x + d * from_y + down, x + a * from_x + b * from_y + right


def read_points(pixels: Pixels, points: Points, outside: float | Sequence[float]) -> Pixels:
    """An image between its pixels, a map at the nearest one, halves away from zero."""
    y, x = points
    if pixels.ndim == 2:
        near_y, near_x = (np.trunc(place + np.copysign(0.5, place)).astype(np.int64) for place in points)
        return read_at(pixels, near_y, near_x, outside)
    low_y, low_x = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
    down, across = (y - low_y).astype(np.float32), (x - low_x).astype(np.float32)
    return read_between(pixels, low_y, low_x, down, across, outside)


def turn_hue(image: Floats, turns: float) -> Floats:
    """tf.image.adjust_hue: hue in HSV, so that the largest and smallest of R, G, B stay what they are."""
    hue, saturation, value = _to_hsv(image)
    return _from_hsv((hue + np.float32(turns)) % 1, saturation, value)


def scale_saturation(image: Floats, factor: float) -> Floats:
    """tf.image.adjust_saturation: that of HSV, at most 1."""
    hue, saturation, value = _to_hsv(image)
    return _from_hsv(hue, (saturation * np.float32(factor)).clip(0, 1), value)


def scale_contrast(image: Floats, factor: float) -> Floats:
    """tf.image.adjust_contrast: about the mean of each channel, padding included."""
    mean = image.mean((0, 1), dtype=np.float64).astype(np.float32)
    return np.asarray((image - mean) * np.float32(factor) + mean)


def _to_hsv(image: Floats) -> tuple[Floats, Floats, Floats]:
    """Hue in turns, saturation 0 to 1, value on the image's own scale; a grey has hue 0."""
    red, green, blue = np.moveaxis(image, -1, 0)
    value = image.max(-1)
    span = value - image.min(-1)
    safe = np.where(span > 0, span, 1)
    hue = np.select(
        [span == 0, value == red, value == green],
        [np.float32(0), (green - blue) / safe / 6, (blue - red) / safe / 6 + 1 / 3],
        (red - green) / safe / 6 + 2 / 3,
    )
    return (hue % 1).astype(np.float32), span / np.where(value > 0, value, 1), value


def _from_hsv(hue: Floats, saturation: Floats, value: Floats) -> Floats:
    """Each channel is a trapezoid over the hue: 1 for a third of the wheel, 0 for a third, a slope between."""
    centers = np.array([0, 1 / 3, 2 / 3], np.float32)
    distance = np.abs((hue[..., None] - centers + 0.5) % 1 - 0.5)  # turns to pure red, green, blue
    strength = (2 - 6 * distance).clip(0, 1)
    return np.asarray(value[..., None] * (1 - saturation[..., None] * (1 - strength)), np.float32)


def blur_area(image: Floats, factor: float) -> Floats:
    """Shrunk to 1 / `factor` by the mean of the area, and enlarged again between aligned corners."""
    height, width = image.shape[:2]
    rows, columns = (max(1, int(side / factor)) for side in (height, width))
    small = np.einsum("yh,hwk->ywk", _area_weights(height, rows), image, optimize=True)
    small = np.einsum("xw,ywk->yxk", _area_weights(width, columns), small, optimize=True)
    return resample(small, (aligned_axis(rows, height), aligned_axis(columns, width)), whole((height, width)))


def _area_weights(side: int, scaled: int) -> Floats:  # [scaled, side]
    """The share of each source pixel in each pixel of a shrunk side."""
    step = side / scaled
    starts = np.arange(scaled)[:, None] * step
    pixels = np.arange(side)
    overlap = np.minimum(pixels + 1, starts + step) - np.maximum(pixels, starts)
    return np.asarray(overlap.clip(0) / step, np.float32)


def whole(size: Size) -> Part:
    return slice(0, size[0]), slice(0, size[1])


def to_bytes(image: Pixels) -> Image:
    """Rounded: images cross to the device as bytes, those of the originals as float32."""
    return np.asarray(np.rint(image.clip(0, 255)), np.uint8)
