"""Dice and Lovasz losses: the tiled ones against the plain ones, against their definitions, and by hand."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise, product
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

from atrous.ops import upsample_dice, upsample_dice_reference, upsample_lovasz, upsample_lovasz_reference
from tests.ops.upsample_cases import (
    WEIGHTS,
    LargestTensor,
    one_thread,
    random_labels,
    random_logits,
    random_pixel_weights,
    small_tiles,
    with_gradient,
)

small = pytest.fixture(autouse=True, scope="module")(small_tiles)
alone = pytest.fixture(autouse=True)(one_thread)


class Loss(NamedTuple):
    tiled: Callable[..., Tensor]
    plain: Callable[..., Tensor]


LOSSES = {
    "dice": Loss(upsample_dice, upsample_dice_reference),
    "lovasz": Loss(upsample_lovasz, upsample_lovasz_reference),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "half-pixel corners": {"align_corners": False},
    "weights": {"class_weights": WEIGHTS},
    "a class without weight": {"class_weights": torch.tensor([0.0, 1, 2, 0, 1])},
    "a class ignored": {"ignore": 0},
    "nothing ignored": {"ignore": -1},
    "normalizer": {"normalizer": torch.tensor(1000), "class_weights": WEIGHTS, "align_corners": False},
}


@pytest.fixture(params=LOSSES)
def loss(request: pytest.FixtureRequest) -> Loss:
    return LOSSES[request.param]


def _assert_like_reference(loss: Loss, logits: Tensor, labels: Tensor, options: dict[str, Any]) -> None:
    tiled = with_gradient(loss.tiled, logits, labels, options)
    torch.testing.assert_close(tiled, with_gradient(loss.plain, logits, labels, options))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("sizes", [(4, 5, 13, 11), (1, 1, 6, 7), (1, 4, 1, 9), (9, 8, 4, 3), (3, 3, 9, 9)])
def test_loss_and_gradient_are_the_reference(
    loss: Loss, options: dict[str, Any], sizes: tuple[int, int, int, int]
) -> None:
    _assert_like_reference(loss, random_logits(2, 5, *sizes[:2]), random_labels(2, *sizes[2:]), options)


@pytest.mark.parametrize("name", LOSSES)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_loss_is_the_reference_for_any_size(name: str, data: st.DataObject) -> None:
    batch, classes, h, w = (data.draw(st.integers(1, most)) for most in (3, 6, 7, 7))
    height, width = (data.draw(st.integers(1, 20)) for _ in "HW")
    seed = data.draw(st.integers(0, 99))
    options: dict[str, Any] = {"align_corners": data.draw(st.booleans())}
    if data.draw(st.booleans()):
        options["pixel_weights"] = random_pixel_weights(batch, height, width, seed=seed)
    labels = random_labels(batch, height, width, classes=classes, seed=seed).to(torch.uint8)
    _assert_like_reference(LOSSES[name], random_logits(batch, classes, h, w, seed=seed), labels, options)


@pytest.mark.parametrize("classes", [1, 2, 150])
def test_any_number_of_classes_will_do(loss: Loss, classes: int) -> None:
    _assert_like_reference(loss, random_logits(1, classes, 2, 3), random_labels(1, 9, 10, classes=classes), {})


def test_maps_need_not_be_contiguous(loss: Loss) -> None:
    logits = random_logits(3, 4, 2, 5).permute(2, 3, 0, 1)[:, :, :, ::2]
    labels = random_labels(2, 14, 9).transpose(1, 2)[:, :, ::2]
    weights = random_pixel_weights(2, 14, 9).transpose(1, 2)[:, :, ::2]
    _assert_like_reference(loss, logits, labels, {"pixel_weights": weights})


@pytest.mark.parametrize("options", [{}, {"class_weights": WEIGHTS.double(), "align_corners": False}])
def test_the_gradient_is_the_numerical_one(loss: Loss, options: dict[str, Any]) -> None:
    labels = random_labels(2, 7, 9)
    weights = random_pixel_weights(2, 7, 9)
    function = partial(loss.tiled, labels=labels, pixel_weights=weights, **options)
    assert gradcheck(function, (random_logits(2, 5, 3, 4).requires_grad_(),))


def test_without_a_pixel_that_counts_loss_and_gradient_are_zero(loss: Loss) -> None:
    logits, ignored = random_logits(1, 3, 2, 2), torch.full((1, 5, 5), 255)
    cases: list[tuple[Tensor, dict[str, Any]]] = [
        (ignored, {}),
        (ignored, {"normalizer": 0.0}),
        (torch.ones_like(ignored), {"pixel_weights": torch.zeros(1, 5, 5)}),
    ]
    for labels, options in cases:
        value, gradient = with_gradient(loss.tiled, logits, labels, options)
        assert value == 0
        assert not gradient.any()


def test_an_image_counts_by_its_pixels_that_count(loss: Loss) -> None:
    """And so passes add up: the second image has no label but a few."""
    logits, labels = random_logits(2, 5, 4, 4), random_labels(2, 9, 9)
    labels[1, 2:] = 255
    counts = (labels != 255).sum((1, 2))
    parts = [loss.tiled(logits[[image]], labels[[image]], normalizer=counts.sum()) for image in (0, 1)]
    torch.testing.assert_close(parts[0] + parts[1], loss.tiled(logits, labels))
    alone = [float(loss.tiled(logits[[image]], labels[[image]])) for image in (0, 1)]
    expected = (alone[0] * counts[0] + alone[1] * counts[1]) / counts.sum()
    assert float(loss.tiled(logits, labels)) == pytest.approx(float(expected))


def test_certain_predictions_cost_what_their_areas_say() -> None:
    """Class 0: one pixel of three is taken for class 1, which has one pixel of its own; class 2 is in no label."""
    labels = torch.tensor([[[0, 0, 0, 1, 255]]])
    logits = 1000.0 * torch.nn.functional.one_hot(torch.tensor([[[0, 0, 1, 1, 2]]]), 3).permute(0, 3, 1, 2)
    dice = (1 - 4 / 5) + (1 - 2 / 3)
    iou = (1 - 2 / 3) + (1 - 1 / 2)
    assert float(upsample_dice(logits, labels)) == pytest.approx(dice / 2)
    assert float(upsample_lovasz(logits, labels)) == pytest.approx(iou / 2)


def test_uniform_probabilities_by_hand() -> None:
    """Dice of either class: 2 * 1/2 / (1 + 1). Lovasz: all errors are 1/2, and all pixels wrong is an IoU of 0."""
    logits, labels = torch.zeros(1, 2, 1, 2), torch.tensor([[[0, 1]]])
    assert float(upsample_dice(logits, labels)) == pytest.approx(0.5)
    assert float(upsample_lovasz(logits, labels)) == pytest.approx(0.5)


def test_lovasz_is_the_mean_over_thresholds_of_the_loss_of_the_set() -> None:
    """Its definition: between two errors, all pixels with a larger one are wrong, and cost 1 - IoU."""
    logits, labels = random_logits(1, 3, 3, 4), random_labels(1, 3, 4, classes=3, seed=3)
    probabilities, expected = logits.softmax(1), 0.0
    for index in range(3):
        is_class = (labels == index)[labels != 255]
        errors = (is_class.double() - probabilities[0, index][labels[0] != 255]).abs()
        edges = [1.0, *errors.sort(descending=True).values.tolist(), 0.0]
        for upper, lower in pairwise(edges):
            is_wrong = errors > lower + (upper - lower) / 2
            common, either = (is_class & ~is_wrong).sum(), (is_class | is_wrong).sum()
            expected += (upper - lower) * float(1 - common / either) / 3
    assert float(upsample_lovasz(logits, labels)) == pytest.approx(expected)


def test_half_precision_is_computed_in_full_precision(loss: Loss) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        logits, labels = random_logits(1, 5, 3, 3).to(dtype), random_labels(1, 9, 9)
        with torch.autocast("cpu", torch.bfloat16):
            value, gradient = with_gradient(loss.tiled, logits, labels, {})
        expected, slope = with_gradient(loss.plain, logits.float(), labels, {})
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(gradient, slope.to(dtype))


def test_logits_far_apart_neither_overflow_nor_vanish(loss: Loss) -> None:
    logits = torch.tensor([[[[1e4, 0.0]], [[0.0, 1e4]]]])
    value, gradient = with_gradient(loss.tiled, logits, torch.tensor([[[1, 1, 1]]]), {})
    assert 0 < value < 1
    assert gradient.isfinite().all()


def test_the_large_map_is_never_in_memory(loss: Loss) -> None:
    logits, labels = random_logits(2, 40, 8, 8).requires_grad_(), random_labels(2, 32, 32)
    with LargestTensor() as largest:  # type: ignore[no-untyped-call]
        loss.tiled(logits, labels).backward()  # type: ignore[no-untyped-call]
    assert largest.elements == logits.numel()


def test_threads_change_nothing(loss: Loss) -> None:
    logits, labels = random_logits(2, 5, 4, 4), random_labels(2, 17, 19)
    alone = with_gradient(loss.tiled, logits, labels, {})
    torch.set_num_threads(2)
    shared = with_gradient(loss.tiled, logits, labels, {})
    assert all(a.equal(b) for a, b in zip(alone, shared, strict=True))


def test_no_gradient_where_none_is_needed(loss: Loss) -> None:
    logits, labels = random_logits(1, 5, 3, 3).requires_grad_(), random_labels(1, 9, 9)
    with torch.no_grad():
        assert not loss.tiled(logits, labels).requires_grad
    assert not loss.tiled(logits.detach(), labels).requires_grad
    assert loss.tiled(logits, labels) == loss.tiled(logits.detach(), labels)


def test_arguments_that_do_not_fit_are_refused() -> None:
    fitting = ((2, 3, 4, 4), (2, 8, 8))
    cases: list[tuple[tuple[tuple[int, ...], tuple[int, ...]], dict[str, Any], str]] = [
        (((2, 3, 4, 4), (1, 8, 8)), {}, r"must be \[B, C, h, w\] and \[B, H, W\]"),
        (fitting, {"class_weights": WEIGHTS}, r"one value for each of 3 classes, got \(5,\)"),
        (fitting, {"pixel_weights": torch.ones(2, 4, 4)}, r"the shape of the labels, \(2, 8, 8\), got \(2, 4, 4\)"),
    ]
    for ((logits, labels), options, message), loss in product(cases, LOSSES.values()):
        for function in loss:
            with pytest.raises(ValueError, match=message):
                function(torch.zeros(logits), torch.zeros(labels, dtype=torch.uint8), **options)


def test_training_on_either_finds_the_labels(loss: Loss) -> None:
    logits, labels = torch.zeros(1, 3, 4, 4, requires_grad=True), torch.zeros(1, 16, 16, dtype=torch.long)
    labels[:, :, 5:10], labels[:, :, 10:] = 1, 2
    optimizer = torch.optim.Adam([logits], 0.3)
    for _ in range(60):
        optimizer.zero_grad()
        value = loss.tiled(logits, labels)
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert float(value.detach()) < 0.2
