"""The dense prediction cell with a decoder, or without one."""

from collections.abc import Sequence

import pytest

from atrous.models import Model
from tests.models.conftest import POOLED, num_parameters, on_meta, random_images, small

IMAGES = random_images(2, 65, 97)


def _windows(model: Model, scale: float = 1.0) -> Sequence[tuple[int, int]]:
    """What the pooling is given as the size of the image."""
    sizes: list[tuple[int, int]] = []
    model.get_submodule("cell.branches.1").register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[1]))
    model(IMAGES, scale)
    return sizes


def test_it_is_the_released_cell_by_default() -> None:
    model = on_meta("dense_prediction_cell", 19)
    inputs, width = (2048, 256, 256, 256, 256), 256
    branches = sum(9 * inp + 2 * inp + inp * width + 2 * width for inp in inputs)
    projection = 5 * width * width + 2 * width
    assert num_parameters(model.get_submodule("cell")) == branches + projection
    assert model.config.backbone.name == "xception_71"


@pytest.mark.parametrize(("strides", "grid"), [((), (5, 7)), ((4,), (17, 25)), ((8, 4), (17, 25)), ((8,), (9, 13))])
def test_with_or_without_a_decoder(strides: tuple[int, ...], grid: tuple[int, int]) -> None:
    model = small("dense_prediction_cell", decoder={"strides": strides, "channels": 8})
    assert model(IMAGES).semantic.shape == (2, 4, *grid)
    assert model.config.logits_stride == {5: 16, 17: 4, 9: 8}[grid[0]]


def test_the_decoder_may_make_the_logits() -> None:
    model = small("dense_prediction_cell", decoder={"logits": True, "merge": "sum"})
    assert model.logit_modules == ("decoder",)
    assert model(IMAGES).semantic.shape == (2, 4, 17, 25)
    assert [name for name, _ in model.named_parameters() if name.startswith("classify")] == []


def test_pooling_is_over_parts_of_the_image_or_of_the_window() -> None:
    assert _windows(small("dense_prediction_cell", cell=POOLED)) == [(65, 97)]
    assert _windows(small("dense_prediction_cell", cell=POOLED, pooling_window=(33, 49))) == [(33, 49)]
    assert _windows(small("dense_prediction_cell", cell=POOLED, pooling_window=(33, 49)), 0.5) == [(17, 25)]
