"""Each operator of PyTorch against LiteRT's: values, shapes and the order of axes."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atrous.errors import ConfigError
from atrous.layers.conv import Conv
from atrous.layers.resize import resize
from atrous.layers.self_attention import attend, attend_within
from tests.runtimes.litert.conftest import Function, require_same, written

torch.manual_seed(0)
MAP = torch.randn(1, 6, 9, 12)
VECTOR = torch.rand(6, 1, 1) + 0.5
MATRIX, ROWS, COLUMNS = torch.randn(4, 6), torch.randn(2, 9), torch.randn(12, 5)

ELEMENTS: dict[str, Function] = {
    "abs": torch.abs,
    "exp": torch.exp,
    "neg": torch.neg,
    "relu": F.relu,
    "relu6": F.relu6,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "hardtanh": F.hardtanh,
    "between": lambda x: x.clamp(-0.3, 0.7),
    "at least": lambda x: x.clamp(min=0.2),
    "leaky": lambda x: F.leaky_relu(x, 0.2),
    "gelu": F.gelu,
    "silu": F.silu,
    "square": torch.square,
    "cube": lambda x: x.abs().pow(3),
    "root": lambda x: (x.abs() + 1).sqrt() + (x.abs() + 1).rsqrt() + (x.abs() + 1).log(),
    "per channel": lambda x: (x - VECTOR) / VECTOR + 2 * VECTOR,
    "reverse": lambda x: 1 - x,
    "of two ranks": lambda x: x * torch.arange(12.0) + x.mean(1),
    "scaled addend": lambda x: torch.add(x, VECTOR, alpha=3),
    "extremes": lambda x: torch.maximum(x, -x) + torch.minimum(x, VECTOR),
    "where": lambda x: torch.where(x > 0.1, x, -2 * x) + torch.where(torch.ones(12) > 0, x, x),
    "integers": lambda x: (x * 10).to(torch.int32),
    "no change": lambda x: (x + 0) * 1 / torch.ones(1),
}
AXES: dict[str, Function] = {
    "permuted": lambda x: x.permute(0, 2, 3, 1),
    "turned": lambda x: x.mT,
    "flat": lambda x: x.flatten(2).mT,
    "split in two": lambda x: x.view(1, 2, 3, 9, 12).permute(0, 2, 1, 3, 4).reshape(1, 6, 9, 12),
    "joined across": lambda x: x.view(1, 54, 12),
    "all in one": lambda x: x.reshape(-1),
    "of length 1": lambda x: x[:, :, None].squeeze(0).unsqueeze(-1),
    "slice": lambda x: x[:, 1:5, 2:, :-3],
    "steps": lambda x: x[:, :, ::2, 1::3],
    "select": lambda x: x[:, 2] + x[:, -1],
    "parts": lambda x: torch.cat(torch.split(x, [1, 2, 3], 1)[::-1], 1),
    "joined": lambda x: torch.cat([x, VECTOR.expand(1, 6, 9, 2), 2 * x], 3),
    "stacked": lambda x: torch.stack([x, x + 1]),
    "expanded": lambda x: x.mean((2, 3), keepdim=True).expand(-1, -1, 9, 12) + x[:, :, :1].expand(-1, -1, 9, -1),
    "padded": lambda x: F.pad(x, (1, 2, 0, 3), value=0.5) + F.pad(x, (3, 0, 3, 0)),
    "strided": lambda x: x.permute(0, 2, 3, 1).contiguous().as_strided((1, 4, 5), (1, 7, 2), 3),
    "gathered": lambda x: x.gather(3, torch.arange(12).flip(0).view(1, 1, 1, 12).expand(1, 6, 9, 12)),
    "means": lambda x: x.mean((2, 3)) + x.sum((2, 3)) + x.amax((2, 3)) + x.amin((-2, -1)),
    "all": lambda x: x.mean().reshape(1),
    "arg-max": lambda x: x.argmax(1),
    "arg-max, kept": lambda x: x.argmax(2, keepdim=True),
    "softmax of channels": lambda x: x.softmax(1),
    "softmax of rows": lambda x: x.softmax(2),
    "layer norm": lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (6,), torch.arange(6.0), torch.ones(6)),
}
PRODUCTS: dict[str, Function] = {
    "of rows and columns": lambda x: ROWS @ F.max_pool2d(x, 1) @ COLUMNS,
    "of pixels": lambda x: x.flatten(2).mT @ x.flatten(2),
    "of channels": lambda x: x.flatten(2) @ x.flatten(2).mT,
    "with a constant": lambda x: MATRIX @ x.flatten(2),
    "by a constant": lambda x: x.mT @ torch.ones(9, 5),
    "linear": lambda x: F.linear(x.permute(0, 2, 3, 1), MATRIX, torch.ones(4)),
    "linear, computed": lambda x: F.linear(x[0, 0].mT, x[0, 1].mT),
    "einsum": lambda x: torch.einsum("bkyx,bkjx->byxj", x, x),
    "attention within": lambda x: attend_within(x, 2 * x, x + 1, 3, scale=0.2),
    "attention by a mask": lambda x: attend(x, x, x, scale=0.1, mask=torch.eye(108)),
    "attention": lambda x: attend(x, 2 * x, x + 1, scale=0.2),
}
MAPS: dict[str, Function] = {
    "conv": nn.Conv2d(6, 4, 3, padding=1),
    "one side": nn.Conv2d(6, 4, (1, 3), padding=(0, 1), bias=False),
    "stride 2": nn.Conv2d(6, 4, 3, stride=2, padding=1),
    "atrous": nn.Conv2d(6, 4, 3, padding=2, dilation=2),
    "wide pads": nn.Conv2d(6, 4, 3, padding=3),
    "in groups": nn.Conv2d(6, 4, 3, padding=1, groups=2),
    "depthwise": nn.Conv2d(6, 6, 3, padding=4, dilation=4, groups=6),
    "depthwise, twice": nn.Conv2d(6, 12, 3, padding=1, groups=6),
    "TensorFlow's SAME": Conv(6, 4, 3, stride=2, rate=1, groups=1, padding="same"),
    "SAME, depthwise": Conv(6, 6, 3, stride=2, rate=1, groups=6, padding="same"),
    "max": nn.MaxPool2d(3, 2, 1),
    "max, wide": nn.MaxPool2d(3, 1, 1),
    "max, ceil": nn.MaxPool2d(2, 2, ceil_mode=True),
    "mean": nn.AvgPool2d(3, 2, 1),
    "mean, counted": nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "mean, ceil": nn.AvgPool2d(2, 2, ceil_mode=True),
    "one bin": nn.AdaptiveAvgPool2d(1),
    "even bins": nn.AdaptiveAvgPool2d(3),
    "odd bins": nn.AdaptiveAvgPool2d((4, 5)),
    "more bins than cells": nn.AdaptiveAvgPool2d((13, 20)),
    "corners": lambda x: F.interpolate(x, (17, 23), mode="bilinear", align_corners=True),
    "smaller": lambda x: F.interpolate(x, (5, 7), mode="bilinear", align_corners=True),
    "half pixels": lambda x: F.interpolate(x, (17, 23), mode="bilinear"),
    "by factors": lambda x: F.interpolate(x, scale_factor=(2, 0.5), mode="bilinear"),
    "legacy": lambda x: resize(x, (17, 23), "legacy"),
    "edges": lambda x: F.pad(x, (1, 0, 1, 1), mode="replicate"),
    "nearest": lambda x: F.interpolate(x, (20, 20)),
    "nearest, exact": lambda x: F.interpolate(x, (20, 20), mode="nearest-exact"),
}


@pytest.mark.parametrize("functions", [ELEMENTS, AXES, PRODUCTS, MAPS], ids=["elements", "axes", "products", "maps"])
def test_litert_computes_what_pytorch_does(functions: dict[str, Function]) -> None:
    require_same(functions, MAP)


def test_maps_are_not_moved_between_layouts() -> None:
    """A map lies as LiteRT's operators want it, and what looks at it in another order reads it there."""
    block = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 4, 1))
    x = torch.randn(1, 9, 12, 6)
    functions = {"one": lambda x: block(x.permute(0, 3, 1, 2)).softmax(1).permute(0, 2, 3, 1)}
    assert require_same(functions, x) == ["CONV_2D", "MAX_POOL_2D", "CONV_2D", "SOFTMAX"]


def test_an_operator_that_is_missing_is_named() -> None:
    with pytest.raises(ConfigError, match=r"no counterpart of aten.cumsum.default"):
        written({"sum": lambda x: x.cumsum(1)}, MAP)


def test_what_litert_does_not_compute_in_is_named() -> None:
    with pytest.raises(ConfigError, match="does not compute in float64"):
        written({"double": Tensor.double}, MAP)


def test_a_factor_that_makes_no_whole_map_is_refused() -> None:
    """PyTorch then samples by the factor, and LiteRT by the sizes."""
    with pytest.raises(ConfigError, match="a map of 9 x 12 by"):
        written({"half": lambda x: F.interpolate(x, scale_factor=0.5, mode="bilinear")}, MAP)


def test_a_result_without_the_image_is_refused() -> None:
    with pytest.raises(ConfigError, match="output 0 does not depend on the image"):
        written({"constant": lambda x: torch.ones(3)}, MAP)
