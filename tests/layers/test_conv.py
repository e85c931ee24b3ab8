import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import gradcheck

from atrous.layers.conv import Activation, Clip, ConvNorm, Norm, Padding, SeparableConv, classifier, same_padding
from tests.reference.padding import same_sums


def test_same_padding_of_cases_worked_by_hand() -> None:
    padding = {  # size, kernel, stride, rate
        (8, 3, 2, 1): (0, 1),
        (9, 3, 2, 1): (1, 1),
        (8, 5, 2, 1): (1, 2),
        (9, 5, 2, 1): (2, 2),
        (7, 3, 1, 4): (4, 4),
        (7, 2, 1, 1): (0, 1),
        (8, 1, 2, 1): (0, 0),
        (1, 3, 2, 1): (1, 1),
        (2, 3, 4, 1): (0, 1),
    }
    assert {key: same_padding(*key) for key in padding} == padding


def _weights_one(conv: ConvNorm) -> ConvNorm:
    nn.init.ones_(conv.conv.weight)
    return conv.eval()


def _sum_conv(padding: Padding, **shape: int) -> ConvNorm:
    return _weights_one(ConvNorm(1, 1, 3, norm=Norm(eps=0.0), act="none", padding=padding, **shape))


def test_stride_two_on_an_even_size_starts_at_the_first_pixel() -> None:
    x = torch.arange(1.0, 5.0).repeat(4, 1)[None, None]  # each row 1 2 3 4
    same = _sum_conv("same", stride=2)(x)[0, 0]
    symmetric = _sum_conv("symmetric", stride=2)(x)[0, 0]
    assert same.tolist() == [[18.0, 21.0], [12.0, 14.0]]  # columns 1 2 3 and 3 4 0, over three rows and over two
    assert symmetric.tolist() == [[6.0, 18.0], [9.0, 27.0]]  # columns 0 1 2 and 2 3 4, over two rows and over three


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 5), st.sampled_from([1, 2, 3]), st.sampled_from([1, 2, 3]))
def test_same_convolution_equals_its_definition(height: int, width: int, kernel: int, stride: int, rate: int) -> None:
    x = torch.arange(float(height * width)).reshape(height, width)
    conv = _weights_one(
        ConvNorm(1, 1, kernel, stride=stride, rate=rate, norm=Norm(eps=0.0), act="none", padding="same")
    )
    assert conv(x[None, None])[0, 0].tolist() == same_sums(x, kernel, stride, rate)


@given(st.integers(1, 40), st.sampled_from([1, 3, 5, 7]), st.integers(1, 4))
def test_same_and_symmetric_agree_on_odd_sizes_and_at_stride_one(size: int, kernel: int, rate: int) -> None:
    around = rate * (kernel - 1) // 2
    assert same_padding(size, kernel, 1, rate) == (around, around)
    assert same_padding(2 * size - 1, 3, 2, 1) == (1, 1)


@pytest.mark.parametrize(("act", "low", "high"), [("relu", 0.0, 50.0), ("relu6", 0.0, 6.0), ("none", -50.0, 50.0)])
def test_activations(act: Activation, low: float, high: float) -> None:
    conv = _weights_one(ConvNorm(1, 1, norm=Norm(eps=0.0), act=act))
    y = conv(torch.tensor([-50.0, 50.0]).view(1, 1, 1, 2))
    assert y.flatten().tolist() == [low, high]


LIMITS = torch.tensor([-7.0, -6.0, -1e-6, 0.0, 1e-6, 3.0, 6.0, 7.0, float("nan")])


@pytest.mark.parametrize("low", [0.0, -6.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_clip_in_place_has_the_values_and_the_slope_of_pytorchs_own(low: float, dtype: torch.dtype) -> None:
    results = []
    for clip in (Clip(low, 6.0, inplace=True), nn.Hardtanh(low, 6.0)):
        x = LIMITS.to(dtype, copy=True).requires_grad_()
        y = clip(x * 1)
        y.backward(torch.arange(1, 10).to(dtype))
        assert x.grad is not None
        results.append((y.detach(), x.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


def test_a_clip_in_place_keeps_nothing_but_its_result() -> None:
    kept = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.data_ptr())
        return tensor

    x = torch.randn(2, 3, 4, 4, requires_grad=True) * 1
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = Clip(0.0, 6.0, inplace=True)(x)
    assert kept == [y.data_ptr()]


@pytest.mark.parametrize("act", ["relu6", "clip6"])
def test_the_gradient_of_a_clipped_convolution_is_the_numerical_one(act: Activation) -> None:
    torch.manual_seed(0)
    layer = ConvNorm(2, 3, 3, norm=Norm(), act=act).double()
    assert gradcheck(layer, torch.randn(2, 2, 4, 4, dtype=torch.float64, requires_grad=True))


def test_without_a_gradient_a_clip_is_pytorchs_own() -> None:
    x = torch.tensor([-7.0, 7.0])
    assert Clip(0.0, 6.0, inplace=True)(x) is x
    assert x.tolist() == [0, 6]
    exported = torch.export.export(Clip(0.0, 6.0, inplace=True), (torch.randn(3),))
    assert "clamp" in str(exported.graph)


def test_norm_carries_its_numbers_into_every_batch_norm() -> None:
    conv = SeparableConv(4, 6, norm=Norm(eps=0.5, momentum=0.25))
    norms = [module for module in conv.modules() if isinstance(module, nn.BatchNorm2d)]
    assert [(norm.eps, norm.momentum) for norm in norms] == [(0.5, 0.25)] * 2


def test_separable_conv_is_depthwise_then_pointwise() -> None:
    conv = SeparableConv(4, 6, 3, stride=2, rate=2, norm=Norm(), padding="same")
    assert conv(torch.zeros(2, 4, 10, 7)).shape == (2, 6, 5, 4)
    assert conv.depthwise.conv.weight.shape == (4, 1, 3, 3)
    assert conv.pointwise.conv.weight.shape == (6, 4, 1, 1)


def test_initial_weights_keep_the_variance_of_dense_and_depthwise_convolutions() -> None:
    torch.manual_seed(0)
    dense = ConvNorm(64, 128, 3, norm=Norm()).conv.weight
    depthwise = ConvNorm(512, 512, 3, groups=512, norm=Norm()).conv.weight
    assert dense.std().item() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.05)
    assert depthwise.std().item() == pytest.approx((2 / 9) ** 0.5, rel=0.05)


def test_classifier_starts_with_small_weights_and_no_bias() -> None:
    torch.manual_seed(0)
    conv = classifier(256, 21)
    assert conv.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert conv.bias is not None and not conv.bias.any()
