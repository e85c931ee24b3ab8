"""MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381), as TensorFlow's DeepLab has it: up to its 320 channels."""

from typing import NamedTuple

from torch import Tensor, nn

from atrous.backbones.contract import Backbone
from atrous.backbones.rates import strides_to_rates
from atrous.layers.conv import ConvNorm, Norm
from atrous.layers.inverted_residual import InvertedResidual, round_channels

NORM = Norm(eps=1e-3, momentum=0.05)  # TensorFlow's decay is 0.997: too slow for a short run


class Row(NamedTuple):
    """A line of table 2 of the paper."""

    expansion: int
    channels: int
    repeats: int
    stride: int  # of the first of the repeats


STEM = 32
ROWS = (
    Row(1, 16, 1, 1),
    Row(6, 24, 2, 2),
    Row(6, 32, 3, 2),
    Row(6, 64, 4, 2),
    Row(6, 96, 3, 1),
    Row(6, 160, 3, 2),
    Row(6, 320, 1, 1),
)
STAGES = {0: "c1", 2: "c2", 5: "c3", 12: "c4", 16: "c5"}  # outputs of blocks
TAPS = {2: "low_level", 5: "low_level_8", 12: "low_level_16"}  # their widened features, after the depthwise convolution
STRIDES = {"c1": 2, "c2": 4, "c3": 8, "c4": 16, "c5": 32, "low_level": 4, "low_level_8": 8, "low_level_16": 16}


class MobileNetV2(Backbone):
    """Beside the stages, the widened features that decoders at stride 4, 8 and 16 tap."""

    mean = (127.5, 127.5, 127.5)
    std = (127.5, 127.5, 127.5)

    def __init__(self, output_stride: int, depth_multiplier: float = 1.0, divisible_by: int | None = None) -> None:
        super().__init__()
        divisor = divisible_by or (8 if depth_multiplier == 1 else 1)  # DeepLab's own rule; slim's is 8 for all
        rows = [row for row in ROWS for _ in range(row.repeats)]
        strides = [row.stride if unit == 0 else 1 for row in ROWS for unit in range(row.repeats)]
        widths = [STEM, *(row.channels for row in rows)]
        stem, *outs = (round_channels(width * depth_multiplier, divisor) for width in widths)
        inps = [stem, *outs[:-1]]
        wides = [
            inp if row.expansion == 1 else round_channels(inp * row.expansion, 8)
            for inp, row in zip(inps, rows, strict=True)
        ]
        plan = strides_to_rates([2, *strides], output_stride, "unit")[1:]
        self.stem = ConvNorm(3, stem, 3, norm=NORM, stride=2, act="relu6", padding="same")
        self.blocks = nn.ModuleList(
            InvertedResidual(inp, wide, out, norm=NORM, act="relu6", stride=place.stride, rate=place.rate)
            for inp, wide, out, place in zip(inps, wides, outs, plan, strict=True)
        )
        self.channels = {name: outs[block] for block, name in STAGES.items()}
        self.channels |= {name: wides[block] for block, name in TAPS.items()}
        self.strides = {name: min(stride, output_stride) for name, stride in STRIDES.items()}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x, features = self.stem(images), {}
        for index, block in enumerate(self.blocks):
            x, wide = block(x)
            if index in STAGES:
                features[STAGES[index]] = x
            if index in TAPS:
                features[TAPS[index]] = wide
        return features
