"""Gaussian filtering of points in a few dimensions, on the permutohedral lattice (Adams, Baek, Davis: Fast
High-Dimensional Filtering Using the Permutohedral Lattice, Eurographics 2010).

Points lie in the plane of d + 1 coordinates that sum to zero. A lattice vertex there has whole coordinates that all
leave the same remainder when divided by d + 1; a step along axis j adds one to every coordinate but the j-th, and
subtracts d from that one. Values are splatted onto the d + 1 vertices around their point, blurred by (1, 2, 1) / 4
along each axis in turn, and sliced back. Only vertices around a point exist: what a blur would move to others is lost,
as in the paper.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from atrous.errors import ConfigError


class Product(NamedTuple):
    """A sparse matrix, row by row."""

    columns: Tensor  # [entries] int32
    starts: Tensor  # [rows] int32, index of each row's first entry
    weights: Tensor  # [entries]


class Lattice(NamedTuple):
    splat: Product  # vertices from points
    blur: tuple[Product, ...]  # vertices from vertices, one for each axis
    slice: Product  # points from vertices


class Simplices(NamedTuple):
    """Around each point, d + 1 vertices, one of each remainder 0..d, each one step along an axis from the previous."""

    origins: Tensor  # [N, d + 1] coordinates of the vertex of remainder 0, divided by d + 1
    axes: Tensor  # [N, d] the steps from remainder 0 to 1, 2, .. d
    weights: Tensor  # [N, d + 1] barycentric coordinates of the point


def permutohedral_lattice(features: Tensor) -> Lattice:
    """The lattice around points [N, d], in units of the kernel's standard deviation.

    Built in float64, on the CPU, for values of the type of `features`. Raises ValueError if that isn't [N, d] with at
    least one point, and ConfigError if points are so many deviations apart that 63 bits can't number the vertices.
    """
    if features.ndim != 2 or not features.numel():
        raise ValueError(f"features must be [N, d] with at least one point, got shape {tuple(features.shape)}")
    simplices = _enclose(_embed(features.double()))
    steps, keys = _number(simplices)
    vertices, splat, back = _connect(keys, simplices.weights.to(features))
    return Lattice(splat, tuple(_blur(vertices, step, features.dtype) for step in steps.tolist()), back)


def permutohedral_filter(lattice: Lattice, values: Tensor) -> Tensor:
    """About sum_j exp(-|f_i - f_j|^2 / 2) values[j] for each point i: [N, K] from [N, K].

    The scale is right where points are dense; it doesn't matter if the result is divided by the filtered ones, as is
    usual. Fastest for contiguous values and K a multiple of 8.
    """
    for product in (lattice.splat, *lattice.blur, lattice.slice):
        values = _multiply(product, values)
    return values * _scale(len(lattice.blur) - 1)


def gaussian_filter_reference(features: Tensor, values: Tensor) -> Tensor:
    """Exactly sum_j exp(-|f_i - f_j|^2 / 2) values[j], with all [N, N] pairs in memory."""
    distance = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")
    return torch.exp(-(distance**2) / 2) @ values


def _multiply(product: Product, values: Tensor) -> Tensor:
    """A sum of embeddings is a sparse product, and PyTorch's fastest on a CPU."""
    columns, starts, weights = product
    return F.embedding_bag(columns, values, starts, mode="sum", per_sample_weights=weights)


def _scale(dimensions: int) -> float:
    """The Gaussian's integral over the volume of a lattice cell: splatting shares a value out, a kernel repeats it."""
    return math.sqrt((2 * math.pi / 1.5) ** dimensions * (dimensions + 1))


def _embed(features: Tensor) -> Tensor:
    """Into the plane, [N, d + 1], scaled so that splat, blur and slice together have a deviation of one."""
    d = features.shape[1]
    column = torch.arange(1, d + 1, dtype=features.dtype)
    basis = torch.ones(d + 1, d, dtype=features.dtype).triu()
    basis.diagonal(-1).copy_(-column)
    basis *= (d + 1) * math.sqrt(2 / 3) / (column * (column + 1)).sqrt()
    return features @ basis.T


def _enclose(points: Tensor) -> Simplices:
    """Rounding may miss the plane; then the coordinates that were rounded furthest are rounded the other way.

    Of equal coordinates the first counts as larger. Either is right, but it decides which vertices exist; this is the
    choice of the code published with the fully connected CRF (arXiv:1210.5644).
    """
    size = points.shape[1]
    origins = (points / size).round()
    excess = origins.sum(1, keepdim=True).long()
    rising = (points - origins * size).sort(dim=1, descending=True, stable=True).indices.flip(1)
    place = torch.arange(size)
    correction = (place >= size + excess).double() - (place < excess).double()
    origins.scatter_add_(1, rising, correction)
    axes = rising.gather(1, (place + excess) % size)  # corrected coordinates have moved to the other end
    rest = (points - origins * size).gather(1, axes)
    weights = rest.diff(dim=1, prepend=rest[:, -1:] - size) / size  # the first is one minus all others
    return Simplices(origins, axes[:, :-1], weights)


def _number(simplices: Simplices) -> tuple[Tensor, Tensor]:
    """What a step along each axis adds to a vertex's number [d + 1], and the numbers of all corners [N, d + 1].

    The number is linear in all coordinates except the last. All strides except the first are multiples of d + 1, so
    that it has the remainder of the vertex, too, and no two vertices or neighbours share a number.
    """
    origins, size = simplices.origins[:, :-1], simplices.origins.shape[1]
    least = origins.amin(0)
    extents = ((origins.amax(0) - least + 4) / size).ceil() * size  # room for corners and their neighbours
    if not size * math.prod(extents.tolist()) < 2**62:
        raise ConfigError("features are not finite or span too many standard deviations: use larger deviations")
    strides = torch.cat([torch.ones(1), extents]).long().cumprod(0)
    strides[-1] = 0  # the last coordinate follows from the others
    steps = strides.sum() - size * strides
    first = ((origins - least).long() * strides[:-1]).sum(1, keepdim=True) * size
    return steps, torch.cat([first, steps[simplices.axes]], 1).cumsum(1)


def _connect(keys: Tensor, weights: Tensor) -> tuple[Tensor, Product, Product]:
    """The numbers of the distinct vertices, ascending, and the products to them and back."""
    count, size = keys.shape
    ordered, order = keys.flatten().sort()
    is_first = ordered.diff(prepend=ordered[:1] - 1) != 0
    starts = is_first.nonzero()[:, 0]
    vertex = torch.empty(count * size, dtype=torch.int32)
    vertex[order] = is_first.cumsum(0, dtype=torch.int32) - 1
    splat = Product((order // size).int(), starts.int(), weights.flatten()[order])
    back = Product(vertex, torch.arange(0, count * size, size, dtype=torch.int32), weights.flatten())
    return ordered[starts], splat, back


def _blur(vertices: Tensor, step: int, dtype: torch.dtype) -> Product:
    """A missing neighbour is replaced by the vertex itself, with weight 0."""
    here = torch.arange(len(vertices), dtype=torch.int32)
    neighbours = vertices + step
    places = torch.searchsorted(vertices, neighbours).clamp_(max=len(vertices) - 1)
    lower = (vertices[places] == neighbours).nonzero()[:, 0]
    upper = places[lower]
    above, below = here.clone(), here.clone()
    above[lower], below[upper] = upper.int(), lower.int()
    columns = torch.stack([here, above, below], 1)
    weights = torch.where(columns == here[:, None], 0.0, 0.25).to(dtype)
    weights[:, 0] = 0.5
    return Product(columns.flatten(), here * 3, weights.flatten())
