"""The dense prediction cell under a decoder, or under none."""

from collections.abc import Sequence

import pytest
import torch

from atrous.layers.dense_prediction_cell import Branch
from atrous.models import Model, build
from atrous.models.dense_prediction_cell import DensePredictionCellNet

IMAGES = torch.randint(0, 256, (2, 3, 65, 97), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
POOLED = (Branch(kernel=1), Branch(op="pyramid_pooling", grid_size=(2, 4), input=0))


def _small(**settings: object) -> Model:
    torch.manual_seed(0)
    narrow = {"backbone": "mobilenet_v2", "depth_multiplier": 0.25, "cell_channels": 8, "decoder_channels": 8}
    return build(DensePredictionCellNet.Config.model_validate(narrow | settings), 4).eval()


def _windows(model: Model, scale: float = 1.0) -> Sequence[tuple[int, int]]:
    """What the pooling is given as the size of the image."""
    seen: list[tuple[int, int]] = []
    model.get_submodule("cell.branches.1").register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    model(IMAGES, scale)
    return seen


def test_it_is_the_released_cell_by_default() -> None:
    with torch.device("meta"):
        model = build(DensePredictionCellNet.Config(), 19)
    inputs, width = (2048, 256, 256, 256, 256), 256
    branches = sum(9 * inp + 2 * inp + inp * width + 2 * width for inp in inputs)
    projection = 5 * width * width + 2 * width
    assert sum(p.numel() for p in model.get_submodule("cell").parameters()) == branches + projection
    assert model.config.backbone == "xception_71"


@pytest.mark.parametrize(("strides", "grid"), [((), (5, 7)), ((4,), (17, 25)), ((8, 4), (17, 25)), ((8,), (9, 13))])
def test_with_or_without_a_decoder(strides: tuple[int, ...], grid: tuple[int, int]) -> None:
    model = _small(decoder_strides=strides)
    assert model(IMAGES).semantic.shape == (2, 4, *grid)
    assert model.config.logits_stride == {5: 16, 17: 4, 9: 8}[grid[0]]


def test_the_decoder_may_make_the_logits() -> None:
    model = _small(decoder_logits=True, decoder_merge="sum")
    assert model.logit_modules == ("decoder",)
    assert model(IMAGES).semantic.shape == (2, 4, 17, 25)
    assert [name for name, _ in model.named_parameters() if name.startswith("classify")] == []


def test_pooling_is_over_parts_of_the_image_or_of_the_window_that_is_said() -> None:
    assert _windows(_small(cell=POOLED)) == [(65, 97)]
    assert _windows(_small(cell=POOLED, pooling_window=(33, 49))) == [(33, 49)]
    assert _windows(_small(cell=POOLED, pooling_window=(33, 49)), 0.5) == [(17, 25)]


def test_gradients_reach_a_cell_with_pooling() -> None:
    model = _small(cell=POOLED).train()
    torch.autograd.backward(model(IMAGES).semantic.logsumexp(1).sum())
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
