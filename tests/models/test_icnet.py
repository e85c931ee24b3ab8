"""ICNet: three branches of three sizes, fused from coarse to fine, each level with its logits."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from atrous.backbones import build_backbone
from atrous.backbones.icnet import ICNetBackbone, Row
from atrous.layers.conv import Conv
from atrous.layers.resize import resize
from atrous.losses import LossConfig, semantic_loss
from atrous.models import Model, build
from atrous.models.icnet import CascadeFeatureFusion, ICNet, summed_pyramid

IMAGES = torch.randint(0, 256, (2, 3, 65, 97), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def _small(**settings: object) -> Model:
    torch.manual_seed(0)
    narrow = {"backbone": "resnet_tiny", "pyramid_channels": 16, "fusion_channels": 8}
    return build(ICNet.Config.model_validate(narrow | settings), 4)


def _backbone() -> ICNetBackbone:
    torch.manual_seed(0)
    return ICNetBackbone(Row((3, 4, 6, 3), width=2))


def _conv(inp: int, out: int, kernel: int = 1) -> int:
    return kernel**2 * inp * out + 2 * out  # with its norm


def _stage(inp: int, width: int, count: int) -> int:
    """A first unit with a shortcut of its own, and the others."""
    out = 4 * width
    rest = _conv(width, width, 3) + _conv(width, out)
    return _conv(inp, width) + rest + _conv(inp, out) + (count - 1) * (_conv(out, width) + rest)


def test_parameter_counts() -> None:
    with torch.device("meta"):
        model = build(ICNet.Config(), 19)
    stem = _conv(3, 32, 3) + _conv(32, 32, 3) + _conv(32, 64, 3)  # of sub2; sub1 is the same, at other strides
    trunk = _stage(64, 32, 3) + _stage(128, 64, 4) + _stage(256, 128, 6) + _stage(512, 256, 3)
    fusions = _conv(256, 128, 3) + _conv(256, 128) + _conv(128, 128, 3) + _conv(64, 128)
    logits = (256 + 1) * 19 + 2 * (128 + 1) * 19
    backbone, head = 2 * stem + trunk, _conv(1024, 256) + fusions + logits
    assert sum(parameter.numel() for parameter in model.backbone.parameters()) == backbone == 5_950_528
    assert sum(parameter.numel() for parameter in model.parameters()) == backbone + head == 6_707_321


def test_what_it_is_by_default() -> None:
    config = ICNet.Config()
    assert (config.backbone, config.bins, config.logits_stride) == ("icnet_resnet50", (1, 2, 3, 6), 8)
    with torch.device("meta"):
        backbone = build_backbone("icnet_resnet50", 32)
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
    assert [name for name, p in backbone.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("name", ["icnet_resnet50", "resnet_tiny"])
@pytest.mark.parametrize("size", [(1, 1), (32, 32), (33, 50), (70, 7)])
def test_any_size(name: str, size: tuple[int, int]) -> None:
    with torch.device("cpu" if name == "resnet_tiny" else "meta"):
        outputs = _small(backbone=name).eval()(torch.zeros(2, 3, *size))
    grids = [(-(-size[0] // stride), -(-size[1] // stride)) for stride in (8, 32, 16)]
    assert outputs.cascade is not None
    logits = (outputs.semantic, *outputs.cascade)
    assert [x.shape for x in logits] == [(2, 4, *grid) for grid in grids]
    assert name == "icnet_resnet50" or all(x.isfinite().all() for x in logits)


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
    model, seen = _small().double().eval(), dict[str, Tensor]()
    for name in ("classify", "cascade.0", "cascade.1"):
        nn.init.normal_(model.get_submodule(name).bias)  # type: ignore[arg-type]
        model.get_submodule(name).register_forward_pre_hook(lambda _, inputs, name=name: seen.update({name: inputs[0]}))
    outputs = model(IMAGES)
    assert outputs.cascade is not None
    for name, logits in (
        ("classify", outputs.semantic),
        *zip(("cascade.0", "cascade.1"), outputs.cascade, strict=True),
    ):
        x = seen[name]
        height, width = (2 * side - 1 for side in x.shape[-2:])
        conv = model.get_submodule(name)
        weight, bias = conv.parameters()
        theirs = nn.functional.conv2d(resize(x, (height, width)), weight, bias)
        torch.testing.assert_close(resize(logits, (65, 97)), resize(theirs, (65, 97)))


@torch.no_grad()
def test_every_level_is_learnt_from_with_its_weight() -> None:
    outputs = _small().eval()(IMAGES)
    labels = torch.randint(0, 4, (2, 65, 97), generator=torch.Generator().manual_seed(1))
    terms = semantic_loss(outputs, labels, LossConfig(), ignore=255)
    assert outputs.cascade is not None
    for name, logits, weight in zip(("cascade_0", "cascade_1"), outputs.cascade, (0.16, 0.4), strict=True):
        alone = semantic_loss(outputs._replace(semantic=logits), labels, LossConfig(), ignore=255)["semantic"]
        assert terms[name] == pytest.approx(weight * float(alone))
    assert list(terms) == ["semantic", "cascade_0", "cascade_1"]


@pytest.mark.parametrize("backbone", ["icnet_resnet50", "mobilenet_v2"])
def test_training_reaches_every_parameter(backbone: str) -> None:
    model = _small(backbone=backbone).train()
    labels = torch.randint(0, 4, (2, 65, 97), generator=torch.Generator().manual_seed(1))
    terms = semantic_loss(model(IMAGES), labels, LossConfig(), ignore=255)
    torch.autograd.backward(list(terms.values()))
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("backbone", ["icnet_resnet50", "resnet_tiny"])
def test_two_images_are_learnt_by_heart(backbone: str) -> None:
    model = _small(backbone=backbone, pyramid_channels=64, fusion_channels=32).train()
    labels = torch.zeros(2, 65, 97, dtype=torch.uint8)
    labels[0, :, 48:], labels[1, 32:] = 1, 2
    images = 60 * labels[:, None].expand(2, 3, 65, 97) + IMAGES // 4
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    losses = []
    for _ in range(12):
        loss = torch.stack(list(semantic_loss(model(images), labels, LossConfig(), ignore=255).values())).sum()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bins": (1, 0)}, "greater than 0"),
        ({"pyramid_channels": 0}, "greater than 0"),
        ({"fusion_channels": 0}, "greater than 0"),
        ({"output_stride": 8}, "should be 32"),
        ({"zoom": 2}, "Extra inputs"),
        ({"backbone": "vgg16"}, "output_stride 32 is not for vgg16, which has 8"),
        ({"backbone": "icnet_resnet5O"}, "did you mean icnet_resnet50"),
        ({"backbone": "icnet_resnet50", "depth_multiplier": 0.5}, "depth_multiplier 0.5 is not for icnet_resnet50"),
        ({"backbone": "icnet_resnet50", "multi_grid": (1, 2, 4)}, "multi_grid .* is not for icnet_resnet50"),
    ],
)
def test_bad_settings_are_refused_in_one_line(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message) as error:
        _small(**settings)
    (problem,) = error.value.errors()
    assert "\n" not in problem["msg"]
