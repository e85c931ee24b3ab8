"""The permutohedral lattice with a dictionary of vertices in place of sorted numbers."""

import torch
from torch import Tensor

from atrous.ops import permutohedral


def vertices_and_splat(features: Tensor) -> tuple[dict[tuple[int, ...], int], Tensor]:
    """Vertices by their coordinates, and their splat [M, N]."""
    count, d = features.shape
    simplices = permutohedral._enclose(permutohedral._embed(features))
    vertices: dict[tuple[int, ...], int] = {}
    splat = torch.zeros(count * (d + 1), count, dtype=torch.float64)
    for point in range(count):
        corner = (simplices.origins[point] * (d + 1)).long()
        for remainder in range(d + 1):
            index = vertices.setdefault(tuple(corner.tolist()), len(vertices))
            splat[index, point] += simplices.weights[point, remainder]
            if remainder < d:
                corner = corner + 1
                corner[simplices.axes[point, remainder]] -= d + 1
    return vertices, splat[: len(vertices)]


def lattice_matrix(features: Tensor) -> Tensor:
    """The whole filter, [N, N]."""
    d = features.shape[1]
    vertices, splat = vertices_and_splat(features)
    blurred = splat
    for axis in range(d + 1):
        before, blurred = blurred, blurred / 2
        for vertex, index in vertices.items():
            for sign in (1, -1):
                step = [sign * (1 - (d + 1) * (place == axis)) for place in range(d + 1)]
                neighbour = vertices.get(tuple(a + b for a, b in zip(vertex, step, strict=True)))
                if neighbour is not None:
                    blurred[index] += before[neighbour] / 4
    return splat.T @ blurred * permutohedral._scale(d)
