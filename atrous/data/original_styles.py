"""Augmentation as the original programs do it: each step on float32, in their order, rounded to bytes at the end."""

import math

import numpy as np

from atrous.data import autoaugment, originals
from atrous.data.augment_config import ORIGINALS, AugmentConfig, both_sides
from atrous.data.choices import Choice
from atrous.data.colors import blur_reach
from atrous.data.geometry import each, flip, flip_vertically, pad_to
from atrous.data.windows import Pixels, Window, cut_out, scaled_window, widened
from atrous.types import Color, Sample, Size


def as_tf_deeplab(sample: Sample, choice: Choice, config: AugmentConfig, fill: Color, ignore: int) -> Sample:
    """TensorFlow DeepLab: scale, pad, crop, flip."""
    sample, scaled = _before_crop(sample, choice, config)
    window = scaled_window(scaled, 1.0, config.crop, choice.place)
    sample = pad_to(_resampled(sample, scaled, window), *config.crop, fill, ignore)
    return _in_bytes(flip(sample) if choice.flip else sample)


def as_deeplab2(sample: Sample, choice: Choice, config: AugmentConfig, fill: Color, ignore: int) -> Sample:
    """deeplab2: scale, AutoAugment on the whole image, pad, crop, flip. The padding is never all before the image."""
    sample, scaled = _before_crop(sample, choice, config)
    window = scaled_window(scaled, 1.0, config.crop, choice.place)
    if config.autoaugment:
        sample = _resampled(sample, scaled)
        image = sample.image.astype(np.uint8)  # cut off, as there
        sample = sample._replace(image=autoaugment.distort(image, config.autoaugment, choice.policy, exact=True))
    sample = _resampled(sample, scaled, window)
    sample = pad_to(sample, *config.crop, fill, ignore, "random_short", choice.margin)
    return _in_bytes(flip(sample) if choice.flip else sample)


def as_forma(sample: Sample, choice: Choice, config: AugmentConfig, fill: Color, ignore: int) -> Sample:
    """The fork: scale, pad, a crop that is perturbed about its centre, flip, colours, blur, noise.

    Brightness is added on the scale 0..1 to values of 0..255, and the noise is one number for the image, so that both
    change nothing that can be seen.
    """
    sample, scaled = _before_crop(sample, choice, config)
    sample = pad_to(_resampled(sample, scaled), *config.crop, fill, ignore)
    sample = _perturbed_crop(sample, choice, config.crop)
    sample = flip(sample) if choice.flip else sample
    image = originals.turn_hue(sample.image.astype(np.float32), choice.hue)
    image = originals.scale_saturation(image, choice.saturation) + np.float32(choice.brightness - 1)
    image = originals.scale_contrast(image, choice.contrast)
    image = originals.blur_area(image, choice.blur) if choice.blur else image
    image = image + np.float32(np.random.default_rng(choice.noise_seed).normal(0, config.noise))
    return sample._replace(image=originals.to_bytes(image))


def as_semseg(sample: Sample, choice: Choice, config: AugmentConfig, fill: Color, ignore: int) -> Sample:
    """semseg: scale, rotate, blur, flip, pad, crop, as OpenCV 4 computes them."""
    sample = _resized_opencv(sample, config.resize_to or sample.image.shape[:2])
    axes = _opencv_axes(sample, choice)
    scaled = (axes[0].scaled, axes[1].scaled)
    window = _flipped(scaled_window(scaled, 1.0, config.crop, choice.place), choice)
    wide = widened(window, blur_reach(choice.blur, "binomial"))
    turned = originals.turn(scaled, choice.angle)

    def cut(pixels: Pixels, outside: int | Color) -> Pixels:
        part = _part(wide if pixels.ndim == 3 else window)
        if choice.angle:
            pixels = originals.rotate(pixels, axes, turned, part, outside)
        else:
            pixels = originals.resample(pixels, axes, part)
        if pixels.ndim < 3:
            return pixels
        pixels = originals.blur_binomial(pixels) if choice.blur else pixels
        return cut_out(pixels, window._replace(top=window.top - wide.top, left=window.left - wide.left))

    sample = each(sample, cut, fill, ignore)
    sample = flip(sample) if choice.flip else sample
    sample = flip_vertically(sample) if choice.flip_vertical else sample
    return _in_bytes(pad_to(sample, *config.crop, fill, ignore, "around"))


