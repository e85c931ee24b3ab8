"""What holds for every family and every row of BACKBONES."""

import math
from functools import lru_cache

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from atrous.backbones import BACKBONES, FAMILIES, AnyBackboneConfig, Backbone, build_backbone
from atrous.backbones.drn import DRNS
from atrous.backbones.mobilenet_v2 import MobileNetV2
from atrous.backbones.resnet import RESNETS
from atrous.layers.inverted_residual import round_channels
from tests.backbones.conftest import backbone_config, built, num_parameters, on_meta

OF_STAGES = [name for name, row in RESNETS.items() if row.program.rule == "stage"]  # such as semseg's
# Not VGG and Auto-DeepLab, which have one output stride, nor PNASNet, whose widths differ between output strides, nor
# MobileNetV3, which squeezes maps to means (test_mobilenet_v3), nor ResNets whose rule of rates moves taps, or which
# dilate every other convolution; of ResNeXts one will do.
ONE_SET_OF_WEIGHTS = [
    name
    for name in BACKBONES
    if 32 in backbone_config(name).output_strides
    and name not in ("pnasnet", "resnet18b", "resnet18c", "resnext101_32x4d", "resnext101_32x8d", *OF_STAGES)
    and not name.startswith("mobilenet_v3")
]
DEEP = ("resnet101", "resnet152", "resnet101c", "resnet_v1_101", "resnet_v1_101_beta", "xception_65", "xception_71")
SMALL: dict[str, dict[str, object]] = {  # of each family a network that is quick to train
    "mobilenet_v2": {"name": "mobilenet_v2", "depth_multiplier": 0.25},
    "mobilenet_v3": {"name": "mobilenet_v3_small_seg", "depth_multiplier": 0.25},
    "mobilenet_edgetpu": {"name": "mobilenet_edgetpu", "depth_multiplier": 0.25},
    "resnet": {"name": "resnet_tiny"},
    "swidernet": {"name": "swidernet", "stem_width": 0.1, "width": 0.03, "squeeze": True, "switchable": True},
    "xception": {"name": "xception_41"},
    "vgg": {"name": "vgg16"},
    "icnet": {"name": "icnet_resnet50"},
    "drn": {"name": "drn_d_22"},
    "nasnet": {"name": "pnasnet", "depth_multiplier": 0.1, "classification_head": True},
}


def _perturb_norms(backbone: nn.Module) -> None:
    """Make batch norm shift and scale, so that a wrong border shows."""
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
            nn.init.uniform_(module.bias, -0.1, 0.1)


def _grid(multi_grid: tuple[int, ...] | None) -> dict[str, object]:
    return {} if multi_grid is None else {"multi_grid": multi_grid}


@lru_cache(maxsize=1)
def _weights(name: str, multi_grid: tuple[int, ...] | None) -> dict[str, Tensor]:
    torch.manual_seed(0)
    backbone = built(name, 32, **_grid(multi_grid)).double()
    _perturb_norms(backbone)
    return backbone.state_dict()


def _backbone(name: str, output_stride: int, multi_grid: tuple[int, ...] | None = None) -> Backbone:
    backbone = on_meta(name, output_stride, **_grid(multi_grid)).double().eval()
    backbone.load_state_dict(_weights(name, multi_grid), assign=True)
    return backbone


@torch.no_grad()
def _dense_equals_strided(name: str, multi_grid: tuple[int, ...] | None) -> None:
    images = torch.randn(1, 3, 33, 65, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = _backbone(name, 32, multi_grid)(images)["c5"]
    for output_stride in {8, 16} & set(backbone_config(name).output_strides):
        step = 32 // output_stride
        dense = _backbone(name, output_stride, multi_grid)(images)["c5"]
        assert dense.shape[-2:] == (32 // output_stride + 1, 64 // output_stride + 1)
        torch.testing.assert_close(dense[..., ::step, ::step], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in DEEP else []) for name in ONE_SET_OF_WEIGHTS]
)
def test_atrous_features_are_the_strided_ones_with_others_in_between(name: str) -> None:
    _dense_equals_strided(name, None)


