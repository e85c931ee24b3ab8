"""Resizing and sizes, with the conventions of the originals by name."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from atrous.ops import is_exported, with_edge
from atrous.ops import resize_nearest as resize_nearest
from atrous.types import Convention as Convention
from atrous.types import Size


def resize(x: Tensor, size: Sequence[int], convention: Convention = "aligned_corners") -> Tensor:
    """`x` [B, K, h, w] at `size` (height, width); a map that has this size already, or is one pixel, is not copied."""
    height, width = size
    if _are_equal(x.shape[-2:], size):
        return x
    if _are_equal(x.shape[-2:], (1, 1)):
        return x.expand(-1, -1, height, width)
    if convention == "legacy":
        return resize(with_edge(x), (height + 1, width + 1))[..., :height, :width]
    return F.interpolate(x, (height, width), mode="bilinear", align_corners=convention == "aligned_corners")


def _are_equal(sizes: Sequence[int], others: Sequence[int]) -> bool:
    """In a graph for images of any size, whether they are equal for all."""
    if is_exported():
        from torch.fx.experimental.symbolic_shapes import statically_known_true  # it takes long to import

        return all(statically_known_true(one == other) for one, other in zip(sizes, others, strict=True))
    return tuple(sizes) == tuple(others)


def scale_dimension(side: int, scale: float) -> int:
    """`side` scaled so that corners stay aligned: 513 at 1/16 is 33 (TF DeepLab)."""
    return int((side - 1) * scale + 1)


def image_size(images: Tensor) -> Size:
    """Height and width."""
    return images.shape[-2], images.shape[-1]
