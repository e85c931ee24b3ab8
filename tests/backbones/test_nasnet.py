from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from atrous.backbones import Options, build_backbone
from atrous.backbones.contract import Backbone
from atrous.backbones.nasnet import (
    AUTO_DEEPLAB_CELL,
    NASNETS,
    PNASNET_CELL,
    Atrous,
    Block,
    Cell,
    MaxPool,
    NASNet,
    Separable,
)
from atrous.layers.conv import Conv, same_padding
from atrous.layers.drop_path import DropPath
from atrous.layers.resize import resize
from atrous.models import MODELS, Model, build
from tests.conftest import SHARED
from tests.tf_deeplab import Shape, assert_golden, listing

VARIABLES = SHARED / "goldens" / "tf_deeplab" / "variables"
STRIDES = [("pnasnet", 8), ("pnasnet", 16), ("pnasnet", 32), ("auto_deeplab_s", 8)]
PLAIN = Options()
RATES = {8: (12, 24, 36), 16: (6, 12, 18)}


def _model(backbone: str, output_stride: int, num_classes: int, **settings: bool) -> Model:
    config = MODELS["deeplab_v3plus"].Config.model_validate(
        {"backbone": backbone, "output_stride": output_stride, "rates": RATES[output_stride], **settings}
    )
    return build(config, num_classes)


@cache
def _model_on_meta(backbone: str, output_stride: int, num_classes: int, **settings: bool) -> Model:
    with torch.device("meta"):
        return _model(backbone, output_stride, num_classes, **settings)


def _tiny(name: str, output_stride: int, options: Options = PLAIN) -> NASNet:
    """Two filters: enough to tell sizes and channels."""
    torch.manual_seed(0)
    share = 2 / NASNETS[name].filters
    backbone = build_backbone(name, output_stride, options._replace(depth_multiplier=share)).eval()
    assert isinstance(backbone, NASNet)
    return backbone


@cache
def _on_meta(name: str, output_stride: int, options: Options = PLAIN) -> Backbone:
    with torch.device("meta"):
        return build_backbone(name, output_stride, options)


@pytest.mark.parametrize(
    ("backbone", "output_stride", "case"), [("auto_deeplab_s", 8, "hnas_os8_65"), ("pnasnet", 16, "pnas_os16_65")]
)
def test_logits_are_the_originals(backbone: str, output_stride: int, case: str) -> None:
    assert_golden(_model(backbone, output_stride, 21), case)


LISTS: list[tuple[str, str, int, int, dict[str, bool]]] = [
    ("pnas", "pnasnet", 16, 21, {}),
    ("hnas", "auto_deeplab_s", 8, 21, {}),
    *(
        (f"hnas_F{filters}_{kind}", f"auto_deeplab_{size}", 8, 19, settings)
        for size, filters in (("s", 20), ("m", 32), ("l", 48))
        for kind, settings in (
            ("head", {"classification_head": True}),
            ("nohead", {}),
            ("nosep", {"separable": False}),
        )
    ),
]


def _listed(name: str) -> dict[str, Shape]:
    path = VARIABLES / f"vars_{name}.txt"
    if not path.exists():
        pytest.skip(f"no {path}: the lists of all variables are not part of the project")
    lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return {variable: tuple(map(int, shape.split("x"))) for variable, shape in lines}


@pytest.mark.parametrize(("name", "backbone", "output_stride", "num_classes", "settings"), LISTS)
def test_variables_are_the_originals(
    name: str, backbone: str, output_stride: int, num_classes: int, settings: dict[str, bool]
) -> None:
    assert listing(_model_on_meta(backbone, output_stride, num_classes, **settings)) == _listed(name)


@pytest.mark.parametrize(
    ("backbone", "output_stride", "num_classes", "settings", "count"),
    [
        ("auto_deeplab_s", 8, 19, {"separable": False}, 10_147_427),  # the paper's: 10.15 M, 21.62 M, 44.42 M
        ("auto_deeplab_m", 8, 19, {"separable": False}, 21_622_451),
        ("auto_deeplab_l", 8, 19, {"separable": False}, 44_424_691),
        ("auto_deeplab_s", 8, 21, {}, 7_785_021),
        ("pnasnet", 16, 21, {}, 2_571_205),
    ],
)
def test_parameter_counts(
    backbone: str, output_stride: int, num_classes: int, settings: dict[str, bool], count: int
) -> None:
    model = _model_on_meta(backbone, output_stride, num_classes, **settings)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_epsilons() -> None:
    norms = [module for module in _on_meta("pnasnet", 16).modules() if isinstance(module, nn.BatchNorm2d)]
    assert {norm.eps for norm in norms} == {1e-3}


