"""Cityscapes' average precision of things drawn by hand. Its program's own figures: test_reference_programs.py."""

import math

import pytest
import torch

from atrous.metrics.cityscapes_precision import Precision, report, statistic
from atrous.metrics.pairs import segment_pairs

THINGS = torch.tensor([False, True, True])


def of(prediction: list[tuple[int, int]], truth: list[tuple[int, int]], scores: dict[int, float]) -> Precision:
    """Of rows of pixels: (number, how many of them)."""
    predicted, true = (
        torch.tensor([[number for number, count in runs for _ in range(count)]]) for runs in (prediction, truth)
    )
    pairs = segment_pairs(predicted, true, THINGS, divisor=100, ignore=255)
    certain = torch.tensor([*scores.items()], dtype=torch.float64).reshape(-1, 2)
    return report(statistic(pairs, certain), (1, 2))


def test_equal_maps_are_perfect_and_absent_classes_left_out() -> None:
    figures = of([(101, 200), (0, 9)], [(101, 200), (0, 9)], {101: 0.5})
    assert figures[:2] == (1, 1)
    assert figures.by_class[0].tolist() == [1, 1]
    assert math.isnan(figures.by_class[1, 0])


def test_an_iou_must_be_above_its_threshold() -> None:
    """150 of 200 pixels: right at 0.5, 0.55, 0.6, 0.65 and 0.7; 0.75 isn't above itself."""
    assert of([(101, 150), (0, 50)], [(101, 200)], {101: 1.0}).ap == pytest.approx(0.5)


def test_void_crowds_and_small_things_excuse_a_prediction() -> None:
    right, truth, scores = (101, 200), (101, 200), {101: 0.1, 102: 0.9}
    for other, expected in (((25_500, 60), 1), ((100, 60), 1), ((103, 60), 1), ((0, 60), 0.25), ((203, 60), 0.25)):
        assert of([right, (102, 60)], [truth, other], scores).ap50 == pytest.approx(expected), other


def test_a_small_thing_is_not_missed_and_a_large_one_is() -> None:
    assert of([(101, 200), (0, 99)], [(101, 200), (102, 99)], {101: 0.5}).ap50 == 1
    assert of([(101, 200), (0, 100)], [(101, 200), (102, 100)], {101: 0.5}).ap50 == 0.5


def test_nothing_predicted_and_nothing_true() -> None:
    assert of([(0, 200)], [(101, 200)], {}).ap == 0
    assert math.isnan(of([(101, 200)], [(0, 200)], {101: 0.5}).ap)
    assert math.isnan(report([], (1, 2)).ap)
    assert math.isnan(report([], ()).ap)
    assert of([(101, 200), (0, 200)], [(100, 200), (101, 200)], {101: 0.5}).ap == 0  # one missed, one excused
