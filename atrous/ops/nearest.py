"""Resizing of maps by nearest neighbours."""

from collections.abc import Sequence

import torch
from torch import Tensor


def resize_nearest(x: Tensor, size: Sequence[int]) -> Tensor:
    """`x` [..., h, w] at `size` with aligned corners, halves rounded up, as TensorFlow DeepLab resizes labels.

    From k * s + 1 to k + 1 pixels this is exactly `x[..., ::s, ::s]`.
    """
    rows, columns = (_nearest(old, new, x.device) for old, new in zip(x.shape[-2:], size, strict=True))
    return x[..., rows[:, None], columns]


def _nearest(old: int, new: int, device: torch.device) -> Tensor:  # [new] indices below `old`
    step = torch.tensor((old - 1) / (new - 1) if new > 1 else 0.0, dtype=torch.float32, device=device)
    nearest = torch.floor(torch.arange(new, dtype=torch.float32, device=device) * step + 0.5)
    return nearest.long().clamp_max(old - 1)
