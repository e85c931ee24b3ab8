"""DeepLab v3+ (Chen et al. 2018, arXiv:1802.02611): Encoder-Decoder with Atrous Separable Convolution."""

from typing import Literal

from pydantic import model_validator
from torch import Tensor, nn

from atrous.backbones import AnyBackboneConfig
from atrous.backbones.xception import Xception
from atrous.layers.aspp import window_at
from atrous.layers.conv import classifier
from atrous.layers.decoder import DecoderConfig
from atrous.layers.fcn_head import FCNHead
from atrous.layers.resize import image_size
from atrous.models.contract import ASPPModelConfig, ImagePyramidModel, build_aspp, build_decoder, build_refinement
from atrous.settings import Channels
from atrous.types import Outputs


class DeepLabV3Plus(ImagePyramidModel):
    """Figure 2 of the paper: ASPP on c5, joined at stride 4 by a thin projection of the low-level features."""

    class Config(ASPPModelConfig):
        name: Literal["deeplab_v3plus"] = "deeplab_v3plus"
        backbone: AnyBackboneConfig = Xception.Config(name="xception_65")  # section 3.2
        decoder: DecoderConfig = DecoderConfig()
        """The decoder, which joins finer features for sharp edges."""
        head_channels: Channels | None = None  # 256 in segmentation_models_pytorch
        """Channels of a 3x3 convolution, of the decoder's kind, between ASPP and decoder; none: without it."""
        auxiliary_channels: Channels | None = None  # 256 in mmsegmentation
        """Channels of a training-only head on the fourth stage; none: without it."""

        @model_validator(mode="after")
        def _has_a_decoder(self) -> "DeepLabV3Plus.Config":
            if not self.decoder.strides:
                raise ValueError("decoder.strides must not be empty: without a decoder, use deeplab_v3")
            if self.image_pyramid != (1.0,) and self.auxiliary_channels is not None:
                raise ValueError(
                    f"image_pyramid {self.image_pyramid} needs a single output: set auxiliary_channels=none"
                )
            return self

        @property
        def logits_stride(self) -> int:
            return min(self.decoder.strides)

    config: Config

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__(config, num_classes)
        channels, act, separable = self.backbone.channels, config.backbone.head_activation, config.aspp.separable
        self.aspp = build_aspp(config.aspp, channels["c5"], output_stride=config.output_stride, act=act)
        inner, second = config.head_channels, config.auxiliary_channels
        self.refine = (
            None
            if inner is None
            else build_refinement(config.decoder, self.aspp.channels, inner, separable=separable, act=act)
        )
        self.decoder = build_decoder(
            config.decoder, inner or self.aspp.channels, channels, num_classes, separable=separable, act=act
        )
        self.auxiliary = None if second is None else FCNHead(channels["c4"], second, num_classes)
        has_logits = config.decoder.logits
        self.classify = nn.Identity() if has_logits else classifier(config.decoder.channels, num_classes)

    @property
    def logit_modules(self) -> tuple[str, ...]:
        main = "decoder" if self.config.decoder.logits else "classify"
        return (main,) if self.auxiliary is None else (main, "auxiliary")

    @property
    def heads(self) -> tuple[str, ...]:
        return super().heads if self.auxiliary is None else ("auxiliary",)

    def at_scale(self, images: Tensor, scale: float) -> Outputs:  # [B, 3, H, W] RGB 0..255
        features = self.features(images)
        window = window_at(self.config.aspp.pooling_window, scale, self.config.output_stride)
        x = self.aspp(features["c5"], window)
        x = x if self.refine is None else self.refine(x)
        heads = {} if self.auxiliary is None else {"auxiliary": self.auxiliary(features["c4"])}
        return Outputs(semantic=self.classify(self.decoder(x, features, image_size(images))), heads=heads)
