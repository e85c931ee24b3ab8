"""The block of the MobileNets (Sandler et al. 2018, arXiv:1801.04381, figure 4d), and how their widths are rounded."""

from torch import Tensor, nn
from torch.nn import functional as F

from atrous.layers.aspp import Squeeze
from atrous.layers.conv import Activation, ConvNorm, Norm, Padding
from atrous.layers.squeeze import SqueezeExcite


def round_channels(channels: float, divisor: int) -> int:
    """The multiple of `divisor` nearest to `channels`, but never below nine tenths of it, nor below `divisor`."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


class InvertedResidual(nn.Module):
    """Expand, filter depthwise, project; returns the output and the expanded features before `squeeze`.

    It has a shortcut where the shapes allow, so a unit may gain one when a rate replaces its stride (TF-slim). With
    `pads_input`, the zeros lie around the input instead of the expanded features, whose border is then no zero.
    """

    def __init__(
        self,
        inp: int,
        wide: int,
        out: int,
        kernel: int = 3,
        *,
        norm: Norm,
        act: Activation,
        stride: int = 1,
        rate: int = 1,
        squeeze: bool = False,
        gate: Squeeze = "hard_sigmoid",  # of the squeeze
        shortcut: bool = True,
        padding: Padding = "same",
        pads_input: bool = False,
    ) -> None:
        super().__init__()
        self.margin = rate * (kernel - 1) // 2 if pads_input else 0
        padding = "valid" if pads_input else padding
        self.expand = ConvNorm(inp, wide, norm=norm, act=act) if wide > inp else nn.Identity()
        self.depthwise = ConvNorm(
            wide, wide, kernel, norm=norm, stride=stride, rate=rate, groups=wide, act=act, padding=padding
        )
        self.squeeze = SqueezeExcite(wide, round_channels(wide / 4, 8), gate) if squeeze else nn.Identity()
        self.project = ConvNorm(wide, out, norm=norm, act="none")
        self.has_shortcut = shortcut and stride == 1 and inp == out

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        padded = F.pad(x, [self.margin] * 4) if self.margin else x
        wide = self.depthwise(self.expand(padded))
        y = self.project(self.squeeze(wide))
        return x + y if self.has_shortcut else y, wide
