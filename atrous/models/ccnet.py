"""CCNet (Huang et al. 2018, arXiv:1811.11721): Criss-Cross Attention for Semantic Segmentation.

Published for Cityscapes val at one scale: 77.9 % mIoU with one recurrence, 78.4 to 79.7 with two (three trainings),
80.0 with the loss of hard pixels (crop 769, batch 8, 60 000 steps, learning rate 0.01, auxiliary weight 0.4).
"""

from functools import partial
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from atrous.backbones import AnyBackboneConfig
from atrous.backbones.resnet import ResNet
from atrous.layers.conv import TORCH_NORM, ConvNorm, classifier
from atrous.layers.criss_cross import CrissCrossAttention
from atrous.layers.fcn_head import FCNHead
from atrous.models.contract import MapConfig, Model
from atrous.settings import Channels
from atrous.types import Outputs


class CCNet(Model):
    """Figure 2 of the paper: c5, reduced, through recurrent criss-cross attention, then concatenated with c5.

    Heads have leaky ReLUs (`layers.abn`) as in the authors' program, except the auxiliary one, which is an FCN head.
    """

    class Config(MapConfig):
        name: Literal["ccnet"] = "ccnet"
        backbone: AnyBackboneConfig = ResNet.Config(name="resnet101s")
        output_stride: Literal[8, 16, 32] = 8  # section 3.1
        recurrences: int = Field(2, ge=1, le=16)  # R of section 3.3
        """How often the criss-cross attention is repeated; twice reaches every pixel."""
        head_channels: Channels = 512  # as in the authors' program
        """Channels of the criss-cross attention."""
        key_channels: Channels = 64  # C' of section 3.2: an eighth of `head_channels`
        """Channels of queries and keys."""
        auxiliary_channels: Channels = 512  # as in the authors' program
        """Channels of the training-only head on the fourth stage."""
        dropout: float = Field(0.1, ge=0, lt=1)
        """Share of whole maps dropped before the logits of both heads."""
        activation: Literal["leaky_relu", "relu"] = "leaky_relu"
        """Of the head: as in the authors' program, or (relu) as in mmsegmentation."""

    config: Config

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__(config, num_classes)
        channels, width = self.backbone.channels, config.head_channels
        conv = partial(ConvNorm, norm=TORCH_NORM, act=config.activation)
        self.reduce = conv(channels["c5"], width, 3)
        self.attention = CrissCrossAttention(width, config.key_channels)
        self.refine = conv(width, width, 3)
        self.fuse = conv(channels["c5"] + width, width, 3)
        self.dropout = nn.Dropout2d(config.dropout)
        self.classify = classifier(width, num_classes)
        self.auxiliary = FCNHead(channels["c4"], config.auxiliary_channels, num_classes, dropout=config.dropout)

    @property
    def logit_modules(self) -> tuple[str, ...]:
        return ("classify", "auxiliary")

    @property
    def heads(self) -> tuple[str, ...]:
        return ("auxiliary",)

    def forward(self, images: Tensor, scale: float = 1.0) -> Outputs:  # [B, 3, H, W] RGB 0..255
        features = self.features(images)
        x = self.reduce(features["c5"])
        for _ in range(self.config.recurrences):
            x = self.attention(x)
        x = self.fuse(torch.cat([features["c5"], self.refine(x)], 1))
        return Outputs(semantic=self.classify(self.dropout(x)), heads={"auxiliary": self.auxiliary(features["c4"])})
