"""The random choices of an augmentation: all that it leaves to chance is drawn here."""

from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from atrous.data import originals
from atrous.data.augment_config import AugmentConfig


class Choice(NamedTuple):
    """The random choices for one sample."""

    scale: float
    angle: float  # degrees, counter-clockwise
    place: tuple[float, float]  # (y, x) of the crop, from 0 (top, left) to 1 (bottom, right), 1 excluded
    flip: bool
    brightness: float  # factor
    contrast: float  # factor
    saturation: float  # factor
    hue: float  # turns
    blur: float  # standard deviation in pixels; of the kernel `area` the factor by which it shrinks
    noise_seed: int
    aspect: float = 1.0  # factor on width / height
    flip_vertical: bool = False
    margin: tuple[float, float] = (0.0, 0.0)  # (y, x) share of the padding at the top and left, where it is random
    affine: tuple[float, ...] = ()  # what is added to [[1, 0, 0], [0, 1, 0]], row by row, for (x, y, 1); (): nothing
    policy: tuple[float, float, float] = (0.0, 0.0, 0.0)  # AutoAugment's, each from 0 to 1
    legs: tuple[float, float] | None = None  # where each is cut: 1 at the hip, 0 at the knee; None: they stay


def variation_of(choice: Choice) -> NDArray[np.float64]:
    """What is left to the device: brightness, contrast, saturation, hue, blur, and a seed of 32 bits for the noise."""
    colors = (choice.brightness, choice.contrast, choice.saturation, choice.hue)
    return np.array([*colors, choice.blur, choice.noise_seed % 2**32], np.float64)


def choose(config: AugmentConfig, rng: np.random.Generator) -> Choice:
    """Draws the same random numbers for all settings, so that a setting of one transform doesn't change another."""
    choice = Choice(
        scale=random_scale(config, rng),
        angle=random_angle(config, rng),
        place=(rng.random(), rng.random()),
        flip=rng.random() < config.flip,
        brightness=1 + config.brightness * rng.uniform(-1, 1),
        contrast=1 + config.contrast * rng.uniform(-1, 1),
        saturation=1 + config.saturation * rng.uniform(-1, 1),
        hue=config.hue * rng.uniform(-1, 1),
        blur=random_blur(config, rng),
        noise_seed=int(rng.integers(2**63)),
        aspect=rng.uniform(*config.aspect),
        flip_vertical=rng.random() < config.flip_vertical,
        margin=(rng.random(), rng.random()),
        affine=random_affine(config, rng),
        policy=(rng.random(), rng.random(), rng.random()),
        legs=random_legs(config, rng),
    )
    return choice._replace(saturation=0.0) if rng.random() < config.grayscale else choice


def random_legs(config: AugmentConfig, rng: np.random.Generator) -> tuple[float, float] | None:
    chance, right, left = rng.random(), rng.uniform(0.4, 0.6), rng.uniform(0.4, 0.6)
    return (right, left) if chance < config.leg_crop else None


def random_affine(config: AugmentConfig, rng: np.random.Generator) -> tuple[float, ...]:
    """Six normal numbers, at most three standard deviations large; none where the setting is 0."""
    draws = rng.standard_normal(6).clip(-3, 3) * config.affine
    return tuple(draws.tolist()) if config.affine else ()


def random_scale(config: AugmentConfig, rng: np.random.Generator) -> float:
    """One of the evenly spaced scales from min_scale to max_scale, both included; with step 0 any between them."""
    chance, span = rng.random(), config.max_scale - config.min_scale
    if config.scale_step == 0:
        return config.min_scale + chance * span
    count = num_scales(config)
    return float(np.linspace(config.min_scale, config.max_scale, count)[int(chance * count)])


def num_scales(config: AugmentConfig) -> int:
    low, high, step = config.min_scale, config.max_scale, config.scale_step
    if config.style == "atrous":
        return int((high - low) / step + 1 + 1e-9)  # 0.2 / 0.1 may be 1.9999999999999998
    return originals.num_scales(low, high, step, in_float32=config.style == "deeplab2")


def random_angle(config: AugmentConfig, rng: np.random.Generator) -> float:
    """Degrees in -rotate..rotate with probability `rotate_probability`, else 0."""
    chance, angle = rng.random(), rng.uniform(-1, 1) * config.rotate
    return angle if chance < config.rotate_probability else 0.0


def random_blur(config: AugmentConfig, rng: np.random.Generator) -> float:
    """A standard deviation within blur_radius with probability `blur`, else 0; for `area` 1 + a half normal number."""
    chance = rng.random()
    if config.blur_kernel == "area":
        size = 1 + NormalDist().inv_cdf((1 + rng.random()) / 2)
    else:
        size = rng.uniform(*config.blur_radius)
    return size if chance < config.blur else 0.0
