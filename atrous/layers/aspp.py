"""Atrous spatial pyramid pooling with image-level features (Chen et al. 2017, arXiv:1706.05587, section 3.3)."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn
from torch.nn import functional as F

from atrous.errors import ConfigError
from atrous.layers.conv import HEAD_NORM, Activation, ConvNorm, Norm, SeparableConv
from atrous.layers.resize import resize, scale_dimension
from atrous.ops import window_means
from atrous.settings import Channels, Rates, Settings, Side

RATES = {8: (12, 24, 36), 16: (6, 12, 18), 32: (3, 6, 9)}  # by output stride; all reach equally far on the image
Squeeze = Literal["none", "sigmoid", "hard_sigmoid", "hard_sigmoid_6"]
Window = tuple[int, int]  # height, width in cells of the feature map
Sides = tuple[Side, Side]  # height, width


class ASPPConfig(Settings):
    rates: Rates | None = None  # (6, 12, 18) at output stride 16, section 3.3
    """Atrous rates of the 3x3 branches; none: from the output stride; []: no such branch."""
    channels: Channels = 256  # section 3.3
    """Channels of each branch and of the result."""
    separable: bool = True  # dense in DeepLab v3's paper, separable in its authors' program
    """Depthwise separable 3x3 convolutions: fewer parameters and operations."""
    dropout: float = Field(0.1, ge=0, lt=1)  # as in the authors' program
    """Share of values dropped after the projection; against overfitting."""
    image_level: bool = True
    """A branch with the mean of the whole image."""
    pooling_window: Sides | None = None
    """Height and width of the mean's window in pixels of the image; none: the whole image."""
    pooling_stride: Sides = (1, 1)
    """Steps between windows of the mean, down and across, in cells of the backbone's map."""
    projection: bool = True
    """A convolution that joins the branches."""
    projection_kernel: Literal[1, 3] = 1  # 3 in mmsegmentation
    """Side of the projection's kernel: 1 for each pixel alone, 3 with its neighbours."""
    bare_depthwise: bool = False  # true in segmentation_models_pytorch
    """No batch norm and activation within separable convolutions, between depthwise and 1x1."""
    squeeze: Squeeze = "none"  # arXiv:1905.02244
    """Multiply the result by a gate from the image's mean, instead of a branch with the mean."""
    norm_eps: PositiveFloat = HEAD_NORM.eps
    """What the batch norms add to a variance, against division by 0."""


GATES: dict[Squeeze, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "hard_sigmoid": lambda x: F.relu6(x + 3) * 0.16667,  # TensorFlow's
    "hard_sigmoid_6": F.hardsigmoid,  # PyTorch's, which divides by 6
}


def gate(x: Tensor, squeeze: Squeeze) -> Tensor:
    """The factor on each channel, 0 to 1."""
    return GATES[squeeze](x)


def mean_over_windows(x: Tensor, window: Window | None, stride: tuple[int, int] = (1, 1)) -> Tensor:
    """[B, K, h, w] -> [B, K, h', w']: the mean of the whole map, or of each window that lies completely within it.

    A window larger than the map covers the map.
    """
    if window is None:
        return x.mean((2, 3), keepdim=True)
    return window_means(x, window, stride)


def window_at(
    window: tuple[int, int] | None,  # height, width in pixels of the image
    scale: float,  # the factor that the image was resized by
    output_stride: int,
) -> Window | None:
    """The window in cells of c5."""
    if window is None:
        return None
    height, width = (scale_dimension(scale_dimension(side, scale), 1 / output_stride) for side in window)
    return height, width


def require_variance(norm: nn.Module, pooled: Tensor) -> None:
    """Raises ConfigError if a batch norm would be trained on one value per channel."""
    if norm.training and pooled.numel() == pooled.shape[1] and not isinstance(norm, nn.SyncBatchNorm):
        raise ConfigError(
            "a batch of one image can't be trained on: image pooling leaves batch norm one value per channel; "
            "set train.batch to 2 or more (per process), or train.batch_norm=frozen"
        )


class ImagePooling(ConvNorm):
    """The mean of the map, or of windows of it, through a 1x1 convolution, resized to the map."""

    def __init__(self, inp: int, out: int, stride: tuple[int, int], norm: Norm = HEAD_NORM) -> None:
        super().__init__(inp, out, norm=norm)
        self.stride = stride

    def forward(self, x: Tensor, window: Window | None = None) -> Tensor:
        pooled = mean_over_windows(x, window, self.stride)
        require_variance(self.norm, pooled)
        return resize(self.act(self.norm(self.conv(pooled))), x.shape[-2:])


class ImageGate(nn.Conv2d):
    """The pooled map as a factor on each channel, 0 to 1 (Howard et al. 2019, arXiv:1905.02244, figure 10)."""

    def __init__(self, inp: int, out: int, stride: tuple[int, int], squeeze: Squeeze) -> None:
        super().__init__(inp, out, 1)
        self.pool_stride, self.squeeze = stride, squeeze

    def forward(self, x: Tensor, window: Window | None = None) -> Tensor:
        pooled = mean_over_windows(x, window, self.pool_stride)
        return resize(gate(super().forward(pooled), self.squeeze), x.shape[-2:])


class ASPP(nn.Module):
    """[B, inp, h, w] -> [B, channels, h, w]: image mean, 1x1 and a 3x3 at each rate, concatenated, then a projection.

    Without `rates` there are no 3x3 branches. With `squeeze` the image mean is a factor on the result instead of a
    branch. Without `projection`, `channels` are those of all branches. Raises ConfigError when trained with one image
    per batch.
    """

    def __init__(
        self,
        inp: int,
        out: int,
        rates: Sequence[int],
        *,
        separable: bool = True,
        dropout: float = 0.1,
        image_level: bool = True,
        pooling_stride: tuple[int, int] = (1, 1),
        projection: bool = True,
        projection_kernel: int = 1,
        bare_depthwise: bool = False,
        squeeze: Squeeze = "none",
        act: Activation = "relu",
        norm: Norm = HEAD_NORM,
    ) -> None:
        super().__init__()
        if squeeze != "none" and not image_level:
            raise ConfigError(f"squeeze={squeeze} needs image_level=true: the gate comes from the mean")
        atrous = partial(SeparableConv, bare=bare_depthwise) if separable else ConvNorm
        is_gated = squeeze != "none"
        self.image_pooling = ImagePooling(inp, out, pooling_stride, norm) if image_level and not is_gated else None
        self.image_gate = ImageGate(inp, out, pooling_stride, squeeze) if is_gated else None
        first = ConvNorm(inp, out, norm=norm, act=act)
        others = [atrous(inp, out, 3, rate=rate, norm=norm, act=act) for rate in rates]
        self.branches = nn.ModuleList([first, *others])
        joined = out * (1 + len(rates) + (self.image_pooling is not None))
        self.channels = out if projection else joined
        if is_gated and self.channels != out:
            raise ConfigError(
                f"squeeze={squeeze} without projection needs rates=(): gate of {out} channels, got {joined}"
            )
        self.projection = ConvNorm(joined, out, projection_kernel, norm=norm, act=act) if projection else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, window: Window | None = None) -> Tensor:
        """`window`: of the image mean, in cells of x; None: the whole map."""
        maps = [branch(x) for branch in self.branches]
        if self.image_pooling is not None:
            maps.insert(0, self.image_pooling(x, window))
        y = torch.cat(maps, 1)
        if self.projection is not None:
            y = self.dropout(self.projection(y))
        return y if self.image_gate is None else y * self.image_gate(x, window)
