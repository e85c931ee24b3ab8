"""Panoptic quality: its definition, hand-drawn maps, and figures that the originals' tests have for the same images."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from atrous.metrics import panoptic_quality
from atrous.metrics.pairs import segment_pairs
from atrous.metrics.panoptic_quality import Quality, mean_quality, report
from tests.conftest import SHARED
from tests.reference import panoptic_quality as reference

THINGS = torch.tensor([False, False, True, True])
DIVISOR, VOID = 100, 25_500


def statistic(
    prediction: Tensor, truth: Tensor, things: Tensor, *, divisor: int, ignore: int, crowd_is_void: bool = False
) -> Tensor:
    pairs = segment_pairs(prediction, truth, things, divisor=divisor, ignore=ignore, crowd_is_void=crowd_is_void)
    return panoptic_quality.statistic(pairs)


def count(prediction: list[int], truth: list[int], *, crowd_is_void: bool = False) -> list[list[float]]:
    """Of maps with one row: a list by class of [IoU, true positives, false positives, false negatives]."""
    predicted, true = (torch.tensor([row]) for row in (prediction, truth))
    total = statistic(predicted, true, THINGS, divisor=DIVISOR, ignore=255, crowd_is_void=crowd_is_void)
    rows: list[list[float]] = total.tolist()
    return rows


NONE = [0.0, 0.0, 0.0, 0.0]


def test_equal_maps_are_perfect() -> None:
    row = [0, 0, 100, 201, 202, 202, 301]
    assert count(row, row) == [[1, 1, 0, 0], [1, 1, 0, 0], [2, 2, 0, 0], [1, 1, 0, 0]]


def test_a_match_needs_more_than_half() -> None:
    assert count([201, 201, 0, 0], [201, 0, 0, 0])[2] == [0, 0, 1, 1]  # 1 of 2: exactly half is no match
    assert count([201, 201, 201, 0], [201, 201, 0, 0])[2] == [2 / 3, 1, 0, 0]


def test_numbers_of_things_need_not_be_equal_but_classes_must() -> None:
    assert count([207, 207], [201, 201])[2] == [1, 1, 0, 0]
    assert count([301, 301], [201, 201])[2:] == [[0, 0, 0, 1], [0, 0, 1, 0]]


def test_void_is_left_out() -> None:
    assert count([201, 201, 201], [201, VOID, VOID])[2] == [1, 1, 0, 0]  # not in the union
    assert count([201, 201, 201], [0, VOID, VOID])[2] == NONE  # mostly in void: no false positive
    assert count([201, 201], [0, VOID])[2] == [0, 0, 1, 0]  # half is not most
    assert count([VOID, VOID], [201, 201])[2] == [0, 0, 0, 1]  # a predicted void is a miss


def test_a_crowd_is_neither_missed_nor_matched() -> None:
    assert count([0, 0, 0], [200, 200, 0])[2] == NONE
    assert count([201, 201, 0], [200, 200, 0])[2] == NONE  # within the crowd of its own class
    assert count([301, 301, 0], [200, 200, 0])[3] == [0, 0, 1, 0]  # of another class
    assert count([301, 301, 0], [200, 200, 0], crowd_is_void=True)[3] == NONE


def test_an_empty_image_counts_nothing() -> None:
    assert count([], []) == [NONE] * 4


def test_an_ignored_class_among_the_others_is_void() -> None:
    total = statistic(torch.tensor([[0, 0, 101]]), torch.tensor([[101, 0, 0]]), THINGS[:2], divisor=100, ignore=0)
    assert total.tolist() == [NONE, [0, 0, 0, 1]]  # predicted 101 lies in void


def test_maps_of_different_size_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        statistic(torch.zeros(2, 3), torch.zeros(3, 2), THINGS, divisor=10, ignore=255)


def blocks(seed: int, size: int) -> Tensor:
    """A random map of square segments of class 0 to 3 or void."""
    generator = np.random.default_rng(seed)
    classes, numbers = generator.integers(0, 5, (6, 6)), generator.integers(0, 3, (6, 6))
    ids = np.where(classes == 4, VOID, classes * DIVISOR + np.where(classes >= 2, numbers, 0))
    return torch.from_numpy(np.kron(ids, np.ones((size, size), np.int64)))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.sampled_from([255, 0, 2]), st.floats(0, 1))
def test_equals_the_definition(seed: int, size: int, ignore: int, share: float) -> None:
    truth, other = blocks(seed, size), blocks(seed + 1, size)
    is_truth = torch.from_numpy(np.random.default_rng(seed).random(tuple(truth.shape)) < share)
    prediction = torch.where(is_truth, truth, other)
    own = statistic(prediction, truth, THINGS, divisor=DIVISOR, ignore=ignore)
    expected = reference.statistic(prediction.numpy(), truth.numpy(), THINGS.tolist(), divisor=DIVISOR, ignore=ignore)
    assert torch.allclose(own, torch.from_numpy(expected), rtol=1e-12)


def test_means_are_over_the_classes_that_occur() -> None:
    total = torch.tensor([[1.5, 2, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0], [0.8, 1, 1, 1]], dtype=torch.float64)
    by_class, occurs = report(total)
    assert occurs.tolist() == [True, True, False, True]
    assert by_class[0].tolist() == [0.75, 0.75, 1.0]
    assert by_class[1].tolist() == [0.0, 0.0, 0.0]
    assert by_class[3].tolist() == [0.4, 0.8, 0.5]
    assert mean_quality(total, [True] * 4) == pytest.approx(Quality((0.75 + 0 + 0.4) / 3, 1.55 / 3, 0.5, 3))
    assert mean_quality(total, THINGS) == pytest.approx(Quality(0.4, 0.8, 0.5, 1))
    assert mean_quality(total * 0, THINGS) == Quality(0, 0, 0, 0)


@pytest.mark.skipif(not SHARED.exists(), reason="needs the original's test images beside the project")
def test_equals_the_figures_of_the_originals_own_test() -> None:
    """TensorFlow DeepLab's evaluation of a photo of a team: person 1, ball 2, background ignored."""
    folder = SHARED / "data" / "deeplab2_testdata" / "evaluation"

    def numbers(name: str) -> Tensor:
        return torch.from_numpy(np.array(Image.open(folder / name).convert("L"))).long()

    true_number = numbers("team_gt_instance.png")
    true_class = torch.where(true_number == 198, 2, (true_number > 0).long())
    red, _, blue = np.moveaxis(np.array(Image.open(folder / "team_pred_class.png").convert("RGB")), -1, 0)
    predicted_class = torch.from_numpy(np.where(blue == 255, 1, np.where(red == 255, 2, 0)))
    prediction = predicted_class * 256 + numbers("team_pred_instance.png")
    things = torch.tensor([False, True, True])
    total = statistic(prediction, true_class * 256 + true_number, things, divisor=256, ignore=0)
    assert total[:, 1:].tolist() == [[0, 0, 0], [7, 0, 1], [1, 0, 0]]
    assert mean_quality(total, things) == pytest.approx(Quality(0.62156287, 0.64664987, 0.96666667, 2), abs=1e-7)
