"""The branches of ICNet (Zhao et al. 2017, arXiv:1704.08545) before they are fused, as in its authors' program."""

from typing import TYPE_CHECKING, Literal, NamedTuple

from torch import Tensor, nn

from atrous.backbones.contract import STRIDES, Backbone, BackboneConfig
from atrous.layers.conv import TORCH_NORM, ConvNorm
from atrous.layers.resize import resize

STAGES = ("c1", "c2", "c3", "c4", "c5")
TAPS = {"low_level": "c2", "low_level_8": "c3", "low_level_16": "c4"}
FIRST_STRIDES = (1, 2, 1, 1)  # of the trunk's stages, after a stem and a pool of stride 2 each
RATES = (1, 1, 2, 4)  # of every 3x3 of a stage, including its first unit's


class Row(NamedTuple):
    """A ResNet that two of the branches share: one has its early units, the other the rest."""

    blocks: tuple[int, int, int, int]  # units in its stages
    width: int  # of the first stage's 3x3 and of the stem, whose last is twice as wide; each stage doubles it


ICNETS = {"icnet_resnet50": Row((3, 4, 6, 3), width=32)}  # half of ResNet-50's width, as after pruning


if TYPE_CHECKING:
    Name = str
else:
    Name = Literal[tuple(ICNETS)]


class Unit(nn.Module):
    """A bottleneck with its stride in the first 1x1, as in He et al. 2015 (arXiv:1512.03385) and Caffe."""

    expansion = 4

    def __init__(self, inp: int, width: int, stride: int, rate: int) -> None:
        super().__init__()
        out = self.expansion * width
        self.conv1 = ConvNorm(inp, width, norm=TORCH_NORM, stride=stride)
        self.conv2 = ConvNorm(width, width, 3, norm=TORCH_NORM, rate=rate)
        self.conv3 = ConvNorm(width, out, norm=TORCH_NORM, act="none")
        self.shortcut = nn.Identity() if inp == out else ConvNorm(inp, out, norm=TORCH_NORM, stride=stride, act="none")

    def forward(self, x: Tensor) -> Tensor:  # [B, K, h, w]
        y: Tensor = self.shortcut(x) + self.conv3(self.conv2(self.conv1(x)))
        return y.relu_()


class ICNetBackbone(Backbone):
    """Three branches: on the image (`sub1`), on its half (`sub2`), and on half of that branch's output (`sub4`).

    c1 to c3 are three convolutions on the image, c4 is the end of the second branch and c5 that of the third, which
    alone is deep: c5 does not depend on c1 to c3. Halving is bilinear with aligned corners.
    """

    mean = (123.68, 116.779, 103.939)
    std = (1.0, 1.0, 1.0)

    class Config(BackboneConfig):
        name: Name

        @property
        def output_strides(self) -> tuple[int, ...]:
            return (32,)

    def __init__(self, config: Config, output_stride: int) -> None:
        super().__init__(config, output_stride)
        row = ICNETS[config.name]
        width, early = row.width, row.blocks[0] + 1
        units = _units(row)
        self.sub1 = nn.Sequential(*(_halving(inp, out) for inp, out in ((3, 32), (32, 32), (32, 64))))
        self.sub2 = nn.Sequential(
            _halving(3, width),
            ConvNorm(width, width, 3, norm=TORCH_NORM),
            ConvNorm(width, 2 * width, 3, norm=TORCH_NORM),
            nn.MaxPool2d(3, 2, 1),
            *units[:early],
        )
        self.sub4 = nn.Sequential(*units[early:])
        ends = (32, 32, 64, 2 * Unit.expansion * width, 8 * Unit.expansion * width)
        self.channels = dict(zip(STAGES, ends, strict=True))
        self.channels |= {tap: self.channels[stage] for tap, stage in TAPS.items()}
        self.strides = {name: STRIDES[name] for name in self.channels}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features, x = {}, images
        for name, conv in zip(("c1", "c2", "c3"), self.sub1, strict=True):
            x = features[name] = conv(x)
        features["c4"] = self.sub2(_half(images))
        features["c5"] = self.sub4(_half(features["c4"]))
        return features | {tap: features[stage] for tap, stage in TAPS.items()}


def _halving(inp: int, out: int) -> ConvNorm:
    return ConvNorm(inp, out, 3, norm=TORCH_NORM, stride=2)


def _half(x: Tensor) -> Tensor:
    return resize(x, [(side + 1) // 2 for side in x.shape[-2:]])


def _units(row: Row) -> list[Unit]:
    units, inp = [], 2 * row.width
    for index, (count, stride, rate) in enumerate(zip(row.blocks, FIRST_STRIDES, RATES, strict=True)):
        width = row.width << index
        for unit in range(count):
            units.append(Unit(inp, width, 1 if unit else stride, rate))
            inp = width * Unit.expansion
    return units
