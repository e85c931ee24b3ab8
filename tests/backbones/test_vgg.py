"""VGG-16 of DeepLab v1: its size, its grid, and each layer against the paper's list of them."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atrous.backbones import Backbone
from tests.backbones.conftest import built, on_meta

WIDTHS = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]


@pytest.fixture(scope="module")
def vgg() -> Backbone:
    torch.manual_seed(0)
    backbone = built("vgg16", 8).eval()
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.bias, std=0.1)  # type: ignore[arg-type]
    return backbone


def _convs(backbone: Backbone) -> list[nn.Conv2d]:
    return [module for module in backbone.modules() if isinstance(module, nn.Conv2d)]


def test_it_has_the_convolutions_of_vgg_16(vgg: Backbone) -> None:
    assert len(vgg.state_dict()) == 2 * 13
    assert [conv.out_channels for conv in _convs(vgg)] == WIDTHS


def test_only_the_last_stage_is_atrous(vgg: Backbone) -> None:
    assert [conv.dilation for conv in _convs(vgg)] == [(1, 1)] * 10 + [(2, 2)] * 3


def test_biases_start_at_zero() -> None:
    assert all(not conv.bias.any() for conv in _convs(built("vgg16", 8)) if conv.bias is not None)


def _written_out(backbone: Backbone, x: Tensor) -> list[Tensor]:
    """The layers one by one, with the pools by unfolding: nothing of VGG's own forward."""
    convs, pools = iter(_convs(backbone)), []
    for count, rate, stride in ((2, 1, 2), (2, 1, 2), (3, 1, 2), (3, 1, 1), (3, 2, 1)):
        for _ in range(count):
            conv = next(convs)
            x = F.conv2d(x, conv.weight, conv.bias, padding=rate, dilation=rate).clamp(min=0)
        padded = F.pad(x, (1, 1, 1, 1), value=-torch.inf)
        x = padded.unfold(2, 3, stride).unfold(3, 3, stride).amax((4, 5))
        pools.append(x)
    return [*pools[:4], F.pad(x, (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1).mean((4, 5))]


@pytest.mark.parametrize("size", [(33, 49), (32, 40)])
@torch.no_grad()
def test_features_are_the_outputs_of_the_pools(vgg: Backbone, size: tuple[int, int]) -> None:
    images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    features = vgg(images)
    for index, expected in enumerate(_written_out(vgg, images), 1):
        torch.testing.assert_close(features[f"c{index}"], expected, rtol=1e-5, atol=1e-5)
    assert features["low_level"] is features["c2"]


def test_the_grid_of_the_authors_crop_is_theirs() -> None:
    features = on_meta("vgg16", 8)(torch.zeros(1, 3, 321, 321, device="meta"))
    assert {name: x.shape[-1] for name, x in features.items()} == {
        "c1": 161,
        "c2": 81,
        "c3": 41,
        "c4": 41,
        "c5": 41,
        "low_level": 81,
    }
