"""The decoder of DeepLab v3+ (arXiv:1802.02611, section 3.1), and that of MobileNetV3 (arXiv:1905.02244, figure 10)."""

from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field, PositiveFloat, model_validator
from torch import Tensor, nn

from atrous.errors import ConfigError
from atrous.layers.conv import HEAD_NORM, Activation, ConvNorm, Norm, SeparableConv
from atrous.layers.resize import Convention, resize
from atrous.settings import Channels, Settings

Merge = Literal["concat", "sum"]
Kind = Literal["separable", "bare", "dense", "logits"]  # of its convolutions; logits: 1x1 with bias, nothing after


Dropout = Annotated[float, Field(ge=0, lt=1)]


class DecoderConfig(Settings):
    strides: tuple[Literal[4, 8, 16], ...] = Field((4,), max_length=3)  # section 3.1
    """Strides of the low-level features that are joined, coarsest first; [4] or [8, 4]."""
    low_level_channels: Channels = 48  # table 1
    """Channels to which the low-level features are reduced."""
    channels: Channels = 256  # table 2
    """Channels of the decoder's 3x3 convolutions."""
    separable: bool | None = None
    """Depthwise separable 3x3 convolutions; none: as in ASPP, or separable without ASPP."""
    merge: Merge = "concat"
    """How features are joined; sum: one convolution, added to the low-level features."""
    num_convolutions: Literal[1, 2] = 2  # table 2
    """3x3 convolutions after each concatenation."""
    bare_depthwise: bool = False  # true in segmentation_models_pytorch
    """No batch norm and activation within separable convolutions, between depthwise and 1x1."""
    dropout: tuple[Dropout, ...] = Field((), max_length=2)
    """Share of values dropped after each of the convolutions; []: none."""
    align_corners: bool = True  # TF DeepLab; false in torchvision's manner
    """How features are upsampled: corner pixels coincide, or (false) outer edges do."""
    half_pixel_centers: bool = True  # False: TensorFlow 1 without align_corners
    """How pixels lie where corners aren't aligned: outer edges coincide, or (false) upper left corners."""
    logits: bool = False
    """The 1x1 convolutions compute the logits themselves; `channels` is not used."""
    norm_eps: PositiveFloat = HEAD_NORM.eps
    """Epsilon of the batch norms."""

    @model_validator(mode="after")
    def _strides_fall(self) -> "DecoderConfig":
        if list(self.strides) != sorted(set(self.strides), reverse=True):
            raise ValueError(f"strides must be in descending order, such as (8, 4), got {self.strides}")
        if self.logits and not self.strides:
            raise ValueError("logits=true needs strides: without them there is no decoder to compute the logits")
        return self

    @property
    def convention(self) -> Convention:
        return "aligned_corners" if self.align_corners else "half_pixel" if self.half_pixel_centers else "legacy"


def build_conv(inp: int, out: int, kernel: int, kind: Kind, act: Activation, norm: Norm) -> nn.Module:
    if kind == "logits":
        return nn.Conv2d(inp, out, 1)
    if kind in ("separable", "bare") and kernel > 1:
        return SeparableConv(inp, out, kernel, norm=norm, act=act, bare=kind == "bare")
    return ConvNorm(inp, out, kernel, norm=norm, act=act)


class Style(NamedTuple):
    """What all stages of a decoder share."""

    kind: Kind
    num_convolutions: int = 2
    dropout: tuple[float, ...] = ()  # after each of them
    convention: Convention = "aligned_corners"
    act: Activation = "relu"
    norm: Norm = HEAD_NORM

    def conv(self, inp: int, out: int, kernel: int) -> nn.Module:
        return build_conv(inp, out, kernel, self.kind, self.act, self.norm)


class ConcatStage(nn.Module):
    """Features concatenated with a thin projection of the low-level ones, then one or two convolutions."""

    def __init__(self, inp: int, low: int, thin: int, out: int, style: Style) -> None:
        super().__init__()
        self.low_level, self.convention = style.conv(low, thin, 1), style.convention
        inps = (inp + thin, out)[: style.num_convolutions]
        self.refine = nn.Sequential(*(style.conv(one, out, 3) for one in inps))
        for share, conv in zip(style.dropout, self.refine, strict=False):
            conv.add_module("dropout", nn.Dropout(share))

    def forward(self, x: Tensor, low: Tensor, size: tuple[int, int]) -> Tensor:
        maps = [resize(one, size, self.convention) for one in (x, self.low_level(low))]
        y: Tensor = self.refine(torch.cat(maps, 1))
        return y


class SumStage(nn.Module):
    """Features after one convolution, plus a projection of the low-level ones; nothing after the sum."""

    def __init__(self, inp: int, low: int, thin: int, out: int, style: Style) -> None:
        super().__init__()
        self.low_level, self.convention = style.conv(low, out, 1), style.convention
        self.refine = style.conv(inp, out, 3)

    def forward(self, x: Tensor, low: Tensor, size: tuple[int, int]) -> Tensor:
        y: Tensor = self.refine(resize(x, size, self.convention))
        return y + resize(self.low_level(low), size, self.convention)


STAGES: dict[Merge, type[ConcatStage] | type[SumStage]] = {"concat": ConcatStage, "sum": SumStage}
TAPS = {4: "low_level", 8: "low_level_8", 16: "low_level_16"}  # a backbone's names for what decoders tap


class Decoder(nn.ModuleList):
    """A stage per stride, coarsest first, each taking in the backbone's features of that stride."""

    def __init__(
        self,
        inp: int,
        channels: Mapping[str, int],  # of the backbone
        strides: tuple[int, ...],
        *,
        low_level_channels: int,
        out: int,
        kind: Kind,
        merge: Merge = "concat",
        num_convolutions: int = 2,
        dropout: tuple[float, ...] = (),
        convention: Convention = "aligned_corners",
        act: Activation = "relu",
        norm: Norm = HEAD_NORM,
    ) -> None:
        super().__init__()
        tap_strides = [stride for stride, tap in TAPS.items() if tap in channels]
        missing = [stride for stride in strides if stride not in tap_strides]
        if missing:
            available = f"has them only at {tap_strides}" if tap_strides else "has none"
            raise ConfigError(f"a decoder at stride {missing[0]} needs low-level features: this backbone {available}")
        style = Style(kind, num_convolutions, dropout, convention, act, norm)
        for stride in strides:
            self.append(STAGES[merge](inp, channels[TAPS[stride]], low_level_channels, out, style))
            inp = out
        self.strides, self.keeps_grid = strides, convention == "half_pixel"

    def forward(self, x: Tensor, features: Mapping[str, Tensor], image: tuple[int, int]) -> Tensor:
        """`image`: height and width of the images. Half-pixel centres fit any grid: low-level features keep theirs."""
        for stride, stage in zip(self.strides, self, strict=True):
            low = features[TAPS[stride]]
            height, width = low.shape[-2:] if self.keeps_grid else ((side - 1) // stride + 1 for side in image)
            x = stage(x, low, (height, width))
        return x
