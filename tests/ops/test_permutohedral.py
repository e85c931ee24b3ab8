"""The lattice against all pairs of points, against a dictionary of vertices, and what it conserves."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from atrous.ops import Lattice, gaussian_filter_reference, permutohedral, permutohedral_filter, permutohedral_lattice


def _points(count: int, dimensions: int, spread: float, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, dimensions, generator=generator, dtype=torch.float64) * spread


def _grid(size: int, deviation: float) -> Tensor:
    """[size * size, 2]"""
    place = torch.arange(size, dtype=torch.float64) / deviation
    return torch.cartesian_prod(place, place)


def _dense(lattice: Lattice) -> Tensor:
    count = len(lattice.slice.starts)
    return permutohedral_filter(lattice, torch.eye(count, dtype=lattice.slice.weights.dtype))


def _vertices(features: Tensor) -> tuple[dict[tuple[int, ...], int], Tensor]:
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


def _dictionary_filter(features: Tensor) -> Tensor:
    """The lattice's whole matrix [N, N], with a dictionary in place of sorted numbers."""
    d = features.shape[1]
    vertices, splat = _vertices(features)
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


@pytest.mark.parametrize(("dimensions", "largest"), [(1, 0.003), (2, 0.005), (3, 0.01), (5, 0.02)])
def test_dense_points_are_filtered_as_by_the_gaussian(dimensions: int, largest: float) -> None:
    features = _points(1500, dimensions, 3)
    values = torch.cat([torch.ones(1500, 1), _points(1500, 3, 1, seed=1)], 1)
    lattice, exact = permutohedral_lattice(features), gaussian_filter_reference(features, values)
    found = permutohedral_filter(lattice, values)
    assert 0.9 < (found[:, 0] / exact[:, 0]).mean() < 1.02
    assert (found[:, 1:] / found[:, :1] - exact[:, 1:] / exact[:, :1]).abs().max() < largest


def test_the_scale_is_right_inside_a_dense_grid() -> None:
    features = _grid(41, 4.0)
    values = torch.ones(len(features), 1, dtype=torch.float64)
    found = permutohedral_filter(permutohedral_lattice(features), values).view(41, 41)[14:27, 14:27]
    exact = gaussian_filter_reference(features, values).view(41, 41)[14:27, 14:27]
    torch.testing.assert_close(found, exact, rtol=0.04, atol=0)
    assert abs(float((found / exact).mean()) - 1) < 0.005


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 12), st.sampled_from([0.1, 1.0, 4.0, 50.0]), st.integers(0, 99))
def test_numbers_find_the_vertices_that_a_dictionary_finds(d: int, count: int, spread: float, seed: int) -> None:
    features = _points(count, d, spread, seed) - spread / 3
    features[::3, 0] = 0  # coordinates tie
    torch.testing.assert_close(_dense(permutohedral_lattice(features)), _dictionary_filter(features))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(1, 30), st.integers(0, 99))
def test_no_two_vertices_or_neighbours_share_a_number(d: int, spread: int, seed: int) -> None:
    simplices = permutohedral._enclose(permutohedral._embed(_points(40, d, spread / 3, seed)))
    steps, keys = permutohedral._number(simplices)
    moves = 1 - (d + 1) * torch.eye(d + 1, dtype=torch.int64)  # [axis, d + 1]
    walk = torch.cat([torch.zeros(40, 1, d + 1, dtype=torch.int64), moves[simplices.axes].cumsum(1)], 1)
    corners = (simplices.origins[:, None].long() * (d + 1) + walk).flatten(0, 1)  # [M, d + 1]
    around = torch.cat([corners[:, None], corners[:, None] + moves, corners[:, None] - moves], 1).flatten(0, 1)
    numbers = torch.cat([keys.view(-1, 1), keys.view(-1, 1) + steps, keys.view(-1, 1) - steps], 1).flatten()
    pairs = set(zip(map(tuple, around.tolist()), numbers.tolist(), strict=True))
    assert len(pairs) == len({vertex for vertex, _ in pairs}) == len({number for _, number in pairs})


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.floats(0.01, 100), st.integers(0, 99))
def test_a_point_is_the_weighted_mean_of_its_corners(d: int, spread: float, seed: int) -> None:
    features = _points(20, d, spread, seed) - spread / 2
    points = permutohedral._embed(features)
    vertices, splat = _vertices(features)
    corners = torch.tensor(list(vertices), dtype=torch.float64)  # [M, d + 1]
    torch.testing.assert_close(splat.T @ corners, points)
    assert splat.min() > -1e-9
    assert not corners.sum(1).any()
    assert not (corners.remainder(d + 1).diff(dim=1)).any()


