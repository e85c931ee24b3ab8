"""The strided view against the loop of the definition and a gather; gradients, memory, and small maps by hand."""

import math
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from atrous.ops import (
    Direction,
    point_wise_attention,
    point_wise_attention_loop,
    point_wise_attention_reference,
)

Size = tuple[int, int]
DIRECTIONS: tuple[Direction, ...] = ("collect", "distribute")
VERSIONS = (point_wise_attention, point_wise_attention_reference, point_wise_attention_loop)
odd = st.integers(0, 6).map(lambda half: 2 * half + 1)


def _inputs(size: Size, mask_size: Size | None, batch: int = 2, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    weights = math.prod(size if mask_size is None else mask_size)
    features = torch.randn(batch, 3, *size, generator=generator, dtype=torch.float64)
    mask = torch.randn(batch, weights, *size, generator=generator, dtype=torch.float64) * scale
    return features.requires_grad_(), mask.requires_grad_()


def _with_gradients(received: Tensor, *inputs: Tensor) -> list[Tensor]:
    slope = torch.randn(received.shape, generator=torch.Generator().manual_seed(1), dtype=received.dtype)
    return [received.detach(), *torch.autograd.grad(received, inputs, slope)]


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    st.none() | st.tuples(odd, odd),
    st.sampled_from(DIRECTIONS),
    st.booleans(),
    st.booleans(),
)
def test_all_versions_agree(
    size: Size, mask_size: Size | None, direction: Direction, softmax: bool, is_channels_last: bool
) -> None:
    features, mask = _inputs(size, mask_size, scale=3.0)
    if is_channels_last:
        mask = mask.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    fast, gather, loop = (
        _with_gradients(version(features, mask, mask_size, direction, softmax=softmax), features, mask)
        for version in VERSIONS
    )
    torch.testing.assert_close(gather, loop, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(fast, loop, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("mask_size", [None, (5, 3), (3, 9), (7, 5), (1, 1)])
@pytest.mark.parametrize(("direction", "softmax"), list(product(DIRECTIONS, (True, False))))
def test_gradients_are_the_numerical_ones(mask_size: Size | None, direction: Direction, softmax: bool) -> None:
    features, mask = _inputs((3, 4), mask_size)
    assert gradcheck(lambda x, m: point_wise_attention(x, m, mask_size, direction, softmax=softmax), (features, mask))


def test_a_gradient_of_one_input_alone_can_be_computed() -> None:
    for needs in ((True, False), (False, True)):
        features, mask = (
            x.detach().requires_grad_(is_needed) for x, is_needed in zip(_inputs((3, 4), (5, 7)), needs, strict=True)
        )
        torch.autograd.backward(point_wise_attention(features, mask, (5, 7), "collect").sum())
        assert (features.grad is not None, mask.grad is not None) == needs


# ---- by hand


def test_sums_by_hand() -> None:
    """Three positions a, b, c in a row with values 1, 10, 100; each mask has a weight for left, itself, right."""
    features = torch.tensor([1.0, 10.0, 100.0]).view(1, 1, 1, 3)
    mask = torch.tensor([[7.0, 1.0, 2.0], [3.0, 0.0, 4.0], [5.0, 6.0, 7.0]]).mT.reshape(1, 3, 1, 3)  # of a, of b, of c
    for version in VERSIONS:
        collected = version(features, mask, (1, 3), "collect", softmax=False)
        assert collected.flatten().tolist() == [1 * 1 + 2 * 10, 3 * 1 + 0 * 10 + 4 * 100, 5 * 10 + 6 * 100]
        distributed = version(features, mask, (1, 3), "distribute", softmax=False)
        assert distributed.flatten().tolist() == [1 * 1 + 3 * 10, 2 * 1 + 0 * 10 + 5 * 100, 4 * 10 + 6 * 100]


def test_sums_with_a_compact_mask_by_hand() -> None:
    features = torch.tensor([1.0, 10.0]).view(1, 1, 2, 1)
    mask = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).mT.reshape(1, 2, 2, 1)  # of the upper position, of the lower
    for version in VERSIONS:
        assert version(features, mask, None, "collect", softmax=False).flatten().tolist() == [21.0, 43.0]
        assert version(features, mask, None, "distribute", softmax=False).flatten().tolist() == [31.0, 42.0]


def test_positions_that_a_mask_does_not_reach_have_weight_0_before_the_softmax() -> None:
    features, mask = torch.arange(6.0).view(1, 1, 2, 3), torch.full((1, 1, 2, 3), math.log(5))
    expected = (features.sum() + 4 * features) / (5 + 5)  # itself 5 times, the five others once
    for direction in DIRECTIONS:
        torch.testing.assert_close(point_wise_attention(features, mask, (1, 1), direction), expected)


def test_a_mask_larger_than_the_map_is_cut_around_its_middle() -> None:
    features, mask = _inputs((3, 2), (9, 7))
    middle = mask.view(2, 9, 7, 3, 2)[:, 2:7, 2:5].flatten(1, 2)
    received = point_wise_attention(features, mask, (9, 7), "collect")
    torch.testing.assert_close(received, point_wise_attention(features, middle, (5, 3), "collect"))


def test_equal_weights_give_the_mean() -> None:
    features, _ = _inputs((4, 5), (7, 9))
    received = point_wise_attention(features, torch.zeros(2, 63, 4, 5), (7, 9), "distribute")
    torch.testing.assert_close(received, features.mean((2, 3), keepdim=True).expand_as(features))


# ---- memory and precision


class Squares(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The addresses of tensors with at least `elements` elements."""

    def __init__(self, elements: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.elements, self.addresses = elements, set[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.untyped_storage().nbytes() // result.itemsize >= self.elements:
            self.addresses.add(result.untyped_storage().data_ptr())
        return result


@pytest.mark.parametrize(("direction", "mask_size"), list(product(DIRECTIONS, [(15, 17), (5, 7), None])))
def test_nothing_else_is_as_large_as_the_attention(direction: Direction, mask_size: Size | None) -> None:
    features, mask = _inputs((8, 9), mask_size)
    mask = mask.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    known = {mask.untyped_storage().data_ptr()}
    with Squares(2 * 72 * 72) as forward:
        received = point_wise_attention(features, mask, mask_size, direction)
    assert len(forward.addresses - known) == 1
    with Squares(2 * 72 * 72) as backward:
        grads = torch.autograd.grad(received.sum(), (features, mask))
    new = backward.addresses - known - forward.addresses - {grad.untyped_storage().data_ptr() for grad in grads}
    assert len(new) <= 1  # the gradient of the attention, which for a compact mask is that of the mask


@pytest.mark.parametrize("softmax", [True, False])
def test_half_precision_is_only_for_inputs_and_results(softmax: bool) -> None:
    features, mask = (x.detach().bfloat16() for x in _inputs((5, 6), (9, 11)))
    exact = point_wise_attention(features.double(), mask.double(), (9, 11), "collect", softmax=softmax)
    features.requires_grad_(), mask.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        received = point_wise_attention(features, mask, (9, 11), "collect", softmax=softmax)
        grads = torch.autograd.grad(received.sum(), (features, mask))
    assert {x.dtype for x in (received, *grads)} == {torch.bfloat16}
    torch.testing.assert_close(received, exact.bfloat16(), rtol=2**-7, atol=1e-3)
    in_float = point_wise_attention(features.float(), mask.float(), (9, 11), "collect", softmax=softmax)
    assert torch.equal(received, in_float.bfloat16())


def test_large_weights_do_not_overflow() -> None:
    features, mask = _inputs((3, 3), (5, 5), scale=1e4)
    tensors = _with_gradients(point_wise_attention(features, mask, (5, 5), "distribute"), features, mask)
    assert all(x.isfinite().all() for x in tensors)


def test_it_can_be_exported() -> None:
    class Net(torch.nn.Module):
        def forward(self, features: Tensor, mask: Tensor) -> Tensor:
            return point_wise_attention(features, mask, (5, 7), "collect")

    inputs = tuple(x.detach() for x in _inputs((4, 5), (5, 7)))
    with torch.no_grad():
        exported = torch.export.export(Net(), inputs).module()
        torch.testing.assert_close(exported(*inputs), Net()(*inputs))


# ---- bad input


def test_masks_that_do_not_fit_are_refused() -> None:
    cases: list[tuple[tuple[int, int, int], Size | None, str]] = [
        ((12, 4, 5), (3, 5), "a mask of 3 x 5 must have odd sides and 15 channels, got 12"),
        ((24, 4, 5), (4, 6), "a mask of 4 x 6 must have odd sides"),
        ((15, 4, 5), None, "a compact mask of a 4 x 5 map must have 20 channels, got 15"),
        ((15, 5, 4), (3, 5), r"mask and features must be maps of one size, got \[5, 4\] and \[4, 5\]"),
    ]
    for version, (shape, mask_size, message) in product(VERSIONS, cases):
        with pytest.raises(ValueError, match=message):
            version(torch.zeros(1, 3, 4, 5), torch.zeros(1, *shape), mask_size, "collect")
