"""Resizing and sizes, with the conventions of the originals by name."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Convention = Literal["aligned_corners", "half_pixel"]
# aligned_corners: the middles of the corner pixels coincide (TensorFlow DeepLab, semseg)
# half_pixel: the outer edges of the corner pixels coincide (TensorFlow 2, OpenCV)


def resize(x: Tensor, size: Sequence[int], convention: Convention = "aligned_corners") -> Tensor:
    """`x` [B, K, h, w] at `size` (height, width); a map that has this size already, or one pixel, is not copied."""
    height, width = size
    if tuple(x.shape[-2:]) == (height, width):
        return x
    if tuple(x.shape[-2:]) == (1, 1):
        return x.expand(-1, -1, height, width)
    return F.interpolate(x, (height, width), mode="bilinear", align_corners=convention == "aligned_corners")


def resize_nearest(x: Tensor, size: Sequence[int]) -> Tensor:
    """`x` [..., h, w] at `size` by nearest neighbours with aligned corners, a half rounded up (TF DeepLab's labels)."""
    rows, columns = (_nearest(old, new, x.device) for old, new in zip(x.shape[-2:], size, strict=True))
    return x[..., rows[:, None], columns]


def _nearest(old: int, new: int, device: torch.device) -> Tensor:  # [new] indices below `old`
    step = torch.tensor((old - 1) / (new - 1) if new > 1 else 0.0, dtype=torch.float32, device=device)
    nearest = torch.floor(torch.arange(new, dtype=torch.float32, device=device) * step + 0.5)
    return nearest.long().clamp_max(old - 1)


def scale_dimension(side: int, scale: float) -> int:
    """`side` scaled such that corners stay aligned: 513 at 1/16 is 33 (TF DeepLab)."""
    return int((side - 1) * scale + 1)
