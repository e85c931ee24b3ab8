"""Pyramid pooling (Zhao et al. 2016, arXiv:1612.01105, section 3.2)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from atrous.layers.aspp import require_variance
from atrous.layers.conv import TORCH_NORM, ConvNorm
from atrous.layers.resize import Convention, resize
from atrous.ops import grid_means


class PyramidPooling(nn.Module):
    """[B, inp, h, w] -> [B, channels, h, w]: the map itself and its means over each grid of bins, resized to the map.

    The means have `inp` channels altogether, rounded down to equal shares, or `width` each. Without bins the map is
    returned unchanged.
    On a map of fewer pixels than bins, bins share pixels. Raises ConfigError when trained with one image per batch.
    """

    def __init__(
        self,
        inp: int,
        bins: Sequence[int],
        convention: Convention = "aligned_corners",
        width: int | None = None,
    ) -> None:
        super().__init__()
        self.bins, self.convention = tuple(bins), convention
        width = width or inp // max(1, len(self.bins))
        self.branches = nn.ModuleList([ConvNorm(inp, width, norm=TORCH_NORM) for _ in self.bins])
        self.channels = inp + width * len(self.bins)

    def forward(self, x: Tensor) -> Tensor:
        levels = [self._level(branch, bins, x) for branch, bins in zip(self.branches, self.bins, strict=True)]
        return torch.cat([x, *levels], 1)

    def _level(self, branch: nn.Module, bins: int, x: Tensor) -> Tensor:
        pooled = grid_means(x, bins)
        require_variance(branch.get_submodule("norm"), pooled)
        return resize(branch(pooled), x.shape[-2:], self.convention)
