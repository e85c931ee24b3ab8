"""Augmentation the slow, obvious way: exact arithmetic, one pixel at a time, each step on the whole image."""

from fractions import Fraction
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from atrous.data.choices import Choice
from atrous.data.colors import blur
from atrous.data.geometry import flip, pad_to
from atrous.data.windows import Window, resample_window, resize_then_crop, rotate_window, scaled_window
from atrous.types import Color, Image, Sample


def nearest_by_definition(labels: NDArray[Any], window: Window) -> list[list[int]]:
    """The label under each scaled pixel's centre."""
    rows, columns = (Fraction(side, scaled) for side, scaled in zip(labels.shape, window.scaled, strict=True))
    half = Fraction(1, 2)
    return [
        [
            int(labels[int((y + half) * rows), int((x + half) * columns)])
            for x in range(window.left, window.left + window.width)
        ]
        for y in range(window.top, window.top + window.height)
    ]


def resize_rotate_crop(pixels: NDArray[Any], window: Window, angle: float, outside: int | Color) -> NDArray[Any]:
    resample = PIL.Image.Resampling.BILINEAR if pixels.ndim == 3 else PIL.Image.Resampling.NEAREST
    whole = PIL.Image.fromarray(resize_then_crop(pixels, Window(window.scaled, 0, 0, *window.scaled)))
    rotated = np.array(whole.rotate(angle, resample, fillcolor=outside))
    return rotated[window.top : window.top + window.height, window.left : window.left + window.width]


def binomial_by_definition(image: Image) -> Image:
    """Each pixel is the weighted mean of 5 x 5, the image reflected about its border pixels."""
    height, width = image.shape[:2]
    blurred = np.zeros(image.shape)
    for y, x in np.ndindex(height, width):
        for i, j in np.ndindex(5, 5):
            row, column = abs(y + i - 2), abs(x + j - 2)
            row, column = min(row, 2 * (height - 1) - row), min(column, 2 * (width - 1) - column)
            blurred[y, x] += image[row, column].astype(float) * [1, 4, 6, 4, 1][i] * [1, 4, 6, 4, 1][j] / 256
    return blurred.round().astype(np.uint8)


def in_the_order_of_semseg(whole: Sample, choice: Choice, crop: tuple[int, int], fill: Color, ignore: int) -> Sample:
    """Scale, rotate, blur, flip, pad and crop; without an instance map."""
    all_of = scaled_window(whole.image.shape[:2], choice.scale, (999, 999), (0, 0))

    def scaled(pixels: Image, outside: int | Color) -> Image:
        return rotate_window(pixels, all_of, choice.angle, outside) if choice.angle else resample_window(pixels, all_of)

    assert whole.semantic is not None
    image = blur(scaled(whole.image, fill), choice.blur, "binomial")
    step = Sample("whole", image, scaled(whole.semantic, ignore))
    padded = pad_to(flip(step) if choice.flip else step, *crop, fill, ignore, "around")
    assert padded.semantic is not None
    top, left = (
        int(place * (side - length + 1))
        for place, side, length in zip(choice.place, padded.semantic.shape, crop, strict=True)
    )
    left = padded.semantic.shape[1] - crop[1] - left if choice.flip else left  # places are in the image before the flip
    part = (slice(top, top + crop[0]), slice(left, left + crop[1]))
    return Sample("cropped", padded.image[part], padded.semantic[part])
