"""Paths of a network left out at random while it trains, more of them the longer it does."""

from torch import Tensor, nn


class DropPath(nn.Module):
    """Zero for some of the images in a batch, scaled for the rest such that the mean stays; nothing in eval mode.

    Each is dropped with the chance `drop` times `progress`, how far the training is, from 0 to 1 (ScheduledDropPath,
    arXiv:1707.07012).
    """

    def __init__(self, drop: float) -> None:
        super().__init__()
        self.drop = drop
        self.progress = 1.0

    def forward(self, x: Tensor) -> Tensor:  # [B, K, h, w]
        keep = 1 - self.progress * self.drop
        if not self.training or keep == 1:
            return x
        kept = x.new_empty(len(x), 1, 1, 1).bernoulli_(keep)
        return x * (kept / keep)

    def extra_repr(self) -> str:
        return f"drop={self.drop:g}"
