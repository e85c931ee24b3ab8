"""DANet (Fu et al. 2018, arXiv:1809.02983): Dual Attention Network for Scene Segmentation.

Published for Cityscapes with ResNet-101: 79.93 % mIoU and 95.97 % of pixels right on val at one scale, 81.5 % mIoU on
test. That network has rates 4, 8, 16 in c5, as with `model.backbone.multi_grid=1,2,4`, and a plain stem.
"""

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from atrous.backbones import AnyBackboneConfig
from atrous.backbones.resnet import ResNet
from atrous.layers.conv import TORCH_NORM, ConvNorm, classifier
from atrous.layers.self_attention import ChannelAttention, PositionAttention
from atrous.models.contract import MapConfig, Model
from atrous.settings import Channels
from atrous.types import Outputs


class DANet(Model):
    """Figure 2 of the paper: attention over positions, attention over channels, and logits of their sum.

    Each of the two branches has its own logits in training, so that the loss is the paper's: three cross entropies of
    equal weight. There is no auxiliary head on c4.
    """

    class Config(MapConfig):
        name: Literal["danet"] = "danet"
        backbone: AnyBackboneConfig = ResNet.Config(name="resnet101s")
        output_stride: Literal[8, 16, 32] = 8  # section 3.1
        head_channels: Channels = 512  # as in the authors' program
        """Channels of the two attention heads."""
        key_channels: Channels = 64  # an eighth of `head_channels`, as in the authors' program
        """Channels of the position attention's queries and keys."""
        dropout: float = Field(0.1, ge=0, lt=1)
        """Share of whole maps dropped before each of the three logits."""

    config: Config

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__(config, num_classes)
        c5, width = self.backbone.channels["c5"], config.head_channels
        self.position = _branch(c5, width, PositionAttention(width, config.key_channels))
        self.channel = _branch(c5, width, ChannelAttention())
        self.classify = _classify(width, num_classes, config.dropout)
        self.classify_position = _classify(width, num_classes, config.dropout)
        self.classify_channel = _classify(width, num_classes, config.dropout)

    @property
    def logit_modules(self) -> tuple[str, ...]:
        return ("classify", "classify_position", "classify_channel")

    @property
    def heads(self) -> tuple[str, ...]:
        return ("position", "channel")

    def forward(self, images: Tensor, scale: float = 1.0) -> Outputs:  # [B, 3, H, W] RGB 0..255
        c5 = self.features(images)["c5"]
        position, channel = self.position(c5), self.channel(c5)
        return Outputs(
            semantic=self.classify(position + channel),
            heads={"position": self.classify_position(position), "channel": self.classify_channel(channel)},
        )


def _branch(inp: int, width: int, attention: nn.Module) -> nn.Sequential:
    before, after = (ConvNorm(channels, width, 3, norm=TORCH_NORM) for channels in (inp, width))
    return nn.Sequential(before, attention, after)


def _classify(inp: int, num_classes: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Dropout2d(dropout), classifier(inp, num_classes))
