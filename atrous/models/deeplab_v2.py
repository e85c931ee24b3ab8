"""DeepLab v2 (Chen et al. 2016, arXiv:1606.00915): Atrous Convolution, and Fully Connected CRFs."""

from typing import Literal

from pydantic import Field, PositiveInt
from torch import Tensor, nn

from atrous.layers.conv import classifier
from atrous.models.contract import Model, ModelConfig
from atrous.types import Outputs


class DeepLabV2(Model):
    """Figure 7: logits by parallel convolutions of several rates on c5, summed. The CRF is `postprocess.crf`'s."""

    class Config(ModelConfig):
        name: Literal["deeplab_v2"] = "deeplab_v2"
        backbone: str = "resnet_v1_101"
        output_stride: Literal[8, 16, 32] = 8
        rates: tuple[PositiveInt, ...] = Field((6, 12, 18, 24), min_length=1)  # section 4.1.2, ASPP-L
        kernel: Literal[1, 3, 5, 7] = 3
        hidden: PositiveInt | None = None  # VGG-16's fc6 and fc7, 1024 wide, in each branch; None: straight to logits
        dropout: float = Field(0.5, ge=0, lt=1)  # after fc6 and fc7

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__(config, num_classes)
        inp = self.backbone.channels["c5"]
        wide = config.hidden
        self.fully_connected = nn.ModuleList(
            _fully_connected(inp, wide, rate, config) for rate in config.rates if wide is not None
        )
        self.classify = nn.ModuleList(
            classifier(inp, num_classes, config.kernel, rate) if wide is None else classifier(wide, num_classes)
            for rate in config.rates
        )

    def at_scale(self, images: Tensor, scale: float) -> Outputs:  # [B, 3, H, W] RGB 0..255
        x = self.features(images)["c5"]
        maps = [branch(x) for branch in self.fully_connected] or [x] * len(self.classify)
        logits = [classify(y) for classify, y in zip(self.classify, maps, strict=True)]
        return Outputs(semantic=sum(logits[1:], logits[0]))


def _fully_connected(inp: int, wide: int, rate: int, config: DeepLabV2.Config) -> nn.Sequential:
    around = rate * (config.kernel - 1) // 2
    fc6 = nn.Conv2d(inp, wide, config.kernel, padding=around, dilation=rate)
    layers = (fc6, nn.ReLU(True), nn.Dropout(config.dropout), nn.Conv2d(wide, wide, 1), nn.ReLU(True))
    return nn.Sequential(*layers, nn.Dropout(config.dropout))
