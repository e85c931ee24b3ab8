"""Xception (Chollet 2016, arXiv:1610.02357), aligned and modified as in figure 4 of DeepLab v3+ (arXiv:1802.02611)."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from atrous.backbones.contract import Backbone
from atrous.backbones.rates import Placement, strides_to_rates
from atrous.layers.conv import ACTIVATIONS, Activation, ConvNorm, Norm, Padding, SeparableConv

NORM = Norm(eps=1e-3, momentum=0.05)  # TensorFlow's decay is 0.9997: too slow for a short run


class Unit(NamedTuple):
    """A box of figure 4: three separable convolutions, the last with the stride, and a shortcut."""

    widths: tuple[int, int, int]
    stride: int = 1
    projects: bool = True  # the shortcut is a 1x1 convolution; else the identity


class Row(NamedTuple):
    """What differs between the networks."""

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
# Of each unit with a stride: its input, and what its second convolution makes of it, still without the stride.
FEATURES = (("c1",), ("c2", "low_level"), ("c3", "low_level_8"), ("c4", "low_level_16"))
STRIDES = {"c1": 2, "c2": 4, "c3": 8, "c4": 16, "c5": 32, "low_level": 4, "low_level_8": 8, "low_level_16": 16}


class Kind(NamedTuple):
    """What holds for a whole network."""

    relu: Activation
    clip: Activation  # of what has no ReLU
    of_sum: type[nn.Module]
    padding: Padding


FREE = Kind("relu", "none", nn.Identity, "symmetric")
BOUNDED = Kind("relu6", "clip6", nn.ReLU6, "same")


class XceptionUnit(nn.Module):
    """Returns its output and what its second convolution makes, which is not yet activated.

    An activation stands in front of each convolution, not behind it.
    """

    def __init__(self, inp: int, unit: Unit, place: Placement, kind: Kind) -> None:
        super().__init__()
        (first, second, out), (stride, rate, _), clip = unit.widths, place, kind.clip
        self.relu = ACTIVATIONS[kind.relu]()  # not in place: shortcut and decoders need what it is applied to
        self.separable1 = SeparableConv(inp, first, norm=NORM, rate=rate, act=clip)
        self.separable2 = SeparableConv(first, second, norm=NORM, rate=rate, act=clip)
        self.separable3 = SeparableConv(
            second, out, norm=NORM, stride=stride, rate=rate, act=clip, padding=kind.padding
        )
        self.shortcut = ConvNorm(inp, out, norm=NORM, stride=stride, act=clip) if unit.projects else nn.Identity()
        self.of_sum = kind.of_sum()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        tap = self.separable2(self.relu(self.separable1(self.relu(x))))
        return self.of_sum(self.shortcut(x) + self.separable3(self.relu(tap))), tap


class Xception(Backbone):
    """A multi-grid multiplies the rates of the last three convolutions, one factor each (arXiv:1706.05587, 3.2.1).

    If `bounded`, all features lie in -6..6, for 8-bit arithmetic, and strides are padded for by TensorFlow's SAME.
    """

    mean = (127.5, 127.5, 127.5)
    std = (127.5, 127.5, 127.5)

    def __init__(
        self, row: Row, output_stride: int, multi_grid: Sequence[int] | None = None, bounded: bool = False
    ) -> None:
        super().__init__()
        kind, units = BOUNDED if bounded else FREE, _units(row)
        _, *plan, last = strides_to_rates([2, *(unit.stride for unit in units.values()), 1], output_stride, "unit")
        inp, features = STEM[-1], iter(FEATURES)
        self.stem = _stem(kind)
        self.units = nn.ModuleDict()
        self.taken: dict[str, tuple[str, ...]] = {}  # features' names, by unit
        self.channels = {"c5": LAST[-1]}
        for (name, unit), place in zip(units.items(), plan, strict=True):
            self.units[name] = XceptionUnit(inp, unit, place, kind)
            if unit.stride > 1:
                self.taken[name] = next(features)
                self.channels.update(zip(self.taken[name], (inp, unit.widths[1]), strict=False))
            inp = unit.widths[-1]
        self.exit_2 = _last(inp, [last.rate * factor for factor in multi_grid or (1, 1, 1)], kind)
        self.strides = {name: min(stride, output_stride) for name, stride in STRIDES.items()}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x, features = self.stem(images), dict[str, Tensor]()
        for name, unit in self.units.items():
            before, (x, tap) = x, unit(x)
            features.update(zip(self.taken.get(name, ()), (before, tap), strict=False))
        features["c5"] = self.exit_2(x)
        return features


def _units(row: Row) -> dict[str, Unit]:
    flows = {"entry": row.entry, "middle": (MIDDLE,) * row.repeats, "exit": (EXIT,)}
    return {f"{flow}_{number}": unit for flow, units in flows.items() for number, unit in enumerate(units, 1)}


def _stem(kind: Kind) -> nn.Sequential:
    first, second = STEM
    return nn.Sequential(
        ConvNorm(3, first, 3, norm=NORM, stride=2, act=kind.relu, padding=kind.padding),
        ConvNorm(first, second, 3, norm=NORM, act=kind.relu),
    )


def _last(inp: int, rates: Sequence[int], kind: Kind) -> nn.Sequential:
    convs = nn.Sequential()
    for number, (out, rate) in enumerate(zip(LAST, rates, strict=True), 1):
        convs.add_module(f"separable{number}", SeparableConv(inp, out, norm=NORM, rate=rate, act=kind.relu))
        inp = out
    return convs
