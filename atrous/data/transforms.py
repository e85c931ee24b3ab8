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
from statistics import NormalDist
from typing import Annotated, Any, Literal, NamedTuple, Protocol

import numpy as np
import PIL.Image
import PIL.ImageFilter
import torch
from numpy.typing import NDArray
from pydantic import Discriminator, Field, Tag, model_validator

from atrous.data import autoaugment, opencv, originals
from atrous.data.strips import whole
from atrous.settings import Scale, Settings, Side
from atrous.types import Color, Image, Sample, Size

Pixels = NDArray[Any]  # an image [H, W, 3], which is smoothed, or a label or instance map [H, W], which is not
Matrix = NDArray[np.float64]  # [3, 3], for (x, y, 1) or for colours

Style = Literal["atrous", "tf_deeplab", "deeplab2", "semseg", "forma"]
Kernel = Literal["gaussian", "binomial", "area"]
Padding = Literal["bottom_right", "around", "random"]
Margin = Padding | Literal["random_short"]  # deeplab2's: never all of the padding before the image
Sides = Annotated[  # one number for both, or height and width; the tags are words that no setting could be called
    Annotated[Side, Tag("one number")] | Annotated[tuple[Side, Side], Tag("two numbers")],
    Discriminator(lambda value: "two numbers" if isinstance(value, list | tuple) else "one number"),
]
Resampling = Literal["exact", "fast", "opencv"]
Fraction = Annotated[float, Field(ge=0, le=1)]
Radius = Annotated[float, Field(ge=0, le=100)]

NEAR, TRIES = 1 / 256, 512  # source pixels that a fast resampling may be off by; starts that are tried for that
FAR = 2048  # starts that are tried for OpenCV, since the other way is ten times slower
LEGS = ((8, 9), (11, 12))  # joints of the right and of the left hip and knee
BINOMIAL = (1, 4, 6, 4, 1)  # / 16, in each direction: OpenCV's GaussianBlur of 5 x 5 without a sigma
LUMA = np.array([0.299, 0.587, 0.114])  # the perceived brightness of R, G and B (ITU-R BT.601)


