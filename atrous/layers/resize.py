"""Resizing and sizes, with the conventions of the originals by name."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from atrous.ops import resize_nearest as resize_nearest
from atrous.ops import with_edge
from atrous.types import Convention as Convention
from atrous.types import Size


def resize(x: Tensor, size: Sequence[int], convention: Convention = "aligned_corners") -> Tensor:
    """`x` [B, K, h, w] at `size` (height, width); a map that has this size already, or is one pixel, is not copied."""
    height, width = size
    if tuple(x.shape[-2:]) == (height, width):
        return x
    if tuple(x.shape[-2:]) == (1, 1):
        return x.expand(-1, -1, height, width)
    if convention == "legacy":
        return resize(with_edge(x), (height + 1, width + 1))[..., :height, :width]
    return F.interpolate(x, (height, width), mode="bilinear", align_corners=convention == "aligned_corners")


def scale_dimension(side: int, scale: float) -> int:
    """`side` scaled so that corners stay aligned: 513 at 1/16 is 33 (TF DeepLab)."""
    return int((side - 1) * scale + 1)


def image_size(images: Tensor) -> Size:
    """Height and width."""
    return images.shape[-2], images.shape[-1]
