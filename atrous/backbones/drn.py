"""Dilated residual networks (Yu, Koltun, Funkhouser 2017, arXiv:1705.09914), variants D of the authors' program."""

from typing import TYPE_CHECKING, Literal, NamedTuple

from torch import Tensor, nn

from atrous.backbones.contract import IMAGENET_MEAN, IMAGENET_STD, Backbone, BackboneConfig, strides_at
from atrous.backbones.rates import Placement
from atrous.backbones.resnet import Basic, Bottleneck
from atrous.layers.conv import TORCH_NORM, ConvNorm


class Row(NamedTuple):
    """One of figure 5's networks: convolutions stand for the max pool and for the last units."""

    unit: type[Basic | Bottleneck]
    blocks: tuple[int, int, int, int]  # units in c2..c5


DRNS = {
    "drn_d_22": Row(Basic, (2, 2, 2, 2)),
    "drn_d_54": Row(Bottleneck, (3, 4, 6, 3)),
}
STEM = (16, 16, 32)
WIDTHS = {"c2": 64, "c3": 128, "c4": 256, "c5": 512}
STRIDES = {"c2": 2, "c3": 2, "c4": 1, "c5": 1}
RATES = {"c2": 1, "c3": 1, "c4": 2, "c5": 4}
LAST, LAST_RATES = 512, (2, 1)  # section 3: falling rates after the last units, against gridding
TAPS = {"c2": "low_level", "c3": "low_level_8"}


if TYPE_CHECKING:
    Name = str
else:
    Name = Literal[tuple(DRNS)]


class DRN(Backbone):
    """Output stride 8 only. c5 are the last convolutions, which smooth what the units compute."""

    mean, std = IMAGENET_MEAN, IMAGENET_STD

    class Config(BackboneConfig):
        name: Name

        @property
        def output_strides(self) -> tuple[int, ...]:
            return (8,)

    def __init__(self, config: Config, output_stride: int) -> None:
        super().__init__(config, output_stride)
        row = DRNS[config.name]
        first, second, inp = STEM
        self.stem = nn.Sequential(
            ConvNorm(3, first, 7, norm=TORCH_NORM),
            ConvNorm(first, second, 3, norm=TORCH_NORM),
            ConvNorm(second, inp, 3, norm=TORCH_NORM, stride=2),
        )
        self.channels = {"c1": inp}
        for (stage, width), count in zip(WIDTHS.items(), row.blocks, strict=True):
            self.add_module(stage, _units(row, inp, stage, count))
            self.channels[stage] = inp = width * row.unit.expansion
        self.last = nn.Sequential(
            *(
                ConvNorm(one, LAST, 3, norm=TORCH_NORM, rate=rate)
                for one, rate in zip((inp, LAST), LAST_RATES, strict=True)
            )
        )
        self.channels |= {"c5": LAST, **{tap: self.channels[stage] for stage, tap in TAPS.items()}}
        self.strides = strides_at(output_stride, self.channels)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = self.stem(images)
        features = {"c1": x}
        for stage in WIDTHS:
            for unit in self.get_submodule(stage).children():
                x, _ = unit(x)
            features[stage] = x
        return {**features, "c5": self.last(x), **{tap: features[stage] for stage, tap in TAPS.items()}}


def _units(row: Row, inp: int, stage: str, count: int) -> nn.ModuleList:
    width, rate, stride = WIDTHS[stage], RATES[stage], STRIDES[stage]
    inps = [inp, *[width * row.unit.expansion] * (count - 1)]
    return nn.ModuleList(
        row.unit(one, width, Placement(1 if index else stride, rate, rate), TORCH_NORM)
        for index, one in enumerate(inps)
    )
