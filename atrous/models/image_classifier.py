"""A backbone with the classifier that it was pretrained with (ImageNet): one label for a whole image."""

from typing import ClassVar, Literal

from torch import Tensor

from atrous.backbones import AnyBackboneConfig
from atrous.backbones.mobilenet_v2 import MobileNetV2
from atrous.layers.conv import SLIM_NORM, ConvNorm, classifier
from atrous.models.contract import Model, ModelConfig
from atrous.settings import Channels
from atrous.types import Outputs


class ImageClassifier(Model):
    """Logits [B, C] of the mean of c5, or of a wider map, as in MobileNetV2 (arXiv:1801.04381, table 2)."""

    task: ClassVar[str] = "classification"

    class Config(ModelConfig):
        name: Literal["image_classifier"] = "image_classifier"
        backbone: AnyBackboneConfig = MobileNetV2.Config()
        output_stride: Literal[8, 16, 32] = 32
        head_channels: Channels | None = None
        """Channels of a 1x1 convolution before the mean, 1280 for MobileNetV2; none: without it."""

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__(config, num_classes)
        c5, wide = self.backbone.channels["c5"], config.head_channels
        self.widen = None if wide is None else ConvNorm(c5, wide, norm=SLIM_NORM, act="relu6")
        self.classify = classifier(wide or c5, num_classes)

    def forward(self, images: Tensor, scale: float = 1.0) -> Outputs:  # [B, 3, H, W] RGB 0..255
        x = self.features(images)["c5"]
        x = x if self.widen is None else self.widen(x)
        return Outputs(classes=self.classify(x.mean((2, 3), keepdim=True)).flatten(1))
