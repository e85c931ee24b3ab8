from pathlib import Path

import numpy as np
import pytest
import torch

from atrous.layers.resize import resize

GOLDENS = Path(__file__).parents[1] / "goldens" / "tf_deeplab" / "resize.npz"


@pytest.mark.parametrize(
    ("source", "target"),
    [("bil_in", f"bil_{size}") for size in ("9x13", "3x4", "5x7", "1x1", "17x2")] + [("bil1_in", "bil1_4x5")],
)
def test_aligned_corners_are_tensorflows(source: str, target: str) -> None:
    with np.load(GOLDENS) as goldens:
        x, expected = (torch.from_numpy(goldens[name]).permute(0, 3, 1, 2) for name in (source, target))
    torch.testing.assert_close(resize(x, expected.shape[-2:]), expected)


def test_the_conventions_differ_as_drawn() -> None:
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
