"""Convolutions in 8-bit integers: against integers by hand, on any kind of convolution, and as parts of a network."""

import copy
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from atrous.layers import quantization
from atrous.layers.conv import TORCH_NORM, Conv, ConvNorm
from atrous.layers.quantization import NAME, Int8Conv, Range
from atrous.models import Model
from atrous.segmenter import create

IMAGES = torch.randint(0, 256, (2, 3, 33, 49), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def integers(x: Tensor, weight: Tensor, low: float, high: float) -> Tensor:
    """A 1 x 1 convolution as integer units compute it: whole numbers in, whole numbers multiplied and added."""
    step = (high - low) / 255
    zero = round(-low / step)
    levels = (x / step).round().add(zero).clamp(0, 255).long() - zero
    steps = weight.abs().amax((1, 2, 3)) / 127
    weights = (weight / steps.view(-1, 1, 1, 1)).round().long()[:, :, 0, 0]
    sums = torch.einsum("oi,bihw->bohw", weights, levels)
    return sums * (step * steps).view(-1, 1, 1)


def quantized(part: nn.Module, low: float = -1.0, high: float = 3.0) -> nn.Module:
    """A copy whose convolutions round."""
    part = copy.deepcopy(part).eval()
    quantization.add_ranges(part)
    for _, one in quantization.ranges(part):
        one.set(low, high)
    return part


def test_a_convolution_computes_what_integers_do() -> None:
    torch.manual_seed(0)
    conv, x = nn.Sequential(nn.Conv2d(5, 7, 1, bias=False)), torch.randn(2, 5, 6, 6) * 2
    expected = integers(x, next(conv.parameters()).detach(), -1.0, 3.0)
    torch.testing.assert_close(quantized(conv)(x), expected.float(), atol=1e-5, rtol=1e-5)


def test_values_beyond_the_range_are_clipped_and_zero_is_exact() -> None:
    one = Range()
    one.set(-0.5, 2.0)
    step = 2.5 / 255
    x = torch.tensor([-9.0, 0.0, step * 0.4, step * 0.6, 9.0])
    torch.testing.assert_close(one.eval()(x), torch.tensor([-51 * step, 0.0, 0.0, step, 204 * step]))
    one.set(1.0, 2.0)  # 0 pads images: it is always in the range
    assert (float(one.low), float(one.high)) == (0.0, 2.0)


def test_a_range_without_extent_does_not_divide_by_zero() -> None:
    one = Range()
    one.set(0.0, 0.0)
    assert one.eval()(torch.zeros(3)).tolist() == [0, 0, 0]
    assert quantization.rounded(torch.zeros(2, 1, 1, 1)).tolist() == [[[[0]]], [[[0]]]]


def test_weights_have_levels_of_their_own_in_each_channel() -> None:
    weight = torch.tensor([[1.0, 0.3], [100.0, 30.0]]).view(2, 2, 1, 1)
    levels = quantization.rounded(weight) / quantization.weight_steps(weight).view(2, 1, 1, 1)
    torch.testing.assert_close(levels.flatten(), torch.tensor([127.0, 38.0, 127.0, 38.0]))


def test_rounding_before_a_batch_norm_is_rounding_after_it_is_folded() -> None:
    torch.manual_seed(0)
    weight, scale = torch.randn(8, 3, 3, 3), torch.randn(8, 1, 1, 1)
    torch.testing.assert_close(quantization.rounded(weight) * scale, quantization.rounded(weight * scale))


def test_gradients_pass_the_rounding_but_not_the_clipping() -> None:
    one = Range()
    one.set(-1.0, 1.0)
    x = torch.tensor([-3.0, 0.2, 3.0], requires_grad=True)
    one.eval()(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 0]
    weight = torch.randn(2, 2, 1, 1, requires_grad=True)
    quantization.rounded(weight).sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert weight.grad.eq(1).all()


def test_a_range_follows_batches_in_training_only() -> None:
    one = Range()
    one(torch.tensor([-1.0, 4.0]))
    assert (float(one.low), float(one.high), int(one.count)) == (-1.0, 4.0, 1)
    one(torch.tensor([1.0, 14.0]))
    assert (round(float(one.low), 5), round(float(one.high), 5), int(one.count)) == (-0.99, 4.1, 2)
    one.eval()(torch.tensor([99.0]))
    assert round(float(one.high), 5) == 4.1


def test_before_it_rounds_a_network_computes_just_the_same() -> None:
    model = create("deeplab_v3plus", backbone="mobilenet_v2", num_classes=3).model
    expected, training = model(IMAGES).semantic, copy.deepcopy(model)
    quantization.add_ranges(model)
    assert torch.equal(model(IMAGES).semantic, expected)
    assert not quantization.rounds(model)
    quantization.activate(model, is_active=True)
    assert torch.equal(model(IMAGES).semantic, expected)  # nothing was seen yet
    quantization.remove_ranges(model)
    assert model.state_dict().keys() == training.state_dict().keys()
    assert torch.equal(model(IMAGES).semantic, expected)


def observed(model: Model) -> Model:
    """Its ranges are those of some images, and it rounds."""
    quantization.add_ranges(model)
    for _, one in quantization.ranges(model):
        one.train()
    with torch.no_grad():
        model(IMAGES)
    quantization.activate(model.eval(), is_active=True)
    return model


def test_a_copy_rounds_on_its_own() -> None:
    model = observed(create("deeplab_v3", backbone="mobilenet_v2", num_classes=3).model)
    other = copy.deepcopy(model)
    expected = model(IMAGES).semantic
    assert torch.equal(other(IMAGES).semantic, expected)
    quantization.activate(other, is_active=False)
    assert not torch.equal(other(IMAGES).semantic, expected)
    assert torch.equal(model(IMAGES).semantic, expected)


KINDS: dict[str, Callable[[], nn.Module]] = {
    "strided, padded as TensorFlow does": lambda: Conv(5, 4, 3, stride=2, rate=1, groups=1, padding="same"),
    "dilated": lambda: Conv(5, 4, 3, stride=1, rate=2, groups=1, padding="symmetric"),
    "depthwise": lambda: Conv(5, 5, 3, stride=1, rate=1, groups=5, padding="symmetric"),
    "with a bias": lambda: nn.Conv2d(5, 4, 1),
    "of a smaller output": lambda: nn.Conv2d(5, 4, 3, 2, 1),
}


@pytest.mark.parametrize("kind", KINDS)
def test_as_integers_for_other_programs_it_computes_the_same(kind: str) -> None:
    torch.manual_seed(0)
    part, x = quantized(nn.Sequential(KINDS[kind]()), -3, 3), torch.randn(2, 5, 9, 12)
    expected = part(x)
    quantization.to_integers(part)
    assert isinstance(part[0], Int8Conv)  # type: ignore[index]
    assert part[0].weight.dtype == torch.int8  # type: ignore[index]
    torch.testing.assert_close(part(x), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("form", ["products", "plain"])
def test_all_forms_compute_the_same(form: quantization.Form) -> None:
    torch.manual_seed(0)
    part, x = (
        quantized(nn.Sequential(nn.Conv2d(5, 4, 3), nn.Conv2d(4, 6, 1, bias=False)), -3, 3),
        torch.randn(2, 5, 9, 12),
    )
    quantization.to_integers(part)
    expected = part(x)
    quantization.write_as(part, form)
    torch.testing.assert_close(part(x), expected, atol=1e-6, rtol=1e-6)
    has_bias = [bool(one.bias_step.mul(one.bias).any()) for one in part.children() if isinstance(one, Int8Conv)]
    assert has_bias == [True, form == "products"]  # OpenVINO needs one


@pytest.mark.parametrize("form", ["operators", "plain"])
def test_moved_values_round_as_if_they_were_greater(form: quantization.Form) -> None:
    part = quantized(nn.Sequential(nn.Conv2d(1, 1, 1, bias=False)), -1.28, 1.27)
    part[0].weight.data.fill_(1.0)  # type: ignore[index]
    quantization.to_integers(part)
    quantization.write_as(part, form)
    x = torch.tensor([0.0, 0.004, 0.006]).view(1, 1, 1, 3)  # in steps of 0.01
    with quantization.moved(0.2):
        torch.testing.assert_close(part(x).flatten(), torch.tensor([0.0, 0.01, 0.01]))
    torch.testing.assert_close(part(x).flatten(), torch.tensor([0.0, 0.0, 0.01]))


def test_a_bias_that_32_bits_do_not_hold_gets_coarser_weights() -> None:
    conv = nn.Conv2d(4, 1, 1)
    with torch.no_grad():
        conv.weight.fill_(1e-9)
        conv.bias.fill_(5.0)  # type: ignore[union-attr]
    part = quantized(nn.Sequential(conv))
    quantization.to_integers(part)
    torch.testing.assert_close(part(torch.ones(1, 4, 1, 1)).item(), 5.0, atol=1e-4, rtol=0)


def test_an_unseen_convolution_stays_in_floats() -> None:
    part = nn.Sequential(nn.Conv2d(4, 1, 1))
    quantization.add_ranges(part)
    quantization.activate(part, is_active=True)
    quantization.to_integers(part)
    assert isinstance(part[0], nn.Conv2d)


def test_threads_may_share_a_network() -> None:
    part = quantized(nn.Sequential(ConvNorm(4, 8, 3, norm=TORCH_NORM), ConvNorm(8, 8, 3, norm=TORCH_NORM)))
    x = torch.randn(1, 4, 32, 32)
    expected, results = part(x), list[Tensor]()

    def work() -> None:
        results.extend(part(x) for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 60
    assert all(torch.equal(one, expected) for one in results)


def test_what_sees_the_image_stays_in_floats() -> None:
    model = create("fcn", backbone="mobilenet_v2", num_classes=2).model
    others = [part for part in model.modules() if isinstance(part, nn.Conv2d) and part.in_channels == 3]
    quantization.add_ranges(model)
    assert len(others) == 1
    assert not quantization.has_ranges(others[0])


def test_names_of_ranges_are_told_from_weights() -> None:
    state = observed(create("fcn", backbone="mobilenet_v2", num_classes=2).model).state_dict()
    own = quantization.without_ranges(state)
    assert own.keys() == create("fcn", backbone="mobilenet_v2", num_classes=2).model.state_dict().keys()
    assert {name.rpartition(".")[2] for name in state.keys() - own.keys()} == {"low", "high", "count", "active"}
    assert all(f".{NAME}." in name for name in state.keys() - own.keys())
