"""The pixels near the edge of their own segment (arXiv:2103.16562)."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from atrous.types import Size

RATIO = 0.02  # of the image's diagonal: the paper's width of a boundary


def boundary_width(size: Size, ratio: float = RATIO) -> int:
    """In pixels, at least 1."""
    return max(1, round(ratio * math.hypot(*size)))


def boundary_reference(ids: Tensor, width: int) -> Tensor:
    """Erodes the mask of each segment `width` times by a square of 3 x 3; what lies outside the image is no segment."""
    inside = torch.zeros_like(ids, dtype=torch.bool)
    for number in ids.unique().tolist():  # type: ignore[no-untyped-call]
        mask = (ids == number).float()[None, None]
        for _ in range(width):
            mask = 1 - F.max_pool2d(F.pad(1 - mask, (1, 1, 1, 1), value=1.0), 3, stride=1)
        inside |= mask[0, 0] > 0
    return ~inside


def boundary(ids: Tensor, width: int) -> Tensor:  # [H, W] bool, from [H, W]
    """Equal to the reference, for all segments at once; a wider boundary costs little more.

    A pixel is inside if the square of `width` pixels around it lies in the image and has one number: no row of the
    square changes, and neither does its middle column.
    """
    height, length = ids.shape
    if min(height, length) <= 2 * width:
        return torch.ones_like(ids, dtype=torch.bool)
    are_rows_even = _all(ids[:, 1:] == ids[:, :-1], 2 * width, 1)  # [H, W - 2 width]
    middle = ids[:, width : length - width]
    is_column_even = _all(middle[1:] == middle[:-1], 2 * width, 0)  # [H - 2 width, W - 2 width]
    is_inside = is_column_even & _all(are_rows_even, 2 * width + 1, 0)
    return ~F.pad(is_inside, (width, width, width, width))


def _all(flags: Tensor, number: int, dim: int) -> Tensor:
    """Whether each `number` consecutive flags are all set; twice as many are looked at each time."""
    size = 1
    while size < number:
        step = min(size, number - size)
        count = flags.shape[dim] - step
        flags = flags.narrow(dim, 0, count) & flags.narrow(dim, step, count)
        size += step
    return flags
