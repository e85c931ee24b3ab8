"""Average precision of things drawn by hand. The original's own figures: test_reference_programs.py."""

import math

import numpy as np
import pytest
import torch

from atrous.metrics.average_precision import MOST, Precision, Ranking, report, statistic
from atrous.metrics.pairs import segment_pairs

THINGS = torch.tensor([False, True, True])


def ranking(prediction: list[int], truth: list[int], scores: dict[int, float], name: str = "a") -> Ranking:
    pairs = segment_pairs(torch.tensor([prediction]), torch.tensor([truth]), THINGS, divisor=100, ignore=255)
    return statistic(pairs, torch.tensor([*scores.items()], dtype=torch.float64).reshape(-1, 2), name)


def of(*rankings: Ranking) -> Precision:
    return report(rankings, (1, 2))


def test_equal_maps_are_perfect_and_absent_classes_left_out() -> None:
    figures = of(ranking([101, 102, 0], [101, 102, 0], {101: 0.9, 102: 0.8}))
    assert figures[:3] == pytest.approx((1, 1, 1))
    assert figures.by_class[0].tolist() == pytest.approx([1, 1, 1])
    assert np.isnan(figures.by_class[1]).all()


def test_a_false_one_ahead_costs_and_one_behind_does_not() -> None:
    truth = [101, 0, 0]
    assert of(ranking([101, 102, 0], truth, {101: 0.9, 102: 0.1})).ap == pytest.approx(1)
    assert of(ranking([101, 102, 0], truth, {101: 0.1, 102: 0.9})).ap == pytest.approx(0.5)


def test_an_iou_counts_up_to_its_threshold() -> None:
    """3 of 4 pixels: right at 0.5 to 0.75, 6 of 10 thresholds."""
    figures = of(ranking([101, 101, 101, 0], [101, 101, 101, 101], {101: 1.0}))
    assert figures[:3] == pytest.approx((0.6, 1, 1))


def test_a_crowd_is_neither_found_nor_missed_and_excuses_what_lies_in_it() -> None:
    scores = {101: 0.5, 102: 0.9}
    assert of(ranking([101, 102, 102, 0], [103, 100, 100, 0], scores)).ap == pytest.approx(1)
    assert math.isnan(of(ranking([101, 102, 102, 0], [0, 100, 100, 0], scores)).ap)  # a crowd is no true thing
    assert of(ranking([101, 202, 202, 0], [103, 100, 100, 203], {101: 0.5, 202: 0.9})).by_class[1, 0] == 0


def test_void_excuses_nothing() -> None:
    assert of(ranking([101, 102], [101, 25_500], {101: 0.5, 102: 0.9})).ap == pytest.approx(0.5)


def test_what_has_no_score_comes_last() -> None:
    assert of(ranking([101, 102], [101, 0], {101: 0.1})).ap == pytest.approx(1)


def test_only_so_many_of_a_class_in_an_image_count() -> None:
    ids = [101 + index for index in range(MOST + 1)]  # one pixel each, all right; the last of 101 is cut off
    pairs = segment_pairs(torch.tensor([ids]), torch.tensor([ids]), THINGS, divisor=1000, ignore=255)
    assert pairs.num_classes == 3  # class 0: stuff
    many = [1001 + index for index in range(MOST + 1)]
    pairs = segment_pairs(torch.tensor([many]), torch.tensor([many]), THINGS, divisor=1000, ignore=255)
    scores = torch.tensor([[number, 0.5] for number in many], dtype=torch.float64)
    one = statistic(pairs, scores, "a")
    assert (len(one.scores), int(one.truths[1])) == (MOST, MOST + 1)


def test_images_join_in_any_order() -> None:
    parts = [
        ranking([101, 102, 0], [0, 102, 0], {101: 0.5, 102: 0.5}, "b"),
        ranking([101, 102, 0], [101, 0, 0], {101: 0.5, 102: 0.5}, "a"),
        ranking([], [], {}, "c"),
    ]
    assert of(*parts)[:3] == of(*parts[::-1])[:3]
    assert math.isnan(report([], (1, 2)).ap)
    assert math.isnan(report([], ()).ap)