class AugmentConfig(Settings):
    """Defaults are TensorFlow DeepLab's; semseg's are scale_step 0, rotate 10, blur 0.5 binomial, padding around."""

    style: Style = "atrous"
    """Whose order, interpolation and quirks: our own, or exactly those of an original program, which is slower."""
    crop: tuple[Side, Side] = (513, 513)
    """Height and width in pixels that the network sees in training; smaller needs less memory."""
    resize_to: tuple[Side, Side] | None = None
    """First of all, make images this height and width, whatever their shape; none: don't."""
    resize_min: Sides | None = None
    """First of all, make the shorter side this many pixels (two values: height, width at least)."""
    resize_max: Sides | None = None
    """The longer side then has at most this many pixels (two values: height and width); none: any."""
    resize_factor: Side | None = None
    """With `resize_min` or `resize_max`: round each side up to a multiple of this, plus 1; none: don't."""
    min_scale: Scale = 0.5
    """Smallest factor by which images are randomly resized."""
    max_scale: Scale = 2.0
    """Largest factor by which images are randomly resized."""
    scale_step: Annotated[float, Field(ge=0, le=16)] = 0.25
    """Distance between the possible factors; 0: any factor in the range."""
    resampling: Resampling = "exact"
    """fast: by PyTorch's kernel for bytes, to 3 grey levels; opencv: OpenCV's, faster still, not antialiased."""
    aspect: tuple[Scale, Scale] = (1.0, 1.0)
    """Range of the random factor on width / height, such as 0.8,1.25; the area stays the same."""
    padding: Padding = "bottom_right"  # around: semseg, random: deeplab2
    """Where images smaller than the crop are padded; around: half of it at the top and left; random: any share."""
    flip: Fraction = 0.5
    """Probability of a horizontal flip; 0 where left and right differ in meaning."""
    flip_vertical: Fraction = 0.0
    """Probability of a vertical flip, for images without an up and down, such as those from above."""
    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Largest angle of a random rotation in degrees, in either direction."""
    rotate_probability: Fraction = 0.5
    """Probability of a rotation, where `rotate` is above 0."""
    leg_crop: Fraction = 0.0
    """Probability that legs are cut off between hip and knee, where TFRecords have landmarks; forma: 0.2."""
    affine: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Standard deviation of random stretch, shear and shift about the crop's centre, such as 0.05."""
    autoaugment: Fraction = 0.0
    """Strength of AutoAugment's photometric policy, 1 for the published one (arXiv:1805.09501); 0: off."""
    brightness: Fraction = 0.0
    """Range of the random brightness: the factor lies in 1 - value .. 1 + value."""
    contrast: Fraction = 0.0
    """Range of the random contrast: the factor lies in 1 - value .. 1 + value."""
    saturation: Fraction = 0.0
    """Range of the random saturation: the factor lies in 1 - value .. 1 + value."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Largest random shift of hue, in turns of the colour wheel; 0 where colours decide classes."""
    grayscale: Fraction = 0.0
    """Probability that an image loses its colours."""
    blur: Fraction = 0.0
    """Probability that an image is blurred; a little helps against photos out of focus."""
    blur_radius: tuple[Radius, Radius] = (0.5, 1.5)
    """Smallest and largest standard deviation of a gaussian blur, in pixels."""
    blur_kernel: Kernel = "gaussian"  # binomial: semseg, area: forma
    """binomial: always 5 x 5 of standard deviation 1; area: shrunk by 1 + a random amount, and enlarged again."""
    noise: Annotated[float, Field(ge=0, le=255)] = 0.0
    """Standard deviation of random noise on each value, in grey levels (0..255)."""
    colors_on: Literal["cpu", "device"] = "cpu"
    """Where colours, blur and noise are computed; device: in one pass over the batch, which frees the CPU."""

    @model_validator(mode="after")
    def _ranges_are_valid(self) -> "AugmentConfig":
        if self.resize_factor and not (self.resize_min or self.resize_max):
            raise ValueError("resize_factor needs resize_min, the length of the shorter side, or resize_max")
        if self.resize_to and (self.resize_min or self.resize_max):
            raise ValueError("resize_to sets both sides: remove resize_min and resize_max, or resize_to")
        if self.min_scale > self.max_scale:
            raise ValueError(f"min_scale must not exceed max_scale, got {self.min_scale} and {self.max_scale}")
        if self.blur_radius[0] > self.blur_radius[1]:
            raise ValueError(f"blur_radius must be (smallest, largest), got {self.blur_radius}")
        if self.aspect[0] > self.aspect[1]:
            raise ValueError(f"aspect must be (smallest, largest), got {self.aspect}")
        if self.colors_on == "device" and self.blur_kernel == "area":
            raise ValueError("blur_kernel=area is computed on the CPU: set blur_kernel=gaussian, or colors_on=cpu")
        span = self.max_scale - self.min_scale
        if 0 < span < self.scale_step - 1e-9:
            raise ValueError(f"scale_step must be 0 or at most max_scale - min_scale = {span:g}, got {self.scale_step}")
        return self

    @model_validator(mode="after")
    def _style_has_these_steps(self) -> "AugmentConfig":
        """An original's result is refused where it would hold a step that the original doesn't have."""
        if self.style == "atrous":
            return self
        original, off = (
            ORIGINALS[self.style],
            {name: AugmentConfig.model_fields[name].default for name in OPTIONAL_STEPS},
        )
        needs = {name: _text(value) for name, value in off.items() if name not in original.steps} | original.fixed(self)
        missing = [f"augment.{name}={text}" for name, text in needs.items() if _text(getattr(self, name)) != text]
        if missing:
            raise ValueError(f"style={self.style} needs {' '.join(missing)}; or set style=atrous")
        is_by_side = isinstance(self.resize_min, tuple) or isinstance(self.resize_max, tuple)
        if not original.is_by_side and (is_by_side or (self.resize_max and not self.resize_min)):
            raise ValueError(f"style={self.style} needs one resize_min for both sides, and at most one resize_max")
        return self


