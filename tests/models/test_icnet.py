"""ICNet: three branches of three sizes, fused from coarse to fine, each level with its logits."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from atrous.backbones.icnet import ICNetBackbone
from atrous.layers.conv import Conv
from atrous.layers.resize import resize
from atrous.losses import LossConfig, semantic_loss
from atrous.models.icnet import CascadeFeatureFusion, summed_pyramid
from tests.models.conftest import (
    config_of,
    conv_norm,
    num_parameters,
    on_meta,
    random_images,
    small,
    without_gradient,
)

IMAGES = random_images(2, 65, 97)


def _backbone() -> ICNetBackbone:
    torch.manual_seed(0)
    return ICNetBackbone(ICNetBackbone.Config(name="icnet_resnet50"), 32)


def _stage(inp: int, width: int, count: int) -> int:
    """A first unit with a shortcut of its own, and the others."""
    out = 4 * width
    rest = conv_norm(width, width, 3) + conv_norm(width, out)
    return conv_norm(inp, width) + rest + conv_norm(inp, out) + (count - 1) * (conv_norm(out, width) + rest)


def test_parameter_counts() -> None:
    model = on_meta("icnet", 19)
    stem = conv_norm(3, 32, 3) + conv_norm(32, 32, 3) + conv_norm(32, 64, 3)  # of sub2, and of sub1
    trunk = _stage(64, 32, 3) + _stage(128, 64, 4) + _stage(256, 128, 6) + _stage(512, 256, 3)
    fusions = conv_norm(256, 128, 3) + conv_norm(256, 128) + conv_norm(128, 128, 3) + conv_norm(64, 128)
    logits = (256 + 1) * 19 + 2 * (128 + 1) * 19
    backbone, head = 2 * stem + trunk, conv_norm(1024, 256) + fusions + logits
    assert num_parameters(model.backbone) == backbone == 5_950_528
    assert num_parameters(model) == backbone + head == 6_707_321


def test_defaults_are_the_papers() -> None:
    config = config_of("icnet")
    assert (config.backbone.name, config.logits_stride) == ("icnet_resnet50", 8)
    assert config.model_dump()["bins"] == (1, 2, 3, 6)
    backbone = on_meta("icnet", 19).backbone
    assert [backbone.channels[f"c{stage}"] for stage in (1, 2, 3, 4, 5)] == [32, 32, 64, 256, 1024]


def test_strides_lie_in_the_first_1x1_and_rates_in_whole_stages() -> None:
    backbone = _backbone()
    units = [*list(backbone.sub2)[4:], *backbone.sub4]
    layers = [(unit.get_submodule("conv1.conv"), unit.get_submodule("conv2.conv")) for unit in units]
    assert all(isinstance(conv, Conv) for pair in layers for conv in pair)
    assert [first.stride[0] for first, _ in layers] == [1] * 3 + [2] + [1] * 12
    assert {second.stride for _, second in layers} == {(1, 1)}
    assert [second.dilation[0] for _, second in layers] == [1] * 7 + [2] * 6 + [4] * 3


@torch.no_grad()
def test_the_branches_see_the_image_its_half_and_half_of_that() -> None:
    backbone, images = _backbone().eval(), torch.randn(1, 3, 65, 97)
    features = backbone(images)
    half = nn.functional.interpolate(images, (33, 49), mode="bilinear", align_corners=True)
    torch.testing.assert_close(features["c3"], backbone.sub1(images))
    torch.testing.assert_close(features["c4"], backbone.sub2(half))
    quarter = nn.functional.interpolate(features["c4"], (3, 4), mode="bilinear", align_corners=True)
    torch.testing.assert_close(features["c5"], backbone.sub4(quarter))


def test_the_levels_reach_all_of_the_backbone() -> None:
    backbone = _backbone()
    features = backbone(torch.randn(2, 3, 65, 97))
    torch.autograd.backward([features[name].square().sum() for name in ("c3", "c4", "c5")])
    assert without_gradient(backbone) == []


@settings(max_examples=20, deadline=None)
@given(st.tuples(st.integers(1, 9), st.integers(1, 9)), st.lists(st.integers(1, 6), max_size=4))
def test_the_pyramid_adds_the_means_of_every_grid(size: tuple[int, int], bins: list[int]) -> None:
    x = torch.rand(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = x.clone()
    for side in bins:
        cells = [[_cell(x, (row, column), side).mean((2, 3)) for column in range(side)] for row in range(side)]
        expected += resize(torch.stack([torch.stack(row, 2) for row in cells], 2), size)
    torch.testing.assert_close(summed_pyramid(x, bins), expected)


def _cell(x: Tensor, cell: tuple[int, int], side: int) -> Tensor:
    """From the pixel that its near edge lies in to the pixel that its far edge lies in."""
    rows, columns = (
        slice(index * length // side, -(-(index + 1) * length // side))
        for index, length in zip(cell, x.shape[-2:], strict=True)
    )
    return x[..., rows, columns]


@torch.no_grad()
def test_a_fusion_adds_before_its_relu() -> None:
    torch.manual_seed(0)
    fusion = CascadeFeatureFusion(6, 5, 4).eval()
    coarse, fine = torch.randn(2, 6, 3, 4), torch.randn(2, 5, 5, 7)
    large = nn.functional.interpolate(coarse, (5, 7), mode="bilinear", align_corners=True)
    norms = [fusion.coarse.norm, fusion.fine.norm]
    added = norms[0](nn.functional.conv2d(large, fusion.coarse.conv.weight, padding=2, dilation=2))
    added += norms[1](nn.functional.conv2d(fine, fusion.fine.conv.weight))
    torch.testing.assert_close(fusion(coarse, fine), added.clamp(min=0))
    assert (added < 0).any()


@torch.no_grad()
def test_logits_at_the_image_are_those_of_a_classifier_behind_a_zoom() -> None:
    """The original's order: features doubled, a 1x1, logits brought to the image. Ours leaves the doubling out."""
    model, features = small("icnet").double(), dict[str, Tensor]()
    for name in ("classify", "cascade.0", "cascade.1"):
        nn.init.normal_(model.get_submodule(name).bias)  # type: ignore[arg-type]
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, inputs, name=name: features.update({name: inputs[0]})
        )
    outputs = model(IMAGES)
    for name, logits in zip(
        ("classify", "cascade.0", "cascade.1"), (outputs.semantic, *outputs.heads.values()), strict=True
    ):
        x = features[name]
        height, width = (2 * side - 1 for side in x.shape[-2:])
        conv = model.get_submodule(name)
        weight, bias = conv.parameters()
        theirs = nn.functional.conv2d(resize(x, (height, width)), weight, bias)
        torch.testing.assert_close(resize(logits, (65, 97)), resize(theirs, (65, 97)))


@torch.no_grad()
def test_the_loss_weights_every_level() -> None:
    outputs = small("icnet")(IMAGES)
    labels = torch.randint(0, 4, (2, 65, 97), generator=torch.Generator().manual_seed(1))
    terms = semantic_loss(outputs, labels, LossConfig(), ignore=255)
    for name, weight in (("cascade_0", 0.16), ("cascade_1", 0.4)):
        alone = semantic_loss(outputs._replace(semantic=outputs.heads[name]), labels, LossConfig(), ignore=255)[
            "semantic"
        ]
        assert terms[name] == pytest.approx(weight * float(alone))
    assert list(terms) == ["semantic", "cascade_0", "cascade_1"]


def test_each_level_has_the_grid_of_its_stride() -> None:
    for height, width in ((1, 1), (32, 32), (33, 50), (70, 7)):
        outputs = small("icnet")(torch.zeros(2, 3, height, width))
        grids = [(-(-height // stride), -(-width // stride)) for stride in (8, 32, 16)]
        assert [x.shape for x in (outputs.semantic, *outputs.heads.values())] == [(2, 4, *grid) for grid in grids]
