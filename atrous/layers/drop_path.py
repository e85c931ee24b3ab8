"""Paths of a network dropped at random in training, more of them as training progresses."""

from torch import Tensor, nn


class DropPath(nn.Module):
    """Zero for some images of a batch, scaled for the rest so that the mean stays the same; the identity in eval mode.

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
        mask = x.new_empty(len(x), 1, 1, 1).bernoulli_(keep)
        return x * (mask / keep)

    def extra_repr(self) -> str:
        return f"drop={self.drop:g}"
