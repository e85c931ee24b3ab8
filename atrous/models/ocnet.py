"""OCNet (Yuan and Wang 2018, arXiv:1809.00916): Object Context Network for Scene Parsing.

Published with ResNet-101: Cityscapes val 79.3 % mIoU with base-OC, 79.5 with ASP-OC, 80.4 with the loss of hard pixels,
test 81.7; ADE20K val 45.45; LIP 54.72 (crop 769, batch 8, 40 000 steps, learning rate 0.01,
auxiliary weight 0.4).
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from atrous.backbones import AnyBackboneConfig
from atrous.backbones.resnet import ResNet
from atrous.layers.abn import conv_abn
from atrous.layers.aspp import RATES
from atrous.layers.conv import classifier
from atrous.layers.fcn_head import FCNHead
from atrous.layers.self_attention import ObjectContext
from atrous.models.contract import MapConfig, Model
from atrous.settings import Channels
from atrous.types import Outputs

BINS = (1, 2, 3, 6)  # of pyramid-OC: attention stays within a whole map, its quarters, ninths, ...
ASP_POOL = 2  # of ASP-OC: side of the max pooling before its attention


class ContextPyramid(nn.Module):
    """The reduced map and the object contexts within its parts: base-OC with one part, else pyramid-OC.

    Key and value are half as wide, as in the authors' program of base-OC; docs/parity.md has how its others differ.
    """

    def __init__(self, inp: int, width: int, bins: Sequence[int]) -> None:
        super().__init__()
        self.reduce = conv_abn(inp, width, 3)
        self.contexts = nn.ModuleList(ObjectContext(width, width // 2, width, parts=parts) for parts in bins)
        self.project = conv_abn((len(bins) + 1) * width, width)

    def forward(self, x: Tensor) -> Tensor:  # [B, inp, h, w] -> [B, width, h, w]
        x = self.reduce(x)
        y: Tensor = self.project(torch.cat([*(context(x) for context in self.contexts), x], 1))
        return y


class ContextASPP(nn.Module):
    """ASP-OC: the object context instead of the image-level branch of atrous spatial pyramid pooling."""

    def __init__(self, inp: int, width: int, rates: Sequence[int]) -> None:
        super().__init__()
        half = width // 2
        context = nn.Sequential(conv_abn(inp, half, 3), ObjectContext(half, half // 2, half, pool=ASP_POOL))
        atrous = [conv_abn(inp, half, 3, rate=rate) for rate in rates]
        self.branches = nn.ModuleList([context, conv_abn(inp, half), *atrous])
        self.project = conv_abn(len(self.branches) * half, width)

    def forward(self, x: Tensor) -> Tensor:  # [B, inp, h, w] -> [B, width, h, w]
        y: Tensor = self.project(torch.cat([branch(x) for branch in self.branches], 1))
        return y


Variant = Literal["base", "pyramid", "asp"]
CONTEXTS: dict[Variant, Callable[[int, int, int], nn.Module]] = {  # of c5's channels, the width, the output stride
    "base": lambda inp, width, stride: ContextPyramid(inp, width, bins=(1,)),
    "pyramid": lambda inp, width, stride: ContextPyramid(inp, width, BINS),
    "asp": lambda inp, width, stride: ContextASPP(inp, width, RATES[stride]),
}
DROPOUT: dict[Variant, float] = {"base": 0.05, "pyramid": 0.05, "asp": 0.1}


class OCNet(Model):
    """A pixel's context is the pixels similar to it, as a surrogate for those of its object.

    Heads have leaky ReLUs (`conv_abn`) as in the authors' program, except the auxiliary one, which is an FCN head.
    """

    class Config(MapConfig):
        name: Literal["ocnet"] = "ocnet"
        backbone: AnyBackboneConfig = ResNet.Config(name="resnet101s")
        output_stride: Literal[8, 16, 32] = 8  # as in the paper's dilated networks
        variant: Variant = "base"  # base-OC, pyramid-OC, ASP-OC
        """Context by attention over all pixels (base), over parts of the image (pyramid), or with ASPP."""
        head_channels: Channels = Field(512, ge=4)  # as in the authors' program
        """Channels of the context module."""
        auxiliary_channels: Channels = 512  # as in CCNet's program
        """Channels of the training-only head on the fourth stage."""
        dropout: float | None = Field(None, ge=0, lt=1)
        """Share of whole maps dropped; none: 0.1 with ASPP, else 0.05."""

    config: Config

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__(config, num_classes)
        channels, width = self.backbone.channels, config.head_channels
        self.context = CONTEXTS[config.variant](channels["c5"], width, config.output_stride)
        self.dropout = nn.Dropout2d(DROPOUT[config.variant] if config.dropout is None else config.dropout)
        self.classify = classifier(width, num_classes)
        self.auxiliary = FCNHead(channels["c4"], config.auxiliary_channels, num_classes)

    @property
    def logit_modules(self) -> tuple[str, ...]:
        return ("classify", "auxiliary")

    @property
    def heads(self) -> tuple[str, ...]:
        return ("auxiliary",)

    def forward(self, images: Tensor, scale: float = 1.0) -> Outputs:  # [B, 3, H, W] RGB 0..255
        features = self.features(images)
        x = self.dropout(self.context(features["c5"]))
        return Outputs(semantic=self.classify(x), heads={"auxiliary": self.auxiliary(features["c4"])})
