"""VGG (Simonyan and Zisserman 2014, arXiv:1409.1556) up to its last pooling, as in DeepLab v1 and v2."""

import math
from itertools import accumulate
from operator import mul
from typing import TYPE_CHECKING, Literal, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from atrous.backbones.contract import Backbone, BackboneConfig


class Row(NamedTuple):
    """A column of table 1 of the paper, with DeepLab's changes (arXiv:1412.7062, section 3.1)."""

    channels: tuple[int, ...]  # of the five stages
    convs: tuple[int, ...]
    rates: tuple[int, ...]  # of their 3x3
    strides: tuple[int, ...]  # of the max pools after them, 3x3 instead of 2x2
    smoothed: bool  # the last of them by a 3x3 mean (only in the program, for LargeFOV)


VGGS = {
    "vgg16": Row(
        channels=(64, 128, 256, 512, 512),
        convs=(2, 2, 3, 3, 3),
        rates=(1, 1, 1, 1, 2),
        strides=(2, 2, 2, 1, 1),
        smoothed=True,
    ),
}


if TYPE_CHECKING:
    Name = str
else:
    Name = Literal[tuple(VGGS)]


class Conv(nn.Conv2d):
    """A 3x3 that keeps the size, with a bias that is initialised with 0."""

    def __init__(self, inp: int, out: int, rate: int) -> None:
        super().__init__(inp, out, 3, padding=rate, dilation=rate)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=math.sqrt(2 / (9 * self.out_channels)))
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]


class VGG(Backbone):
    """Output stride 8 only. `c1`..`c5` are the outputs of the pools, c3 to c5 at stride 8; `low_level` is c2.

    On odd sizes, such as the authors' crops of 321, the pools equal theirs; on even sizes Caffe's give a pixel more.
    """

    mean = (122.675, 116.669, 104.008)
    std = (1.0, 1.0, 1.0)

    class Config(BackboneConfig):
        name: Name

        @property
        def output_strides(self) -> tuple[int, ...]:
            return (8,)

    def __init__(self, config: Config, output_stride: int) -> None:
        super().__init__(config, output_stride)
        self.row = row = VGGS[config.name]
        names = [f"c{index}" for index in range(1, 6)]
        inps = (3, *row.channels[:-1])
        for name, *stage in zip(names, inps, row.channels, row.convs, row.rates, strict=True):
            self.add_module(name, _stage(*stage))
        self.pools = dict(zip(names, row.strides, strict=True))
        self.channels = dict(zip(names, row.channels, strict=True))
        self.strides = dict(zip(names, accumulate(row.strides, mul), strict=True))
        self.channels["low_level"], self.strides["low_level"] = self.channels["c2"], self.strides["c2"]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x, features = images, {}
        for name, stride in self.pools.items():
            x = features[name] = F.max_pool2d(self.get_submodule(name)(x), 3, stride, 1)
        if self.row.smoothed:
            features["c5"] = F.avg_pool2d(x, 3, 1, 1)
        features["low_level"] = features["c2"]
        return features


def _stage(inp: int, out: int, count: int, rate: int) -> nn.Sequential:
    inps = [inp, *[out] * (count - 1)]
    return nn.Sequential(*(layer for one in inps for layer in (Conv(one, out, rate), nn.ReLU(inplace=True))))
