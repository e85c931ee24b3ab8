"""Xception (Chollet 2016, arXiv:1610.02357), aligned and modified as in figure 4 of DeepLab v3+ (arXiv:1802.02611)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import model_validator
from torch import Tensor, nn

from atrous.backbones.contract import Backbone, BackboneConfig, ImageNet, require_grid, strides_at
from atrous.backbones.rates import Placement, strides_to_rates
from atrous.layers.conv import ACTIVATIONS, SLIM_NORM, Activation, ConvNorm, Padding, SeparableConv
from atrous.settings import Rates


class Unit(NamedTuple):
    """A box of figure 4: three separable convolutions, the last with the stride, and a shortcut."""

    widths: tuple[int, int, int]
    stride: int = 1
    projects: bool = True  # the shortcut is a 1x1 convolution; else the identity


class Row(NamedTuple):
    """One of the networks."""

    entry: tuple[Unit, ...]
    repeats: int  # of the middle flow's unit


STEM = (32, 64)
ENTRY = (Unit((128, 128, 128), 2), Unit((256, 256, 256), 2), Unit((728, 728, 728), 2))
LONG_ENTRY = (ENTRY[0], Unit((256, 256, 256)), ENTRY[1], Unit((728, 728, 728)), ENTRY[2])
MIDDLE = Unit((728, 728, 728), projects=False)
EXIT = Unit((728, 1024, 1024), 2)
LAST = (1536, 1536, 2048)  # separable convolutions without a shortcut

XCEPTIONS = {
    "xception_41": Row(ENTRY, 8),
    "xception_65": Row(ENTRY, 16),
    "xception_71": Row(LONG_ENTRY, 16),
}
# The features of each unit with a stride: its input, and the output of its second convolution, before the stride.
FEATURES = (("c1",), ("c2", "low_level"), ("c3", "low_level_8"), ("c4", "low_level_16"))


class Kind(NamedTuple):
    """The activations and padding of a whole network."""

    relu: Activation
    clip: Activation  # where there is no ReLU
    of_sum: type[nn.Module]
    padding: Padding
    stem: Padding = "symmetric"


FREE = Kind("relu", "none", nn.Identity, "symmetric")
BOUNDED = Kind("relu6", "clip6", nn.ReLU6, "same")
KINDS = {"tensorflow": FREE, "bonlime": FREE._replace(stem="same")}  # by program


class XceptionUnit(nn.Module):
    """Returns its output and that of its second convolution, before any activation.

    There is an activation before each convolution, not after it.
    """

    def __init__(self, inp: int, unit: Unit, place: Placement, kind: Kind) -> None:
        super().__init__()
        (first, second, out), (stride, rate, _), clip = unit.widths, place, kind.clip
        self.relu = ACTIVATIONS[kind.relu]()  # not in place: the shortcut and decoders need its input
        self.separable1 = SeparableConv(inp, first, norm=SLIM_NORM, rate=rate, act=clip)
        self.separable2 = SeparableConv(first, second, norm=SLIM_NORM, rate=rate, act=clip)
        self.separable3 = SeparableConv(
            second, out, norm=SLIM_NORM, stride=stride, rate=rate, act=clip, padding=kind.padding
        )
        self.shortcut = ConvNorm(inp, out, norm=SLIM_NORM, stride=stride, act=clip) if unit.projects else nn.Identity()
        self.of_sum = kind.of_sum()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        tap = self.separable2(self.relu(self.separable1(self.relu(x))))
        return self.of_sum(self.shortcut(x) + self.separable3(self.relu(tap))), tap


if TYPE_CHECKING:
    Name = str
else:
    Name = Literal[tuple(XCEPTIONS)]


class Xception(Backbone):
    """If `bounded`, all features lie in -6..6, and TensorFlow's SAME pads the convolutions that have a stride, but for
    the first.
    """

    mean = (127.5, 127.5, 127.5)
    std = (127.5, 127.5, 127.5)

    class Config(BackboneConfig):
        name: Name
        multi_grid: Rates | None = None  # arXiv:1706.05587, 3.2.1
        """Factors on the last three atrous rates, such as [1, 2, 4]; none: all 1."""

        program: Literal["tensorflow", "bonlime"] = "tensorflow"
        """How the first convolution pads images of even sizes: as in TensorFlow DeepLab, or in bonlime's in Keras."""

        @property
        def imagenet(self) -> ImageNet:
            if self.program != "tensorflow":
                return ImageNet(advice="there are some for program=tensorflow")
            return ImageNet(f"zoo:{self.name}_imagenet")

        @model_validator(mode="after")
        def _bounded_units_are_tensorflows(self) -> "Xception.Config":
            if self.bounded and self.program != "tensorflow":
                raise ValueError(f"bounded=true: the units of program={self.program} are not, only tensorflow's")
            return self

        @model_validator(mode="after")
        def _grid_has_a_factor_for_each_convolution(self) -> "Xception.Config":
            require_grid(self, self.multi_grid, len(LAST))
            return self

    def __init__(self, config: Config, output_stride: int) -> None:
        super().__init__(config, output_stride)
        kind, units = BOUNDED if config.bounded else KINDS[config.program], _units(XCEPTIONS[config.name])
        _, *plan, last = strides_to_rates([2, *(unit.stride for unit in units.values()), 1], output_stride, "unit")
        inp, features = STEM[-1], iter(FEATURES)
        self.stem = _stem(kind)
        self.units = nn.ModuleDict()
        self.features_of: dict[str, tuple[str, ...]] = {}  # features' names, by unit
        self.channels = {"c5": LAST[-1]}
        for (name, unit), place in zip(units.items(), plan, strict=True):
            self.units[name] = XceptionUnit(inp, unit, place, kind)
            if unit.stride > 1:
                self.features_of[name] = next(features)
                self.channels.update(zip(self.features_of[name], (inp, unit.widths[1]), strict=False))
            inp = unit.widths[-1]
        self.exit_2 = _last(inp, [last.rate * factor for factor in config.multi_grid or (1, 1, 1)], kind)
        self.strides = strides_at(output_stride, self.channels)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x, features = self.stem(images), dict[str, Tensor]()
        for name, unit in self.units.items():
            before, (x, tap) = x, unit(x)
            features.update(zip(self.features_of.get(name, ()), (before, tap), strict=False))
        features["c5"] = self.exit_2(x)
        return features


def _units(row: Row) -> dict[str, Unit]:
    flows = {"entry": row.entry, "middle": (MIDDLE,) * row.repeats, "exit": (EXIT,)}
    return {f"{flow}_{number}": unit for flow, units in flows.items() for number, unit in enumerate(units, 1)}


def _stem(kind: Kind) -> nn.Sequential:
    first, second = STEM
    return nn.Sequential(
        ConvNorm(3, first, 3, norm=SLIM_NORM, stride=2, act=kind.relu, padding=kind.stem),
        ConvNorm(first, second, 3, norm=SLIM_NORM, act=kind.relu),
    )


def _last(inp: int, rates: Sequence[int], kind: Kind) -> nn.Sequential:
    convs = nn.Sequential()
    for number, (out, rate) in enumerate(zip(LAST, rates, strict=True), 1):
        convs.add_module(f"separable{number}", SeparableConv(inp, out, norm=SLIM_NORM, rate=rate, act=kind.relu))
        inp = out
    return convs
