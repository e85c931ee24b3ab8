"""DeepLab v3+ (Chen et al. 2018, arXiv:1802.02611): Encoder-Decoder with Atrous Separable Convolution."""

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from atrous.layers.conv import classifier
from atrous.models.contract import DecoderConfig, Model, PyramidConfig, image_size
from atrous.types import Outputs


class DeepLabV3Plus(Model):
    """Figure 2 of the paper: ASPP on c5, joined at stride 4 by a thin projection of the low-level features."""

    class Config(PyramidConfig, DecoderConfig):
        name: Literal["deeplab_v3plus"] = "deeplab_v3plus"
        backbone: str = "xception_65"  # section 3.2
        decoder_strides: tuple[Literal[4, 8, 16], ...] = Field((4,), min_length=1)  # section 3.1

    config: Config

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__(config, num_classes)
        self.aspp = config.aspp(self.backbone.channels["c5"])
        self.decoder = config.decoder(self.aspp.channels, self.backbone.channels, num_classes)
        has_logits = config.decoder_logits
        self.classify = nn.Identity() if has_logits else classifier(config.decoder_channels, num_classes)

    @property
    def logit_modules(self) -> tuple[str, ...]:
        return ("decoder",) if self.config.decoder_logits else ("classify",)

    def at_scale(self, images: Tensor, scale: float) -> Outputs:  # [B, 3, H, W] RGB 0..255
        features = self.features(images)
        x = self.aspp(features["c5"], self.pooling_window(scale))
        return Outputs(semantic=self.classify(self.decoder(x, features, image_size(images))))
