"""MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381), as in TensorFlow's DeepLab: up to its 320 channels."""

from typing import Literal, NamedTuple

from pydantic import Field
from torch import Tensor, nn

from atrous.backbones.contract import Backbone, BlocksConfig, ImageNet, strides_at
from atrous.backbones.rates import placed, strides_to_rates
from atrous.layers.conv import SLIM_NORM, ConvNorm
from atrous.layers.inverted_residual import InvertedResidual, round_channels
from atrous.settings import Channels


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
TAPS = {
    2: "low_level",
    5: "low_level_8",
    12: "low_level_16",
}  # their expanded features, after the depthwise convolution


IMAGENET = (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)  # depth multipliers of TF-slim's weights, whose widths are multiples of 8


class MobileNetV2(Backbone):
    """Decoders at stride 4, 8 and 16 tap the expanded features of the last block at that stride."""

    mean = (127.5, 127.5, 127.5)
    std = (127.5, 127.5, 127.5)

    class Config(BlocksConfig):
        name: Literal["mobilenet_v2"] = "mobilenet_v2"
        depth_multiplier: float = Field(default=1.0, gt=0, le=8)
        """Factor on all widths, relative to the paper's: smaller is faster and less accurate."""
        divisible_by: Channels | None = None  # as in TF DeepLab
        """What all widths are a multiple of; none: 8 at full width, else 1."""

        @property
        def num_blocks(self) -> int:
            return sum(row.repeats for row in ROWS)

        @property
        def divisor(self) -> int:
            """DeepLab's own rule for the widths; slim's is 8 for all."""
            return self.divisible_by or (8 if self.depth_multiplier == 1 else 1)

        @property
        def imagenet(self) -> ImageNet:
            if self.depth_multiplier in IMAGENET and self.divisor == 8:
                return ImageNet(f"zoo:mobilenet_v2_{self.depth_multiplier}_imagenet")
            widths = ", ".join(map(str, IMAGENET))
            return ImageNet(advice=f"there are some for depth_multiplier {widths}, with divisible_by=8")

    def __init__(self, config: Config, output_stride: int) -> None:
        super().__init__(config, output_stride)
        width = config.depth_multiplier
        rows = [row for row in ROWS for _ in range(row.repeats)]
        strides = [row.stride if unit == 0 else 1 for row in ROWS for unit in range(row.repeats)]
        widths = [STEM, *(row.channels for row in rows)]
        stem, *outs = (round_channels(channels * width, config.divisor) for channels in widths)
        inps = [stem, *outs[:-1]]
        wides = [
            inp if row.expansion == 1 else round_channels(inp * row.expansion, 8)
            for inp, row in zip(inps, rows, strict=True)
        ]
        plan = placed(strides_to_rates([2, *strides], output_stride, "unit")[1:], config.rates)
        self.stem = ConvNorm(3, stem, 3, norm=SLIM_NORM, stride=2, act="relu6", padding="same")
        self.blocks = nn.ModuleList(
            InvertedResidual(inp, wide, out, norm=SLIM_NORM, act="relu6", stride=place.stride, rate=place.rate)
            for inp, wide, out, place in zip(inps, wides, outs, plan, strict=True)
        )
        self.channels = {name: outs[block] for block, name in STAGES.items()}
        self.channels |= {name: wides[block] for block, name in TAPS.items()}
        self.strides = strides_at(output_stride, self.channels)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x, features = self.stem(images), {}
        for index, block in enumerate(self.blocks):
            x, wide = block(x)
            if index in STAGES:
                features[STAGES[index]] = x
            if index in TAPS:
                features[TAPS[index]] = wide
        return features
