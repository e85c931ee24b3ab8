"""DeepLab v3 (Chen et al. 2017, arXiv:1706.05587): Rethinking Atrous Convolution for Semantic Image Segmentation."""

from typing import Literal

from pydantic import Field, PositiveInt
from torch import Tensor

from atrous.layers.aspp import ASPP, RATES
from atrous.layers.conv import classifier
from atrous.models.contract import Model, ModelConfig
from atrous.types import Outputs


class DeepLabV3(Model):
    """Figure 5 of the paper: atrous spatial pyramid pooling on c5, and logits at the output stride."""

    class Config(ModelConfig):
        name: Literal["deeplab_v3"] = "deeplab_v3"
        backbone: str = "mobilenet_v2"
        rates: tuple[PositiveInt, ...] | None = None  # None: (6, 12, 18) at output stride 16, section 3.3; (): no 3x3
        aspp_channels: PositiveInt = 256  # section 3.3
        separable: bool = True  # the 3x3 of the pyramid; the paper's are not, its authors' program's are
        dropout: float = Field(0.1, ge=0, lt=1)  # after the pyramid, as the authors' program

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__(config, num_classes)
        rates = RATES[config.output_stride] if config.rates is None else config.rates
        c5 = self.backbone.channels["c5"]
        self.aspp = ASPP(c5, config.aspp_channels, rates, separable=config.separable, dropout=config.dropout)
        self.classify = classifier(config.aspp_channels, num_classes)

    def forward(self, images: Tensor) -> Outputs:  # [B, 3, H, W] RGB 0..255
        return Outputs(semantic=self.classify(self.aspp(self.features(images)["c5"])))