@pytest.mark.parametrize(("name", "multi_grid"), [("resnet18", (1, 2)), ("resnet50", (1, 2, 4))])
def test_with_a_multi_grid_they_are_too(name: str, multi_grid: tuple[int, ...]) -> None:
    _dense_equals_strided(name, multi_grid)


@pytest.mark.parametrize(
    ("name", "output_stride"), [(name, stride) for name in BACKBONES for stride in backbone_config(name).output_strides]
)
def test_features_have_the_channels_and_strides_that_the_backbone_declares(name: str, output_stride: int) -> None:
    backbone = on_meta(name, output_stride)
    features = backbone(torch.zeros(1, 3, 62, 94, device="meta"))
    assert {tap: x.shape[1] for tap, x in features.items()} == backbone.channels
    assert {tap: tuple(x.shape[2:]) for tap, x in features.items()} == {
        tap: (math.ceil(62 / stride), math.ceil(94 / stride)) for tap, stride in backbone.strides.items()
    }
    assert {"c1", "c2", "c3", "c4", "c5"} <= features.keys()
    assert backbone.strides["c5"] == output_stride


@pytest.mark.parametrize("family", SMALL)
def test_training_reaches_every_weight_through_some_feature(family: str) -> None:
    torch.manual_seed(0)
    config = FAMILIES[family].Config.model_validate(SMALL[family])
    backbone = FAMILIES[family](config, config.output_strides[-1])
    features = backbone(torch.randn(2, 3, 33, 33))
    torch.autograd.backward([x.square().mean() for x in features.values()])
    assert [name for name, p in backbone.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_parameter_counts() -> None:
    """torchvision's without `fc`; TensorFlow's, VGG's, ICNet's and DRN's without the head."""
    counts = {
        "resnet18": 11_176_512,
        "resnet34": 21_284_672,
        "resnet50": 23_508_032,
        "resnet50_d2": 23_508_032,
        "resnext50_32x4d": 22_979_904,
        "wide_resnet41": 109_014_080,
        "resnet101": 42_500_160,
        "mobilenet_v2": 1_811_712,
        "vgg16": 14_714_688,
        "icnet_resnet50": 5_950_528,
        "drn_d_22": 15_880_752,
        "drn_d_54": 35_296_176,
    }
    assert {name: num_parameters(on_meta(name, backbone_config(name).output_strides[0])) for name in counts} == counts


def test_epsilons_and_momenta_are_the_originals() -> None:
    numbers = {
        "mobilenet_v2": (1e-3, 0.05),
        "mobilenet_v3_large_seg": (1e-3, 0.05),
        "mobilenet_v3_small_seg": (1e-3, 0.05),
        "mobilenet_edgetpu": (1e-3, 0.05),
        "xception_41": (1e-3, 0.05),
        "pnasnet": (1e-3, 0.05),
        "resnet50": (1e-5, 0.1),
        "resnet50s": (1e-5, 0.1),
        "resnet_v1_18": (1.001e-5, 0.05),
        "resnet_v1_18_beta": (1.001e-5, 0.05),
        "resnet_v1_50": (1.001e-5, 0.05),
        "resnet_v1_50_beta": (1.001e-5, 0.05),
        "resnet_v1_101_beta": (1.001e-5, 0.05),
    }
    for name, expected in numbers.items():
        norms = [module for module in on_meta(name, 16).modules() if isinstance(module, nn.BatchNorm2d)]
        assert {(norm.eps, norm.momentum) for norm in norms} == {expected}, name


def test_images_are_normalised_as_in_the_original() -> None:
    imagenet, caffe, slim = (123.675, 116.28, 103.53), (122.675, 116.669, 104.008), (127.5, 127.5, 127.5)
    colors = {
        "resnet_v1_18": ((123.15, 115.90, 103.06), (1, 1, 1)),
        "resnet_v1_101": ((123.15, 115.90, 103.06), (1, 1, 1)),
        "resnet_v1_18_beta": (slim, slim),
        "resnet_v1_50_beta": (slim, slim),
        "resnet101": (imagenet, (58.395, 57.12, 57.375)),
        "vgg16": (caffe, (1, 1, 1)),
    }
    for name, expected in colors.items():
        backbone = on_meta(name, backbone_config(name).output_strides[0])
        assert (backbone.mean, backbone.std) == expected, name


def test_a_multi_grid_multiplies_the_rates_of_c5() -> None:
    backbone = on_meta("resnet50", 8, multi_grid=(1, 2, 4))
    rates = [backbone.get_submodule(f"c5.{unit}.conv2.conv").dilation for unit in range(3)]
    assert rates == [(2, 2), (8, 8), (16, 16)]


def test_of_mmsegmentation_s_resnet_18_only_the_first_convolution_of_a_unit_is_dilated() -> None:
    backbone = on_meta("resnet18b", 8)
    rates = [backbone.get_submodule(f"c5.{unit}.conv{index}.conv").dilation for unit in (0, 1) for index in (1, 2)]
    assert rates == [(2, 2), (1, 1), (4, 4), (1, 1)]


def test_torchvisions_names_map_to_ours_by_rule() -> None:
    names = set(on_meta("resnet50", 32).state_dict())
    stage = {f"c2.0.conv{i}.{part}" for i in (1, 2, 3) for part in ("conv.weight", "norm.weight", "norm.running_var")}
    assert stage | {"stem.0.conv.weight", "c2.0.shortcut.conv.weight", "c5.2.conv3.norm.bias"} <= names


def test_channels_are_rounded_as_in_the_original() -> None:
    rounded = {(16.0, 8): 16, (11.0, 8): 16, (12.0, 8): 16, (8.4, 1): 8, (8.5, 1): 9, (3.0, 8): 8, (48.0, 8): 48}
    rounded[10.0, 8] = 16  # 8 would be less than nine tenths of 10
    assert {key: round_channels(*key) for key in rounded} == rounded


def test_the_half_width_mobilenet_has_the_originals_channels() -> None:
    backbone = on_meta("mobilenet_v2", 16, depth_multiplier=0.5)
    outs = [backbone.get_submodule(f"blocks.{block}.project.conv").out_channels for block in range(17)]
    assert outs == [8, 12, 12, 16, 16, 16, *[32] * 4, *[48] * 3, *[80] * 3, 160]
    assert backbone.channels["low_level"] == 72


# ---- configs


def _read(settings: object) -> AnyBackboneConfig:
    config: AnyBackboneConfig = TypeAdapter(AnyBackboneConfig).validate_python(settings)
    return config


@pytest.mark.parametrize("name", BACKBONES)
def test_a_name_stands_for_the_network_with_its_default_settings(name: str) -> None:
    assert _read(name) == _read({"name": name}) == backbone_config(name)
    assert type(_read(name)) is BACKBONES[name].Config


def test_the_families_with_rows_are_those_tried_here() -> None:
    assert SMALL.keys() == {family for family, network in FAMILIES.items() if not network.Config.prefix}


def test_a_config_has_the_settings_of_its_family_alone() -> None:
    own = {family: set(network.Config.model_fields) - {"name", "bounded"} for family, network in FAMILIES.items()}
    assert own == {
        "mobilenet_v2": {"depth_multiplier", "divisible_by", "rates", "program", "norm_eps", "last_stage"},
        "mobilenet_v3": {"depth_multiplier", "norm_eps", "rates"},
        "mobilenet_edgetpu": {"depth_multiplier", "last_channels", "rates"},
        "resnet": {"multi_grid", "atrous_rule", "last_stage"},
        "swidernet": {"stem_width", "width", "layers", "squeeze", "switchable", "drop_path"},
        "xception": {"multi_grid", "program"},
        "drn": set(),
        "vgg": set(),
        "icnet": set(),
        "nasnet": {"depth_multiplier", "classification_head", "remove_stride_32", "drop_path"},
        "timm": {"drop_path"},
    }


def test_output_strides_are_those_that_can_be_built() -> None:
    fixed = {"vgg16": (8,), "icnet_resnet50": (32,), "auto_deeplab_s": (8,), "auto_deeplab_m": (8,)}
    fixed |= {"auto_deeplab_l": (8,), **dict.fromkeys(DRNS, (8,))}
    assert {name: backbone_config(name).output_strides for name in BACKBONES} == {
        name: fixed.get(name, (8, 16, 32)) for name in BACKBONES
    }


def test_bounded_heads_follow_from_the_backbone() -> None:
    assert {_read(name).head_activation for name in BACKBONES} == {"relu"}
    assert {_read({"name": name, "bounded": True}).head_activation for name in BACKBONES} == {"relu6"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("resnet51", "does not match any of the expected tags: 'mobilenet_v2', "),
        ({"name": "zzz"}, "does not match any of the expected tags"),
        ({"depth_multiplier": 0.5}, "Unable to extract tag"),
        ({"name": "resnet50", "depth_multiplier": 0.5}, "Extra inputs"),
        ({"name": "mobilenet_v2", "multi_grid": (1, 2, 4)}, "Extra inputs"),
        ({"name": "vgg16", "multi_grid": (1, 2, 4)}, "Extra inputs"),
        ({"name": "vgg16", "depth_multiplier": 0.5}, "Extra inputs"),
        ({"name": "icnet_resnet50", "depth_multiplier": 0.5}, "Extra inputs"),
        ({"name": "icnet_resnet50", "multi_grid": (1, 2, 4)}, "Extra inputs"),
        ({"name": "mobilenet_v3_large_seg", "divisible_by": 4}, "Extra inputs"),
        ({"name": "mobilenet_v3_small_seg", "divisible_by": 4}, "Extra inputs"),
        ({"name": "mobilenet_edgetpu", "divisible_by": 4}, "Extra inputs"),
        ({"name": "resnet50", "multi_grid": (1, 2)}, "the last stage of resnet50 has 3 units, one factor each"),
        ({"name": "resnet50", "multi_grid": (1, 2, 0)}, "greater than 0"),
        ({"name": "xception_65", "multi_grid": (1, 2)}, r"\(1, 2\): the last stage of xception_65 has 3 units"),
        ({"name": "mobilenet_v2", "depth_multiplier": 0}, "greater than 0"),
        ({"name": "pnasnet", "depth_multiplier": 0.01}, r"depth_multiplier 0\.01 leaves none of 20 filters"),
        ({"name": "pnasnet", "drop_path": 1}, "less than 1"),
    ],
)
def test_settings_that_a_network_cannot_have_are_refused(settings: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message) as error:
        _read(settings)
    assert "\n" not in error.value.errors()[0]["msg"]


@pytest.mark.parametrize("name", RESNETS)
def test_a_multi_grid_has_a_factor_for_each_unit_of_c5(name: str) -> None:
    units = len(list(on_meta(name, 32).get_submodule("c5").children()))
    assert backbone_config(name, multi_grid=(1,) * units)
    with pytest.raises(ValidationError, match=f"the last stage of {name} has {units} units"):
        backbone_config(name, multi_grid=(1,) * (units + 1))


def test_blocks_have_rates_of_their_own_one_each() -> None:
    config = MobileNetV2.Config(rates=(1,) * 16 + (3,))
    network = build_backbone(config, 16)
    assert [network.blocks[index].depthwise.conv.dilation for index in (14, 16)] == [(1, 1), (3, 3)]  # type: ignore[index, union-attr]
    with pytest.raises(ValueError, match=r"rates \(1, 2\): mobilenet_v2 has 17 blocks, one rate each"):
        MobileNetV2.Config(rates=(1, 2))
