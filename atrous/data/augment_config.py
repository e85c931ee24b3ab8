"""The section `augment` of a config: its settings, and which of them an original program has."""

from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple

from pydantic import Discriminator, Field, Tag, model_validator

from atrous.settings import Scale, Settings, Side
from atrous.types import Size

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


def both_sides(sides: int | Size) -> Size:
    return sides if isinstance(sides, tuple) else (sides, sides)
