"""TensorFlow's ResNets: where they have their strides, borders and taps."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atrous.backbones.resnet import Subsample, _max_pool
from atrous.layers.conv import Conv, same_padding
from tests.backbones.conftest import built, on_meta


def _rates(name: str, output_stride: int, stage: str, conv: str, grid: tuple[int, ...] | None = None) -> list[int]:
    modules = on_meta(name, output_stride, multi_grid=grid).get_submodule(stage).named_modules()
    return [layer.dilation[0] for path, layer in modules if path.endswith(f".{conv}.conv") and isinstance(layer, Conv)]


def test_rates_grow_after_the_last_unit_of_a_stage() -> None:
    assert _rates("resnet_v1_50", 16, "c4", "conv2") == [1] * 6
    assert _rates("resnet_v1_50", 16, "c5", "conv2", (1, 2, 4)) == [2, 4, 8]
    assert _rates("resnet_v1_50", 8, "c3", "conv2") == [1] * 4
    assert _rates("resnet_v1_50", 8, "c4", "conv2") == [2] * 6
    assert _rates("resnet_v1_50", 8, "c5", "conv2", (1, 2, 4)) == [4, 8, 16]
    for conv in ("conv1", "conv2"):
        assert _rates("resnet_v1_18", 8, "c4", conv) == [2, 2]
        assert _rates("resnet_v1_18", 8, "c5", conv, (1, 2)) == [4, 8]


def _strided(name: str, output_stride: int) -> list[str]:
    convs = on_meta(name, output_stride).named_modules()
    return [path for path, module in convs if isinstance(module, nn.Conv2d) and module.stride != (1, 1)]


@pytest.mark.parametrize(
    ("name", "output_stride", "expected"),
    [
        ("resnet_v1_50", 32, ["stem.0.conv", "c2.2.conv2.conv", "c3.3.conv2.conv", "c4.5.conv2.conv"]),
        ("resnet_v1_101_beta", 16, ["stem.0.conv", "c2.2.conv2.conv", "c3.3.conv2.conv"]),
        ("resnet_v1_18_beta", 8, ["stem.0.conv", "c2.1.conv2.conv"]),
    ],
)
def test_strides_are_in_the_last_unit_of_a_stage(name: str, output_stride: int, expected: list[str]) -> None:
    assert _strided(name, output_stride) == expected


@pytest.mark.parametrize("name", ["resnet_v1_18", "resnet_v1_50_beta"])
def test_decoders_tap_the_residual_of_the_unit_before_a_stride(name: str) -> None:
    backbone = built(name, 32).eval()
    units = {stage: list(backbone.get_submodule(stage).children()) for stage in ("c2", "c3", "c4")}
    outputs: dict[str, tuple[Tensor, Tensor]] = {}
    for stage, members in units.items():
        members[-2].register_forward_hook(
            lambda unit, inputs, pair, stage=stage: outputs.update({stage: (*inputs, *pair)})
        )
    with torch.no_grad():
        features = backbone(torch.randn(1, 3, 33, 49))
        for stage, tap in {"c2": "low_level", "c3": "low_level_8", "c4": "low_level_16"}.items():
            unit, (x, output, residual) = units[stage][-2], outputs[stage]  # type: ignore[misc]
            assert torch.equal(features[tap], residual)
            assert float(residual.min()) < 0
            assert torch.equal(features[stage], output)
            torch.testing.assert_close(output, (unit.get_submodule("shortcut")(x) + residual).relu())


def test_decoders_tap_the_stages_of_torchvisions_resnets() -> None:
    features = built("resnet_tiny", 16).eval()(torch.randn(1, 3, 32, 32))
    assert features["low_level"] is features["c2"]
    assert features["low_level_8"] is features["c3"]
    assert features["low_level_16"] is features["c4"]


@pytest.mark.parametrize("size", [(8, 8), (8, 9), (9, 8), (9, 9), (1, 2)])
def test_max_pooling_equals_the_originals_on_even_and_odd_sizes(size: tuple[int, int]) -> None:
    x = -torch.rand(1, 2, *size) - 1  # below 0: zeros for a border would show
    (top, bottom), (left, right) = (same_padding(side, 3, 2, 1) for side in size)
    expected = F.max_pool2d(F.pad(x, (left, right, top, bottom), value=-torch.inf), 3, 2)
    assert torch.equal(_max_pool(x, "same"), expected)
    assert torch.equal(_max_pool(x, "symmetric"), nn.MaxPool2d(3, 2, 1)(x))


def test_a_shortcut_with_a_stride_starts_at_the_first_pixel() -> None:
    assert Subsample(2)(torch.arange(20.0).view(1, 1, 4, 5)).tolist() == [[[[0, 2, 4], [10, 12, 14]]]]
