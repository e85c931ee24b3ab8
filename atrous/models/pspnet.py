"""PSPNet (Zhao et al. 2016, arXiv:1612.01105): Pyramid Scene Parsing Network."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator
from torch import Tensor, nn

from atrous.backbones import AnyBackboneConfig
from atrous.backbones.resnet import ResNet
from atrous.layers.fcn_head import FCNHead
from atrous.layers.pyramid_pooling import PyramidPooling, joined
from atrous.models.contract import MapConfig, Model
from atrous.settings import Bins, Channels
from atrous.types import Outputs


class PSPNet(Model):
    """Figure 3 of the paper, and the second head of figure 4, on the stage before the last."""

    class Config(MapConfig):
        needs_c5: ClassVar[bool] = False

        name: Literal["pspnet"] = "pspnet"
        backbone: AnyBackboneConfig = ResNet.Config(name="resnet50s")
        output_stride: Literal[8, 16, 32] = 8  # section 3.3
        bins: Bins = (1, 2, 3, 6)  # section 3.2; (): table 1's baseline
        """Grids of the means in the pyramid: 2 is 2 x 2 parts of the image; []: no pyramid."""
        bin_channels: Channels | None = None
        """Channels of each of the pyramid's means; none: an equal share of the map's."""
        head_channels: Channels = 512  # as in the authors' program
        """Channels of the 3x3 convolution before the logits."""
        head_kernel: Literal[1, 3] = 3
        """Side of the kernel before the logits."""
        logits_kernel: Literal[1, 3] = 1
        """Side of the kernel that computes the logits."""
        auxiliary_channels: Channels | None = 256  # as in the authors' program
        """Channels of the training-only head on the fourth stage; none: without it."""
        dropout: float = Field(0.1, ge=0, lt=1)  # as in the authors' program
        """Share of whole maps dropped before the logits."""

        @model_validator(mode="after")
        def _second_head_has_its_stage(self) -> "PSPNet.Config":
            if self.auxiliary_channels is not None and self.backbone.deepest == "c3":
                raise ValueError(
                    "a backbone that ends with c3 has no stage for a second head: set auxiliary_channels=none"
                )
            return self

    config: Config

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__(config, num_classes)
        channels, second, drop = self.backbone.channels, config.auxiliary_channels, config.dropout
        pyramid = PyramidPooling(channels[config.backbone.deepest], config.bins, config.convention, config.bin_channels)
        self.pyramid: nn.Module = pyramid
        self.head = FCNHead(
            pyramid.channels,
            config.head_channels,
            num_classes,
            kernel=config.head_kernel,
            logits_kernel=config.logits_kernel,
            dropout=drop,
        )
        self.auxiliary = None if second is None else FCNHead(channels["c4"], second, num_classes, dropout=drop)

    @property
    def logit_modules(self) -> tuple[str, ...]:
        return ("head",) if self.auxiliary is None else ("head", "auxiliary")

    @property
    def heads(self) -> tuple[str, ...]:
        return () if self.auxiliary is None else ("auxiliary",)

    def rearrange(self) -> None:
        if (faster := joined(self.pyramid, self.head.conv)) is not None:
            self.pyramid, self.head.conv = faster, nn.Identity()

    def forward(self, images: Tensor, scale: float = 1.0) -> Outputs:  # [B, 3, H, W] RGB 0..255
        features = self.features(images)
        semantic = self.head(self.pyramid(features[self.config.backbone.deepest]))  # its dropout is drawn first
        heads = {} if self.auxiliary is None else {"auxiliary": self.auxiliary(features["c4"])}
        return Outputs(semantic=semantic, heads=heads)
