"""DeepLab v3 (Chen et al. 2017, arXiv:1706.05587): Rethinking Atrous Convolution for Semantic Image Segmentation."""

from typing import Literal

from pydantic import model_validator
from torch import Tensor

from atrous.backbones import AnyBackboneConfig
from atrous.backbones.mobilenet_v2 import MobileNetV2
from atrous.layers.aspp import window_at
from atrous.layers.conv import HEAD_NORM, ConvNorm, classifier
from atrous.layers.fcn_head import FCNHead
from atrous.models.contract import ASPPModelConfig, ImagePyramidModel, build_aspp
from atrous.settings import Channels
from atrous.types import Outputs


class DeepLabV3(ImagePyramidModel):
    """Figure 5 of the paper: atrous spatial pyramid pooling on c5, and logits at the output stride."""

    class Config(ASPPModelConfig):
        name: Literal["deeplab_v3"] = "deeplab_v3"
        backbone: AnyBackboneConfig = MobileNetV2.Config()
        head_channels: Channels | None = None  # 256 in torchvision
        """Channels of a 3x3 convolution after ASPP; none: without it."""
        auxiliary_channels: Channels | None = None  # 256 in torchvision
        """Channels of a training-only head; none: without it."""
        auxiliary_stage: Literal["c4", "low_level_8"] = "c4"
        """The features that the training-only head sees: the fourth stage, or the decoder's at stride 8."""

        @model_validator(mode="after")
        def _pyramid_has_one_head(self) -> "DeepLabV3.Config":
            if self.image_pyramid != (1.0,) and self.auxiliary_channels is not None:
                raise ValueError(
                    f"image_pyramid {self.image_pyramid} needs a single output: set auxiliary_channels=none"
                )
            return self

    config: Config

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__(config, num_classes)
        channels, inner, second = self.backbone.channels, config.head_channels, config.auxiliary_channels
        act, norm = config.backbone.head_activation, HEAD_NORM._replace(eps=config.aspp.norm_eps)
        self.aspp = build_aspp(config.aspp, channels["c5"], output_stride=config.output_stride, act=act)
        self.refine = None if inner is None else ConvNorm(self.aspp.channels, inner, 3, norm=norm, act=act)
        self.classify = classifier(inner or self.aspp.channels, num_classes)
        self.auxiliary = None if second is None else FCNHead(channels[config.auxiliary_stage], second, num_classes)

    @property
    def logit_modules(self) -> tuple[str, ...]:
        return ("classify",) if self.auxiliary is None else ("classify", "auxiliary")

    @property
    def heads(self) -> tuple[str, ...]:
        return super().heads if self.auxiliary is None else ("auxiliary",)

    def at_scale(self, images: Tensor, scale: float) -> Outputs:  # [B, 3, H, W] RGB 0..255
        features, config = self.features(images), self.config
        window = window_at(config.aspp.pooling_window, scale, config.output_stride)
        x = self.aspp(features["c5"], window)
        x = x if self.refine is None else self.refine(x)
        heads = {} if self.auxiliary is None else {"auxiliary": self.auxiliary(features[config.auxiliary_stage])}
        return Outputs(semantic=self.classify(x), heads=heads)
