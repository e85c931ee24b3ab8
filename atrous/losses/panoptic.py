"""The losses of Panoptic-DeepLab's centres and offsets (arXiv:1911.10194, section 3.1), at the size of the image."""

import torch
from torch import Tensor
from torch.nn import functional as F


def heatmap_loss(
    heatmap: Tensor,  # [B, 1, h, w]
    target: Tensor,  # [B, 1, H, W]
    weight: Tensor,  # [B, 1, H, W]
    *,
    normalizer: Tensor | None = None,
    align_corners: bool = True,
) -> Tensor:
    """The squared error, times `weight`, summed and divided by the number of pixels with a weight, or `normalizer`."""
    errors = (_resized(heatmap, target, align_corners) - target).square()
    return _mean(errors, weight, normalizer)


def offset_loss(
    offset: Tensor,  # [B, 2, h, w], in pixels of the image
    target: Tensor,  # [B, 2, H, W]
    weight: Tensor,  # [B, 1, H, W]
    *,
    normalizer: Tensor | None = None,
    align_corners: bool = True,
) -> Tensor:
    """The absolute error, averaged over dy and dx, times `weight`; divided as in `heatmap_loss`."""
    errors = (_resized(offset, target, align_corners) - target).abs().mean(1, keepdim=True)
    return _mean(errors, weight, normalizer)


def _resized(values: Tensor, target: Tensor, align_corners: bool) -> Tensor:
    precise = values.to(torch.promote_types(values.dtype, torch.float32))
    return F.interpolate(precise, target.shape[-2:], mode="bilinear", align_corners=align_corners)


def _mean(errors: Tensor, weight: Tensor, normalizer: Tensor | None) -> Tensor:
    count = (weight > 0).sum() if normalizer is None else normalizer
    return (errors * weight).sum() / count.clamp(min=1)
