"""A model that sees its images at several scales: merging, and the grid on which it is done."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from atrous.layers.resize import resize
from atrous.models import Model
from tests.models.conftest import random_images, small


def _model(name: str = "deeplab_v3", /, **settings: object) -> Model:
    model = small(name, **settings)
    torch.nn.init.normal_(list(model.parameters())[-2])  # the last layer: let scales differ
    return model


def _windowed(window: tuple[int, int], **settings: object) -> Model:
    return _model(aspp={"channels": 8, "pooling_window": window}, **settings)


def _scales(model: Model, images: Tensor, scale: float = 1.0) -> list[Tensor]:
    """The logits of each scale."""
    return list(model(images, scale).heads.values())


@torch.no_grad()
@pytest.mark.parametrize("merge", ["max", "mean"])
def test_the_merged_logits_are_those_of_each_scale_merged_by_hand(merge: str) -> None:
    single, images = _model(), random_images(2, 49, 65)
    by_hand = []
    for size in ((25, 33), (49, 65), (61, 81)):  # (side - 1) * scale + 1
        logits = single(resize(images.float(), size)).semantic
        by_hand.append(resize(logits, (4, 6)))  # int(48 * 1.25 / 16 + 1), int(64 * 1.25 / 16 + 1)
    outputs = _model(image_pyramid=(0.5, 1.0, 1.25), merge=merge)(images)
    assert list(outputs.heads) == ["scale_0", "scale_1", "scale_2"]
    torch.testing.assert_close(list(outputs.heads.values()), by_hand)
    stacked = torch.stack(by_hand)
    torch.testing.assert_close(outputs.semantic, stacked.max(0).values if merge == "max" else stacked.mean(0))


@torch.no_grad()
def test_one_scale_has_no_heads() -> None:
    images = random_images(2, 49, 65)
    once = _model(image_pyramid=(1.0,))(images)
    assert once.heads == {}
    assert torch.equal(once.semantic, _model()(images).semantic)
    shrunk = _model(image_pyramid=(0.5,))(images)
    assert shrunk.heads == {}  # else the loss would count it twice
    expected = resize(_model()(resize(images.float(), (25, 33))).semantic, (4, 5))
    torch.testing.assert_close(shrunk.semantic, expected)


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from(["deeplab_v3", "deeplab_v3plus"]),
    st.lists(st.sampled_from([0.25, 0.5, 0.75, 1.0, 1.5, 2.0]), min_size=1, max_size=3, unique=True).filter(
        [1.0].__ne__
    ),
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
)
@example("deeplab_v3", [0.5, 0.75, 1.0], (1, 1))
@example("deeplab_v3plus", [0.5, 1.75], (97, 64))
def test_the_grid_is_that_of_the_largest_scale_but_never_coarser_than_the_models(
    name: str, scales: list[float], size: tuple[int, int]
) -> None:
    with torch.no_grad():
        shape = _model(name, image_pyramid=scales)(random_images(2, *size)).semantic.shape
    stride = 4 if name == "deeplab_v3plus" else 16
    expected = [int((side - 1) * max(1.0, *scales) / stride + 1) for side in size]
    assert shape == (2, 4, *expected)


@torch.no_grad()
def test_a_pooling_window_is_scaled_with_the_image() -> None:
    images = random_images(2, 65, 97)
    first, _ = _scales(_windowed((65, 65), image_pyramid=(0.5, 1.0)), images)
    half = _windowed((33, 33))(resize(images.float(), (33, 49))).semantic
    torch.testing.assert_close(first, resize(half, first.shape[-2:]))


@torch.no_grad()
def test_the_scale_of_an_image_can_be_passed_on() -> None:
    view = resize(random_images(2, 65, 97).float(), (33, 49))
    scaled = _windowed((65, 65))(view, 0.5).semantic
    torch.testing.assert_close(scaled, _windowed((33, 33))(view).semantic)
    first, second = _scales(_windowed((65, 65), image_pyramid=(0.5, 1.0)), view, 0.5)
    torch.testing.assert_close(second, scaled)
    quarter = _windowed((17, 17))(resize(view, (17, 25))).semantic
    torch.testing.assert_close(first, resize(quarter, scaled.shape[-2:]))


def test_gradients_go_through_every_scale() -> None:
    model = _model(image_pyramid=(0.5, 1.0)).train()
    for logits in _scales(model, random_images(2, 49, 65)):
        model.zero_grad()
        torch.autograd.backward(logits.logsumexp(1).sum(), retain_graph=True)
        assert all(p.grad is not None and bool(p.grad.any()) for p in model.parameters())
