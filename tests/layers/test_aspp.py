from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from atrous.layers.aspp import ASPP, RATES, Squeeze, gate, mean_over_windows
from atrous.layers.conv import HEAD_NORM, Clip
from atrous.layers.resize import resize

SIDES = st.tuples(st.integers(1, 9), st.integers(1, 9))


def _aspp(rates: tuple[int, ...], *, separable: bool = True) -> ASPP:
    torch.manual_seed(0)
    return ASPP(6, 4, rates, separable=separable)


@pytest.mark.parametrize("rates", [(), (6,), (6, 12, 18)])
@pytest.mark.parametrize("separable", [True, False])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (9, 7)])
def test_shape(rates: tuple[int, ...], separable: bool, size: tuple[int, int]) -> None:
    aspp = _aspp(rates, separable=separable).eval()
    assert aspp(torch.rand(2, 6, *size)).shape == (2, 4, *size)
    assert aspp.get_parameter("projection.conv.weight").shape == (4, 4 * (2 + len(rates)), 1, 1)


def test_the_image_comes_first_then_the_1x1_then_the_rates() -> None:
    aspp = _aspp((1, 2)).eval()
    x = torch.rand(1, 6, 5, 5)
    joined_maps: list[torch.Tensor] = []
    aspp.get_submodule("projection").register_forward_pre_hook(lambda _, inputs: joined_maps.append(inputs[0]))
    with torch.no_grad():
        aspp(x)
        image = aspp.get_submodule("image_pooling")(x.mean((2, 3), keepdim=True)).expand(-1, -1, 5, 5)
        expected = [image, *(branch(x) for branch in aspp.branches)]
    torch.testing.assert_close(list(torch.chunk(joined_maps[0], 4, 1)), expected)


def test_every_rate_reaches_its_own_distance() -> None:
    aspp = _aspp((2, 3)).eval()
    x = torch.zeros(1, 6, 9, 9)
    x[..., 4, 4] = 1.0
    for rate, branch in zip((2, 3), list(aspp.branches)[1:], strict=True):
        depthwise = branch.get_submodule("depthwise.conv")
        hit = depthwise(x).abs().sum((0, 1)) > 0
        assert {tuple(place) for place in hit.nonzero().tolist()} == {
            (4 + rate * i, 4 + rate * j) for i in (-1, 0, 1) for j in (-1, 0, 1)
        }


def test_the_rates_of_a_stride_cover_the_same_pixels() -> None:
    pixels = {stride: tuple(rate * stride for rate in rates) for stride, rates in RATES.items()}
    assert pixels == dict.fromkeys((8, 16, 32), (96, 192, 288))


def test_dropout_follows_the_projection_in_training_only() -> None:
    aspp = _aspp((1,))
    x = torch.rand(4, 6, 9, 9)
    assert not torch.equal(aspp(x), aspp(x))
    aspp.eval()
    assert torch.equal(aspp(x), aspp(x))


def test_norms_have_the_heads_epsilon() -> None:
    norms = [module for module in _aspp((6, 12)).modules() if isinstance(module, nn.BatchNorm2d)]
    assert {norm.eps for norm in norms} == {HEAD_NORM.eps} == {1.001e-5}
    assert len(norms) == 7


def test_one_image_per_batch_is_refused_in_training_unless_the_norm_is_frozen() -> None:
    aspp = _aspp(())
    with pytest.raises(ValueError, match="batch of one image"):
        aspp(torch.rand(1, 6, 5, 5))
    aspp.get_submodule("image_pooling.norm").eval()
    assert aspp(torch.rand(1, 6, 5, 5)).shape == (1, 4, 5, 5)


