"""The encoding layer against its definition, one pixel and one codeword at a time."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from atrous.layers.encoding import Encoding, encode
from tests.reference import encoding as reference


def _random(batch: int, channels: int, pixels: int, num_codewords: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, channels, pixels, dtype=torch.float64, generator=generator)
    codewords = torch.randn(num_codewords, channels, dtype=torch.float64, generator=generator)
    return x, codewords, -torch.rand(num_codewords, dtype=torch.float64, generator=generator)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 7), st.integers(1, 4), st.integers(0, 99))
def test_it_is_the_definition(batch: int, channels: int, pixels: int, num_codewords: int, seed: int) -> None:
    tensors = _random(batch, channels, pixels, num_codewords, seed)
    torch.testing.assert_close(encode(*tensors), reference.encode(*tensors), rtol=1e-10, atol=1e-10)


def test_a_case_worked_by_hand() -> None:
    """Two pixels at 0 and 3, codewords at 0 and 2, squared distances 0 4 and 9 1, scales -ln 2 and -ln 2 / 2."""
    x, codewords = torch.tensor([[[0.0, 3.0]]]), torch.tensor([[0.0], [2.0]])
    scales = -torch.tensor([2.0, 2.0]).log() * torch.tensor([1.0, 0.5])
    first = 1 / (1 + 1 / 4), 2**-9 / (2**-9 + 2**-0.5)  # of each pixel, how much is the first codeword's
    sums = first[1] * 3, (1 - first[0]) * -2 + (1 - first[1]) * 1
    torch.testing.assert_close(encode(x, codewords, scales), torch.tensor(sums).view(1, 2, 1))


def test_gradients() -> None:
    tensors = tuple(tensor.requires_grad_() for tensor in _random(2, 3, 4, 3))
    assert torch.autograd.gradcheck(encode, tensors)


def test_the_order_of_pixels_does_not_matter() -> None:
    x, codewords, scales = _random(2, 4, 6, 3)
    torch.testing.assert_close(encode(x.flip(2), codewords, scales), encode(x, codewords, scales))


class _Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The number of elements of the largest tensor that was made."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        result = func(*args, **(kwargs or {}))
        tensors = result if isinstance(result, tuple | list) else (result,)
        self.numel = max(self.numel, *(t.numel() for t in tensors if isinstance(t, Tensor)), 0)
        return result


def test_no_tensor_is_larger_than_the_map_or_the_weights() -> None:
    batch, channels, pixels, num_codewords = 2, 16, 100, 8
    tensors = tuple(tensor.requires_grad_() for tensor in _random(batch, channels, pixels, num_codewords))
    with _Largest() as largest:
        torch.autograd.backward(encode(*tensors).square().sum())
    assert largest.numel == batch * channels * pixels


def test_the_layer_takes_maps_of_any_size_and_layout() -> None:
    torch.manual_seed(0)
    layer = Encoding(6, 4)
    for size in ((1, 1), (3, 5)):
        x = torch.randn(2, 6, *size)
        sums = layer(x)
        assert sums.shape == (2, 4, 6)
        torch.testing.assert_close(sums, layer(x.contiguous(memory_format=torch.channels_last)))
        torch.testing.assert_close(sums, reference.encode(x.flatten(2), layer.codewords, layer.scales))


def test_weights_are_initialised_as_in_the_authors_program() -> None:
    torch.manual_seed(0)
    layer = Encoding(64, 16)
    assert 0.9 / 32 < float(layer.codewords.detach().abs().max()) <= 1 / 32
    assert -1 <= float(layer.scales.detach().min()) < -0.5 < float(layer.scales.detach().max()) <= 0
    assert sum(parameter.numel() for parameter in layer.parameters()) == 16 * 64 + 16


def test_autocast_keeps_full_precision() -> None:
    torch.manual_seed(0)
    layer, x = Encoding(32, 4), 10 * torch.randn(1, 32, 5, 5)
    with torch.autocast("cpu", torch.bfloat16):
        sums = layer(x)
    assert sums.dtype == torch.float32
    torch.testing.assert_close(sums, layer(x))


@pytest.mark.parametrize("factor", [1.0, 1e3])
def test_far_features_give_finite_sums_and_gradients(factor: float) -> None:
    torch.manual_seed(0)
    layer = Encoding(8, 3)
    x = (factor * torch.randn(1, 8, 4, 4)).requires_grad_()
    sums = copy.deepcopy(layer)(x)
    assert sums.isfinite().all()
    torch.autograd.backward(layer(x).sum())
    assert x.grad is not None
    assert x.grad.isfinite().all()
