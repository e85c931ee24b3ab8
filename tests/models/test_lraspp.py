"""LR-ASPP: one gated branch, and two maps of logits added."""

import pytest
import torch
from torch import nn

from atrous.layers.resize import resize
from atrous.models import Model, build
from atrous.models.lraspp import LRASPP

IMAGES = torch.randint(0, 256, (2, 3, 65, 97), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def _small(**settings: object) -> Model:
    torch.manual_seed(0)
    narrow = {"backbone": "mobilenet_v3_small_seg", "depth_multiplier": 0.25, "aspp_channels": 8}
    return build(LRASPP.Config.model_validate(narrow | settings), 4).eval()


@torch.no_grad()
@pytest.mark.parametrize("squeeze", ["sigmoid", "hard_sigmoid"])
def test_the_logits_are_figure_10s(squeeze: str) -> None:
    model = _small(squeeze=squeeze, pooling_window=None)
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
    with torch.device("meta"):
        model = build(LRASPP.Config(), 19)
    aspp = (480 + 2) * 128 + (480 + 1) * 128  # 1x1 with its norm; gate with bias
    decoder = (128 + 1) * 19 + (120 + 1) * 19
    head = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("backbone."))
    assert head == aspp + decoder
    assert sum(p.numel() for p in model.get_submodule("aspp.image_gate").parameters()) == 481 * 128
    assert model.config.output_stride == 32
    assert model.pooling_window(1.0) == (25, 25)
    assert model.pooling_window(0.5) == (13, 13)


@pytest.mark.parametrize(("stride", "grid"), [(4, (17, 25)), (8, (9, 13)), (16, (5, 7))])
def test_the_logits_lie_at_the_decoders_stride(stride: int, grid: tuple[int, int]) -> None:
    model = _small(decoder_stride=stride)
    assert model(IMAGES).semantic.shape[-2:] == grid
    assert model.config.logits_stride == stride


def test_a_window_smaller_than_the_image_makes_the_gate_a_map() -> None:
    gates = []
    for window in ((33, 33), (769, 769)):
        model = _small(pooling_window=window, pooling_stride=(1, 1), output_stride=16)
        model.get_submodule("aspp.image_gate").register_forward_hook(lambda _, inputs, output: gates.append(output))
        model(IMAGES)
    assert [bool(gate.var((2, 3)).max() > 0) for gate in gates] == [True, False]


def test_one_image_a_batch_can_be_trained_on() -> None:
    model = _small().train()
    torch.autograd.backward(model(IMAGES[:1]).semantic.logsumexp(1).sum())
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
