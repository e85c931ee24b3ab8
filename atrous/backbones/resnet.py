"""ResNet (He et al. 2015, arXiv:1512.03385), with the stride in a bottleneck's 3x3 as torchvision has it."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from atrous.backbones.contract import Backbone
from atrous.backbones.rates import AtrousRule, Placement, strides_to_rates
from atrous.layers.conv import ConvNorm, Norm

NORM = Norm(eps=1e-5, momentum=0.1)
STAGES = ("c2", "c3", "c4", "c5")


class Basic(nn.Module):
    """Two 3x3, for the shallow networks (figure 5, left)."""

    expansion = 1

    def __init__(self, inp: int, width: int, place: Placement) -> None:
        super().__init__()
        self.conv1 = ConvNorm(inp, width, 3, norm=NORM, stride=place.stride, rate=place.rate)
        self.conv2 = ConvNorm(width, width, 3, norm=NORM, rate=place.next_rate, act="none")
        self.shortcut = (
            ConvNorm(inp, width, norm=NORM, stride=place.stride, act="none") if inp != width else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.shortcut(x) + self.conv2(self.conv1(x))
        return y.relu_()


class Bottleneck(nn.Module):
    """A 3x3 between two 1x1, for the deep networks (figure 5, right)."""

    expansion = 4

    def __init__(self, inp: int, width: int, place: Placement) -> None:
        super().__init__()
        out = self.expansion * width
        self.conv1 = ConvNorm(inp, width, norm=NORM)
        self.conv2 = ConvNorm(width, width, 3, norm=NORM, stride=place.stride, rate=place.rate)
        self.conv3 = ConvNorm(width, out, norm=NORM, act="none")
        self.shortcut = ConvNorm(inp, out, norm=NORM, stride=place.stride, act="none") if inp != out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.shortcut(x) + self.conv3(self.conv2(self.conv1(x)))
        return y.relu_()


class Row(NamedTuple):
    """A column of table 1 of the paper."""

    unit: type[Basic] | type[Bottleneck]
    blocks: tuple[int, int, int, int]  # units in c2..c5
    width: int = 64  # of the stem and of the 3x3 in c2; each stage doubles it
    rule: AtrousRule = "unit"


RESNETS = {
    "resnet_tiny": Row(Basic, (1, 1, 1, 1), width=8),  # for tests
    "resnet_small": Row(Basic, (2, 2, 1, 1), width=24),  # learns simple scenes in minutes, on a CPU
    "resnet18": Row(Basic, (2, 2, 2, 2)),
    "resnet34": Row(Basic, (3, 4, 6, 3)),
    "resnet50": Row(Bottleneck, (3, 4, 6, 3)),
    "resnet101": Row(Bottleneck, (3, 4, 23, 3)),
}


class ResNet(Backbone):
    """`low_level` is c2. A multi-grid multiplies the rates of c5's units, one factor each (arXiv:1706.05587, 3.2.1)."""

    mean = (123.675, 116.28, 103.53)
    std = (58.395, 57.12, 57.375)

    def __init__(self, row: Row, output_stride: int, multi_grid: Sequence[int] | None = None) -> None:
        super().__init__()
        self.channels = {"c1": row.width}
        self.stem = nn.Sequential(ConvNorm(3, row.width, 7, norm=NORM, stride=2))
        self.pool = nn.MaxPool2d(3, 2, 1)
        plan = iter(_plan(row, output_stride, multi_grid))
        inp = row.width
        for index, (stage, count) in enumerate(zip(STAGES, row.blocks, strict=True)):
            width = row.width << index
            units = nn.Sequential()
            for _ in range(count):
                units.append(row.unit(inp, width, next(plan)))
                inp = width * row.unit.expansion
            self.add_module(stage, units)
            self.channels[stage] = inp
        self.channels["low_level"] = self.channels["c2"]
        strides = {"c1": 2, "c2": 4, "c3": 8, "c4": 16, "c5": 32, "low_level": 4}
        self.strides = {name: min(stride, output_stride) for name, stride in strides.items()}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = self.stem(images)
        features = {"c1": x}
        x = self.pool(x)
        for stage in STAGES:
            x = features[stage] = self.get_submodule(stage)(x)
        features["low_level"] = features["c2"]
        return features


def _plan(row: Row, output_stride: int, multi_grid: Sequence[int] | None) -> list[Placement]:
    strides = [2 if stage and not unit else 1 for stage, count in enumerate(row.blocks) for unit in range(count)]
    plan = strides_to_rates([4, *strides], output_stride, row.rule)[1:]
    grid = [1] * (len(plan) - row.blocks[-1]) + list(multi_grid or [1] * row.blocks[-1])
    return [
        Placement(stride, rate * factor, next_rate * factor)
        for (stride, rate, next_rate), factor in zip(plan, grid, strict=True)
    ]