@settings(max_examples=40, deadline=None)
@given(size=SIDES, window=SIDES, stride=SIDES)
def test_windows_lie_within_the_map(size: tuple[int, int], window: tuple[int, int], stride: tuple[int, int]) -> None:
    x = torch.rand(1, 2, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    height, width = min(window[0], size[0]), min(window[1], size[1])
    rows, columns = range(0, size[0] - height + 1, stride[0]), range(0, size[1] - width + 1, stride[1])
    means = [[x[..., y : y + height, z : z + width].mean((2, 3)) for z in columns] for y in rows]
    expected = torch.stack([torch.stack(row, 2) for row in means], 2)
    torch.testing.assert_close(mean_over_windows(x, window, stride), expected)


def test_without_a_window_or_with_one_of_the_maps_size_the_whole_map_is_averaged() -> None:
    x = torch.rand(2, 3, 5, 7)
    whole = x.mean((2, 3), keepdim=True)
    for window in (None, (5, 7), (99, 99)):
        torch.testing.assert_close(mean_over_windows(x, window, (2, 3)), whole)


@torch.no_grad()
def test_pooled_windows_are_resized_to_the_map() -> None:
    torch.manual_seed(0)
    aspp = ASPP(6, 4, (), pooling_stride=(2, 3)).eval()
    x, joined_maps = torch.rand(1, 6, 9, 9), list[Tensor]()
    aspp.get_submodule("projection").register_forward_pre_hook(lambda _, inputs: joined_maps.append(inputs[0]))
    aspp(x, (5, 3))
    assert aspp.image_pooling is not None
    pooled = aspp.image_pooling.conv(nn.functional.avg_pool2d(x, (5, 3), (2, 3)))  # [1, 4, 3, 3]
    expected = aspp.image_pooling.norm(pooled).relu()
    torch.testing.assert_close(joined_maps[0][:, :4], resize(expected, (9, 9)))


def test_a_hard_sigmoid_is_tensorflows() -> None:
    x = torch.tensor([-4.0, -3.0, -1.5, 0.0, 1.5, 3.0, 4.0])
    expected = [0, 0, 1.5 * 0.16667, 3 * 0.16667, 4.5 * 0.16667, 6 * 0.16667, 6 * 0.16667]
    assert gate(x, "hard_sigmoid").tolist() == pytest.approx(expected, rel=1e-6)
    assert float(gate(x, "hard_sigmoid").max()) > 1  # by 0.16667 - 1/6, six times
    assert torch.equal(gate(x, "sigmoid"), torch.sigmoid(x))


@torch.no_grad()
@pytest.mark.parametrize("squeeze", ["sigmoid", "hard_sigmoid"])
@pytest.mark.parametrize("projection", [True, False])
def test_a_squeezed_image_is_a_factor_instead_of_a_branch(squeeze: Squeeze, projection: bool) -> None:
    torch.manual_seed(0)
    aspp = ASPP(6, 4, (1, 2) if projection else (), projection=projection, squeeze=squeeze).eval()
    assert aspp.image_pooling is None
    assert aspp.image_gate is not None
    x = torch.rand(2, 6, 5, 5)
    joined = torch.cat([branch(x) for branch in aspp.branches], 1)
    y = joined if aspp.projection is None else aspp.projection(joined)
    pooled = nn.functional.conv2d(x.mean((2, 3), keepdim=True), aspp.image_gate.weight, aspp.image_gate.bias)
    torch.testing.assert_close(aspp(x), y * gate(pooled, squeeze))


@torch.no_grad()
@pytest.mark.parametrize("image_level", [True, False])
def test_without_projection_the_branches_are_returned_unchanged(image_level: bool) -> None:
    torch.manual_seed(0)
    aspp = ASPP(6, 4, (1, 2), projection=False, image_level=image_level, dropout=0.5).eval()
    x = torch.rand(2, 6, 5, 5)
    maps = [branch(x) for branch in aspp.branches]
    if aspp.image_pooling is not None:
        maps.insert(0, aspp.image_pooling(x))
    assert aspp.projection is None
    assert aspp.channels == 4 * len(maps) == (16 if image_level else 12)
    torch.testing.assert_close(aspp(x), torch.cat(maps, 1))


def test_without_an_image_level_one_image_per_batch_is_enough_to_train_on() -> None:
    torch.manual_seed(0)
    for aspp in (ASPP(6, 4, (1,), image_level=False), ASPP(6, 4, (1,), squeeze="sigmoid")):
        y = aspp.train()(torch.rand(1, 6, 5, 5))
        torch.autograd.backward(y.square().sum())
        assert [name for name, p in aspp.named_parameters() if p.grad is None] == []


def test_with_a_window_one_image_per_batch_is_enough_to_train_on() -> None:
    assert _aspp(()).train()(torch.rand(1, 6, 5, 5), (3, 3)).shape == (1, 4, 5, 5)
    with pytest.raises(ValueError, match="batch of one image"):
        _aspp(()).train()(torch.rand(1, 6, 5, 5), (5, 5))


def test_every_branch_except_the_image_has_the_activation() -> None:
    activations = {name: type(m) for name, m in ASPP(6, 4, (1,), act="relu6").named_modules() if name.endswith("act")}
    assert activations.pop("image_pooling.act") is nn.ReLU  # as TensorFlow DeepLab
    assert set(activations.values()) == {Clip}
    assert len(activations) == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"squeeze": "sigmoid", "projection": False}, r"needs rates=\(\): gate of 4 channels, got 8"),
        ({"squeeze": "hard_sigmoid", "image_level": False}, "squeeze=hard_sigmoid needs image_level=true"),
    ],
)
def test_a_gate_without_a_matching_map_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ASPP(6, 4, (1,), **settings)