class Original(NamedTuple):
    """What an original program's augmentation consists of, besides scale, crop, padding and flip."""

    steps: frozenset[str]
    padding: Padding
    kernel: Kernel | None = None  # of its blur
    is_by_side: bool = False  # its sides have ranges of their own

    def fixed(self, config: AugmentConfig) -> dict[str, str]:
        """The settings that have no choice in this style."""
        kernel = {"blur_kernel": str(self.kernel)} if config.blur else {}
        return {"padding": self.padding, "resampling": "exact", "colors_on": "cpu", **kernel}


RANGE = ("resize_min", "resize_max", "resize_factor")
COLORS = ("brightness", "contrast", "saturation", "hue")
OPTIONAL_STEPS = (
    *("resampling", "resize_to", *RANGE, "aspect", "flip_vertical", "rotate", "leg_crop", "affine"),
    *("autoaugment", *COLORS, "grayscale", "blur", "noise"),
)
ORIGINALS: Mapping[str, Original] = {
    "tf_deeplab": Original(frozenset(RANGE), "bottom_right"),
    "deeplab2": Original(frozenset((*RANGE, "autoaugment")), "random", is_by_side=True),
    "semseg": Original(frozenset(("resize_to", "aspect", "rotate", "blur", "flip_vertical")), "around", "binomial"),
    "forma": Original(frozenset((*RANGE, "leg_crop", "affine", *COLORS, "blur", "noise")), "bottom_right", "area"),
}


def _text(value: object) -> str:
    """As it is written on the command line."""
    if isinstance(value, tuple):
        return ",".join(map(_text, value))
    return f"{value:g}" if isinstance(value, int | float) else "none" if value is None else str(value)


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


class Window(NamedTuple):
    """A part of a scaled image, in pixels of the scaled image."""

    scaled: tuple[int, int]  # height, width of the whole image after scaling
    top: int
    left: int
    height: int
    width: int


def augment(sample: Sample, config: AugmentConfig, rng: np.random.Generator, *, fill: Color, ignore: int) -> Sample:
    """A random variation of size `config.crop`; padding has the colour `fill`, the label `ignore` and no thing."""
    _require_same_size(sample)
    choice = choose(config, rng)
    sample = sample if config.style == "atrous" else whole(sample)  # the others work on whole images
    if choice.legs is not None and sample.landmarks is not None:
        sample = cut_legs(sample, choice.legs, fill, ignore, is_certain=config.style != "atrous")
    return STYLES[config.style](sample._replace(landmarks=None), choice, config, fill, ignore)


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

    return _each(sample, cut, fill, ignore)


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


def both_sides(sides: int | Size) -> Size:
    return sides if isinstance(sides, tuple) else (sides, sides)


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
    wide = _widened(window, _reach(choice.blur, kernel))
    perturbation = _perturbation(window, choice.affine) if choice.affine else None

    def sample_window(pixels: Pixels, part: Window, outside: int | Color) -> Pixels:
        if choice.angle or perturbation is not None:
            return rotate_window(pixels, part, choice.angle, outside, perturbation, resampling)
        return resample_window(pixels, part, resampling)

    def cut(pixels: Pixels, outside: int | Color) -> Pixels:
        if pixels.ndim < 3:
            return sample_window(pixels, window, outside)
        blurred = blur(sample_window(pixels, wide, outside), choice.blur, kernel)
        return distort(_slice(blurred, window._replace(top=window.top - wide.top, left=window.left - wide.left)))

    return pad_to(_each(sample, cut, fill, ignore), *crop, fill, ignore, padding, choice.margin)


def scaled_window(size: tuple[int, ...], scale: float, crop: tuple[int, int], place: tuple[float, float]) -> Window:
    """The crop in the scaled image; uniform `place` (y, x), 0 <= place < 1, makes all positions equally likely."""
    height, width = (max(1, int(side * scale)) for side in size)
    rows, columns = min(crop[0], height), min(crop[1], width)
    top, left = int(place[0] * (height - rows + 1)), int(place[1] * (width - columns + 1))
    return Window((height, width), top, left, rows, columns)


def resample_window(pixels: Pixels, window: Window, resampling: Resampling = "exact") -> Pixels:
    """`resize_then_crop` at the cost of the crop alone: bilinear and antialiased for an image, nearest for a map."""
    if pixels.shape[:2] == window.scaled:
        return _slice(pixels, window).copy()
    if pixels.ndim < 3:
        return _resample_map(pixels, window)
    image = RESAMPLINGS[resampling](pixels, window)
    return _resample_image(pixels, window) if image is None else image


