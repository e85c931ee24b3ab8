"""MobileNet-EdgeTPU as in TF-slim: a MobileNetV3 for an accelerator that is best at dense convolutions.

It has neither hard swish nor squeeze-and-excitation; where maps are large, one dense convolution replaces two.
"""

from typing import Literal, NamedTuple

from pydantic import Field
from torch import Tensor, nn

from atrous.backbones.contract import Backbone, BlocksConfig, strides_at
from atrous.backbones.rates import Placement, placed, strides_to_rates
from atrous.layers.conv import SLIM_NORM, ConvNorm
from atrous.layers.inverted_residual import InvertedResidual, round_channels
from atrous.settings import Channels


class Row(NamedTuple):
    """Units of the same width. The first has the stride and the expansion; the others widen by `EXPANSION`."""

    fused: bool
    kernel: int
    expansion: int
    channels: int
    repeats: int
    stride: int
    shortcut: bool = True  # of the first, where the shapes allow


STEM, LAST, EXPANSION = 32, 1280, 4
ROWS = (
    Row(True, 3, 1, 16, 1, 1),
    Row(True, 3, 8, 32, 4, 2),
    Row(True, 3, 8, 48, 4, 2),
    Row(False, 3, 8, 96, 4, 2),
    Row(False, 3, 8, 96, 4, 1, shortcut=False),
    Row(False, 5, 8, 160, 4, 2),
    Row(False, 3, 8, 192, 1, 1),
)
STAGES = {0: "c1", 4: "c2", 8: "c3", 16: "c4"}  # outputs of blocks; c5 is that of the last convolution


class FusedResidual(nn.Module):
    """Expand with a dense convolution, which has the stride, then project; returns the same as `InvertedResidual`."""

    def __init__(self, inp: int, wide: int, out: int, kernel: int, *, place: Placement, shortcut: bool) -> None:
        super().__init__()
        self.expand = (
            ConvNorm(inp, wide, kernel, norm=SLIM_NORM, stride=place.stride, rate=place.rate, padding="same")
            if wide > inp
            else nn.Identity()
        )
        self.project = ConvNorm(wide, out, norm=SLIM_NORM, act="none")
        self.has_shortcut = shortcut and place.stride == 1 and inp == out

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        wide = self.expand(x)
        y = self.project(wide)
        return x + y if self.has_shortcut else y, wide


def _block(row: Row, unit: int, inp: int, out: int, place: Placement) -> nn.Module:
    wide = round_channels(inp * (row.expansion if unit == 0 else EXPANSION), 8)
    shortcut = row.shortcut or unit > 0
    if row.fused:
        return FusedResidual(inp, wide, out, row.kernel, place=place, shortcut=shortcut)
    return InvertedResidual(
        inp, wide, out, row.kernel, norm=SLIM_NORM, act="relu", stride=place.stride, rate=place.rate, shortcut=shortcut
    )


class MobileNetEdgeTPU(Backbone):
    """Stages only: it has no taps for a decoder, as in the original. c5 is the 1x1 convolution after the blocks."""

    mean = (127.5, 127.5, 127.5)
    std = (127.5, 127.5, 127.5)

    class Config(BlocksConfig):
        name: Literal["mobilenet_edgetpu"] = "mobilenet_edgetpu"
        depth_multiplier: float = Field(default=1.0, gt=0, le=8)
        """Factor on all widths, relative to the original's: smaller is faster and less accurate."""
        last_channels: Channels | None = None
        """Channels of the last convolution, 1280 in the published network at width 0.75; none: its part of 1280."""

        @property
        def num_blocks(self) -> int:
            return sum(row.repeats for row in ROWS)

    def __init__(self, config: Config, output_stride: int) -> None:
        super().__init__(config, output_stride)
        units = [(row, unit) for row in ROWS for unit in range(row.repeats)]
        widths = [STEM, *(row.channels for row, _ in units), LAST]
        stem, *outs, last = (round_channels(width * config.depth_multiplier, 8) for width in widths)
        last = config.last_channels or last
        strides = [row.stride if unit == 0 else 1 for row, unit in units]
        plan = placed(strides_to_rates([2, *strides], output_stride, "unit")[1:], config.rates)
        self.stem = ConvNorm(3, stem, 3, norm=SLIM_NORM, stride=2, padding="same")
        self.blocks = nn.ModuleList(
            _block(*unit, inp, out, place)
            for unit, inp, out, place in zip(units, [stem, *outs[:-1]], outs, plan, strict=True)
        )
        self.last = ConvNorm(outs[-1], last, norm=SLIM_NORM)
        self.channels = {**{name: outs[block] for block, name in STAGES.items()}, "c5": last}
        self.strides = strides_at(output_stride, self.channels)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x, features = self.stem(images), {}
        for index, block in enumerate(self.blocks):
            x, _ = block(x)
            if index in STAGES:
                features[STAGES[index]] = x
        return {**features, "c5": self.last(x)}
