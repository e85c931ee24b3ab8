"""TensorFlow's ResNets: the original's logits and variables, and where it has its strides, borders and taps."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atrous.backbones import BACKBONES, Backbone, Options, build_backbone
from atrous.backbones.resnet import RESNETS, Subsample, _max_pool
from atrous.layers.conv import Conv, same_padding
from atrous.models import MODELS, Model, build
from tests.conftest import SHARED
from tests.tf_deeplab import CASES, assert_golden, listing

VARIABLES = SHARED / "goldens" / "tf_deeplab" / "variables"
GOLDENS = ("r101b_v3plus_os16_65", "r50b_v3plus_os8_65", "r50_v3_os16_65", "r50_v3_os16_even64x80", "r18b_os16_65")
COUNTS = {  # specs/tf-deeplab.md, section 2.3: parameters with running statistics, and those learnt
    "r18": ("resnet_v1_18", "deeplab_v3", 12_200_661, 12_184_917),
    "r18b": ("resnet_v1_18_beta", "deeplab_v3", 12_182_469, 12_166_597),
    "r50_v3": ("resnet_v1_50", "deeplab_v3", 26_601_685, 26_533_205),
    "r50b_v3plus": ("resnet_v1_50_beta", "deeplab_v3plus", 26_891_013, 26_819_909),
    "r101b_v3plus": ("resnet_v1_101_beta", "deeplab_v3plus", 45_935_365, 45_812_037),
}


def _model(name: str, settings: dict[str, object]) -> Model:
    return build(MODELS[name].Config.model_validate(settings), num_classes=21)


def _meta(name: str, output_stride: int, options: Options | None = None) -> Backbone:
    with torch.device("meta"):
        return build_backbone(name, output_stride, options or Options())


@pytest.mark.parametrize("case", GOLDENS)
def test_logits_are_the_originals(case: str) -> None:
    flags = CASES[case]
    settings = {
        "backbone": flags["variant"],
        "output_stride": flags["output_stride"],
        "rates": flags["atrous_rates"],
        "multi_grid": flags["options"].get("multi_grid"),
        "separable": flags["options"].get("aspp_with_separable_conv", True),
    }
    assert_golden(_model("deeplab_v3plus" if flags["decoder_output_stride"] else "deeplab_v3", settings), case)


@pytest.mark.parametrize("case", COUNTS)
def test_variables_are_the_originals(case: str) -> None:
    if not VARIABLES.exists():
        pytest.skip(f"the lists of the originals' variables are not at {VARIABLES}")
    lines = (VARIABLES / f"vars_{case}.txt").read_text(encoding="utf-8").splitlines()
    rows = (line.split() for line in lines if line.startswith("resnet"))
    expected = {name: tuple(map(int, shape.split("x"))) for name, shape in rows}
    with torch.device("meta"):
        found = listing(_model(COUNTS[case][1], {"backbone": COUNTS[case][0]}))
    assert {name: shape for name, shape in found.items() if name.startswith("resnet")} == expected


@pytest.mark.parametrize("case", COUNTS)
def test_parameter_counts(case: str) -> None:
    backbone, name, total, learnt = COUNTS[case]
    with torch.device("meta"):
        model = _model(name, {"backbone": backbone})
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert parameters == learnt
    assert parameters + 2 * sum(norm.num_features for norm in norms) == total
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1.001e-5, 0.05)}


def _rates(name: str, output_stride: int, stage: str, conv: str, grid: tuple[int, ...] | None = None) -> list[int]:
    modules = _meta(name, output_stride, Options(multi_grid=grid)).get_submodule(stage).named_modules()
    return [layer.dilation[0] for path, layer in modules if path.endswith(f".{conv}.conv") and isinstance(layer, Conv)]


def test_rates_grow_behind_the_last_unit_of_a_stage() -> None:
    assert _rates("resnet_v1_50", 16, "c4", "conv2") == [1] * 6
    assert _rates("resnet_v1_50", 16, "c5", "conv2", (1, 2, 4)) == [2, 4, 8]
    assert _rates("resnet_v1_50", 8, "c3", "conv2") == [1] * 4
    assert _rates("resnet_v1_50", 8, "c4", "conv2") == [2] * 6
    assert _rates("resnet_v1_50", 8, "c5", "conv2", (1, 2, 4)) == [4, 8, 16]
    for conv in ("conv1", "conv2"):
        assert _rates("resnet_v1_18", 8, "c4", conv) == [2, 2]
        assert _rates("resnet_v1_18", 8, "c5", conv, (1, 2)) == [4, 8]


def _strided(name: str, output_stride: int) -> list[str]:
    convs = _meta(name, output_stride).named_modules()
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
def test_decoders_tap_the_unit_before_a_stride_without_its_shortcut(name: str) -> None:
    backbone = build_backbone(name, 32).eval()
    units = {stage: list(backbone.get_submodule(stage).children()) for stage in ("c2", "c3", "c4")}
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    for stage, members in units.items():
        members[-2].register_forward_hook(
            lambda unit, inputs, pair, stage=stage: seen.update({stage: (*inputs, *pair)})
        )
    with torch.no_grad():
        features = backbone(torch.randn(1, 3, 33, 49))
        for stage, tap in {"c2": "low_level", "c3": "low_level_8", "c4": "low_level_16"}.items():
            unit, (x, output, residual) = units[stage][-2], seen[stage]  # type: ignore[misc]
            assert torch.equal(features[tap], residual)
            assert float(residual.min()) < 0
            assert torch.equal(features[stage], output)
            torch.testing.assert_close(output, (unit.get_submodule("shortcut")(x) + residual).relu())


def test_torchvisions_have_their_stages_as_taps() -> None:
    features = build_backbone("resnet_tiny", 16).eval()(torch.randn(1, 3, 32, 32))
    assert features["low_level"] is features["c2"]
    assert features["low_level_8"] is features["c3"]
    assert features["low_level_16"] is features["c4"]


@pytest.mark.parametrize("size", [(8, 8), (8, 9), (9, 8), (9, 9), (1, 2)])
def test_the_max_pool_is_the_originals_on_even_and_odd_sizes(size: tuple[int, int]) -> None:
    x = -torch.rand(1, 2, *size) - 1  # below 0: zeros for a border would show
    (top, bottom), (left, right) = (same_padding(side, 3, 2, 1) for side in size)
    expected = F.max_pool2d(F.pad(x, (left, right, top, bottom), value=-torch.inf), 3, 2)
    assert torch.equal(_max_pool(x, "same"), expected)
    assert torch.equal(_max_pool(x, "symmetric"), nn.MaxPool2d(3, 2, 1)(x))


def test_a_shortcut_with_a_stride_takes_pixels_from_the_first_on() -> None:
    assert Subsample(2)(torch.arange(20.0).view(1, 1, 4, 5)).tolist() == [[[[0, 2, 4], [10, 12, 14]]]]


@pytest.mark.parametrize(
    ("name", "shift", "scale"),
    [
        ("resnet_v1_18", (123.15, 115.90, 103.06), (1, 1, 1)),
        ("resnet_v1_101", (123.15, 115.90, 103.06), (1, 1, 1)),
        ("resnet_v1_18_beta", (127.5,) * 3, (127.5,) * 3),
        ("resnet_v1_50_beta", (127.5,) * 3, (127.5,) * 3),
        ("resnet101", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    ],
)
def test_normalisation(name: str, shift: tuple[float, ...], scale: tuple[float, ...]) -> None:
    backbone = _meta(name, 16)
    assert backbone.mean == shift
    assert backbone.std == scale


@pytest.mark.parametrize("name", RESNETS)
def test_a_multi_grid_has_a_factor_for_each_unit_of_c5(name: str) -> None:
    assert BACKBONES[name].num_grid == len(list(_meta(name, 32).get_submodule("c5").children()))
    with pytest.raises(ValueError, match=f"the last stage of {name} has"):
        build_backbone(name, 16, Options(multi_grid=(1,) * 4))


@pytest.mark.parametrize("name", ["resnet_tiny", "resnet_v1_18_beta"])
def test_gradients_reach_every_weight(name: str) -> None:
    backbone = build_backbone(name, 8)
    features = backbone(torch.randn(2, 3, 33, 33))
    torch.stack([x.square().mean() for x in features.values()]).sum().backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in backbone.parameters())
