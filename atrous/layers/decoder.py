"""The decoder of DeepLab v3+ (arXiv:1802.02611, section 3.1), and that of MobileNetV3 (arXiv:1905.02244, figure 10)."""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field, PositiveFloat, model_validator
from torch import Tensor, nn

from atrous.errors import ConfigError
from atrous.layers.conv import HEAD_NORM, Activation, ConvNorm, Norm, SeparableConv
from atrous.layers.resize import resize
from atrous.settings import Channels, Settings

Merge = Literal["concat", "sum"]
Kind = Literal["separable", "dense", "logits"]  # of its convolutions; logits: 1x1 with bias and nothing after


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


def _conv(inp: int, out: int, kernel: int, kind: Kind, act: Activation, norm: Norm) -> nn.Module:
    if kind == "logits":
        return nn.Conv2d(inp, out, 1)
    if kind == "separable" and kernel > 1:
        return SeparableConv(inp, out, kernel, norm=norm, act=act)
    return ConvNorm(inp, out, kernel, norm=norm, act=act)


class ConcatStage(nn.Module):
    """Features concatenated with a thin projection of the low-level ones, then two convolutions."""

    def __init__(self, inp: int, low: int, thin: int, out: int, kind: Kind, act: Activation, norm: Norm) -> None:
        super().__init__()
        self.low_level = _conv(low, thin, 1, kind, act, norm)
        self.refine = nn.Sequential(_conv(inp + thin, out, 3, kind, act, norm), _conv(out, out, 3, kind, act, norm))

    def forward(self, x: Tensor, low: Tensor, size: tuple[int, int]) -> Tensor:
        y: Tensor = self.refine(torch.cat([resize(x, size), resize(self.low_level(low), size)], 1))
        return y


class SumStage(nn.Module):
    """Features after one convolution, plus a projection of the low-level ones; nothing after the sum."""

    def __init__(self, inp: int, low: int, thin: int, out: int, kind: Kind, act: Activation, norm: Norm) -> None:
        super().__init__()
        self.low_level = _conv(low, out, 1, kind, act, norm)
        self.refine = _conv(inp, out, 3, kind, act, norm)

    def forward(self, x: Tensor, low: Tensor, size: tuple[int, int]) -> Tensor:
        y: Tensor = self.refine(resize(x, size)) + resize(self.low_level(low), size)
        return y


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
        act: Activation = "relu",
        norm: Norm = HEAD_NORM,
    ) -> None:
        super().__init__()
        tap_strides = [stride for stride, tap in TAPS.items() if tap in channels]
        missing = [stride for stride in strides if stride not in tap_strides]
        if missing:
            available = f"has them only at {tap_strides}" if tap_strides else "has none"
            raise ConfigError(f"a decoder at stride {missing[0]} needs low-level features: this backbone {available}")
        for stride in strides:
            low = channels[TAPS[stride]]
            self.append(STAGES[merge](inp, low, low_level_channels, out, kind, act, norm))
            inp = out
        self.strides = strides

    def forward(self, x: Tensor, features: Mapping[str, Tensor], image: tuple[int, int]) -> Tensor:
        """`image`: height and width of the images."""
        for stride, stage in zip(self.strides, self, strict=True):
            height, width = ((side - 1) // stride + 1 for side in image)
            x = stage(x, features[TAPS[stride]], (height, width))
        return x
