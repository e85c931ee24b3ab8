"""DeepLab v3 (Chen et al. 2017, arXiv:1706.05587): Rethinking Atrous Convolution for Semantic Image Segmentation."""

from typing import Literal

from torch import Tensor

from atrous.layers.conv import classifier
from atrous.models.contract import Model, PyramidConfig
from atrous.types import Outputs


class DeepLabV3(Model):
    """Figure 5 of the paper: atrous spatial pyramid pooling on c5, and logits at the output stride."""

    class Config(PyramidConfig):
        name: Literal["deeplab_v3"] = "deeplab_v3"
        backbone: str = "mobilenet_v2"

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__(config, num_classes)
        self.aspp = config.aspp(self.backbone.channels["c5"])
        self.classify = classifier(self.aspp.channels, num_classes)

    def at_scale(self, images: Tensor, scale: float) -> Outputs:  # [B, 3, H, W] RGB 0..255
        x = self.aspp(self.features(images)["c5"], self.pooling_window(scale))
        return Outputs(semantic=self.classify(x))
