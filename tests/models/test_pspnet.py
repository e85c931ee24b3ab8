"""PSPNet: the sizes that are published, and its parts put together."""

from typing import Any

import pytest
import torch

from atrous.layers import quantization
from atrous.layers.folding import fold, norms_in
from atrous.layers.pyramid_pooling import PyramidConv
from atrous.layers.resize import resize
from atrous.runtimes.pytorch import shared_copy
from atrous.types import Size
from tests.models.conftest import num_parameters, on_meta, random_images, small
from tests.runs import assert_same


def test_published_sizes() -> None:
    """Millions of parameters in training and in inference, entries of the original's state dict."""
    published = [
        ("resnet50s", 150, 49.18, 46.78, 370),
        ("resnet101s", 150, 68.17, 65.77, 676),
        ("resnet152s", 150, 83.82, 81.42, 982),
        ("resnet50s", 21, 49.08, 46.72, 370),
        ("resnet101s", 19, 68.07, 65.71, 676),
    ]
    for backbone, num_classes, training, inference, entries in published:
        model = on_meta("pspnet", num_classes, backbone=backbone)
        count, second = num_parameters(model), num_parameters(model.get_submodule("auxiliary"))
        assert (round(count / 1e6, 2), round((count - second) / 1e6, 2)) == (training, inference)
        assert len(model.state_dict()) - len(("shift", "scale")) == entries


@torch.no_grad()
def test_the_heads_are_figure_4s() -> None:
    model, images = small("pspnet", 3), random_images(2, 41, 57)
    features, outputs = model.features(images), model(images)
    c5 = features["c5"]
    means = [torch.nn.functional.adaptive_avg_pool2d(c5, bins) for bins in (1, 2, 3, 6)]
    levels = [
        resize(model.get_submodule(f"pyramid.branches.{index}")(mean), (6, 8)) for index, mean in enumerate(means)
    ]
    torch.testing.assert_close(outputs.semantic, model.get_submodule("head")(torch.cat([c5, *levels], 1)))
    torch.testing.assert_close(outputs.heads["auxiliary"], model.get_submodule("auxiliary")(features["c4"]))


def test_without_a_pyramid_the_head_sees_c5() -> None:
    model = small("pspnet", 3, bins=())
    assert model.get_parameter("head.conv.conv.weight").shape[1] == model.backbone.channels["c5"]
    assert model(random_images(1, 33, 33)).semantic.shape == (1, 3, 5, 5)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"align_corners": False},
        {"bins": (4, 7), "bin_channels": 3},
        {"bins": (1,), "logits_kernel": 3},
        {"head_kernel": 1},
    ],
)
@pytest.mark.parametrize("size", [(1, 1), (8, 70), (65, 33)])
@torch.no_grad()
def test_rearranged_it_computes_the_same(settings: dict[str, Any], size: Size) -> None:
    model, images = small("pspnet", 3, **settings), random_images(2, *size)
    for norm in norms_in(model):
        torch.nn.init.uniform_(norm.get_parameter("bias"), -1, 1)
    exact = model(images).semantic
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    faster = shared_copy(model)
    fold(faster)
    faster.rearrange()
    torch.testing.assert_close(faster(images).semantic, exact, rtol=0, atol=1e-5 * float(exact.abs().max()))
    assert isinstance(faster.get_submodule("pyramid"), PyramidConv)
    assert_same(model.state_dict(), before)


def test_what_rounds_or_has_norms_or_no_pyramid_is_not_rearranged() -> None:
    rounding, whole, without = small("pspnet", 3), small("pspnet", 3), small("pspnet", 3, bins=())
    quantization.add_ranges(rounding)
    fold(without)
    for model in (rounding, whole, without):
        model.rearrange()
        assert not isinstance(model.get_submodule("pyramid"), PyramidConv)