def resize_then_crop(pixels: Pixels, window: Window) -> Pixels:
    """The slow, obvious version of `resample_window`."""
    height, width = window.scaled
    resample = PIL.Image.Resampling.BILINEAR if pixels.ndim == 3 else PIL.Image.Resampling.NEAREST
    return _slice(np.array(PIL.Image.fromarray(pixels).resize((width, height), resample)), window)


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

    return _each(sample, pad, fill, ignore)


MARGINS: Mapping[Margin, Callable[[int, float], int]] = {  # padding along a side, chance -> what is before the image
    "bottom_right": lambda extra, chance: 0,
    "around": lambda extra, chance: extra // 2,
    "random": lambda extra, chance: int(chance * (extra + 1)),
    "random_short": lambda extra, chance: int(chance * max(extra, 1)),
}


def flip_vertically(sample: Sample) -> Sample:
    """Up becomes down."""
    return _each(sample, lambda pixels, _: np.ascontiguousarray(pixels[::-1]), (0, 0, 0), 0)


def flip(sample: Sample) -> Sample:
    """Left becomes right."""
    return _each(sample, lambda pixels, _: torch.from_numpy(pixels).flip(1).numpy(), (0, 0, 0), 0)  # NumPy: 10 x slower


def jitter_colors(
    image: Image, brightness: float = 1.0, contrast: float = 1.0, saturation: float = 1.0, hue: float = 0.0
) -> Image:
    """Three factors and a hue shift in turns, as one linear map of colours that is clipped once.

    Contrast scales the distance from the image's mean grey, saturation that from each pixel's own grey. Hue rotates
    colours about the grey axis: a third of a turn makes red green.
    """
    if (brightness, contrast, saturation, hue) == (1, 1, 1, 0):
        return image
    mean = brightness * float(image.reshape(-1, 3).mean(0) @ LUMA)
    matrix = brightness * contrast * _turn_hue(hue) @ _saturate(saturation)
    rows = np.column_stack([matrix, np.full(3, mean * (1 - contrast))])  # [3, 4]
    return np.array(PIL.Image.fromarray(image).convert("RGB", tuple(rows.ravel())))


def blur(image: Image, radius: float, kernel: Kernel = "gaussian") -> Image:
    """Blur with standard deviation `radius` in pixels; the binomial kernel has its own. 0: the image is unchanged."""
    if radius == 0:
        return image
    if kernel == "gaussian":
        return np.array(PIL.Image.fromarray(image).filter(PIL.ImageFilter.GaussianBlur(radius)))
    if kernel == "area":
        return blur_area(image, radius)
    reach = _reach(radius, kernel)
    wide = np.pad(image, ((reach, reach), (reach, reach), (0, 0)), "reflect")  # Pillow does not filter the border
    weights = PIL.ImageFilter.Kernel((5, 5), np.outer(BINOMIAL, BINOMIAL).ravel().tolist())
    return np.array(PIL.Image.fromarray(wide).filter(weights))[reach:-reach, reach:-reach]


def blur_area(image: Image, factor: float) -> Image:
    """Shrunk to 1 / `factor` by means of areas, and enlarged again."""
    height, width = image.shape[:2]
    small = (max(1, int(width / factor)), max(1, int(height / factor)))
    shrunk = PIL.Image.fromarray(image).resize(small, PIL.Image.Resampling.BOX)
    return np.array(shrunk.resize((width, height), PIL.Image.Resampling.BILINEAR))


def _reach(radius: float, kernel: Kernel) -> int:
    """The distance, in pixels, that a blur spreads; Pillow computes the Gaussian as three box blurs."""
    if radius == 0 or kernel == "area":
        return 0
    return len(BINOMIAL) // 2 if kernel == "binomial" else 3 * math.ceil(radius + 0.5)


def add_noise(image: Image, sigma: float, rng: np.random.Generator) -> Image:
    """Gaussian noise of standard deviation `sigma` in grey levels, for each pixel and colour, clipped to 0..255."""
    if sigma == 0:
        return image
    noisy = image + np.float32(sigma) * rng.standard_normal(image.shape, dtype=np.float32)
    return noisy.round().clip(0, 255).astype(np.uint8)


