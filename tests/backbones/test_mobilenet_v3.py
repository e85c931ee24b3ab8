"""MobileNetV3 and MobileNet-EdgeTPU are TensorFlow's: names, counts, logits, and what is odd about them."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atrous.backbones import BACKBONES, Backbone, Options, build_backbone, check_backbone
from atrous.layers.conv import ACTIVATIONS
from atrous.layers.inverted_residual import InvertedResidual
from atrous.layers.squeeze import SqueezeExcite
from atrous.models import MODELS, Model, build
from tests.conftest import SHARED
from tests.tf_deeplab import assert_golden, listing

LARGE, SMALL, EDGETPU = "mobilenet_v3_large_seg", "mobilenet_v3_small_seg", "mobilenet_edgetpu"
VARIABLES = SHARED / "goldens" / "tf_deeplab" / "variables"
LISTINGS: dict[str, tuple[str, dict[str, Any], int]] = {  # model, settings, what is trained (spec, section 2.3)
    "mnv3_large": ("lraspp", {"backbone": LARGE, "pooling_window": (49, 49)}, 1_507_198),
    "mnv3_small": ("lraspp", {"backbone": SMALL, "pooling_window": (49, 49)}, 468_830),
    "edgetpu": ("deeplab_v3", {"backbone": EDGETPU, "rates": ()}, 3_603_283),
    "edgetpu_slim": (
        "deeplab_v3",
        {"backbone": EDGETPU, "rates": (), "depth_multiplier": 0.75, "aspp_channels": 128},
        1_942_187,
    ),
}


def _model(row: str) -> Model:
    name, settings, _ = LISTINGS[row]
    return build(MODELS[name].Config(**settings), 19)


def _on_meta(name: str, output_stride: int, depth_multiplier: float = 1.0) -> Backbone:
    with torch.device("meta"):
        return build_backbone(name, output_stride, Options(depth_multiplier))


@pytest.mark.parametrize("row", LISTINGS)
def test_variables_are_the_originals(row: str) -> None:
    if not VARIABLES.is_dir():
        pytest.skip(f"no {VARIABLES}: the lists of variables are not part of the repository")
    lines = (VARIABLES / f"vars_{row}.txt").read_text(encoding="utf-8").splitlines()[1:]
    expected = {name: tuple(map(int, shape.split("x"))) for name, shape in map(str.split, lines)}
    with torch.device("meta"):
        assert listing(_model(row)) == expected


@pytest.mark.parametrize("row", LISTINGS)
def test_parameter_counts(row: str) -> None:
    with torch.device("meta"):
        model = _model(row)
    assert sum(parameter.numel() for parameter in model.parameters()) == LISTINGS[row][2]


@pytest.mark.parametrize(
    ("row", "case"),
    [
        ("mnv3_large", "mnv3_large_os32_65x97"),
        ("mnv3_small", "mnv3_small_os32_65x97"),
        ("edgetpu", "edgetpu_os16_65"),
    ],
)
def test_logits_are_the_originals(row: str, case: str) -> None:
    assert_golden(_model(row), case)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (LARGE, {"low_level": 72, "low_level_8": 120, "low_level_16": 672, "c4": 112, "c5": 480}),
        (SMALL, {"low_level": 16, "low_level_8": 88, "low_level_16": 144, "c4": 48, "c5": 288}),
        (EDGETPU, {"c1": 16, "c2": 32, "c3": 48, "c4": 96, "c5": 1280}),
    ],
)
def test_channels_are_the_papers(name: str, expected: dict[str, int]) -> None:
    assert expected.items() <= _on_meta(name, 16).channels.items()


def test_the_edgetpu_network_has_nothing_for_a_decoder() -> None:
    assert _on_meta(EDGETPU, 16).channels.keys() == {"c1", "c2", "c3", "c4", "c5"}


@pytest.mark.parametrize("name", [LARGE, SMALL, EDGETPU])
@pytest.mark.parametrize("depth_multiplier", [0.1, 0.35, 0.75, 1.5])
def test_widths_are_multiples_of_eight(name: str, depth_multiplier: float) -> None:
    backbone = _on_meta(name, 32, depth_multiplier)
    widths = {module.out_channels for module in backbone.modules() if isinstance(module, nn.Conv2d)}
    assert {width % 8 for width in widths} == {0}
    features = backbone(torch.zeros(1, 3, 64, 64, device="meta"))
    assert {tap: x.shape[1] for tap, x in features.items()} == backbone.channels


def test_widened_features_keep_their_ratio_to_the_rounded_input() -> None:
    weights = _on_meta(LARGE, 32, 0.75).state_dict()
    assert weights["blocks.2.expand.conv.weight"].shape[:2] == (72, 24)  # 0.75 x 24 is 18; 16 were less than 0.9 of it
    assert weights["blocks.8.expand.conv.weight"].shape[:2] == (144, 64)  # 2.3 x 64 is 147.2; 0.75 x 184 is 138


def _shortcuts(backbone: Backbone) -> list[int]:
    blocks = backbone.get_submodule("blocks").children()
    return [index for index, block in enumerate(blocks) if block.has_shortcut]


def test_the_small_network_gains_a_shortcut_with_a_lost_stride() -> None:
    assert _shortcuts(_on_meta(SMALL, 32)) == [2, 4, 5, 7, 9, 10]
    assert _shortcuts(_on_meta(SMALL, 16)) == [2, 4, 5, 7, 8, 9, 10]


def test_the_edgetpu_network_has_no_shortcut_where_units_of_stride_16_widen_anew() -> None:
    assert _shortcuts(_on_meta(EDGETPU, 32)) == [2, 3, 4, 6, 7, 8, 10, 11, 12, 14, 15, 16, 18, 19, 20]


def _filters(backbone: Backbone) -> list[tuple[int, int]]:
    """Stride and rate of each block."""
    found = []
    for block in backbone.get_submodule("blocks").children():
        conv = block.get_submodule("depthwise.conv")
        assert isinstance(conv, nn.Conv2d)
        found.append((conv.stride[0], conv.dilation[0]))
    return found


def test_the_filter_that_loses_its_stride_keeps_its_rate() -> None:
    assert _filters(_on_meta(LARGE, 16))[11:] == [(1, 1), (1, 1), (1, 2), (1, 2)]
    assert _filters(_on_meta(LARGE, 8))[5:] == [(1, 1), (1, 1), *[(1, 2)] * 6, (1, 4), (1, 4)]


def _without_squeezing(name: str, output_stride: int) -> Backbone:
    torch.manual_seed(0)
    backbone = build_backbone(name, output_stride).double().eval()
    for block in backbone.get_submodule("blocks").children():
        assert isinstance(block, InvertedResidual)
        block.squeeze = nn.Identity()
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.bias, -0.1, 0.1)
    return backbone


@pytest.mark.parametrize(("name", "coarse"), [(LARGE, 32), (SMALL, 16)])
@torch.no_grad()
def test_but_for_squeezing_atrous_features_are_the_strided_ones_and_those_between(name: str, coarse: int) -> None:
    images = torch.randn(1, 3, 65, 97, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected, dense = (_without_squeezing(name, stride)(images)["c5"] for stride in (coarse, 8))
    step = coarse // 8
    assert dense.shape[-2:] == (9, 13)
    torch.testing.assert_close(dense[..., ::step, ::step], expected, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_taps_are_not_yet_squeezed() -> None:
    backbone = build_backbone(LARGE, 32).eval()
    images = torch.randn(1, 3, 33, 33)
    before = backbone(images)
    squeeze = backbone.get_submodule("blocks.5.squeeze.restore")
    assert isinstance(squeeze, nn.Conv2d)
    nn.init.constant_(squeeze.bias, -10)  # type: ignore[arg-type]
    after = backbone(images)
    assert torch.equal(before["low_level_8"], after["low_level_8"])
    assert not torch.allclose(before["c3"], after["c3"])


def test_squeezing_scales_each_channel_by_a_gate_of_the_means() -> None:
    squeeze = SqueezeExcite(2, 1)
    with torch.no_grad():
        for parameter, values in (
            (squeeze.reduce.weight, [1.0, -1.0]),
            (squeeze.reduce.bias, [0.5]),
            (squeeze.restore.weight, [1.0, -10.0]),
            (squeeze.restore.bias, [0.0, 1.0]),
        ):
            assert parameter is not None
            parameter.copy_(torch.tensor(values).view(parameter.shape))
    x = torch.tensor([[[[1.0, 3.0]], [[0.0, 2.0]]]])  # means 2 and 1: squeezed to 2 - 1 + 0.5
    y = squeeze(x)
    torch.testing.assert_close(y, torch.tensor([[[[1.0, 3.0]], [[0.0, 0.0]]]]) * 4.5 * 0.16667)


def test_hard_swish() -> None:
    x = torch.linspace(-5, 5, 21)
    torch.testing.assert_close(ACTIVATIONS["hard_swish"]()(x), x * F.relu6(x + 3) / 6)


@pytest.mark.parametrize("size", [(64, 96), (65, 97), (63, 70)])
def test_every_size_is_rounded_up_at_each_stride(size: tuple[int, int]) -> None:
    features: dict[str, Tensor] = _on_meta(LARGE, 16)(torch.zeros(1, 3, *size, device="meta"))
    assert [features[tap].shape[-2:] for tap in ("low_level", "low_level_8", "c5")] == [
        tuple(-(-side // stride) for side in size) for stride in (4, 8, 16)
    ]


@pytest.mark.parametrize("name", [LARGE, SMALL, EDGETPU])
def test_it_can_be_trained(name: str) -> None:
    backbone = build_backbone(name, 16, Options(0.25))
    features = backbone(torch.randn(2, 3, 33, 33))
    torch.stack([x.square().mean() for x in features.values()]).sum().backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None for parameter in backbone.parameters())
    assert {module.eps for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)} == {1e-3}


@pytest.mark.parametrize("name", [LARGE, SMALL, EDGETPU])
def test_the_divisor_is_always_eight(name: str) -> None:
    assert BACKBONES[name].output_strides == (8, 16, 32)
    with pytest.raises(ValueError, match=f"divisible_by 4 is not for {name}; it is for mobilenet_v2"):
        check_backbone(name, 16, Options(divisible_by=4))
