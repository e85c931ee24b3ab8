"""DeepLab v3+ (Chen et al. 2018, arXiv:1802.02611): Encoder-Decoder with Atrous Separable Convolution."""

from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from atrous.layers.aspp import ASPP, RATES
from atrous.layers.conv import HEAD_NORM, ConvNorm, SeparableConv, classifier
from atrous.layers.resize import resize
from atrous.models.contract import Model, ModelConfig
from atrous.types import Outputs


class DeepLabV3Plus(Model):
    """Figure 2 of the paper: ASPP on c5, joined at stride 4 by a thin projection of the low-level features."""

    class Config(ModelConfig):
        name: Literal["deeplab_v3plus"] = "deeplab_v3plus"
        backbone: str = "mobilenet_v2"
        rates: tuple[PositiveInt, ...] | None = None  # None: (6, 12, 18) at output stride 16, section 3.1; (): no 3x3
        aspp_channels: PositiveInt = 256  # section 3.1
        low_level_channels: PositiveInt = 48  # table 1
        decoder_channels: PositiveInt = 256  # table 2
        separable: bool = True  # the 3x3 of pyramid and decoder, section 3.1
        dropout: float = Field(0.1, ge=0, lt=1)  # after the pyramid, as the authors' program

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__(config, num_classes)
        channels, width = self.backbone.channels, config.decoder_channels
        rates = RATES[config.output_stride] if config.rates is None else config.rates
        conv = SeparableConv if config.separable else ConvNorm
        joined = config.aspp_channels + config.low_level_channels
        pyramid = (channels["c5"], config.aspp_channels, rates)
        self.aspp = ASPP(*pyramid, separable=config.separable, dropout=config.dropout)
        self.low_level = ConvNorm(channels["low_level"], config.low_level_channels, norm=HEAD_NORM)
        self.decoder = nn.Sequential(conv(joined, width, 3, norm=HEAD_NORM), conv(width, width, 3, norm=HEAD_NORM))
        self.classify = classifier(width, num_classes)

    def forward(self, images: Tensor) -> Outputs:  # [B, 3, H, W] RGB 0..255
        features = self.features(images)
        low = self.low_level(features["low_level"])
        x = resize(self.aspp(features["c5"]), low.shape[-2:])
        return Outputs(semantic=self.classify(self.decoder(torch.cat([x, low], 1))))
