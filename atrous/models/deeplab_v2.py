"""DeepLab v2 (Chen et al. 2016, arXiv:1606.00915): Atrous Convolution, and Fully Connected CRFs."""

from typing import Any, Literal

from pydantic import Field
from torch import Tensor, nn

from atrous.backbones import AnyBackboneConfig
from atrous.backbones.resnet import ResNet
from atrous.layers.conv import classifier
from atrous.models.contract import ImagePyramidConfig, ImagePyramidModel, scaled_rates
from atrous.settings import Channels, Rates
from atrous.types import Outputs


class DeepLabV2(ImagePyramidModel):
    """Figure 7: logits by parallel convolutions of several rates on c5, summed. The CRF is in `postprocess.crf`."""

    class Config(ImagePyramidConfig):
        name: Literal["deeplab_v2"] = "deeplab_v2"
        backbone: AnyBackboneConfig = ResNet.Config(name="resnet_v1_101")
        output_stride: Literal[8, 16, 32] = 8
        rates: Rates = Field((6, 12, 18, 24), min_length=1)  # section 4.1.2, ASPP-L
        """Atrous rates of the parallel branches, whose logits are summed."""
        kernel: Literal[1, 3, 5, 7] = 3
        """Side of the branches' kernels."""
        hidden: Channels | None = None
        """Channels of fc6 and fc7 in each branch, 1024 for VGG-16; none: straight to logits."""
        dropout: float = Field(0.5, ge=0, lt=1)
        """Share of values dropped after fc6 and fc7."""

        def at_output_stride(self, output_stride: int) -> dict[str, Any]:
            rates = scaled_rates(self.rates, self.output_stride, output_stride)
            return {**super().at_output_stride(output_stride), "rates": rates}

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__(config, num_classes)
        inp = self.backbone.channels["c5"]
        wide, rates = config.hidden, config.rates
        self.fully_connected = nn.ModuleList(
            _fully_connected(inp, wide, config.kernel, rate, config.dropout) for rate in rates if wide is not None
        )
        self.classify = nn.ModuleList(
            classifier(inp, num_classes, config.kernel, rate) if wide is None else classifier(wide, num_classes)
            for rate in rates
        )

    def at_scale(self, images: Tensor, scale: float) -> Outputs:  # [B, 3, H, W] RGB 0..255
        x = self.features(images)["c5"]
        maps = [branch(x) for branch in self.fully_connected] or [x] * len(self.classify)
        logits = [classify(y) for classify, y in zip(self.classify, maps, strict=True)]
        return Outputs(semantic=sum(logits[1:], logits[0]))


def _fully_connected(inp: int, wide: int, kernel: int, rate: int, dropout: float) -> nn.Sequential:
    fc6 = nn.Conv2d(inp, wide, kernel, padding=rate * (kernel - 1) // 2, dilation=rate)
    layers = (fc6, nn.ReLU(True), nn.Dropout(dropout), nn.Conv2d(wide, wide, 1), nn.ReLU(True))
    return nn.Sequential(*layers, nn.Dropout(dropout))
