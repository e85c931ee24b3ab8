from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atrous.layers.resize import resize, resize_nearest, scale_dimension
from tests.reference.legacy import legacy

TENSORFLOWS = [
    [0.0, 0.8, 2.8, 6.0, 9.0],
    [6.8571, 10.4, 15.1429, 21.0857, 26.1429],
    [13.7143, 20.0, 27.4857, 36.1714, 43.2857],
    [29.7143, 38.7429, 48.9714, 60.4, 69.5714],
    [50.2857, 62.0571, 75.0286, 89.2, 100.4286],
    [64.0, 77.6, 92.4, 108.4, 121.0],
    [64.0, 77.6, 92.4, 108.4, 121.0],
]

GOLDENS = Path(__file__).parents[1] / "goldens" / "tf_deeplab" / "resize.npz"


@pytest.mark.parametrize(
    ("source", "target"),
    [("bil_in", f"bil_{size}") for size in ("9x13", "3x4", "5x7", "1x1", "17x2")] + [("bil1_in", "bil1_4x5")],
)
def test_aligned_corners_are_tensorflows(source: str, target: str) -> None:
    with np.load(GOLDENS) as goldens:
        x, expected = (torch.from_numpy(goldens[name]).permute(0, 3, 1, 2) for name in (source, target))
    torch.testing.assert_close(resize(x, expected.shape[-2:]), expected)


def test_conventions_worked_by_hand() -> None:
    x = torch.tensor([0.0, 4.0]).view(1, 1, 1, 2)
    assert resize(x, (1, 4)).flatten().tolist() == pytest.approx([0, 4 / 3, 8 / 3, 4])
    assert resize(x, (1, 4), "half_pixel").flatten().tolist() == [0.0, 1.0, 3.0, 4.0]


def test_a_map_of_the_right_size_is_not_copied() -> None:
    x = torch.rand(1, 2, 3, 4)
    assert resize(x, (3, 4)) is x


def test_one_pixel_covers_the_map() -> None:
    x = torch.rand(2, 3, 1, 1)
    y = resize(x, (4, 5))
    assert torch.equal(y, x.expand(2, 3, 4, 5))
    assert y.data_ptr() == x.data_ptr()


def test_nearest_neighbours_worked_by_hand() -> None:
    x = torch.tensor([[0, 1, 2], [3, 4, 5]], dtype=torch.uint8)
    assert resize_nearest(x, (2, 5)).tolist() == [[0, 1, 1, 2, 2], [3, 4, 4, 5, 5]]  # 0.5 and 1.5 are rounded up
    assert resize_nearest(x, (3, 2)).tolist() == [[0, 2], [3, 5], [3, 5]]
    assert resize_nearest(x, (1, 1)).tolist() == [[0]]
    assert resize_nearest(x, (2, 3)).dtype == torch.uint8


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 90))
def test_nearest_neighbours_keep_the_corners_and_the_order(old: int, new: int) -> None:
    sources = resize_nearest(torch.arange(old)[:, None], (new, 1)).flatten().tolist()
    assert sources == sorted(sources)
    assert (sources[0], sources[-1]) == (0, old - 1 if new > 1 else 0)
    if new >= old:
        assert set(sources) == set(range(old))


def test_dimensions_are_scaled_as_in_the_original() -> None:
    scaled = {(513, 1 / 16): 33, (513, 1 / 4): 129, (512, 1 / 16): 32, (321, 0.75): 241, (1, 0.1): 1, (513, 1.75): 897}
    assert {key: scale_dimension(*key) for key in scaled} == scaled


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 2000), st.sampled_from([1, 2, 4, 8, 16, 32]))
def test_a_strided_network_has_as_many_cells_as_the_scaled_dimension(side: int, stride: int) -> None:
    assert scale_dimension(side, 1 / stride) == -(-side // stride)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 9), st.integers(2, 9), st.integers(1, 40), st.integers(1, 40))
def test_legacy_resizing_is_target_times_in_over_out(height: int, width: int, new_height: int, new_width: int) -> None:
    x = torch.rand(2, 3, height, width)
    expected = torch.from_numpy(legacy(x.numpy(), (new_height, new_width)))
    torch.testing.assert_close(resize(x, (new_height, new_width), "legacy"), expected, rtol=0, atol=1e-5)


def test_legacy_resizing_worked_by_hand() -> None:
    x = torch.tensor([[[[0.0, 3.0, 6.0]]]]).expand(1, 1, 2, 3)
    assert resize(x, (2, 6), "legacy")[0, 0, 0].tolist() == [0, 1.5, 3, 4.5, 6, 6]
    assert resize(x, (2, 2), "legacy")[0, 0, 0].tolist() == [0, 4.5]


def test_legacy_resizing_is_tensorflows() -> None:
    """`tf.compat.v1.image.resize_bilinear(x, (7, 5))` of TensorFlow 2.21, of x = arange(12) ** 2 as [1, 3, 4, 1]."""
    x = (torch.arange(12.0) ** 2).view(1, 1, 3, 4)
    torch.testing.assert_close(resize(x, (7, 5), "legacy")[0, 0], torch.tensor(TENSORFLOWS), rtol=0, atol=1e-4)
