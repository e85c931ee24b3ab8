"""DeepLab v3 (Chen et al. 2017, arXiv:1706.05587): Rethinking Atrous Convolution for Semantic Image Segmentation."""

from typing import Literal

from pydantic import PositiveInt, model_validator
from torch import Tensor

from atrous.layers.conv import ConvNorm, classifier
from atrous.layers.fcn_head import FCNHead
from atrous.models.contract import Model, PyramidConfig
from atrous.types import Outputs


class DeepLabV3(Model):
    """Figure 5 of the paper: atrous spatial pyramid pooling on c5, and logits at the output stride."""

    class Config(PyramidConfig):
        name: Literal["deeplab_v3"] = "deeplab_v3"
        backbone: str = "mobilenet_v2"
        head_channels: PositiveInt | None = None  # of a 3x3 behind the pyramid, as torchvision has one; None: none
        auxiliary_channels: PositiveInt | None = None  # of a second head, on c4, as torchvision has one; None: none

        @model_validator(mode="after")
        def _pyramid_has_one_head(self) -> "DeepLabV3.Config":
            if self.image_pyramid != (1.0,) and self.auxiliary_channels is not None:
                raise ValueError(f"image_pyramid {self.image_pyramid} merges one output: not with auxiliary_channels")
            return self

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__(config, num_classes)
        channels, inner, second = self.backbone.channels, config.head_channels, config.auxiliary_channels
        self.aspp = config.aspp(channels["c5"])
        self.refine = (
            None if inner is None else ConvNorm(self.aspp.channels, inner, 3, norm=config.head_norm, act=config.act)
        )
        self.classify = classifier(inner or self.aspp.channels, num_classes)
        self.auxiliary = None if second is None else FCNHead(channels["c4"], second, num_classes)

    @property
    def logit_modules(self) -> tuple[str, ...]:
        return ("classify",) if self.auxiliary is None else ("classify", "auxiliary")

    @property
    def heads(self) -> tuple[str, ...]:
        return () if self.auxiliary is None else ("auxiliary",)

    def at_scale(self, images: Tensor, scale: float) -> Outputs:  # [B, 3, H, W] RGB 0..255
        features = self.features(images)
        x = self.aspp(features["c5"], self.pooling_window(scale))
        x = x if self.refine is None else self.refine(x)
        heads = {} if self.auxiliary is None else {"auxiliary": self.auxiliary(features["c4"])}
        return Outputs(semantic=self.classify(x), heads=heads)
