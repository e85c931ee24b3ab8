"""DeepLab v3+ (Chen et al. 2018, arXiv:1802.02611): Encoder-Decoder with Atrous Separable Convolution."""

from typing import Literal

from pydantic import model_validator
from torch import Tensor, nn

from atrous.backbones import AnyBackboneConfig
from atrous.backbones.xception import Xception
from atrous.layers.aspp import window_at
from atrous.layers.conv import classifier
from atrous.layers.decoder import DecoderConfig
from atrous.layers.resize import image_size
from atrous.models.contract import ASPPModelConfig, ImagePyramidModel, build_aspp, build_decoder
from atrous.types import Outputs


class DeepLabV3Plus(ImagePyramidModel):
    """Figure 2 of the paper: ASPP on c5, joined at stride 4 by a thin projection of the low-level features."""

    class Config(ASPPModelConfig):
        name: Literal["deeplab_v3plus"] = "deeplab_v3plus"
        backbone: AnyBackboneConfig = Xception.Config(name="xception_65")  # section 3.2
        decoder: DecoderConfig = DecoderConfig()
        """The decoder, which joins finer features for sharp edges."""

        @model_validator(mode="after")
        def _has_a_decoder(self) -> "DeepLabV3Plus.Config":
            if not self.decoder.strides:
                raise ValueError("decoder.strides must not be empty: without a decoder, use deeplab_v3")
            return self

        @property
        def logits_stride(self) -> int:
            return min(self.decoder.strides)

    config: Config

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__(config, num_classes)
        channels, act, separable = self.backbone.channels, config.backbone.head_activation, config.aspp.separable
        self.aspp = build_aspp(config.aspp, channels["c5"], output_stride=config.output_stride, act=act)
        self.decoder = build_decoder(
            config.decoder, self.aspp.channels, channels, num_classes, separable=separable, act=act
        )
        has_logits = config.decoder.logits
        self.classify = nn.Identity() if has_logits else classifier(config.decoder.channels, num_classes)

    @property
    def logit_modules(self) -> tuple[str, ...]:
        return ("decoder",) if self.config.decoder.logits else ("classify",)

    def at_scale(self, images: Tensor, scale: float) -> Outputs:  # [B, 3, H, W] RGB 0..255
        features = self.features(images)
        window = window_at(self.config.aspp.pooling_window, scale, self.config.output_stride)
        x = self.aspp(features["c5"], window)
        return Outputs(semantic=self.classify(self.decoder(x, features, image_size(images))))
