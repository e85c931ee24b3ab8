"""Pixels that segments share, and the pixels near their edges, against the plain references."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from atrous.ops import boundary, boundary_reference, boundary_width, overlaps, overlaps_reference


def blocks(seed: int, height: int, width: int, size: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 3, (height, width), generator=generator)
    return ids.repeat_interleave(size, 0).repeat_interleave(size, 1)


maps = st.builds(blocks, st.integers(0, 10**6), st.integers(0, 5), st.integers(0, 5), st.integers(1, 6))


@given(maps, st.integers(0, 10**6))
def test_overlaps_equal_the_reference(truth: Tensor, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    prediction = torch.randint(0, 3, truth.shape, generator=generator, dtype=torch.int32) * 1_000_000
    own, expected = overlaps(prediction, truth), overlaps_reference(prediction, truth)
    assert [values.tolist() for values in own] == [values.tolist() for values in expected]


def test_overlaps_of_different_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        overlaps(torch.zeros(2, 3), torch.zeros(3, 2))


@given(maps, st.integers(1, 12))
def test_boundaries_equal_the_reference(ids: Tensor, width: int) -> None:
    assert boundary(ids, width).equal(boundary_reference(ids, width))


def test_a_boundary_is_drawn_within_each_segment() -> None:
    ids = torch.tensor([[1, 1, 1, 1, 1, 2, 2, 2]]).expand(5, 8)
    inside = ~boundary(ids, 1)
    assert inside.nonzero().tolist() == [[y, x] for y in (1, 2, 3) for x in (1, 2, 3, 6)]


@pytest.mark.parametrize(("size", "width"), [((1024, 2048), 46), ((480, 640), 16), ((10, 10), 1), ((0, 0), 1)])
def test_the_width_is_a_share_of_the_diagonal(size: tuple[int, int], width: int) -> None:
    assert boundary_width(size) == width
