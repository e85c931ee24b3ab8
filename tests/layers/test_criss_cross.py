"""Criss-cross attention against the loop of its definition."""

import pytest
import torch
from torch import Tensor, nn

from atrous.layers.criss_cross import CrissCrossAttention, criss_cross
from tests.reference import attention as reference

SIZES = [(1, 1), (1, 5), (4, 1), (2, 2), (3, 5), (6, 4)]


def _maps(height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(height * 10 + width)
    query, key, value = (
        torch.randn(2, channels, height, width, dtype=torch.float64, generator=generator) for channels in (3, 3, 4)
    )
    return query, key, value


def _layer() -> CrissCrossAttention:
    torch.manual_seed(0)
    layer = CrissCrossAttention(4, 2).double()
    nn.init.constant_(layer.gamma, 0.7)
    return layer


@pytest.mark.parametrize("size", SIZES)
def test_it_is_the_loop_of_the_definition(size: tuple[int, int]) -> None:
    maps = _maps(*size)
    torch.testing.assert_close(criss_cross(*maps), reference.criss_cross(*maps))


def test_the_pixel_itself_is_counted_once() -> None:
    """With all energies alike the mean is the plain one of h + w - 1 pixels, drawn by hand."""
    value = torch.tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]]).view(1, 1, 2, 3)
    alike = torch.zeros(1, 1, 2, 3)
    expected = torch.tensor([[16.0, 26.0, 36.0], [61.0, 62.0, 63.0]]).view(1, 1, 2, 3) / 4
    torch.testing.assert_close(criss_cross(alike, alike, value), expected)


@pytest.mark.parametrize("size", [(1, 1), (3, 2)])
def test_gradients(size: tuple[int, int]) -> None:
    maps = [x.requires_grad_() for x in _maps(*size)]
    assert torch.autograd.gradcheck(criss_cross, maps)


@pytest.mark.parametrize(("recurrences", "heard"), [(1, "its row and column"), (2, "everything")])
def test_two_recurrences_reach_every_pixel(recurrences: int, heard: str) -> None:
    layer, x = _layer(), _maps(4, 5)[2].requires_grad_()
    y = x
    for _ in range(recurrences):
        y = layer(y)
    (gradient,) = torch.autograd.grad(y[0, 0, 1, 3], x)
    reached = gradient[0].abs().sum(0) > 0
    cross = torch.zeros(4, 5, dtype=torch.bool)
    cross[1], cross[:, 3] = True, True
    assert torch.equal(reached, torch.ones_like(cross) if heard == "everything" else cross)
    assert not gradient[1].any()


@torch.no_grad()
def test_the_layer_is_its_formula() -> None:
    layer, x = _layer(), _maps(3, 5)[2]
    query, key, value = layer.query(x), layer.key(x), layer.value(x)
    torch.testing.assert_close(layer(x), x + 0.7 * reference.criss_cross(query, key, value))


def test_it_starts_as_the_identity_and_gamma_learns() -> None:
    layer, x = CrissCrossAttention(4, 2), torch.rand(1, 4, 3, 5)
    y = layer(x)
    assert torch.equal(y, x)
    torch.autograd.backward(y.square().sum())
    assert layer.gamma.grad is not None
    assert layer.gamma.grad.any()


def test_memory_grows_as_pixels_times_height_plus_width() -> None:
    height, width = 24, 40
    query, key, value = (torch.rand(1, 2, height, width).requires_grad_() for _ in range(3))
    sizes: list[int] = []

    def note(x: Tensor) -> Tensor:
        sizes.append(x.untyped_storage().nbytes() // x.element_size())
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        criss_cross(query, key, value)
    assert max(sizes) == height * width * (height + width)


def test_autocast_stays_finite_and_close() -> None:
    layer, x = _layer().float(), _maps(6, 4)[2].float()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    torch.testing.assert_close(y.float(), layer(x), rtol=0.05, atol=0.05)
