"""Atrous spatial pyramid pooling with image-level features (Chen et al. 2017, arXiv:1706.05587, section 3.3)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from atrous.layers.conv import HEAD_NORM, ConvNorm, SeparableConv
from atrous.layers.resize import resize

RATES = {8: (12, 24, 36), 16: (6, 12, 18), 32: (3, 6, 9)}  # by output stride: the same 3x3 taps on the image


class ASPP(nn.Module):
    """[B, inp, h, w] -> [B, out, h, w]: image mean, 1x1 and a 3x3 at each rate, side by side, then a projection.

    No `rates`, no 3x3 branches. Raises ValueError when it is trained with one image a batch.
    """

    def __init__(
        self, inp: int, out: int, rates: Sequence[int], *, separable: bool = True, dropout: float = 0.1
    ) -> None:
        super().__init__()
        atrous = SeparableConv if separable else ConvNorm
        self.image_pooling = ConvNorm(inp, out, norm=HEAD_NORM)
        self.branches = nn.ModuleList(
            [ConvNorm(inp, out, norm=HEAD_NORM), *(atrous(inp, out, 3, rate=rate, norm=HEAD_NORM) for rate in rates)]
        )
        self.projection = ConvNorm(out * (2 + len(rates)), out, norm=HEAD_NORM)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        image = resize(self._pool(x), x.shape[-2:])
        joined = torch.cat([image, *(branch(x) for branch in self.branches)], 1)
        y: Tensor = self.dropout(self.projection(joined))
        return y

    def _pool(self, x: Tensor) -> Tensor:  # [B, inp, h, w] -> [B, out, 1, 1]
        norm = self.image_pooling.norm
        if norm.training and len(x) == 1 and not isinstance(norm, nn.SyncBatchNorm):
            raise ValueError(
                "a batch of one image can't be trained on: image pooling leaves batch norm one value a channel; "
                "take two images or more a batch (and a process), or freeze the batch norm"
            )
        pooled: Tensor = self.image_pooling(x.mean((2, 3), keepdim=True))
        return pooled
