"""The nearest centre by cells equals the nearest of all."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atrous.ops import grouping, nearest_center, nearest_center_reference


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 3.0, 50.0]), st.booleans())
def test_equals_the_reference(num_centers: int, seed: int, noise: float, is_whole: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randint(0, 120, (num_centers, 2), generator=generator)  # some twice: ties
    points = torch.cartesian_prod(torch.arange(90), torch.arange(120)).float()
    points = points + noise * torch.randn(points.shape, generator=generator)
    points = points.round() if is_whole else points  # whole numbers: many points are as near to two centres
    assert torch.equal(nearest_center(points, centers), nearest_center_reference(points, centers.float()))


def test_the_first_of_equally_near_centers_is_taken() -> None:
    centers = torch.tensor([[0, 4], [0, 0], [0, 4], [4, 2]])
    points = torch.tensor([[0.0, 2.0], [0.0, 4.0], [0.0, 1.0], [4.0, 2.0]])
    assert nearest_center(points, centers).tolist() == [0, 0, 1, 3]


def test_points_that_are_scattered_far_are_compared_one_by_one() -> None:
    generator = torch.Generator().manual_seed(0)
    centers = torch.randint(0, 100, (30, 2), generator=generator)
    points = 1e6 * torch.randn(500, 2, generator=generator)
    assert torch.equal(nearest_center(points, centers), nearest_center_reference(points, centers.float()))


def test_without_a_point_there_is_nothing_to_find() -> None:
    assert nearest_center(torch.zeros(0, 2), torch.zeros(5, 2)).shape == (0,)


def test_without_a_center_there_is_no_nearest() -> None:
    with pytest.raises(ValueError, match="no centre"):
        nearest_center(torch.zeros(3, 2), torch.zeros(0, 2))


def test_only_few_centers_compete_within_a_cell() -> None:
    generator = torch.Generator().manual_seed(0)
    centers = torch.randint(0, 1024, (200, 2), generator=generator).float()
    candidates, counts = grouping._candidates(torch.zeros(2), 64, 64, centers)
    assert candidates.shape[1] < 20
    assert counts.float().mean() < 4
