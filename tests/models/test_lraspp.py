"""LR-ASPP: one gated branch, and two maps of logits added."""

import pytest
import torch
from torch import nn

from atrous.layers.aspp import window_at
from atrous.layers.resize import resize
from tests.models.conftest import head_parameters, num_parameters, on_meta, random_images, small, without_gradient

IMAGES = random_images(2, 65, 97)


@torch.no_grad()
@pytest.mark.parametrize("squeeze", ["sigmoid", "hard_sigmoid"])
def test_the_logits_are_figure_10s(squeeze: str) -> None:
    model = small("lraspp", squeeze=squeeze, pooling_window=None)
    features = model.features(IMAGES)
    gate = nn.functional.conv2d(
        features["c5"].mean((2, 3), keepdim=True),
        model.get_parameter("aspp.image_gate.weight"),
        model.get_parameter("aspp.image_gate.bias"),
    )
    gate = gate.sigmoid() if squeeze == "sigmoid" else (gate + 3).clamp(0, 6) * 0.16667
    x = resize(model.get_submodule("aspp.branches.0")(features["c5"]) * gate, (9, 13))
    deep = model.get_submodule("decoder.0.refine")(x)
    expected = deep + model.get_submodule("decoder.0.low_level")(features["low_level_8"])
    torch.testing.assert_close(model(IMAGES).semantic, expected)


def test_published_parts() -> None:
    model = on_meta("lraspp", 19)
    aspp = (480 + 2) * 128 + (480 + 1) * 128  # 1x1 with its norm; gate with bias
    decoder = (128 + 1) * 19 + (120 + 1) * 19
    assert head_parameters(model) == aspp + decoder
    assert num_parameters(model.get_submodule("aspp.image_gate")) == 481 * 128
    assert model.config.output_stride == 32
    window = model.config.model_dump()["pooling_window"]
    assert (window_at(window, 1.0, 32), window_at(window, 0.5, 32)) == ((25, 25), (13, 13))


@pytest.mark.parametrize(("stride", "grid"), [(4, (17, 25)), (8, (9, 13)), (16, (5, 7))])
def test_the_logits_lie_at_the_decoders_stride(stride: int, grid: tuple[int, int]) -> None:
    model = small("lraspp", decoder_stride=stride)
    assert model(IMAGES).semantic.shape[-2:] == grid
    assert model.config.logits_stride == stride


def test_a_window_smaller_than_the_image_makes_the_gate_a_map() -> None:
    gates = []
    for window in ((33, 33), (769, 769)):
        model = small("lraspp", pooling_window=window, pooling_stride=(1, 1), output_stride=16)
        model.get_submodule("aspp.image_gate").register_forward_hook(lambda _, inputs, output: gates.append(output))
        model(IMAGES)
    assert [bool(gate.var((2, 3)).max() > 0) for gate in gates] == [True, False]


def test_one_image_per_batch_is_enough_to_train_on() -> None:
    model = small(
        "lraspp",
    ).train()
    torch.autograd.backward(model(IMAGES[:1]).semantic.logsumexp(1).sum())
    assert without_gradient(model) == []
