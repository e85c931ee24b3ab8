"""Training augmentation as pure functions, in this order: resize to a range, scale, rotate, blur, crop, AutoAugment,
pad, flip, colour, noise.

Resizing and scaling are one resampling, and the crop comes first: its window is computed before any pixel is read, and
only that window is resampled, with the pixels around it that a blur needs. Up to rounding, the result is that of
resizing the whole image and then cropping it (`resize_then_crop`). `style` has the original programs' ways instead.
"""

import math
from collections.abc import Callable, Mapping
from fractions import Fraction as Ratio
from functools import partial
from typing import Protocol

import numpy as np

from atrous.data import autoaugment, opencv
from atrous.data.augment_config import AugmentConfig as AugmentConfig
from atrous.data.augment_config import Kernel, Padding, Resampling, Style, both_sides
from atrous.data.choices import Choice, choose, variation_of
from atrous.data.colors import add_noise, blur, blur_reach, jitter_colors
from atrous.data.geometry import cut_legs, each, flip, flip_vertically, pad_to
from atrous.data.original_styles import as_deeplab2, as_forma, as_semseg, as_tf_deeplab
from atrous.data.strips import whole
from atrous.data.windows import (
    Pixels,
    Window,
    cut_out,
    perturbation_of,
    resample_window,
    rotate_window,
    scaled_window,
    widened,
)
from atrous.types import Color, Image, Sample, Size


def augment(sample: Sample, config: AugmentConfig, rng: np.random.Generator, *, fill: Color, ignore: int) -> Sample:
    """A random variation of size `config.crop`; padding has the colour `fill`, the label `ignore` and no thing."""
    _require_same_size(sample)
    choice = choose(config, rng)
    sample = sample if config.style == "atrous" else whole(sample)  # the others work on whole images
    if choice.legs is not None and sample.landmarks is not None:
        sample = cut_legs(sample, choice.legs, fill, ignore, is_certain=config.style != "atrous")
    return STYLES[config.style](sample._replace(landmarks=None), choice, config, fill, ignore)


def require_packages(config: AugmentConfig) -> None:
    """Raises ConfigError, before the work begins, if an optional package that these settings need isn't installed."""
    if config.resampling == "opencv":
        opencv.require()


class InStyle(Protocol):
    def __call__(
        self, sample: Sample, choice: Choice, config: AugmentConfig, fill: Color, ignore: int, /
    ) -> Sample: ...


def crop_first(sample: Sample, choice: Choice, config: AugmentConfig, fill: Color, ignore: int) -> Sample:
    """Our own style; with `colors_on=device`, colours, blur and noise are left to `batch_transforms`."""
    is_finished = config.colors_on == "cpu"
    size = stretched(resized_size(sample.image.shape[:2], config), choice.aspect)
    seen = choice if is_finished else choice._replace(blur=0.0)
    distort = partial(autoaugment.distort, magnitude=config.autoaugment, chances=choice.policy, exact=False)
    sample = scale_and_crop(
        sample,
        seen,
        config.crop,
        fill,
        ignore,
        size,
        config.blur_kernel,
        config.padding,
        config.resampling,
        distort if config.autoaugment else unchanged,
    )
    sample = flip(sample) if choice.flip else sample
    sample = flip_vertically(sample) if choice.flip_vertical else sample
    if not is_finished:
        return sample._replace(variation=variation_of(choice))
    image = jitter_colors(sample.image, choice.brightness, choice.contrast, choice.saturation, choice.hue)
    image = add_noise(image, config.noise, np.random.default_rng(choice.noise_seed))
    return sample._replace(image=image)


def resized_size(size: tuple[int, ...], config: AugmentConfig) -> Size:
    """Height and width after resizing to a range, rounded down as in TensorFlow DeepLab's `resize_to_range`."""
    height, width = size
    if config.resize_to is not None:
        return config.resize_to
    if config.resize_min is None and config.resize_max is None:
        return height, width
    step, scale = config.resize_factor or 1, Ratio(1)
    if config.resize_min is not None:
        least = both_sides(config.resize_min)
        scale = max(Ratio(least[0], height), Ratio(least[1], width))
    if config.resize_max is not None:
        most = [side - (side - 1) % step for side in both_sides(config.resize_max)]
        if int(height * scale) > most[0] or int(width * scale) > most[1]:
            scale = min(Ratio(most[0], height), Ratio(most[1], width))
    height, width = (max(1, int(side * scale)) for side in (height, width))  # rational numbers: nothing to round
    return height + -(height - 1) % step, width + -(width - 1) % step


def stretched(size: Size, aspect: float) -> Size:
    """Another ratio of width to height, the same area."""
    if aspect == 1:
        return size
    return max(1, round(size[0] / math.sqrt(aspect))), max(1, round(size[1] * math.sqrt(aspect)))


def unchanged(image: Image) -> Image:
    return image


def scale_and_crop(
    sample: Sample,
    choice: Choice,
    crop: tuple[int, int],
    fill: Color,
    ignore: int,
    size: tuple[int, int] | None = None,
    kernel: Kernel = "gaussian",
    padding: Padding = "bottom_right",
    resampling: Resampling = "exact",
    distort: Callable[[Image], Image] = unchanged,
) -> Sample:
    """Scale, rotate about the centre, blur, crop, `distort` the image, pad: image and maps in one geometry.

    `size` (height, width) is the size that is scaled; None: the sample's own.
    """
    window = scaled_window(size or sample.image.shape[:2], choice.scale, crop, choice.place)
    wide = widened(window, blur_reach(choice.blur, kernel))
    perturbation = perturbation_of(window, choice.affine) if choice.affine else None

    def sample_window(pixels: Pixels, part: Window, outside: int | Color) -> Pixels:
        if choice.angle or perturbation is not None:
            return rotate_window(pixels, part, choice.angle, outside, perturbation, resampling)
        return resample_window(pixels, part, resampling)

    def cut(pixels: Pixels, outside: int | Color) -> Pixels:
        if pixels.ndim < 3:
            return sample_window(pixels, window, outside)
        blurred = blur(sample_window(pixels, wide, outside), choice.blur, kernel)
        return distort(cut_out(blurred, window._replace(top=window.top - wide.top, left=window.left - wide.left)))

    return pad_to(each(sample, cut, fill, ignore), *crop, fill, ignore, padding, choice.margin)


def _require_same_size(sample: Sample) -> None:
    """A layout must not return such samples, so this is not the user's error."""
    height, width = sample.image.shape[:2]
    for what, labels in (("label map", sample.semantic), ("instance map", sample.instance)):
        if labels is not None and labels.shape != (height, width):
            size = " x ".join(map(str, labels.shape))
            raise ValueError(
                f"{sample.name}: the {what} is {size}, the image {height} x {width}; their sizes must be equal"
            )


STYLES: Mapping[Style, InStyle] = {
    "atrous": crop_first,
    "tf_deeplab": as_tf_deeplab,
    "deeplab2": as_deeplab2,
    "semseg": as_semseg,
    "forma": as_forma,
}
