"""What holds for every row of BACKBONES."""

from functools import lru_cache

import pytest
import torch
from torch import Tensor, nn

from atrous.backbones import BACKBONES, Options, build_backbone, check_backbone
from atrous.backbones.contract import Backbone
from atrous.layers.inverted_residual import round_channels

SEMSEG = ("resnet50s", "resnet101s", "resnet152s")
COUNTS = {  # torchvision's without `fc`; TensorFlow's without the head
    "resnet18": 11_176_512,
    "resnet34": 21_284_672,
    "resnet50": 23_508_032,
    "resnet101": 42_500_160,
    "mobilenet_v2": 1_811_712,
}

# Not VGG and Auto-DeepLab, which have one output stride, nor PNASNet, whose widths are others at each, nor MobileNetV3,
# which squeezes maps to means: test_mobilenet_v3. Nor semseg's ResNets, whose rule of rates lets the taps move.
ONE_SET_OF_WEIGHTS = [
    name
    for name, row in BACKBONES.items()
    if 32 in row.output_strides and name not in ("pnasnet", *SEMSEG) and not name.startswith("mobilenet_v3")
]


def _perturb_norms(backbone: nn.Module) -> None:
    """Make batch norm shift and scale, so that a wrong border shows."""
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
            nn.init.uniform_(module.bias, -0.1, 0.1)


@lru_cache(maxsize=1)
def _weights(name: str, multi_grid: tuple[int, ...] | None) -> dict[str, Tensor]:
    torch.manual_seed(0)
    backbone = build_backbone(name, 32, Options(multi_grid=multi_grid)).double()
    _perturb_norms(backbone)
    return backbone.state_dict()


def _backbone(name: str, output_stride: int, multi_grid: tuple[int, ...] | None = None) -> Backbone:
    with torch.device("meta"):
        backbone = build_backbone(name, output_stride, Options(multi_grid=multi_grid)).double().eval()
    backbone.load_state_dict(_weights(name, multi_grid), assign=True)
    return backbone


@torch.no_grad()
def _dense_equals_strided(name: str, multi_grid: tuple[int, ...] | None) -> None:
    images = torch.randn(1, 3, 33, 65, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = _backbone(name, 32, multi_grid)(images)["c5"]
    for output_stride in {8, 16} & set(BACKBONES[name].output_strides):
        step = 32 // output_stride
        dense = _backbone(name, output_stride, multi_grid)(images)["c5"]
        assert dense.shape[-2:] == (32 // output_stride + 1, 64 // output_stride + 1)
        torch.testing.assert_close(dense[..., ::step, ::step], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ONE_SET_OF_WEIGHTS)
def test_atrous_features_are_the_strided_ones_and_those_between(name: str) -> None:
    _dense_equals_strided(name, None)


@pytest.mark.parametrize(("name", "multi_grid"), [("resnet18", (1, 2)), ("resnet50", (1, 2, 4))])
def test_so_they_are_with_a_multi_grid(name: str, multi_grid: tuple[int, ...]) -> None:
    _dense_equals_strided(name, multi_grid)


@pytest.mark.parametrize(
    ("name", "output_stride"), [(name, stride) for name, entry in BACKBONES.items() for stride in entry.output_strides]
)
def test_taps_have_the_channels_and_strides_that_are_said(name: str, output_stride: int) -> None:
    with torch.device("meta"):
        backbone = build_backbone(name, output_stride)
        features = backbone(torch.zeros(1, 3, 64, 96))
    assert {tap: x.shape[1] for tap, x in features.items()} == backbone.channels
    assert {tap: (64 // x.shape[2], 96 // x.shape[3]) for tap, x in features.items()} == {
        tap: (stride, stride) for tap, stride in backbone.strides.items()
    }
    assert {"c1", "c2", "c3", "c4", "c5"} <= features.keys()
    assert backbone.strides["c5"] == output_stride


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_parameter_counts(name: str, count: int) -> None:
    with torch.device("meta"):
        backbone = build_backbone(name, 16)
    assert sum(parameter.numel() for parameter in backbone.parameters()) == count


@pytest.mark.parametrize(("name", "eps"), [("mobilenet_v2", 1e-3), ("resnet50", 1e-5)])
def test_epsilons(name: str, eps: float) -> None:
    with torch.device("meta"):
        backbone = build_backbone(name, 16)
    assert {module.eps for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)} == {eps}


def test_a_multi_grid_multiplies_the_rates_of_c5() -> None:
    with torch.device("meta"):
        backbone = build_backbone("resnet50", 8, Options(multi_grid=(1, 2, 4)))
    rates = [backbone.get_submodule(f"c5.{unit}.conv2.conv").dilation for unit in range(3)]
    assert rates == [(2, 2), (8, 8), (16, 16)]


def test_resnets_are_named_such_that_torchvisions_names_map_by_rule() -> None:
    with torch.device("meta"):
        names = set(build_backbone("resnet50", 32).state_dict())
    stage = {f"c2.0.conv{i}.{part}" for i in (1, 2, 3) for part in ("conv.weight", "norm.weight", "norm.running_var")}
    assert stage | {"stem.0.conv.weight", "c2.0.shortcut.conv.weight", "c5.2.conv3.norm.bias"} <= names


@pytest.mark.parametrize(
    ("channels", "divisor", "expected"),
    [(16.0, 8, 16), (11.0, 8, 16), (12.0, 8, 16), (8.4, 1, 8), (8.5, 1, 9), (3.0, 8, 8), (48.0, 8, 48), (10.0, 8, 16)],
)
def test_rounding_of_channels(channels: float, divisor: int, expected: int) -> None:
    assert round_channels(channels, divisor) == expected


def test_the_half_width_mobilenet_has_the_originals_channels() -> None:
    with torch.device("meta"):
        backbone = build_backbone("mobilenet_v2", 16, Options(depth_multiplier=0.5))
    outs = [backbone.get_submodule(f"blocks.{block}.project.conv").out_channels for block in range(17)]
    assert outs == [8, 12, 12, 16, 16, 16, *[32] * 4, *[48] * 3, *[80] * 3, 160]
    assert backbone.channels["low_level"] == 72


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnet51",), "unknown backbone 'resnet51': did you mean resnet50.*known: mobilenet_v2, "),
        (("zzz",), "unknown backbone 'zzz': known: mobilenet_v2, "),
        (("resnet50", 16, Options(0.5)), "depth_multiplier 0.5 is not for resnet50.*mobilenet_v2"),
        (
            ("mobilenet_v2", 16, Options(multi_grid=(1, 2, 4))),
            "multi_grid .* is not for mobilenet_v2; it is for resnet",
        ),
        (("resnet50", 16, Options(multi_grid=(1, 2))), "multi_grid .*: the last stage of resnet50 has 3 units"),
    ],
)
def test_what_can_not_be_had_is_refused(arguments: tuple[str] | tuple[str, int, Options], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_backbone(*arguments)
