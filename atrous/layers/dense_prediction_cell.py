"""The dense prediction cell (Chen et al. 2018, arXiv:1809.04184, section 4)."""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from atrous.errors import ConfigError
from atrous.layers.aspp import mean_over_windows, require_variance
from atrous.layers.conv import HEAD_NORM, ConvNorm, SeparableConv
from atrous.layers.resize import resize, scale_dimension
from atrous.settings import Rate, Settings

MAX_BRANCHES = 64


class Branch(Settings):
    """An operation of the cell, as in the JSON of TensorFlow DeepLab."""

    op: Literal["conv", "pyramid_pooling"] = "conv"
    """What the branch computes."""
    kernel: Literal[1, 3] = 3
    """Side of a convolution's kernel."""
    rate: tuple[Rate, Rate] = (1, 1)
    """Atrous rate of a convolution, down and across, at output stride 16."""
    grid_size: tuple[Rate, Rate] = (1, 1)
    """Parts into which a pyramid pooling divides the image, down and across."""
    input: int = Field(-1, lt=MAX_BRANCHES)
    """Number of the earlier branch that it reads; -1: the backbone's features."""


# The best cell for Cityscapes (figure 5a), as released by TensorFlow DeepLab.
BEST = (
    Branch(rate=(1, 6), input=-1),
    Branch(rate=(18, 15), input=0),
    Branch(rate=(6, 3), input=1),
    Branch(rate=(1, 1), input=0),
    Branch(rate=(6, 21), input=0),
)


class Pooling(nn.Module):
    """The mean over windows, each 1 / `grid_size` of the image, through a 1x1, resized to the map."""

    def __init__(self, inp: int, out: int, grid_size: tuple[int, int], output_stride: int) -> None:
        super().__init__()
        self.project = ConvNorm(inp, out, norm=HEAD_NORM)
        self.parts = tuple(grid * output_stride for grid in grid_size)

    def forward(self, x: Tensor, image: tuple[int, int]) -> Tensor:
        height, width = (scale_dimension(side, 1 / part) for side, part in zip(image, self.parts, strict=True))
        pooled = mean_over_windows(x, (height, width))
        require_variance(self.project.norm, pooled)
        return resize(self.project(pooled), x.shape[-2:])


class DensePredictionCell(nn.Module):
    """[B, inp, h, w] -> [B, out, h, w]: branches that feed one another, concatenated, then a projection."""

    def __init__(self, inp: int, out: int, cell: Sequence[Branch], *, output_stride: int, dropout: float) -> None:
        super().__init__()
        factor = 16 // output_stride  # the rates are those of output stride 16
        if factor == 0:
            raise ConfigError(f"output_stride of a dense prediction cell must be 8 or 16, got {output_stride}")
        self.inputs = [branch.input for branch in cell]
        for index, source in enumerate(self.inputs):
            if not -1 <= source < index:
                raise ConfigError(f"branch {index} of a cell: input must be -1 or an earlier branch, got {source}")
        self.branches = nn.ModuleList(
            _operation(branch, inp if branch.input < 0 else out, out, factor, output_stride) for branch in cell
        )
        self.projection = ConvNorm(out * len(cell), out, norm=HEAD_NORM)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, image: tuple[int, int]) -> Tensor:
        """`image`: height and width of the images, or of the window that pooling uses instead."""
        maps: list[Tensor] = []
        for source, branch in zip(self.inputs, self.branches, strict=True):
            features = x if source < 0 else maps[source]
            maps.append(branch(features, image) if isinstance(branch, Pooling) else branch(features))
        projected: Tensor = self.projection(self.dropout(torch.cat(maps, 1)))
        return projected


def _operation(branch: Branch, inp: int, out: int, factor: int, output_stride: int) -> nn.Module:
    if branch.op == "pyramid_pooling":
        return Pooling(inp, out, branch.grid_size, output_stride)
    if branch.kernel == 1:
        return ConvNorm(inp, out, norm=HEAD_NORM)
    rate = (branch.rate[0] * factor, branch.rate[1] * factor)
    return SeparableConv(inp, out, branch.kernel, rate=rate, norm=HEAD_NORM)
