"""Xception 41, 65 and 71: where they have their rates, activations and taps."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from atrous.backbones.rates import Placement
from atrous.backbones.xception import BOUNDED, FREE, IN_PLACE, POOLED, Kind, PooledUnit, Unit, Xception, XceptionUnit
from atrous.errors import ConfigError
from atrous.layers.conv import Conv
from tests.backbones.conftest import on_meta


def _convs(
    name: str, output_stride: int, grid: tuple[int, ...] | None = None, program: str = "tensorflow"
) -> dict[str, nn.Conv2d]:
    modules = on_meta(name, output_stride, multi_grid=grid, program=program).named_modules()
    return {path: module for path, module in modules if isinstance(module, nn.Conv2d) and module.groups > 1}


@pytest.mark.parametrize(
    ("name", "output_stride", "expected"),  # of what is not at rate 1
    [
        ("xception_65", 32, {}),
        ("xception_65", 16, {"exit_2": 2}),
        ("xception_65", 8, {"middle": 2, "exit_1": 2, "exit_2": 4}),
        ("xception_71", 8, {"middle": 2, "exit_1": 2, "exit_2": 4}),
    ],
)
def test_rates(name: str, output_stride: int, expected: dict[str, int]) -> None:
    for path, conv in _convs(name, output_stride).items():
        rate = next((rate for part, rate in expected.items() if part in path), 1)
        assert conv.dilation == (rate, rate), path


def test_a_multi_grid_multiplies_the_last_three_rates() -> None:
    convs = _convs("xception_41", 8, (1, 2, 4))
    assert [convs[f"exit_2.separable{i}.depthwise.conv"].dilation for i in (1, 2, 3)] == [(4, 4), (8, 8), (16, 16)]
    assert convs["units.exit_1.separable3.depthwise.conv"].dilation == (2, 2)


@pytest.mark.parametrize(
    ("name", "output_stride", "expected"),
    [
        ("xception_41", 32, ["entry_1", "entry_2", "entry_3", "exit_1"]),
        ("xception_65", 8, ["entry_1", "entry_2"]),
        ("xception_71", 16, ["entry_1", "entry_3", "entry_5"]),
    ],
)
def test_a_stride_is_in_the_third_convolution_of_its_unit(name: str, output_stride: int, expected: list[str]) -> None:
    strided = [path for path, conv in _convs(name, output_stride).items() if conv.stride == (2, 2)]
    assert strided == [f"units.{unit}.separable3.depthwise.conv" for unit in expected]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("xception_65", {"entry_2": "low_level", "entry_3": "low_level_8", "exit_1": "low_level_16"}),
        ("xception_71", {"entry_3": "low_level", "entry_5": "low_level_8", "exit_1": "low_level_16"}),
    ],
)
def test_taps_are_where_the_original_has_its_end_points(name: str, expected: dict[str, str]) -> None:
    backbone = on_meta(name, 8)
    assert isinstance(backbone, Xception)
    assert {unit: names[1] for unit, names in backbone.features_of.items() if len(names) > 1} == expected


def _unit(kind: Kind, stride: int = 2, *, projects: bool = True) -> XceptionUnit:
    torch.manual_seed(0)
    unit = XceptionUnit(4, Unit((4, 5, 6 if projects else 4), stride, projects), Placement(stride, 1, 1), kind).eval()
    for module in unit.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 8)  # so that clipping shows
            nn.init.uniform_(module.bias, -1, 1)
    return unit


def _conv(layers: nn.Module, x: Tensor, bound: float) -> Tensor:
    """By hand: depthwise and pointwise, each with batch norm, clipped to -bound..bound."""
    for part in ("depthwise", "pointwise"):
        layer = layers.get_submodule(part)
        x = layer.get_submodule("norm")(layer.get_submodule("conv")(x)).clamp(-bound, bound)
    return x


@pytest.mark.parametrize(("kind", "bound"), [(FREE, float("inf")), (BOUNDED, 6.0)])
@pytest.mark.parametrize("projects", [True, False])
@torch.no_grad()
def test_a_unit_has_activations_only_before_its_convolutions(kind: Kind, bound: float, projects: bool) -> None:
    unit = _unit(kind, 2 if projects else 1, projects=projects)
    x = torch.randn(2, 4, 9, 10).mul(3).clamp(-bound, bound)
    before = x.clone()
    output, tap = unit(x)
    expected_tap = _conv(unit.separable2, _conv(unit.separable1, x.clamp(0, bound), bound).clamp(0, bound), bound)
    expected = _conv(unit.separable3, expected_tap.clamp(0, bound), bound)
    around = unit.get_submodule("shortcut.norm")(unit.get_submodule("shortcut.conv")(x)) if projects else x
    expected = expected + around.clamp(-bound, bound)
    assert torch.equal(x, before)
    assert torch.equal(tap, expected_tap)
    assert float(tap.min()) < 0
    torch.testing.assert_close(output, expected if kind is FREE else expected.clamp(0, 6))
    assert bool((expected.abs() > 6).any())


@torch.no_grad()
def test_a_unit_of_jfzhang95_starts_with_an_activation_for_its_shortcut_too() -> None:
    unit, x = _unit(IN_PLACE), torch.randn(2, 4, 9, 10)
    before = x.clone()
    output, tap = unit(x)
    assert torch.equal(x, before)
    assert torch.equal(tap, x.relu())
    y = _conv(unit.separable2, _conv(unit.separable1, tap, float("inf")).relu(), float("inf"))
    torch.testing.assert_close(output, unit.shortcut(tap) + _conv(unit.separable3, y.relu(), float("inf")))


def test_jfzhang95_dilates_two_of_three_convolutions_where_a_unit_loses_its_stride() -> None:
    convs = _convs("xception_65", 8, program="jfzhang95")
    rates = [convs[f"units.exit_1.separable{index}.depthwise.conv"].dilation for index in (1, 2, 3)]
    assert rates == [(2, 2), (2, 2), (1, 1)]
    assert convs["exit_2.separable1.depthwise.conv"].dilation == (4, 4)


@torch.no_grad()
def test_a_unit_before_it_was_aligned_pools_behind_two_convolutions() -> None:
    torch.manual_seed(0)
    unit, x = PooledUnit(4, Unit((4, 6, 6), 2), Placement(2, 1, 1), POOLED).eval(), torch.randn(2, 4, 9, 10)
    before = x.clone()
    output, tap = unit(x)
    assert torch.equal(tap, before)
    y = unit.convs[1](unit.convs[0](x.relu()).relu())
    torch.testing.assert_close(output, unit.shortcut(x) + torch.nn.functional.max_pool2d(y, 3, 2, 1))
    middle = PooledUnit(4, Unit((4, 4, 4), projects=False), Placement(1, 2, 2), POOLED)
    assert len(middle.convs) == 3
    assert middle(x)[0].shape == x.shape


def test_vainf_s_last_convolutions_lose_the_border() -> None:
    backbone = on_meta("xception_41", 16, program="vainf")
    assert backbone(torch.zeros(1, 3, 513, 513, device="meta"))["c5"].shape == (1, 2048, 28, 28)
    with pytest.raises(ConfigError, match="too small for the Xception of program=vainf: its map of 4 x 6 loses 4"):
        backbone(torch.zeros(1, 3, 66, 97, device="meta"))
    with pytest.raises(ValueError, match="there is none with program=vainf"):
        Xception.Config(name="xception_41", program="vainf", multi_grid=(1, 2, 4))


def test_bounded_units_are_tensorflows_alone() -> None:
    with pytest.raises(ValueError, match="bounded=true: the units of program=jfzhang95 are not"):
        Xception.Config(name="xception_65", program="jfzhang95", bounded=True)


@given(height=st.integers(1, 9), width=st.integers(1, 9), scale=st.floats(0.1, 100))
@settings(max_examples=20, deadline=None)
def test_a_bounded_unit_stays_in_its_bounds(height: int, width: int, scale: float) -> None:
    with torch.no_grad():
        out, tap = _unit(BOUNDED)(torch.randn(1, 4, height, width) * scale)
    assert out.shape[-2:] == ((height + 1) // 2, (width + 1) // 2)
    assert 0 <= float(out.min()) <= float(out.max()) <= 6
    assert float(tap.abs().max()) <= 6


@pytest.mark.parametrize("kind", [FREE, BOUNDED])
def test_free_and_bounded_units_start_at_different_pixels_of_even_sizes(kind: Kind) -> None:
    depthwise = _unit(kind).separable3.depthwise.conv
    nn.init.ones_(depthwise.weight)
    row = torch.arange(1.0, 5.0).repeat(1, 5, 4, 1)  # 1 2 3 4
    expected = [9, 27] if kind is FREE else [18, 21]  # three rows of 0 1 2, 2 3 4 | of 1 2 3, 3 4 0
    assert depthwise(row)[0, 0, 1 if kind is FREE else 0].tolist() == expected


@pytest.mark.parametrize("kind", [FREE, BOUNDED])
def test_gradients_reach_every_weight(kind: Kind) -> None:
    unit = _unit(kind).train()
    out, tap = unit(torch.randn(2, 4, 9, 9))
    (out.square().mean() + tap.square().mean()).backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in unit.parameters())


def test_the_stem_of_both_kinds_is_padded_alike() -> None:
    """As the original's `conv2d_same`: (1, 1) also on even sizes."""
    for bounded in (False, True):
        conv = Xception(Xception.Config(name="xception_41", bounded=bounded), 16).get_submodule("stem.0.conv")
        assert isinstance(conv, Conv)
        assert conv.padding == (1, 1)
        assert not conv.sized
