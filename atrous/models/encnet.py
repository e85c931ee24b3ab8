"""EncNet (Zhang et al. 2018, arXiv:1803.08904): Context Encoding for Semantic Segmentation."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from atrous.backbones import AnyBackboneConfig
from atrous.backbones.resnet import ResNet
from atrous.layers.conv import TORCH_NORM, ConvNorm, classifier
from atrous.layers.encoding import Encoding
from atrous.layers.fcn_head import FCNHead
from atrous.layers.resize import resize
from atrous.models.contract import MapConfig, Model
from atrous.settings import Channels
from atrous.types import Outputs

LATERAL = ("c3", "c4")


class ContextEncoding(nn.Module):
    """The paper's module: the context as one vector, and the map with its channels scaled accordingly."""

    def __init__(self, channels: int, num_codewords: int) -> None:
        super().__init__()
        self.project = ConvNorm(channels, channels, norm=TORCH_NORM)
        self.encoding = Encoding(channels, num_codewords)
        self.norm = nn.BatchNorm1d(num_codewords, eps=TORCH_NORM.eps, momentum=TORCH_NORM.momentum)
        self.gate = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # [B, K, h, w] -> [B, K, h, w], [B, K]
        context = self.norm(self.encoding(self.project(x))).relu().mean(1)
        gate = torch.sigmoid(self.gate(context))[..., None, None]
        return (x + x * gate).relu(), context


class EncNet(Model):
    """The context gates the channels of c5 and predicts which classes are present, for the SE-loss.

    The context is a sum over pixels, normalised for the training crop: predict in windows of that size.
    """

    class Config(MapConfig):
        name: Literal["encnet"] = "encnet"
        backbone: AnyBackboneConfig = ResNet.Config(name="resnet50s")
        output_stride: Literal[8, 16, 32] = 8  # as in the paper's dilated networks
        head_channels: Channels = 512  # as in the authors' program
        """Channels of the context module."""
        num_codewords: Channels = 32  # as in the paper's networks for segmentation
        """Entries of the dictionary that describes the scene."""
        lateral: bool = False  # as in the authors' program
        """The third and fourth stage join the last one before the context module."""
        auxiliary_channels: Channels = 256  # as in the authors' program: a quarter of c4's
        """Channels of the training-only head on the fourth stage."""
        dropout: float = Field(0.1, ge=0, lt=1)  # as in the authors' program
        """Share of values dropped before the logits."""

    config: Config

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__(config, num_classes)
        channels, width = self.backbone.channels, config.head_channels
        names = LATERAL if config.lateral else ()
        self.head = ConvNorm(channels["c5"], width, 3, norm=TORCH_NORM)
        self.lateral = nn.ModuleDict({name: ConvNorm(channels[name], width, norm=TORCH_NORM) for name in names})
        self.fusion = ConvNorm((1 + len(names)) * width, width, 3, norm=TORCH_NORM) if names else nn.Identity()
        self.context = ContextEncoding(width, config.num_codewords)
        self.dropout = nn.Dropout(config.dropout)
        self.classify = classifier(width, num_classes)
        self.presence = nn.Linear(width, num_classes)
        self.auxiliary = FCNHead(channels["c4"], config.auxiliary_channels, num_classes, dropout=config.dropout)

    @property
    def logit_modules(self) -> tuple[str, ...]:
        return ("classify", "presence", "auxiliary")

    @property
    def heads(self) -> tuple[str, ...]:
        return ("auxiliary", "presence")

    def forward(self, images: Tensor, scale: float = 1.0) -> Outputs:  # [B, 3, H, W] RGB 0..255
        features = self.features(images)
        x = self.head(features["c5"])
        lateral = [resize(project(features[name]), x.shape[-2:]) for name, project in self.lateral.items()]
        x, context = self.context(self.fusion(torch.cat([x, *lateral], 1)))
        return Outputs(
            semantic=self.classify(self.dropout(x)),
            heads={"auxiliary": self.auxiliary(features["c4"]), "presence": self.presence(context)},
        )
