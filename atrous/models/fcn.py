"""Fully convolutional networks (Long et al. 2014, arXiv:1411.4038), with rates instead of the last strides."""

from typing import Literal

from pydantic import Field
from torch import Tensor

from atrous.backbones import AnyBackboneConfig
from atrous.backbones.resnet import ResNet
from atrous.layers.fcn_head import FCNHead
from atrous.models.contract import MapConfig, Model
from atrous.settings import Channels
from atrous.types import Outputs


class FCN(Model):
    """Section 4.1's convolutional classifier, without the skips of section 4.2: c5 is fine enough."""

    class Config(MapConfig):
        name: Literal["fcn"] = "fcn"
        backbone: AnyBackboneConfig = ResNet.Config(name="resnet50")
        output_stride: Literal[8, 16, 32] = 8  # as in torchvision
        head_channels: Channels = 512  # as in torchvision
        """Channels of the 3x3 convolution before the logits."""
        auxiliary_channels: Channels | None = 256  # as in torchvision
        """Channels of a training-only head on the fourth stage; none: without it."""
        dropout: float = Field(0.1, ge=0, lt=1)
        """Share of whole maps dropped before the logits."""

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__(config, num_classes)
        channels, second = self.backbone.channels, config.auxiliary_channels
        self.head = FCNHead(channels["c5"], config.head_channels, num_classes, dropout=config.dropout)
        self.auxiliary = None if second is None else FCNHead(channels["c4"], second, num_classes)

    @property
    def logit_modules(self) -> tuple[str, ...]:
        return ("head",) if self.auxiliary is None else ("head", "auxiliary")

    @property
    def heads(self) -> tuple[str, ...]:
        return () if self.auxiliary is None else ("auxiliary",)

    def forward(self, images: Tensor, scale: float = 1.0) -> Outputs:  # [B, 3, H, W] RGB 0..255
        features = self.features(images)
        heads = {} if self.auxiliary is None else {"auxiliary": self.auxiliary(features["c4"])}
        return Outputs(semantic=self.head(features["c5"]), heads=heads)
