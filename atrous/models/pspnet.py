"""PSPNet (Zhao et al. 2016, arXiv:1612.01105): Pyramid Scene Parsing Network."""

from typing import Literal

from pydantic import Field
from torch import Tensor

from atrous.backbones import AnyBackboneConfig
from atrous.backbones.resnet import ResNet
from atrous.layers.fcn_head import FCNHead
from atrous.layers.pyramid_pooling import PyramidPooling
from atrous.models.contract import MapConfig, Model
from atrous.settings import Bins, Channels
from atrous.types import Outputs


class PSPNet(Model):
    """Figure 3 of the paper, and the second head of figure 4, on the stage before the last."""

    class Config(MapConfig):
        name: Literal["pspnet"] = "pspnet"
        backbone: AnyBackboneConfig = ResNet.Config(name="resnet50s")
        output_stride: Literal[8, 16, 32] = 8  # section 3.3
        bins: Bins = (1, 2, 3, 6)  # section 3.2; (): table 1's baseline
        """Grids of the means in the pyramid: 2 is 2 x 2 parts of the image; []: no pyramid."""
        bin_channels: Channels | None = None
        """Channels of each of the pyramid's means; none: an equal share of the map's."""
        head_channels: Channels = 512  # as in the authors' program
        """Channels of the 3x3 convolution before the logits."""
        auxiliary_channels: Channels = 256  # as in the authors' program
        """Channels of the training-only head on the fourth stage."""
        dropout: float = Field(0.1, ge=0, lt=1)  # as in the authors' program
        """Share of whole maps dropped before the logits."""

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__(config, num_classes)
        channels = self.backbone.channels
        self.pyramid = PyramidPooling(channels["c5"], config.bins, config.convention, config.bin_channels)
        self.head = FCNHead(self.pyramid.channels, config.head_channels, num_classes, dropout=config.dropout)
        self.auxiliary = FCNHead(channels["c4"], config.auxiliary_channels, num_classes, dropout=config.dropout)

    @property
    def logit_modules(self) -> tuple[str, ...]:
        return ("head", "auxiliary")

    @property
    def heads(self) -> tuple[str, ...]:
        return ("auxiliary",)

    def forward(self, images: Tensor, scale: float = 1.0) -> Outputs:  # [B, 3, H, W] RGB 0..255
        features = self.features(images)
        return Outputs(
            semantic=self.head(self.pyramid(features["c5"])), heads={"auxiliary": self.auxiliary(features["c4"])}
        )
