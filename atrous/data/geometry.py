"""What moves or removes pixels of an image and of its maps alike: padding, flips, legs that are cut off."""

from collections.abc import Callable, Mapping

import numpy as np
import torch

from atrous.data import originals
from atrous.data.augment_config import Margin
from atrous.data.windows import Pixels
from atrous.types import Color, Sample

LEGS = ((8, 9), (11, 12))  # joints of the right and of the left hip and knee


def cut_legs(sample: Sample, shares: tuple[float, float], fill: Color, ignore: int, *, is_certain: bool) -> Sample:
    """All below the line between a point of each leg becomes padding.

    A joint at (0, 0) is unknown, unless `is_certain`, as in the fork "forma", whose step this is.
    """
    joints = sample.landmarks
    if joints is None or len(joints) <= max(LEGS[1]) or not np.isfinite(joints[np.ravel(LEGS)]).all():
        return sample
    if not is_certain and (joints[np.ravel(LEGS)] == 0).all(1).any():
        return sample
    (x, y), (other_x, other_y) = (
        share * joints[hip].astype(np.float64) + (1 - share) * joints[knee]
        for share, (hip, knee) in zip(shares, LEGS, strict=True)
    )
    if x == other_x:
        return sample
    height, width = sample.image.shape[:2]
    line = y + (np.arange(width) - x) * (other_y - y) / (other_x - x)
    below = (np.arange(height)[:, None] - line + 0.5).clip(0, 1)  # the share of a pixel, for a smooth edge

    def cut(pixels: Pixels, outside: int | Color) -> Pixels:
        pixels = pixels[:, :]
        if pixels.ndim == 3:
            return originals.to_bytes(pixels + below[..., None] * (np.asarray(outside) - pixels))
        return np.where(below > 0.5, np.asarray(outside, pixels.dtype), pixels)

    return each(sample, cut, fill, ignore)


def pad_to(
    sample: Sample,
    height: int,
    width: int,
    fill: Color,
    ignore: int,
    padding: Margin = "bottom_right",
    margin: tuple[float, float] = (0.0, 0.0),
) -> Sample:
    """At least `height` x `width`; around, an odd pixel is added at the bottom or right, as in the originals.

    `margin` (y, x), from 0 to 1 (excluded), is the share at the top and left of random padding.
    """

    def pad(pixels: Pixels, outside: int | Color) -> Pixels:
        rows, columns = pixels.shape[:2]
        if rows >= height and columns >= width:
            return pixels
        canvas = np.empty_like(pixels, shape=(max(rows, height), max(columns, width), *pixels.shape[2:]))
        top = MARGINS[padding](canvas.shape[0] - rows, margin[0])
        left = MARGINS[padding](canvas.shape[1] - columns, margin[1])
        canvas[:] = np.full_like(canvas[0], outside)  # row by row is ten times faster than pixel by pixel
        canvas[top : top + rows, left : left + columns] = pixels
        return canvas

    return each(sample, pad, fill, ignore)


MARGINS: Mapping[Margin, Callable[[int, float], int]] = {  # padding along a side, chance -> what is before the image
    "bottom_right": lambda extra, chance: 0,
    "around": lambda extra, chance: extra // 2,
    "random": lambda extra, chance: int(chance * (extra + 1)),
    "random_short": lambda extra, chance: int(chance * max(extra, 1)),
}


def flip_vertically(sample: Sample) -> Sample:
    """Up becomes down."""
    return each(sample, lambda pixels, _: np.ascontiguousarray(pixels[::-1]), (0, 0, 0), 0)


def flip(sample: Sample) -> Sample:
    """Left becomes right."""
    return each(sample, lambda pixels, _: torch.from_numpy(pixels).flip(1).numpy(), (0, 0, 0), 0)  # NumPy: 10 x slower


def each(sample: Sample, change: Callable[[Pixels, int | Color], Pixels], fill: Color, ignore: int) -> Sample:
    """`change` the image, labels and things that a sample has, each with the value of its padding."""
    return sample._replace(
        image=change(sample.image, fill),
        semantic=None if sample.semantic is None else change(sample.semantic, ignore),
        instance=None if sample.instance is None else change(sample.instance, 0),
    )
