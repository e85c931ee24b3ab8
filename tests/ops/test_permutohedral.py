"""The lattice against all pairs of points and against a dictionary of vertices, and what it conserves."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from atrous.errors import ConfigError
from atrous.ops import Lattice, gaussian_filter_reference, permutohedral, permutohedral_filter, permutohedral_lattice
from tests.reference.permutohedral import lattice_matrix, vertices_and_splat


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


def test_dense_points_are_filtered_as_by_the_gaussian() -> None:
    for dimensions, tolerance in ((1, 0.003), (2, 0.005), (3, 0.01), (5, 0.02)):
        features = _points(1500, dimensions, 3)
        values = torch.cat([torch.ones(1500, 1), _points(1500, 3, 1, seed=1)], 1)
        lattice, exact = permutohedral_lattice(features), gaussian_filter_reference(features, values)
        filtered = permutohedral_filter(lattice, values)
        assert 0.9 < (filtered[:, 0] / exact[:, 0]).mean() < 1.02, dimensions
        assert (filtered[:, 1:] / filtered[:, :1] - exact[:, 1:] / exact[:, :1]).abs().max() < tolerance, dimensions


def test_the_scale_is_right_inside_a_dense_grid() -> None:
    features = _grid(41, 4.0)
    values = torch.ones(len(features), 1, dtype=torch.float64)
    filtered = permutohedral_filter(permutohedral_lattice(features), values).view(41, 41)[14:27, 14:27]
    exact = gaussian_filter_reference(features, values).view(41, 41)[14:27, 14:27]
    torch.testing.assert_close(filtered, exact, rtol=0.04, atol=0)
    assert abs(float((filtered / exact).mean()) - 1) < 0.005


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 12), st.sampled_from([0.1, 1.0, 4.0, 50.0]), st.integers(0, 99))
def test_the_lattice_equals_that_of_a_dictionary(d: int, count: int, spread: float, seed: int) -> None:
    features = _points(count, d, spread, seed) - spread / 3
    features[::3, 0] = 0  # equal coordinates
    torch.testing.assert_close(_dense(permutohedral_lattice(features)), lattice_matrix(features))


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
    vertices, splat = vertices_and_splat(features)
    corners = torch.tensor(list(vertices), dtype=torch.float64)  # [M, d + 1]
    torch.testing.assert_close(splat.T @ corners, points)
    assert splat.min() > -1e-9
    assert not corners.sum(1).any()
    assert not (corners.remainder(d + 1).diff(dim=1)).any()


def test_splatting_and_blurring_far_from_the_border_conserve_mass() -> None:
    lattice = permutohedral_lattice(_grid(61, 5.0))
    values = torch.zeros(61 * 61, 2, dtype=torch.float64)
    values[30 * 61 + 30] = torch.tensor([1.0, -3.0])
    values[33 * 61 + 28] = torch.tensor([0.5, 2.0])
    for product in (lattice.splat, *lattice.blur):
        values = permutohedral._multiply(product, values)
        torch.testing.assert_close(values.sum(0), torch.tensor([1.5, -1.0], dtype=torch.float64), rtol=0, atol=1e-14)


def test_splatting_conserves_the_mass_of_any_points_and_blurring_adds_none() -> None:
    lattice = permutohedral_lattice(_points(50, 5, 6))
    values = _points(50, 3, 1, seed=1)
    splatted = permutohedral._multiply(lattice.splat, values)
    torch.testing.assert_close(splatted.sum(0), values.sum(0), rtol=1e-14, atol=0)
    for blur in lattice.blur:
        assert (permutohedral._multiply(blur, torch.ones_like(splatted)) <= 1).all()  # columns: the matrix is symmetric


def test_slicing_is_splatting_transposed() -> None:
    lattice = permutohedral_lattice(_points(30, 3, 2))
    vertices, points = (len(product.starts) for product in (lattice.splat, lattice.slice))
    splat = permutohedral._multiply(lattice.splat, torch.eye(points, dtype=torch.float64))
    back = permutohedral._multiply(lattice.slice, torch.eye(vertices, dtype=torch.float64))
    assert splat.equal(back.T)


def test_points_far_apart_do_not_affect_each_other() -> None:
    features = torch.cat([_points(10, 3, 1), _points(10, 3, 1, seed=1) + 40])
    matrix = _dense(permutohedral_lattice(features))
    assert not matrix[:10, 10:].any()
    assert (matrix[:10, :10] > 0).all()


def test_equal_points_get_equal_values() -> None:
    features = torch.full((7, 4), 1.3)
    values = torch.arange(7.0)[:, None]
    filtered = permutohedral_filter(permutohedral_lattice(features), values)
    torch.testing.assert_close(filtered, filtered[:1].expand(7, 1))
    assert filtered[0] > 0


def test_the_type_is_that_of_the_features() -> None:
    for dtype in (torch.float32, torch.float64):
        lattice = permutohedral_lattice(_points(40, 2, 3).to(dtype))
        values = _points(40, 21, 1, seed=1).to(dtype)
        filtered = permutohedral_filter(lattice, values)
        assert filtered.dtype == dtype
        torch.testing.assert_close(filtered, _dense(lattice) @ values)


def test_features_that_are_not_a_list_of_points_are_refused() -> None:
    for shape in ((3,), (0, 2), (2, 0), (2, 2, 2)):
        with pytest.raises(ValueError, match=r"features must be \[N, d\] with at least one point, got shape \("):
            permutohedral_lattice(torch.zeros(shape))


def test_points_that_cannot_be_numbered_are_refused() -> None:
    for far in (1e9, float("inf"), float("nan")):
        features = torch.zeros(2, 3)
        features[1] = torch.tensor([far, -far, 2 * far])
        with pytest.raises(ConfigError, match="use larger deviations"):
            permutohedral_lattice(features)
