"""Pyramid pooling: its levels, its channels, and maps smaller than its grids."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from atrous.layers.pyramid_pooling import PyramidPooling


def _pyramid(inp: int, bins: tuple[int, ...]) -> PyramidPooling:
    torch.manual_seed(0)
    return PyramidPooling(inp, bins).eval()


@pytest.mark.parametrize(
    ("inp", "bins", "channels"),
    [(8, (1, 2, 3, 6), 16), (8, (), 8), (8, (4,), 16), (10, (1, 2, 3), 19), (2048, (1, 2, 3, 6), 4096)],
)
def test_the_levels_share_the_channels_of_the_input(inp: int, bins: tuple[int, ...], channels: int) -> None:
    pyramid = _pyramid(inp, bins)
    assert pyramid.channels == channels
    assert pyramid(torch.randn(1, inp, 7, 9)).shape == (1, channels, 7, 9)


def test_the_map_comes_first_then_its_means_from_coarse_to_fine() -> None:
    x = torch.rand(2, 4, 6, 9)
    pyramid = _pyramid(4, (1, 3))
    for branch in pyramid.branches:
        nn.init.dirac_(branch.get_parameter("conv.weight"))
    pooled = pyramid(x)
    means = [x.mean((2, 3), keepdim=True), x.unflatten(2, (3, 2)).unflatten(4, (3, 3)).mean((3, 5))]  # type: ignore[no-untyped-call]
    scale = (1 + 1e-5) ** -0.5  # of a fresh norm
    levels = [F.interpolate(scale * mean[:, :2], (6, 9), mode="bilinear", align_corners=True) for mean in means]
    torch.testing.assert_close(pooled, torch.cat([x, *levels], 1))


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (3, 2), (13, 6)])
def test_any_size_has_every_level(size: tuple[int, int]) -> None:
    x = torch.randn(1, 8, *size)
    pooled = _pyramid(8, (1, 2, 3, 6))(x)
    assert pooled.shape == (1, 16, *size)
    assert torch.equal(pooled[:, :8], x)
    assert pooled.isfinite().all()


def test_one_image_per_batch_is_refused_in_training() -> None:
    pyramid = _pyramid(8, (1, 2)).train()
    with pytest.raises(ValueError, match="a batch of one image can't be trained on"):
        pyramid(torch.randn(1, 8, 5, 5))
    pyramid(torch.randn(2, 8, 5, 5))


def test_the_gradient_equals_finite_differences() -> None:
    pyramid = _pyramid(2, (1, 3)).double()
    assert torch.autograd.gradcheck(pyramid, torch.rand(1, 2, 4, 5, dtype=torch.float64, requires_grad=True))