def test_splatting_conserves_mass_and_so_does_blurring_far_from_the_border() -> None:
    lattice = permutohedral_lattice(_grid(61, 5.0))
    values = torch.zeros(61 * 61, 2, dtype=torch.float64)
    values[30 * 61 + 30] = torch.tensor([1.0, -3.0])
    values[33 * 61 + 28] = torch.tensor([0.5, 2.0])
    for product in (lattice.splat, *lattice.blur):
        values = permutohedral._multiply(product, values)
        torch.testing.assert_close(values.sum(0), torch.tensor([1.5, -1.0], dtype=torch.float64), rtol=0, atol=1e-14)


def test_splatting_conserves_mass_for_any_points_and_blurring_never_adds_any() -> None:
    lattice = permutohedral_lattice(_points(50, 5, 6))
    values = _points(50, 3, 1, seed=1)
    splatted = permutohedral._multiply(lattice.splat, values)
    torch.testing.assert_close(splatted.sum(0), values.sum(0), rtol=1e-14, atol=0)
    for blur in lattice.blur:
        assert (permutohedral._multiply(blur, torch.ones_like(splatted)) <= 1).all()  # columns: the matrix is symmetric


def test_slice_is_the_splat_transposed() -> None:
    lattice = permutohedral_lattice(_points(30, 3, 2))
    vertices, points = (len(product.starts) for product in (lattice.splat, lattice.slice))
    splat = permutohedral._multiply(lattice.splat, torch.eye(points, dtype=torch.float64))
    back = permutohedral._multiply(lattice.slice, torch.eye(vertices, dtype=torch.float64))
    assert splat.equal(back.T)


def test_points_far_apart_know_nothing_of_each_other() -> None:
    features = torch.cat([_points(10, 3, 1), _points(10, 3, 1, seed=1) + 40])
    matrix = _dense(permutohedral_lattice(features))
    assert not matrix[:10, 10:].any()
    assert (matrix[:10, :10] > 0).all()


def test_equal_points_get_the_same() -> None:
    features = torch.full((7, 4), 1.3)
    values = torch.arange(7.0)[:, None]
    found = permutohedral_filter(permutohedral_lattice(features), values)
    torch.testing.assert_close(found, found[:1].expand(7, 1))
    assert found[0] > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_type_is_that_of_the_features(dtype: torch.dtype) -> None:
    lattice = permutohedral_lattice(_points(40, 2, 3).to(dtype))
    values = _points(40, 21, 1, seed=1).to(dtype)
    found = permutohedral_filter(lattice, values)
    assert found.dtype == dtype
    torch.testing.assert_close(found, _dense(lattice) @ values)


@pytest.mark.parametrize("features", [torch.zeros(3), torch.zeros(0, 2), torch.zeros(2, 0), torch.zeros(2, 2, 2)])
def test_features_are_a_list_of_points(features: Tensor) -> None:
    with pytest.raises(ValueError, match=r"must be \[N, d\], with at least one point"):
        permutohedral_lattice(features)


@pytest.mark.parametrize("far", [1e9, float("inf"), float("nan")])
def test_points_that_cannot_be_numbered_are_refused(far: float) -> None:
    features = torch.zeros(2, 3)
    features[1] = torch.tensor([far, -far, 2 * far])
    with pytest.raises(ValueError, match="take larger deviations"):
        permutohedral_lattice(features)
