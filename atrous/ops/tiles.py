"""Bilinear upsampling in tiles: a piece of the large map is computed, reduced in the cache, and discarded.

Bilinear upsampling is two small matrix products, over columns and over rows, and its adjoint the same two transposed.
The products obey `torch.set_float32_matmul_precision`.
"""

import math
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise, product
from threading import Barrier
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

CPU_TILE_BYTES = 1 << 20  # fits a core's own cache
GPU_TILE_BYTES = 256 << 20  # enough to keep the device busy
TILE_COLUMNS = 128  # at least, if the map is that wide: long rows for the vector units

S = TypeVar("S")
T = TypeVar("T")


class Band(NamedTuple):
    """Neighbouring rows (or columns) of the large map, and those of the small map from which they are interpolated."""

    large: slice
    small: slice
    mix: Tensor  # [large, small] weights; each row sums to one


class Tile(NamedTuple):
    image: int
    rows: Band
    columns: Band

    @property
    def small(self) -> tuple[int, slice, slice, slice]:
        """Its index into [B, C, h, w]."""
        return self.image, slice(None), self.rows.small, self.columns.small

    @property
    def large(self) -> tuple[int, slice, slice]:
        """Its index into [B, H, W]."""
        return self.image, self.rows.large, self.columns.large


def each_tile(function: Callable[[Tile], T], tiles: list[Tile]) -> Iterable[T]:
    """`function` of every tile, in order. On a CPU each thread has its own tile: threads that share one mostly wait."""
    return map(function, tiles) if tiles[0].rows.mix.device.type != "cpu" else each_of(function, tiles)


def each_of(function: Callable[[S], T], parts: Sequence[S]) -> Iterable[T]:
    """`function` of every part, in order, each computed by one thread of the CPU."""
    threads = torch.get_num_threads()
    return map(function, parts) if threads == 1 else _workers(threads, os.getpid()).map(function, parts)


@cache
def _workers(count: int, process: int) -> ThreadPoolExecutor:
    """`count` threads that each compute alone. Cached for each process, since a fork does not copy threads."""
    pool = ThreadPoolExecutor(count, "upsample", initializer=_compute_alone)
    together = Barrier(count)
    list(pool.map(lambda _: together.wait(), range(count)))  # every thread has started
    torch.set_num_threads(count)  # each thread has its own setting, but new threads inherit the latest
    return pool


def _compute_alone() -> None:
    torch.set_num_threads(1)
    torch.get_num_threads()  # a thread inherits at its first query or operation; after this one it won't


def upsample_tile(small: Tensor, tile: Tile) -> Tensor:
    """The tile of the large map: [rows, C, columns], so that every step has long vectors."""
    patch = small[tile.small].transpose(0, 1)  # [h', C, w']
    wide = patch @ tile.columns.mix.T  # [h', C, columns]
    return (tile.rows.mix @ wide.flatten(1)).view(-1, *wide.shape[1:])


def upsample_part(small: Tensor, size: tuple[int, int], rows: slice, columns: slice, *, align_corners: bool) -> Tensor:
    """Rows and columns of the map [B, C, h, w] at `size` (height, width)."""
    if tuple(small.shape[-2:]) == tuple(size):
        return small[..., rows, columns]
    bands = zip(small.shape[-2:], size, (rows, columns), strict=True)
    down, across = (_band(near, large, piece, align_corners, small) for near, large, piece in bands)
    return down.mix @ (small[..., down.small, across.small] @ across.mix.T)


def fold_tile(gradient: Tensor, tile: Tile) -> Tensor:
    """The adjoint of `upsample_tile`: [C, h', w']."""
    wide = (tile.rows.mix.T @ gradient.flatten(1)).view(-1, *gradient.shape[1:])  # [h', C, columns]
    return (wide @ tile.columns.mix).transpose(0, 1)


def tiles_of(small: Tensor, size: tuple[int, int], align_corners: bool) -> list[Tile]:
    """The large map in pieces of about the best size for the device."""
    batch, num_classes, *grid = small.shape
    budget = CPU_TILE_BYTES if small.device.type == "cpu" else GPU_TILE_BYTES
    pixels = budget // (num_classes * small.element_size())
    columns = min(size[1], max(TILE_COLUMNS, math.isqrt(pixels)))
    lengths = (max(1, pixels // columns), columns)
    rows, columns_ = (_bands(*axis, align_corners, small) for axis in zip(grid, size, lengths, strict=True))
    return [Tile(*parts) for parts in product(range(batch), rows, columns_)]


def whole_tiles(small: Tensor, size: tuple[int, int], align_corners: bool) -> list[Tile]:
    """Each image in one piece, for few classes at a time."""
    rows, columns = (
        _band(near, large, slice(0, large), align_corners, small)
        for near, large in zip(small.shape[-2:], size, strict=True)
    )
    return [Tile(image, rows, columns) for image in range(len(small))]


def _bands(small: int, large: int, longest: int, align_corners: bool, like: Tensor) -> list[Band]:
    """One axis in pieces of about equal length, at most `longest`."""
    count = math.ceil(large / longest)
    edges = [round(large * number / count) for number in range(count + 1)]
    return [_band(small, large, slice(*ends), align_corners, like) for ends in pairwise(edges)]


def _band(small: int, large: int, piece: slice, align_corners: bool, like: Tensor) -> Band:
    ends = torch.tensor([piece.start, piece.stop - 1], dtype=torch.float64)
    first, last = positions(small, large, align_corners, ends).tolist()
    near = slice(math.floor(first), math.ceil(last) + 1)
    index = torch.arange(piece.start, piece.stop, dtype=torch.float64, device=like.device)
    position = positions(small, large, align_corners, index)
    distance = (position[:, None] - torch.arange(near.start, near.stop, device=like.device)).abs()
    return Band(piece, near, (1 - distance).clamp(min=0).to(like.dtype))


def positions(small: int, large: int, align_corners: bool, index: Tensor) -> Tensor:
    """Where rows (or columns) of the large map lie in the small map; `index` and they are float64."""
    step = (small - 1) / max(large - 1, 1) if align_corners else small / large
    start = 0.0 if align_corners else step / 2 - 0.5
    return (start + step * index).clamp(0, small - 1)
