"""Panoptic-DeepLab (Cheng et al. 2020, arXiv:1911.10194), as its authors build it in deeplab2 and in PyTorch."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from atrous.backbones import AnyBackboneConfig
from atrous.backbones.resnet import ResNet
from atrous.errors import ConfigError
from atrous.layers.aspp import ASPP, RATES, Sides, Window, window_at
from atrous.layers.conv import Activation, ConvNorm, Norm, SeparableConv, classifier
from atrous.layers.decoder import TAPS
from atrous.layers.resize import image_size, resize
from atrous.models.contract import MapConfig, Model, scaled_rates
from atrous.ops import is_exported
from atrous.settings import Channels, Rates, Settings
from atrous.types import Outputs

KERNEL = 5  # of the convolutions in decoders and heads (section 4.2)
STRIDES = (16, 8, 4)  # of the features that the decoders take in: the last two in deeplab2, all in PyTorch


class BranchConfig(Settings):
    aspp_channels: Channels = 256
    """Channels of ASPP's branches and projection."""
    low_level_channels: tuple[Channels, ...] = Field((64, 32), min_length=2, max_length=3)
    """Channels to which the features at stride 8 and 4 are reduced; three begin at stride 16."""
    decoder_channels: Channels = 256
    """Channels of the decoder's 5x5 convolutions."""
    head_channels: Channels = 256
    """Channels of the heads' 5x5 convolutions."""

    @property
    def strides(self) -> tuple[int, ...]:
        return STRIDES[-len(self.low_level_channels) :]


SEMANTIC = BranchConfig()
INSTANCE = BranchConfig(low_level_channels=(32, 16), decoder_channels=128, head_channels=32)


class SemanticConfig(MapConfig):
    """The settings of both models in this file."""

    backbone: AnyBackboneConfig = ResNet.Config(name="resnet50_d2")
    output_stride: Literal[8, 16, 32] = 32
    rates: Rates | None = None
    """Rates of ASPP's 3x3 convolutions; none: [6, 12, 18] at output stride 16."""
    pooling_window: Sides | None = None
    """Size of the windows of ASPP's image mean, in pixels of the image; none: the whole image."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Share of the channels after ASPP that training drops."""
    separable: bool = True
    """Depthwise separable convolutions in decoders and heads; false: dense ones."""
    semantic: BranchConfig = SEMANTIC
    """The branch of the classes."""
    norm_eps: PositiveFloat = 1e-3
    """Epsilon of the batch norms outside the backbone."""

    @property
    def logits_stride(self) -> int:
        return STRIDES[-1]

    @property
    def norm(self) -> Norm:
        return Norm(eps=self.norm_eps, momentum=0.01)

    def at_output_stride(self, output_stride: int) -> dict[str, object]:
        settings = super().at_output_stride(output_stride)
        if self.rates is not None:
            settings["rates"] = scaled_rates(self.rates, self.output_stride, output_stride)
        return settings


class Branch(nn.Module):
    """ASPP on c5, joined at stride 8 and 4 by thin projections of the low-level features (figure 2)."""

    def __init__(self, config: SemanticConfig, own: BranchConfig, channels: Mapping[str, int], act: Activation) -> None:
        super().__init__()
        norm = config.norm
        rates = RATES[config.output_stride] if config.rates is None else config.rates
        self.aspp = ASPP(
            channels["c5"], own.aspp_channels, rates, separable=False, dropout=config.dropout, act=act, norm=norm
        )
        self.low_level, self.fuse = nn.ModuleList(), nn.ModuleList()
        inp = own.aspp_channels
        self.strides = own.strides
        if missing := [stride for stride in self.strides if TAPS[stride] not in channels]:
            raise ConfigError(
                f"{config.backbone.name} has no features at stride {missing[0]}, which the decoder takes in"
            )
        for stride, thin in zip(self.strides, own.low_level_channels, strict=True):
            self.low_level.append(ConvNorm(channels[TAPS[stride]], thin, norm=norm, act=act))
            self.fuse.append(_conv(inp + thin, own.decoder_channels, config, act))
            inp = own.decoder_channels

    def forward(self, features: Mapping[str, Tensor], window: Window | None) -> Tensor:
        x = self.aspp(features["c5"], window)
        for stride, low_level, fuse in zip(self.strides, self.low_level, self.fuse, strict=True):
            low = features[TAPS[stride]]
            x = fuse(torch.cat([resize(x, image_size(low)), low_level(low)], 1))
        out: Tensor = x
        return out


