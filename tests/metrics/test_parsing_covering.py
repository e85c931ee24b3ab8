"""Parsing covering: its definition, maps drawn by hand, and the original's own figures."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from atrous.metrics import parsing_covering
from atrous.metrics.pairs import segment_pairs
from tests.conftest import SHARED
from tests.reference.panoptic_maps import DIVISOR, NUM_CLASSES, THINGS, scene

CLASSES = torch.tensor([False, False, True])


def statistic(prediction: list[int], truth: list[int]) -> list[list[float]]:
    predicted, true = (torch.tensor([row]) for row in (prediction, truth))
    pairs = segment_pairs(predicted, true, CLASSES, divisor=100, ignore=255, crowd_is_void=True)
    rows: list[list[float]] = parsing_covering.statistic(pairs).tolist()
    return rows


def test_each_true_segment_has_its_best_prediction() -> None:
    """4 pixels of a thing, covered by 3 and 1: the best IoU is 3 / 4. Another class covers nothing."""
    assert statistic([201, 201, 201, 202, 0], [205, 205, 205, 205, 100]) == [[0, 0], [0, 1], [3, 4]]
    assert statistic([201, 201, 201], [201, 202, 202]) == [[0, 0], [0, 0], [1 / 3 + 2 * 2 / 3, 3]]  # one for both


def test_void_and_crowds_are_dropped_on_both_sides() -> None:
    assert statistic([201, 201, 201, 201], [201, 25_500, 200, 200]) == [[0, 0], [0, 0], [1, 1]]
    assert statistic([25_500, 25_500], [201, 201]) == [[0, 0], [0, 0], [0, 2]]


def test_the_mean_is_over_the_classes_in_the_truth() -> None:
    report = parsing_covering.report(torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, 2.0]]))
    assert report == parsing_covering.Covering(0.375, (0.75, None, 0.0))
    assert math.isnan(parsing_covering.report(torch.zeros(3, 2)).mean)
    assert statistic([], []) == [[0, 0]] * 3


@settings(max_examples=20)
@given(st.integers(1, 2**32))
def test_equals_the_definition(seed: int) -> None:
    one = scene(seed)
    is_thing = torch.tensor([index in THINGS for index in range(NUM_CLASSES)])
    pairs = segment_pairs(
        torch.from_numpy(one.prediction), torch.from_numpy(one.truth), is_thing, divisor=DIVISOR, ignore=255,
        crowd_is_void=True,
    )  # fmt: skip
    expected = np.zeros((NUM_CLASSES, 2))
    classes = one.truth // DIVISOR
    is_counted = (classes < NUM_CLASSES) & ~(np.isin(classes, THINGS) & (one.truth % DIVISOR == 0))
    for number in np.unique(one.truth[is_counted]):
        own = one.truth == number
        ious = [0.0]
        for other in np.unique(one.prediction):
            theirs = (one.prediction == other) & is_counted
            if other // DIVISOR == number // DIVISOR:
                ious.append((own & theirs).sum() / (own | theirs).sum())
        expected[number // DIVISOR] += (own.sum() * max(ious), own.sum())
    own_rows = parsing_covering.statistic(pairs, by=10)
    torch.testing.assert_close(own_rows, torch.from_numpy(expected / 10), rtol=1e-12, atol=1e-12)


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
    pairs = segment_pairs(
        predicted_class * 256 + numbers("team_pred_instance.png"),
        true_class * 256 + true_number,
        torch.tensor([False, True, True]),
        divisor=256,
        ignore=0,
        crowd_is_void=True,
    )
    total = parsing_covering.statistic(pairs)
    assert total[:, 1].tolist() == [0, 56870, 5800]
    assert parsing_covering.report(total).mean == pytest.approx(0.6208296732, abs=1e-9)
    assert parsing_covering.report(total).by_class[1:] == pytest.approx((0.70097, 0.54069), abs=5e-6)