def _each(sample: Sample, change: Callable[[Pixels, int | Color], Pixels], fill: Color, ignore: int) -> Sample:
    """`change` the image, labels and things that a sample has, each with the value of its padding."""
    return sample._replace(
        image=change(sample.image, fill),
        semantic=None if sample.semantic is None else change(sample.semantic, ignore),
        instance=None if sample.instance is None else change(sample.instance, 0),
    )


def _require_same_size(sample: Sample) -> None:
    """A layout must not return such samples, so this is not the user's error."""
    height, width = sample.image.shape[:2]
    for what, labels in (("label map", sample.semantic), ("instance map", sample.instance)):
        if labels is not None and labels.shape != (height, width):
            size = " x ".join(map(str, labels.shape))
            raise ValueError(
                f"{sample.name}: the {what} is {size}, the image {height} x {width}; their sizes must be equal"
            )


def _widened(window: Window, by: int) -> Window:
    """The window with up to `by` pixels around it, within the image."""
    top, left = max(0, window.top - by), max(0, window.left - by)
    bottom, right = (
        min(side, start + length + by)
        for side, start, length in zip(
            window.scaled, (window.top, window.left), (window.height, window.width), strict=True
        )
    )
    return Window(window.scaled, top, left, bottom - top, right - left)


def _slice(pixels: Pixels, window: Window) -> Pixels:
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


def _perturbation(window: Window, affine: tuple[float, ...]) -> Matrix:
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


def _saturate(factor: float) -> Matrix:
    return np.asarray(factor * np.eye(3) + (1 - factor) * LUMA)


def _turn_hue(turns: float) -> Matrix:
    """Rodrigues' rotation about (1, 1, 1)."""
    angle = 2 * math.pi * turns
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    return np.asarray(math.cos(angle) * np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) / 3)


# As the original programs do it: each step on float32, in their order; the result is rounded to bytes at the end.


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
    wide = _widened(window, _reach(choice.blur, "binomial"))
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
        return _slice(pixels, window._replace(top=window.top - wide.top, left=window.left - wide.left))

    sample = _each(sample, cut, fill, ignore)
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
        return _each(sample, lambda pixels, _: pixels[part], (0, 0, 0), 0)
    axes = (originals.aligned_axis(height, size[0]), originals.aligned_axis(width, size[1]))
    return _each(sample, lambda pixels, _: originals.resample(pixels, axes, part), (0, 0, 0), 0)


def _perturbed_crop(sample: Sample, choice: Choice, crop: Size) -> Sample:
    """Beyond the image lies grey with the label 255, whatever the network's mean and the ignored label are."""
    window = scaled_window(sample.image.shape[:2], 1.0, crop, choice.place)
    if not choice.affine:
        return _each(sample, lambda pixels, _: _slice(pixels, window), (0, 0, 0), 0)
    y, x = originals.perturbed_places(crop, choice.affine)
    points = (y + window.top, x + window.left)

    def read(pixels: Pixels, outside: float | Color) -> Pixels:
        pixels = pixels.astype(np.float32) if pixels.ndim == 3 else pixels
        return originals.read_points(pixels, points, 127.5 if pixels.ndim == 3 else outside)

    return _each(sample, read, (0, 0, 0), 255)


def _resized_opencv(sample: Sample, size: tuple[int, ...]) -> Sample:
    height, width = sample.image.shape[:2]
    if size == (height, width):
        return sample
    axes = (originals.opencv_axis_to(height, size[0]), originals.opencv_axis_to(width, size[1]))
    part = originals.whole((size[0], size[1]))
    return _each(sample, lambda pixels, _: originals.resample(pixels, axes, part), (0, 0, 0), 0)


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
    maps = _each(sample, lambda pixels, _: np.ascontiguousarray(pixels), (0, 0, 0), 0)
    return maps._replace(image=originals.to_bytes(maps.image))


STYLES: Mapping[Style, InStyle] = {
    "atrous": crop_first,
    "tf_deeplab": as_tf_deeplab,
    "deeplab2": as_deeplab2,
    "semseg": as_semseg,
    "forma": as_forma,
}
