"""A window of a scaled and rotated image, resampled without the rest of it."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray

from atrous.data import opencv
from atrous.data.augment_config import Resampling
from atrous.types import Color, Image

Pixels = NDArray[Any]  # an image [H, W, 3], which is smoothed, or a label or instance map [H, W], which is not
Matrix = NDArray[np.float64]  # [3, 3], for (x, y, 1) or for colours
NEAR, TRIES = 1 / 256, 512  # source pixels that a fast resampling may be off by; starts that are tried for that
FAR = 2048  # starts that are tried for OpenCV, since the other way is ten times slower


class Window(NamedTuple):
    """A part of a scaled image, in pixels of the scaled image."""

    scaled: tuple[int, int]  # height, width of the whole image after scaling
    top: int
    left: int
    height: int
    width: int


def scaled_window(size: tuple[int, ...], scale: float, crop: tuple[int, int], place: tuple[float, float]) -> Window:
    """The crop in the scaled image; uniform `place` (y, x), 0 <= place < 1, makes all positions equally likely."""
    height, width = (max(1, int(side * scale)) for side in size)
    rows, columns = min(crop[0], height), min(crop[1], width)
    top, left = int(place[0] * (height - rows + 1)), int(place[1] * (width - columns + 1))
    return Window((height, width), top, left, rows, columns)


def resample_window(pixels: Pixels, window: Window, resampling: Resampling = "exact") -> Pixels:
    """`resize_then_crop` at the cost of the crop alone: bilinear and antialiased for an image, nearest for a map."""
    if pixels.shape[:2] == window.scaled:
        return cut_out(pixels, window).copy()
    if pixels.ndim < 3:
        return _resample_map(pixels, window)
    image = RESAMPLINGS[resampling](pixels, window)
    return _resample_image(pixels, window) if image is None else image


def resize_then_crop(pixels: Pixels, window: Window) -> Pixels:
    """The slow, obvious version of `resample_window`."""
    height, width = window.scaled
    resample = PIL.Image.Resampling.BILINEAR if pixels.ndim == 3 else PIL.Image.Resampling.NEAREST
    return cut_out(np.array(PIL.Image.fromarray(pixels).resize((width, height), resample)), window)


def rotate_window(
    pixels: Pixels,
    window: Window,
    angle: float,
    outside: int | Color,
    perturbation: Matrix | None = None,
    resampling: Resampling = "exact",
) -> Pixels:
    """The window of the image that is scaled, then rotated about its centre by `angle` degrees counter-clockwise.

    The size stays the same. A `perturbation` maps each point (x, y, 1) of the result to the one it shows. This is a
    single affine resampling, except that if the image shrinks, its visible part is first shrunk with antialiasing.
    """
    is_image = pixels.ndim == 3
    grid = _smaller(pixels.shape[:2], window.scaled) if is_image else (pixels.shape[0], pixels.shape[1])
    matrix = _window_to_grid(window, angle, grid, perturbation)
    part = _visible(matrix, window, grid)
    matrix = _shift(-part.left, -part.top) @ matrix
    return np.array(
        PIL.Image.fromarray(resample_window(pixels, part, resampling)).transform(
            (window.width, window.height),
            PIL.Image.Transform.AFFINE,
            tuple(matrix[:2].ravel()),
            PIL.Image.Resampling.BILINEAR if is_image else PIL.Image.Resampling.NEAREST,
            fillcolor=outside,
        )
    )


def widened(window: Window, by: int) -> Window:
    """The window with up to `by` pixels around it, within the image."""
    top, left = max(0, window.top - by), max(0, window.left - by)
    bottom, right = (
        min(side, start + length + by)
        for side, start, length in zip(
            window.scaled, (window.top, window.left), (window.height, window.width), strict=True
        )
    )
    return Window(window.scaled, top, left, bottom - top, right - left)


def cut_out(pixels: Pixels, window: Window) -> Pixels:
    return pixels[window.top : window.top + window.height, window.left : window.left + window.width]


def _resample_image(image: Image, window: Window) -> Image:
    rows, top, bottom = _source_span(image.shape[0], window.scaled[0], window.top, window.height)
    columns, left, right = _source_span(image.shape[1], window.scaled[1], window.left, window.width)
    part = PIL.Image.fromarray(image[rows, columns])
    size = (window.width, window.height)
    return np.array(part.resize(size, PIL.Image.Resampling.BILINEAR, box=(left, top, right, bottom)))


def _source_span(side: int, scaled: int, start: int, length: int) -> tuple[slice, float, float]:
    """The source pixels that contribute to `length` scaled ones, and the exact ends of these among them."""
    first, last = start * side / scaled, (start + length) * side / scaled
    reach = math.ceil(max(1, side / scaled))  # half the width of the triangle filter, which grows as the image shrinks
    span = slice(max(0, math.floor(first) - reach), min(side, math.ceil(last) + reach))
    return span, first - span.start, last - span.start


class _Grid(NamedTuple):
    """One side of a window, resampled from a source pixel that (nearly) begins a scaled one."""

    source: slice
    num_before: int  # scaled pixels that are computed before the window
    length: int  # of these and the window
    scale: float


def _resample_image_fast(image: Image, window: Window) -> Image | None:
    """By PyTorch's kernel, which knows no part of a pixel to begin at: so a little more is computed, and cut off.

    None where no near beginning fits.
    """
    rows = _grid(image.shape[0], window.scaled[0], window.top, window.height)
    columns = _grid(image.shape[1], window.scaled[1], window.left, window.width)
    if rows is None or columns is None:
        return None
    part = torch.from_numpy(image[rows.source, columns.source]).permute(2, 0, 1)[None]
    size, scales = [rows.length, columns.length], (rows.scale, columns.scale)
    planes = torch.ops.aten._upsample_bilinear2d_aa(part, size, False, *scales)[0]
    window_of_planes = planes[:, rows.num_before :, columns.num_before :].contiguous()
    return np.asarray(window_of_planes.permute(1, 2, 0).numpy())  # planes in memory, as a batch has them


def _resample_image_opencv(image: Image, window: Window) -> Image | None:
    """By OpenCV, which knows no part of a pixel to begin at either; by Pillow where no near beginning fits."""
    rows = _centered_grid(image.shape[0], window.scaled[0], window.top, window.height)
    columns = _centered_grid(image.shape[1], window.scaled[1], window.left, window.width)
    if rows is None or columns is None or opencv.is_copy(rows.source, columns.source, (rows.scale, columns.scale)):
        return _resample_image_affine(image, window)
    pixels = opencv.resized(image[rows.source, columns.source], (rows.scale, columns.scale))
    return pixels[rows.num_before : rows.length, columns.num_before : columns.length]


def _resample_image_affine(image: Image, window: Window) -> Image:
    """The same without antialiasing as OpenCV computes, whatever its place; ten times slower."""
    rows, top, bottom = _source_span(image.shape[0], window.scaled[0], window.top, window.height)
    columns, left, right = _source_span(image.shape[1], window.scaled[1], window.left, window.width)
    matrix = ((right - left) / window.width, 0, left, 0, (bottom - top) / window.height, top)
    size, bilinear = (window.width, window.height), PIL.Image.Resampling.BILINEAR
    part = PIL.Image.fromarray(image[rows, columns])
    return np.array(part.transform(size, PIL.Image.Transform.AFFINE, matrix, bilinear))


RESAMPLINGS: Mapping[Resampling, Callable[[Image, Window], Image | None]] = {
    "exact": _resample_image,
    "fast": _resample_image_fast,
    "opencv": _resample_image_opencv,
}


def _grid(side: int, scaled: int, start: int, length: int) -> _Grid | None:
    step = side / scaled
    reach = math.ceil(max(1, step))
    begin = _near_start(step, start - math.ceil(reach / step) - 1)
    if begin is None:
        return None
    first, end = round(begin * step), min(side, math.ceil((start + length) * step) + reach)
    end += int(end - first == start + length - begin)  # of as many pixels as it returns, the kernel makes a mere copy
    if end > side and side != scaled:
        return None
    return _Grid(slice(first, end), start - begin, start + length - begin, 1 / step)


def _centered_grid(side: int, scaled: int, start: int, length: int) -> _Grid | None:
    """A scale that differs so little that the middle of the window is in place, and all of it to NEAR / 2.

    None where that would take more than FAR pixels before the window.
    """
    step = side / scaled
    last = max(0, start - math.ceil(1 / step) - 1)
    starts = np.arange(last, max(-1, last - FAR), -1)
    errors, middles = np.round(starts * step) - starts * step, start - starts + length / 2
    near = np.flatnonzero(np.abs(errors) * length / 2 / middles < NEAR / 2)  # at the window's ends
    if not near.size:
        return None
    begin, scale = int(starts[near[0]]), 1 / (step - errors[near[0]] / middles[near[0]])
    end = min(side, math.ceil((start + length) * step) + 2)
    return _Grid(slice(round(begin * step), end), start - begin, start + length - begin, float(scale))


def _near_start(step: float, last: int) -> int | None:
    """A scaled pixel, `last` or one of those before it, that begins where a source pixel does, or nearly."""
    if last <= 0:
        return 0
    starts = np.arange(last, max(-1, last - TRIES), -1)
    distances = np.abs(starts * step - np.round(starts * step))
    near = np.flatnonzero(distances < NEAR)
    if not near.size:
        return 0 if last < TRIES else None
    exact = np.flatnonzero(distances[near[0] : near[0] + 8] < 1e-9)
    return int(starts[near[0] + (exact[0] if exact.size else 0)])


def _resample_map(labels: Pixels, window: Window) -> Pixels:
    rows = _nearest(labels.shape[0], window.scaled[0], window.top, window.height)
    columns = _nearest(labels.shape[1], window.scaled[1], window.left, window.width)
    part: Pixels = labels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    rows, columns = rows - rows[0], columns - columns[0]
    if len(part) < len(rows):  # columns take long: they are taken while there are fewer rows
        return np.asarray(part.take(columns, axis=1).take(rows, axis=0))
    return np.asarray(part.take(rows, axis=0).take(columns, axis=1))


def _nearest(side: int, scaled: int, start: int, length: int) -> NDArray[np.int64]:
    """The source pixel under each scaled pixel's centre, in integers: centres often lie exactly on borders."""
    return (2 * np.arange(start, start + length) + 1) * side // (2 * scaled)


