"""The nearest of many centres for every pixel, without a distance from every pixel to every centre."""

import torch
from torch import Tensor

CELL = 16  # pixels; the side of the squares within which few centres compete
TILE = 1 << 16  # pixels that are compared with centres at once


def nearest_center_reference(points: Tensor, centers: Tensor) -> Tensor:  # [N], from [N, 2] and [K, 2]
    """The index of the centre nearest to each point, the first of equally near ones. Holds [N, K] distances."""
    return distances(points, centers).argmin(1)


def nearest_center(points: Tensor, centers: Tensor) -> Tensor:  # [N], from [N, 2] and [K, 2] (y, x)
    """Equal to the reference, bit for bit.

    On a CPU the plane is cut into cells. The centres that can be nearest to a point of a cell are few, mostly one, and
    only these are compared. A GPU compares tiles with all centres: it has the arithmetic, and never waits for the host.
    Raises ValueError without a centre.
    """
    if not len(centers):
        raise ValueError("there is no centre to be near to")
    centers = centers.to(points.dtype)
    if points.device.type != "cpu" or len(centers) <= 2 or not len(points):
        return _by_tiles(points, centers)
    return _by_cells(points, centers)


def distances(points: Tensor, centers: Tensor) -> Tensor:  # [..., K], from [..., 2] and [..., K, 2]
    """Rounded as the original's are: that decides which of two nearly equal ones is taken."""
    lengths: Tensor = torch.linalg.vector_norm(points[..., None, :] - centers, dim=-1)
    return lengths


def _by_tiles(points: Tensor, centers: Tensor) -> Tensor:
    return torch.cat([nearest_center_reference(tile, centers) for tile in torch.split(points, TILE)])


def _by_cells(points: Tensor, centers: Tensor) -> Tensor:
    cells = (points / CELL).floor()
    lowest, highest = cells.amin(0), cells.amax(0)
    rows, columns = ((highest - lowest).long() + 1).tolist()
    if not 0 < rows * columns <= len(points):  # a network that has learnt nothing scatters them over a huge plane
        return _by_tiles(points, centers)
    index = (cells - lowest).long()
    index = index[:, 0] * columns + index[:, 1]
    candidates, counts = _candidates(lowest, rows, columns, centers)

    nearest = candidates[:, 0][index]
    is_contested = counts[index] > 1
    contested, place = points[is_contested], index[is_contested]
    tiles = zip(torch.split(contested, TILE), torch.split(place, TILE), strict=True)
    nearest[is_contested] = torch.cat([_among(tile, candidates[own], centers) for tile, own in tiles])
    return nearest


def _candidates(lowest: Tensor, rows: int, columns: int, centers: Tensor) -> tuple[Tensor, Tensor]:
    """For each cell, the centres that may be nearest to a point in it, in order and padded: [cells, M]; how many."""
    grid = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).to(centers)
    middles = (lowest + grid + 0.5) * CELL
    reach = distances(middles, centers)  # [cells, K]
    margin = CELL * 2**0.5 * 1.001 + 1e-3  # a point is half a diagonal away from the middle, to either side
    may_be_nearest = reach <= reach.amin(1, keepdim=True) + margin
    counts = may_be_nearest.sum(1)
    width = int(counts.max())
    order = may_be_nearest.int().argsort(dim=1, descending=True, stable=True)[:, :width]  # lower numbers first: ties
    first = order[:, :1].expand(-1, width)
    return torch.where(torch.arange(width) < counts[:, None], order, first), counts


def _among(points: Tensor, candidates: Tensor, centers: Tensor) -> Tensor:
    place = distances(points, centers[candidates]).argmin(1, keepdim=True)
    return candidates.gather(1, place)[:, 0]
