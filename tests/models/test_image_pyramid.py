"""Any model at several scales of the image: merging, and the grid on which it is done."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from atrous.layers.resize import resize
from atrous.models import MODELS, Model, build

NARROW = {"backbone": "mobilenet_v2", "depth_multiplier": 0.25, "aspp_channels": 8}


def _model(name: str = "deeplab_v3", **settings: object) -> Model:
    torch.manual_seed(0)
    model = build(MODELS[name].Config.model_validate(NARROW | settings), 4).eval()
    torch.nn.init.normal_(list(model.parameters())[-2])  # the last layer: let scales differ
    return model


def _images(height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(height * width)
    return torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8, generator=generator)


@torch.no_grad()
@pytest.mark.parametrize("merge", ["max", "mean"])
def test_the_merged_logits_are_those_of_each_scale_merged_by_hand(merge: str) -> None:
    single, images = _model(), _images(49, 65)
    by_hand = []
    for size in ((25, 33), (49, 65), (61, 81)):  # (side - 1) * scale + 1
        logits = single(resize(images.float(), size)).semantic
        by_hand.append(resize(logits, (4, 6)))  # int(48 * 1.25 / 16 + 1), int(64 * 1.25 / 16 + 1)
    outputs = _model(image_pyramid=(0.5, 1.0, 1.25), merge=merge)(images)
    assert outputs.pyramid is not None
    torch.testing.assert_close(list(outputs.pyramid), by_hand)
    stacked = torch.stack(by_hand)
    torch.testing.assert_close(outputs.semantic, stacked.max(0).values if merge == "max" else stacked.mean(0))


@torch.no_grad()
def test_one_scale_is_no_pyramid() -> None:
    images = _images(49, 65)
    once = _model(image_pyramid=(1.0,))(images)
    assert once.pyramid is None
    assert torch.equal(once.semantic, _model()(images).semantic)
    shrunk = _model(image_pyramid=(0.5,))(images)
    assert shrunk.pyramid is None  # else the loss would count it twice
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
        found = _model(name, image_pyramid=scales)(_images(*size)).semantic.shape
    stride = 4 if name == "deeplab_v3plus" else 16
    expected = [int((side - 1) * max(1.0, *scales) / stride + 1) for side in size]
    assert found == (2, 4, *expected)


@torch.no_grad()
def test_a_pooling_window_is_scaled_with_the_image() -> None:
    images = _images(65, 97)
    found = _model(image_pyramid=(0.5, 1.0), pooling_window=(65, 65))(images).pyramid
    assert found is not None
    half = _model(pooling_window=(33, 33))(resize(images.float(), (33, 49))).semantic
    torch.testing.assert_close(found[0], resize(half, found[0].shape[-2:]))


@torch.no_grad()
def test_a_scaled_image_may_say_so_itself() -> None:
    view = resize(_images(65, 97).float(), (33, 49))
    said = _model(pooling_window=(65, 65))(view, 0.5).semantic
    torch.testing.assert_close(said, _model(pooling_window=(33, 33))(view).semantic)
    pyramid = _model(pooling_window=(65, 65), image_pyramid=(0.5, 1.0))(view, 0.5).pyramid
    assert pyramid is not None
    torch.testing.assert_close(pyramid[1], said)
    quarter = _model(pooling_window=(17, 17))(resize(view, (17, 25))).semantic
    torch.testing.assert_close(pyramid[0], resize(quarter, said.shape[-2:]))


def test_gradients_go_through_every_scale() -> None:
    model = _model(image_pyramid=(0.5, 1.0)).train()
    outputs = model(_images(49, 65))
    assert outputs.pyramid is not None
    for logits in outputs.pyramid:
        model.zero_grad()
        torch.autograd.backward(logits.logsumexp(1).sum(), retain_graph=True)
        assert all(p.grad is not None and bool(p.grad.any()) for p in model.parameters())