def _smaller(size: tuple[int, ...], other: tuple[int, int]) -> tuple[int, int]:
    return min(size[0], other[0]), min(size[1], other[1])


def perturbation_of(window: Window, affine: tuple[float, ...]) -> Matrix:
    """For (x, y, 1) in the scaled image: about the window's centre; shifts are shares of the window."""
    x, y = window.left + window.width / 2, window.top + window.height / 2
    rows = np.reshape(affine, (2, 3)) * [[1, 1, window.width], [1, 1, window.height]]
    return np.asarray(_shift(x, y) @ (np.eye(3) + np.vstack([rows, np.zeros(3)])) @ _shift(-x, -y))


def _window_to_grid(window: Window, angle: float, grid: tuple[int, int], perturbation: Matrix | None = None) -> Matrix:
    """From (x, y) in the window to the point of the unrotated image that it shows, in coordinates of `grid`."""
    height, width = window.scaled
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    about_center = _shift(width / 2, height / 2) @ turn @ _shift(window.left - width / 2, window.top - height / 2)
    if perturbation is not None:
        from_window = _shift(window.left, window.top)
        about_center = about_center @ np.linalg.inv(from_window) @ perturbation @ from_window
    to_grid = np.diag([grid[1] / width, grid[0] / height, 1.0])
    return np.asarray(to_grid @ about_center)


def _shift(x: float, y: float) -> Matrix:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], dtype=np.float64)


def _visible(matrix: Matrix, window: Window, grid: tuple[int, int]) -> Window:
    """The bounding box, in the grid, of what the window shows, with a margin of two pixels; never empty."""
    right, bottom = window.width, window.height
    corners = matrix @ np.array([[0, right, 0, right], [0, 0, bottom, bottom], [1, 1, 1, 1]])
    low, high = np.floor(corners.min(1)).astype(int) - 2, np.ceil(corners.max(1)).astype(int) + 2
    left, top = (int(np.clip(low[axis], 0, grid[1 - axis] - 1)) for axis in (0, 1))
    right, bottom = (int(np.clip(high[axis], 1, grid[1 - axis])) for axis in (0, 1))
    return Window(grid, top, left, max(1, bottom - top), max(1, right - left))
