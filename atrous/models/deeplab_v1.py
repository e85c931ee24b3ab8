"""DeepLab v1 (Chen et al. 2014, arXiv:1412.7062): Semantic Segmentation with Deep Nets and Fully Connected CRFs."""

from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor, nn

from atrous.backbones.contract import read_name
from atrous.backbones.vgg import VGG
from atrous.layers.conv import classifier
from atrous.layers.resize import resize
from atrous.models.contract import ImagePyramidConfig, ImagePyramidModel
from atrous.types import Outputs


class Fc6(NamedTuple):
    """A row of table 2: VGG-16's first fully connected layer as a convolution."""

    kernel: int
    rate: int
    channels: int  # of fc7, too


VARIANTS = {
    "large_fov": Fc6(3, 12, 1024),
    "7x7": Fc6(7, 4, 4096),
    "4x4": Fc6(4, 4, 4096),
}
SIDE = 128  # channels of each side branch, section 3.3
SIDES = {"image": 8, "c1": 4, "c2": 2, "c3": 1, "c4": 1}  # the input of each side branch: its stride to reach 8


class DeepLabV1(ImagePyramidModel):
    """VGG-16 at output stride 8 with fc6 as an atrous convolution. The CRF is in `postprocess.crf`."""

    class Config(ImagePyramidConfig):
        name: Literal["deeplab_v1"] = "deeplab_v1"
        backbone: Annotated[VGG.Config, BeforeValidator(read_name)] = VGG.Config(name="vgg16")
        output_stride: Literal[8] = 8
        variant: Literal["large_fov", "7x7", "4x4"] = "large_fov"  # table 2
        """Kernel and rate of fc6: large field of view (fast, accurate), 7x7 or 4x4."""
        multi_scale: bool = False  # MSc of section 3.3
        """Side branches on the image and on the first four poolings sharpen the edges."""
        dropout: float = Field(0.5, ge=0, lt=1)
        """Share of values dropped after fc6 and fc7."""

    config: Config

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__(config, num_classes)
        channels = {"image": 3, **self.backbone.channels}
        kernel, rate, wide = VARIANTS[config.variant]
        self.fc6 = nn.Conv2d(channels["c5"], wide, kernel, padding=rate * (kernel - 1) // 2, dilation=rate)
        self.fc7 = nn.Conv2d(wide, wide, 1)
        self.dropout = nn.Dropout(config.dropout)
        sides = SIDES if config.multi_scale else {}
        self.sides = nn.ModuleDict({name: _side(channels[name], stride) for name, stride in sides.items()})
        self.classify = classifier(wide + SIDE * len(sides), num_classes)

    def at_scale(self, images: Tensor, scale: float) -> Outputs:  # [B, 3, H, W] RGB 0..255
        taps = {"image": self.normalized(images), **self.features(images)}
        x = self.dropout(self.fc6(taps["c5"]).relu())
        x = self.dropout(self.fc7(x).relu())
        sides = [resize(side(taps[name]), x.shape[-2:]) for name, side in self.sides.items()]
        return Outputs(semantic=self.classify(torch.cat([x, *sides], 1)))


def _side(inp: int, stride: int) -> nn.Sequential:
    first = nn.Conv2d(inp, SIDE, 3, stride, padding=1)
    return nn.Sequential(first, nn.ReLU(True), nn.Conv2d(SIDE, SIDE, 1), nn.ReLU(True))