def ranged_size(size: tuple[int, ...], config: AugmentConfig) -> Size:
    """Height and width after resizing to a range, as the original rounds them."""
    height, width = size
    least, most, factor = config.resize_min, config.resize_max, config.resize_factor
    if least is None and most is None:
        return height, width
    if ORIGINALS[config.style].is_by_side:
        lows, highs = (None if value is None else both_sides(value) for value in (least, most))
        return originals.in_range_of_sides((height, width), lows, highs, factor)
    in_range = originals.in_range_of_2019 if config.style == "forma" else originals.in_range_by_float32
    assert isinstance(least, int)
    assert not isinstance(most, tuple)
    return in_range((height, width), least, most, factor)


def _before_crop(sample: Sample, choice: Choice, config: AugmentConfig) -> tuple[Sample, Size]:
    """TensorFlow's: the sample resized to its range, and its size after the random scale."""
    height, width = size = ranged_size(sample.image.shape[:2], config)
    sample = _resampled(sample, size)
    return sample, originals.scaled_by_float32((height, width), choice.scale)


def _resampled(sample: Sample, size: Size, window: Window | None = None) -> Sample:
    """The window of the sample that is resized with aligned corners; None: all of it."""
    height, width = sample.image.shape[:2]
    part = originals.whole(size) if window is None else _part(window)
    if (height, width) == size:
        return each(sample, lambda pixels, _: pixels[part], (0, 0, 0), 0)
    axes = (originals.aligned_axis(height, size[0]), originals.aligned_axis(width, size[1]))
    return each(sample, lambda pixels, _: originals.resample(pixels, axes, part), (0, 0, 0), 0)


def _perturbed_crop(sample: Sample, choice: Choice, crop: Size) -> Sample:
    """Beyond the image lies grey with the label 255, whatever the network's mean and the ignored label are."""
    window = scaled_window(sample.image.shape[:2], 1.0, crop, choice.place)
    if not choice.affine:
        return each(sample, lambda pixels, _: cut_out(pixels, window), (0, 0, 0), 0)
    y, x = originals.perturbed_places(crop, choice.affine)
    points = (y + window.top, x + window.left)

    def read(pixels: Pixels, outside: float | Color) -> Pixels:
        pixels = pixels.astype(np.float32) if pixels.ndim == 3 else pixels
        return originals.read_points(pixels, points, 127.5 if pixels.ndim == 3 else outside)

    return each(sample, read, (0, 0, 0), 255)


def _resized_opencv(sample: Sample, size: tuple[int, ...]) -> Sample:
    height, width = sample.image.shape[:2]
    if size == (height, width):
        return sample
    axes = (originals.opencv_axis_to(height, size[0]), originals.opencv_axis_to(width, size[1]))
    part = originals.whole((size[0], size[1]))
    return each(sample, lambda pixels, _: originals.resample(pixels, axes, part), (0, 0, 0), 0)


def _opencv_axes(sample: Sample, choice: Choice) -> tuple[originals.Axis, originals.Axis]:
    height, width = sample.image.shape[:2]
    stretch = math.sqrt(choice.aspect)
    return (
        originals.opencv_axis(height, choice.scale / stretch),
        originals.opencv_axis(width, choice.scale * stretch),
    )


def _flipped(window: Window, choice: Choice) -> Window:
    """The place of a window of the flipped image in the image."""
    height, width = window.scaled
    top = height - window.height - window.top if choice.flip_vertical else window.top
    left = width - window.width - window.left if choice.flip else window.left
    return window._replace(top=top, left=left)


def _part(window: Window) -> originals.Part:
    rows = slice(window.top, window.top + window.height)
    return rows, slice(window.left, window.left + window.width)


def _in_bytes(sample: Sample) -> Sample:
    maps = each(sample, lambda pixels, _: np.ascontiguousarray(pixels), (0, 0, 0), 0)
    return maps._replace(image=originals.to_bytes(maps.image))