@pytest.mark.parametrize(("filters", "multiplier"), [(10, 0.5), (33, 1.63)])
def test_any_number_of_filters_can_be_had(filters: int, multiplier: float) -> None:
    channels = _on_meta("auto_deeplab_s", 8, Options(depth_multiplier=multiplier)).channels
    assert (channels["low_level"], channels["low_level_16"], channels["c5"]) == (
        5 * filters,
        20 * filters,
        10 * filters,
    )


def test_no_filters_are_refused() -> None:
    with pytest.raises(ValueError, match=r"depth_multiplier 0\.01 leaves none of 20 filters"):
        build_backbone("pnasnet", 16, Options(depth_multiplier=0.01))


def test_a_cell_before_of_the_right_width_comes_in_as_it_is() -> None:
    """As the original: 64 channels from the stem, and 64 filters, which 32 at level 1 are."""
    cells = _on_meta("pnasnet", 16, Options(depth_multiplier=1.6)).get_submodule("cells")
    assert isinstance(cells.get_submodule("0.previous"), nn.Identity)
    assert not any(isinstance(cell.previous, nn.Identity) for cell in list(cells.children())[1:])


@torch.no_grad()
@pytest.mark.parametrize(("name", "output_stride"), STRIDES)
@settings(max_examples=4, deadline=None)
@given(height=st.integers(1, 70), width=st.integers(1, 70))
def test_any_size_of_image(name: str, output_stride: int, height: int, width: int) -> None:
    backbone = _tiny(name, output_stride)
    for tap, x in backbone(torch.rand(1, 3, height, width)).items():
        stride = backbone.strides[tap]
        assert x.shape == (1, backbone.channels[tap], -(-height // stride), -(-width // stride))


@pytest.mark.parametrize(
    ("name", "output_stride", "strides"),
    [
        ("pnasnet", 8, [8] * 12),
        ("pnasnet", 16, [8] * 4 + [16] * 8),
        ("pnasnet", 32, [8] * 4 + [16] * 4 + [32] * 4),
        ("auto_deeplab_s", 8, [4, 4, 4, 8, 16, 8, 16, 16, 32, 32, 16, 8]),
    ],
)
@torch.no_grad()
def test_the_path(name: str, output_stride: int, strides: list[int]) -> None:
    backbone = _tiny(name, output_stride)
    outputs = backbone._outputs(torch.rand(1, 3, 64, 64))
    assert [64 // x.shape[-1] for x in outputs] == [2, 4, *strides]
    assert [x.shape[1] for x in outputs[2:]] == [10 * stride // 4 for stride in strides]


@torch.no_grad()
def test_without_stride_32_the_path_stays_at_16_and_the_weights_are_the_same() -> None:
    whole, short = (_tiny("auto_deeplab_s", 8, Options(remove_stride_32=removed)) for removed in (False, True))
    short.load_state_dict(whole.state_dict())
    outputs = short._outputs(torch.rand(1, 3, 65, 65))
    assert [64 // (x.shape[-1] - 1) for x in outputs[2:]] == [4, 4, 4, 8, 16, 8, 16, 16, 16, 16, 16, 8]
    assert _on_meta("pnasnet", 32, Options(remove_stride_32=True)).strides["c5"] == 16


@torch.no_grad()
@pytest.mark.parametrize(("name", "output_stride"), [("pnasnet", 16), ("auto_deeplab_s", 8)])
def test_taps_are_raw_but_c5_is_active(name: str, output_stride: int) -> None:
    backbone = _tiny(name, output_stride)
    images = torch.randn(1, 3, 33, 33)
    outputs, features = backbone._outputs(images), backbone(images)
    assert all(torch.equal(features[tap], outputs[index]) for tap, index in backbone.taps.items())
    assert all(float(x.min()) < 0 for tap, x in features.items() if tap != "c5")
    assert torch.equal(features["c5"], outputs[-1].relu())


def _width_and_rate(conv: nn.Module | torch.Tensor) -> tuple[int, int]:
    assert isinstance(conv, Conv)
    return conv.out_channels, conv.dilation[0]


@pytest.mark.parametrize(
    ("name", "output_stride", "layers"),
    [
        ("auto_deeplab_s", 8, {"stride_16": (512, 2), "stride_32": (1024, 4), "expand": (2048, 1)}),
        ("pnasnet", 16, {"stride_32": (1024, 2), "expand": (2048, 1)}),
        ("pnasnet", 32, {"expand": (2048, 1)}),
    ],
)
def test_a_classification_head_keeps_the_output_stride(
    name: str, output_stride: int, layers: dict[str, tuple[int, int]]
) -> None:
    backbone = _on_meta(name, output_stride, Options(classification_head=True))
    head = dict(backbone.get_submodule("head").named_children())
    assert {key: _width_and_rate(layer.conv) for key, layer in head.items()} == layers
    assert backbone.channels["c5"] == 2048
    first = next(module for module in backbone.get_submodule("head").modules() if isinstance(module, Conv))
    assert backbone.get_submodule("head")(torch.zeros(1, first.in_channels, 9, 5, device="meta")).shape == (
        1,
        2048,
        9,
        5,
    )


def test_of_each_cell_more_is_dropped_than_of_the_one_before() -> None:
    backbone = _on_meta("auto_deeplab_s", 8, Options(drop_path=0.24))
    drops = [
        {module.drop for module in cell.modules() if isinstance(module, DropPath)}
        for cell in backbone.get_submodule("cells").children()
    ]
    assert [round(drop, 10) for cell in drops for drop in cell] == [round(0.02 * n, 10) for n in range(1, 13)]


@pytest.mark.parametrize(("blocks", "count"), [(PNASNET_CELL, 9), (AUTO_DEEPLAB_CELL, 10)])
def test_every_path_but_none_is_dropped(blocks: tuple[Block, ...], count: int) -> None:
    cell = Cell(blocks, 4, 3, 2, stride=1, drop=0.5)
    assert sum(isinstance(module, DropPath) for module in cell.modules()) == count


@torch.no_grad()
def test_paths_are_dropped_in_training_only() -> None:
    x, previous = torch.randn(8, 4, 5, 5), torch.randn(8, 3, 5, 5)
    cell = Cell(PNASNET_CELL, 4, 3, 2, stride=1, drop=0.5).eval()
    assert torch.equal(cell(x, previous), cell(x, previous))
    for module in cell.modules():
        if not isinstance(module, nn.BatchNorm2d):
            module.training = True
    assert not torch.equal(cell(x, previous), cell(x, previous))


@torch.no_grad()
def test_a_cell_by_hand() -> None:
    """Two blocks: the second filters the first's sum without the stride that the cell's inputs are filtered with."""
    torch.manual_seed(0)
    cell = Cell((Block("none", "max3x3", 0, 1), Block("max3x3", "none", 2, 2)), 5, 3, 4, stride=2, drop=0.0).eval()
    x, previous = torch.randn(1, 5, 9, 9), torch.randn(1, 3, 17, 17)
    first, second = cell.input(x), cell.previous(resize(previous, (9, 9)))
    one = cell.left[0](first) + F.max_pool2d(second, 3, 2, 1)
    two = F.max_pool2d(one, 3, 1, 1) + one
    torch.testing.assert_close(cell(x, previous), torch.cat([one, two], 1))
    assert torch.equal(cell.left[0](first), cell.left[0](first.relu()))


@torch.no_grad()
@settings(max_examples=30, deadline=None)
@given(height=st.integers(1, 12), width=st.integers(1, 12), stride=st.sampled_from([1, 2]))
def test_max_pooling_pads_as_tensorflows_same(height: int, width: int, stride: int) -> None:
    x = torch.randn(1, 2, height, width, generator=torch.Generator().manual_seed(0))
    pads = [*same_padding(width, 3, stride, 1), *same_padding(height, 3, stride, 1)]
    expected = F.max_pool2d(F.pad(x, pads, value=-torch.inf), 3, stride)
    assert torch.equal(MaxPool(2, stride)(x), expected)


@torch.no_grad()
def test_an_atrous_filter_has_rate_2_and_with_a_stride_1_on_the_smaller_map() -> None:
    torch.manual_seed(0)
    whole, half = Atrous(2, 1, 5).eval(), Atrous(2, 2, 5).eval()
    half.load_state_dict(whole.state_dict())
    x = torch.randn(1, 2, 17, 9)
    weight = whole.get_submodule("filter.conv").weight
    norm = whole.get_submodule("filter.norm")
    torch.testing.assert_close(whole(x), norm(F.conv2d(x.relu(), weight, padding=4, dilation=2)))  # type: ignore[arg-type]
    small = F.interpolate(x.relu(), (9, 5), mode="bilinear", align_corners=True)
    torch.testing.assert_close(half(x), norm(F.conv2d(small, weight, padding=2)))  # type: ignore[arg-type]


@torch.no_grad()
@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_a_separable_filter_is_strided_in_its_first_half(kernel: int) -> None:
    filters = Separable(2, 2, kernel).eval()
    x = torch.randn(1, 2, 8, 9)
    before = x.clone()
    assert filters(x).shape == (1, 2, 4, 5)
    assert torch.equal(x, before), "other paths need the state as it was"
    convs = [module for module in filters.modules() if isinstance(module, Conv)]
    assert [(conv.kernel_size[0], conv.stride[0], conv.groups) for conv in convs] == [
        (kernel, 2, 2),
        (1, 1, 1),
        (kernel, 1, 2),
        (1, 1, 1),
    ]


def test_gradients_reach_every_weight() -> None:
    for name, output_stride in (("pnasnet", 32), ("auto_deeplab_s", 8)):
        backbone = _tiny(name, output_stride, Options(classification_head=True))
        backbone(torch.randn(1, 3, 65, 65))["c5"].square().sum().backward()
        assert all(parameter.grad is not None for parameter in backbone.parameters())
