"""Xception (Chollet 2016, arXiv:1610.02357), aligned and modified as in figure 4 of DeepLab v3+ (arXiv:1802.02611).

As in TensorFlow's DeepLab, and in three programs in PyTorch: jfzhang95's, that of Panoptic-DeepLab's first author, and
VainF's, whose network is Keras's, before it was aligned.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import model_validator
from torch import Tensor, nn

from atrous.backbones.contract import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Backbone,
    BackboneConfig,
    ImageNet,
    require_grid,
    strides_at,
)
from atrous.backbones.rates import AtrousRule, Placement, strides_to_rates
from atrous.errors import ConfigError
from atrous.layers.conv import ACTIVATIONS, SLIM_NORM, TORCH_NORM, Activation, ConvNorm, Norm, Padding, SeparableConv
from atrous.ops import is_exported
from atrous.settings import Rates
from atrous.types import RGB


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
# The features of each unit with a stride: its input, and what decoders tap of it.
FEATURES = (("c1",), ("c2", "low_level"), ("c3", "low_level_8"), ("c4", "low_level_16"))


HALVES = (127.5, 127.5, 127.5)


class Kind(NamedTuple):
    """What is the same in a whole network: weights are valid only for the kind that they were trained with."""

    relu: Activation
    clip: Activation  # where there is no ReLU
    of_sum: type[nn.Module]
    padding: Padding
    stem: Padding = "symmetric"  # of the first convolution
    norm: Norm = SLIM_NORM
    in_place: bool = False  # a unit's first ReLU overwrites its input, also for the shortcut and for decoders
    color: tuple[RGB, RGB] = (HALVES, HALVES)  # mean and std
    taps_exit: bool = True  # decoders at stride 16 tap within the exit flow; else before it
    pools: bool = False  # max pools have the strides, convolutions aren't padded at the network's ends
    rule: AtrousRule = "unit"


FREE = Kind("relu", "none", nn.Identity, "symmetric")
BOUNDED = Kind("relu6", "clip6", nn.ReLU6, "same")
IN_TORCH = FREE._replace(norm=TORCH_NORM, color=(IMAGENET_MEAN, IMAGENET_STD), taps_exit=False)
IN_PLACE = IN_TORCH._replace(in_place=True, taps_exit=True)
POOLED = IN_TORCH._replace(pools=True, rule="stage", stem="valid")
EVEN = FREE._replace(stem="same")
PROGRAMS = {"tensorflow": FREE, "bonlime": EVEN, "bowenc0221": IN_TORCH, "jfzhang95": IN_PLACE, "vainf": POOLED}


class XceptionUnit(nn.Module):
    """Returns its output and what decoders tap: that of its second convolution, before any activation, or, if it
    overwrites its input, that input.

    There is an activation before each convolution, not after it.
    """

    def __init__(self, inp: int, unit: Unit, place: Placement, kind: Kind) -> None:
        super().__init__()
        (first, second, out), (stride, rate, _), clip, norm = unit.widths, place, kind.clip, kind.norm
        last_rate = 1 if kind.in_place and unit.stride > 1 else rate  # jfzhang95 leaves the rate out where it dilates
        self.relu = ACTIVATIONS[kind.relu]()  # not in place: the shortcut and decoders need its input
        self.separable1 = SeparableConv(inp, first, norm=norm, rate=rate, act=clip)
        self.separable2 = SeparableConv(first, second, norm=norm, rate=rate, act=clip)
        self.separable3 = SeparableConv(
            second, out, norm=norm, stride=stride, rate=last_rate, act=clip, padding=kind.padding
        )
        self.shortcut = ConvNorm(inp, out, norm=norm, stride=stride, act=clip) if unit.projects else nn.Identity()
        self.of_sum, self.in_place = kind.of_sum(), kind.in_place

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        seen = self.relu(x)
        x = seen if self.in_place else x
        tap = self.separable2(self.relu(self.separable1(seen)))
        return self.of_sum(self.shortcut(x) + self.separable3(self.relu(tap))), x if self.in_place else tap


class PooledUnit(nn.Module):
    """A unit before it was aligned: a max pool stands for the convolution with the stride; decoders tap its input."""

    def __init__(self, inp: int, unit: Unit, place: Placement, kind: Kind) -> None:
        super().__init__()
        widths = unit.widths if unit.stride == 1 else unit.widths[:2]
        self.relu = ACTIVATIONS[kind.relu]()
        self.convs = nn.ModuleList(
            SeparableConv(one, out, norm=kind.norm, rate=place.rate, act=kind.clip, bare=True)
            for one, out in pairwise((inp, *widths))
        )
        out = unit.widths[-1]
        shortcut = ConvNorm(inp, out, norm=kind.norm, stride=place.stride, act=kind.clip) if unit.projects else None
        self.shortcut = shortcut or nn.Identity()
        self.pool = nn.MaxPool2d(3, place.stride, 1) if place.stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = x
        for conv in self.convs:
            y = conv(self.relu(y))
        return self.shortcut(x) + self.pool(y), x


class Unpadded(nn.Module):
    """Separable convolutions that are padded as if their rate were 1: the map shrinks. The last one is bare."""

    def __init__(self, inp: int, rate: int, kind: Kind) -> None:
        wide, out = LAST[1:]
        super().__init__()
        self.separable1 = SeparableConv(inp, wide, norm=kind.norm, rate=rate, act=kind.relu, bare=True)
        self.separable2 = nn.Sequential()
        self.separable2.add_module("depthwise", ConvNorm(wide, wide, 3, norm=None, rate=rate, groups=wide, act="none"))
        self.separable2.add_module("pointwise", ConvNorm(wide, out, norm=None, act="none"))
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.groups > 1:
                module.padding = (1, 1)
        self.lost = 4 * (rate - 1)  # rows and columns

    def forward(self, x: Tensor) -> Tensor:
        if not is_exported() and min(x.shape[-2:]) <= self.lost:
            raise ConfigError(
                f"an image is too small for the Xception of program=vainf: its map of {x.shape[-2]} x {x.shape[-1]} "
                f"loses {self.lost} rows and columns"
            )
        y: Tensor = self.separable2(self.separable1(x))
        return y


if TYPE_CHECKING:
    Name = str
else:
    Name = Literal[tuple(XCEPTIONS)]


class Xception(Backbone):
    """If `bounded`, all features lie in -6..6, and TensorFlow's SAME pads the convolutions that have a stride, but for
    the first.
    """

    class Config(BackboneConfig):
        name: Name
        multi_grid: Rates | None = None  # arXiv:1706.05587, 3.2.1
        """Factors on the last three atrous rates, such as [1, 2, 4]; none: all 1."""
        program: Literal["tensorflow", "bonlime", "bowenc0221", "jfzhang95", "vainf"] = "tensorflow"
        """Whose padding, shortcuts, epsilon, colours and features for decoders; weights fit only their own."""

        @property
        def kind(self) -> Kind:
            return BOUNDED if self.bounded else PROGRAMS[self.program]

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
            if self.multi_grid and self.kind.pools:
                raise ValueError(f"multi_grid={self.multi_grid}: there is none with program={self.program}")
            return self

    def __init__(self, config: Config, output_stride: int) -> None:
        super().__init__(config, output_stride)
        kind, units = config.kind, _units(XCEPTIONS[config.name])
        self.mean, self.std = kind.color
        _, *plan, last = strides_to_rates([2, *(unit.stride for unit in units.values()), 1], output_stride, kind.rule)
        inp, features = STEM[-1], iter(FEATURES)
        self.stem = _stem(kind)
        self.units = nn.ModuleDict()
        self.features_of: dict[str, tuple[str, ...]] = {}  # features' names, by unit
        self.channels = {"c5": LAST[-1]}
        for (name, unit), place in zip(units.items(), plan, strict=True):
            self.units[name] = (PooledUnit if kind.pools else XceptionUnit)(inp, unit, place, kind)
            if unit.stride > 1:
                self.features_of[name] = next(features)
                tapped = inp if kind.in_place or kind.pools else unit.widths[1]
                self.channels.update(zip(self.features_of[name], (inp, tapped), strict=False))
            inp = unit.widths[-1]
        self.taps_exit = kind.taps_exit
        self.channels |= {} if self.taps_exit else {"low_level_16": self.channels["c4"]}
        self.exit_2 = (
            Unpadded(inp, last.rate, kind)
            if kind.pools
            else _last(inp, [last.rate * factor for factor in config.multi_grid or (1, 1, 1)], kind)
        )
        self.strides = strides_at(output_stride, self.channels)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x, features = self.stem(images), dict[str, Tensor]()
        for name, unit in self.units.items():
            before, (x, tap) = x, unit(x)
            features.update(zip(self.features_of.get(name, ()), (before, tap), strict=False))
        features |= {} if self.taps_exit else {"low_level_16": features["c4"]}
        return {**features, "c5": self.exit_2(x)}


def _units(row: Row) -> dict[str, Unit]:
    flows = {"entry": row.entry, "middle": (MIDDLE,) * row.repeats, "exit": (EXIT,)}
    return {f"{flow}_{number}": unit for flow, units in flows.items() for number, unit in enumerate(units, 1)}


def _stem(kind: Kind) -> nn.Sequential:
    first, second = STEM
    second_padding: Padding = "valid" if kind.pools else "symmetric"
    return nn.Sequential(
        ConvNorm(3, first, 3, norm=kind.norm, stride=2, act=kind.relu, padding=kind.stem),
        ConvNorm(first, second, 3, norm=kind.norm, act=kind.relu, padding=second_padding),
    )


def _last(inp: int, rates: Sequence[int], kind: Kind) -> nn.Sequential:
    """With an activation after each convolution; jfzhang95 has it before the first one, and not after a depthwise."""
    convs = nn.Sequential(ACTIVATIONS[kind.relu]()) if kind.in_place else nn.Sequential()
    act = kind.clip if kind.in_place else kind.relu
    for number, (out, rate) in enumerate(zip(LAST, rates, strict=True), 1):
        convs.add_module(f"separable{number}", SeparableConv(inp, out, norm=kind.norm, rate=rate, act=act))
        if kind.in_place:
            convs.add_module(f"relu{number}", ACTIVATIONS[kind.relu](inplace=True))
        inp = out
    return convs
