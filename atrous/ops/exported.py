"""Operators in other words, for graphs that leave PyTorch, whose targets lack some of them for images of any size."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

Window = tuple[int, int]  # height, width


def is_exported() -> bool:
    """Whether the code is being traced for another runtime. PyTorch 2.6 can't tell."""
    return bool(getattr(torch.compiler, "is_exporting", bool)())


def grid_means(x: Tensor, bins: int) -> Tensor:
    """[B, K, h, w] -> [B, K, bins, bins]: the means over a grid, whose cells overlap where bins don't divide a side."""
    if not is_exported():
        return F.adaptive_avg_pool2d(x, bins)
    return _weighted(x, [_bins(side, bins, x) for side in x.shape[-2:]])


def window_means(x: Tensor, window: Window, stride: Window) -> Tensor:
    """[B, K, h, w] -> [B, K, h', w']: the means of all windows within the map; a larger one covers the map."""
    if not is_exported():
        height, width = (min(side, whole) for side, whole in zip(window, x.shape[-2:], strict=True))
        return F.avg_pool2d(x, (height, width), stride)
    sides = zip(x.shape[-2:], window, stride, strict=True)
    return _weighted(x, [_windows(*side, x) for side in sides])


def _weighted(x: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Rows and columns averaged by weights [h', h] and [w', w]."""
    rows, columns = weights
    return rows @ x @ columns.mT


def _bins(side: int, bins: int, x: Tensor) -> Tensor:  # [bins, side]
    index = torch.arange(bins, device=x.device)[:, None]
    starts, ends = index * side // bins, ((index + 1) * side + bins - 1) // bins
    return _between(starts, ends, side, x)


def _windows(side: int, window: int, stride: int, x: Tensor) -> Tensor:  # [places, side]
    room = at_least_0(side - window)
    starts = torch.arange(room // stride + 1, device=x.device)[:, None] * stride
    return _between(starts, starts + (side - room), side, x)


def at_least_0(size: int) -> int:
    """The larger of both, without a comparison: that would hold a graph to the sizes that it was traced with."""
    larger: int = torch.sym_max(size, 0)  # type: ignore[no-untyped-call]
    return larger


def _between(starts: Tensor, ends: Tensor, side: int, x: Tensor) -> Tensor:
    places = torch.arange(side, device=x.device)
    return ((places >= starts) & (places < ends)).to(x.dtype) / (ends - starts).to(x.dtype)