class Head(nn.Sequential):
    """A 5x5, and a 1x1 without norm: logits, heights or offsets."""

    def __init__(self, config: SemanticConfig, own: BranchConfig, out: int, act: Activation) -> None:
        super().__init__()
        self.conv = _conv(own.decoder_channels, own.head_channels, config, act)
        self.classify = classifier(own.head_channels, out)


def _conv(inp: int, out: int, config: SemanticConfig, act: Activation) -> nn.Module:
    kind = SeparableConv if config.separable else ConvNorm
    return kind(inp, out, KERNEL, norm=config.norm, act=act)


class PanopticDeepLabSemantic(Model):
    """The semantic branch alone (deeplab2's `instance { enable: false }`)."""

    class Config(SemanticConfig):
        name: Literal["panoptic_deeplab_semantic"] = "panoptic_deeplab_semantic"

    config: SemanticConfig

    def __init__(self, config: SemanticConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        act = config.backbone.head_activation
        self.semantic = Branch(config, config.semantic, self.backbone.channels, act)
        self.semantic_head = Head(config, config.semantic, num_classes, act)

    @property
    def logit_modules(self) -> tuple[str, ...]:
        return ("semantic_head",)

    def forward(self, images: Tensor, scale: float = 1.0) -> Outputs:  # [B, 3, H, W] RGB 0..255
        features = self.features(images)
        window = window_at(self.config.pooling_window, scale, self.config.output_stride)
        return Outputs(semantic=self.semantic_head(self.semantic(features, window)))


class PanopticDeepLab(PanopticDeepLabSemantic):
    """Figure 2 of the paper: a branch for the classes, and one for the centres of things and each pixel's way there."""

    task: ClassVar[str] = "panoptic"

    class Config(SemanticConfig):
        name: Literal["panoptic_deeplab"] = "panoptic_deeplab"
        instance: BranchConfig = INSTANCE
        """The branch of things' centres and of the offsets to them."""

    config: Config

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__(config, num_classes)
        act = config.backbone.head_activation
        self.instance = Branch(config, config.instance, self.backbone.channels, act)
        self.center_head = Head(config, config.instance, 1, act)
        self.offset_head = Head(config, config.instance, 2, act)

    def forward(self, images: Tensor, scale: float = 1.0) -> Outputs:  # [B, 3, H, W] RGB 0..255
        features = self.features(images)
        window = window_at(self.config.pooling_window, scale, self.config.output_stride)
        semantic = self.semantic_head(self.semantic(features, window))
        shared = self.instance(features, window)
        return Outputs(
            semantic=semantic,
            center=self.center_head(shared),
            offset=_in_pixels(self.offset_head(shared), image_size(images)),
        )


def _in_pixels(offset: Tensor, image: tuple[int, int]) -> Tensor:
    """Offsets [B, 2, h, w] in cells of their own grid as pixels of the image."""
    if is_exported():  # targets divide tensors, not sizes
        one, sides = offset.new_ones(()), zip(image, image_size(offset), strict=True)
        tensors = [one * (large - 1) / (one * (small - 1)).clamp(min=1) for large, small in sides]
        return offset * torch.stack(tensors).view(2, 1, 1)
    steps = [(large - 1) / max(small - 1, 1) for large, small in zip(image, image_size(offset), strict=True)]
    return torch.cat([direction * step for direction, step in zip(torch.split(offset, 1, 1), steps, strict=True)], 1)
