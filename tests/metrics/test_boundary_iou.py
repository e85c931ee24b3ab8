"""Boundary IoU on maps drawn by hand. The reference program's own figures: test_reference_programs.py."""

import math

import pytest
import torch

from atrous.metrics.boundary_iou import report, statistic


def test_the_inside_of_a_class_does_not_count() -> None:
    truth = torch.zeros(7, 7, dtype=torch.uint8)
    truth[1:6, 1:6] = 1
    prediction = truth.clone()
    prediction[3, 3] = 0
    shared, either = statistic(prediction, truth, 2, width=1)[1].tolist()
    assert (shared, either) == (16, 24)  # the ring of the square, and that around the hole, which the truth lacks


def test_the_rim_of_the_image_is_a_boundary() -> None:
    truth = torch.zeros(5, 6, dtype=torch.int32)
    assert statistic(truth, truth, 2, width=1).tolist() == [[18, 18], [0, 0]]
    assert statistic(truth, truth, 2, width=9).tolist() == [[30, 30], [0, 0]]


def test_where_the_truth_is_ignored_nothing_counts() -> None:
    truth = torch.tensor([[0, 0, 255, 255]], dtype=torch.uint8)
    assert statistic(torch.zeros_like(truth), truth, 2, width=1).tolist() == [[2, 2], [0, 0]]
    assert statistic(truth, truth, 2, width=1, ignore=300).tolist() == [[2, 2], [0, 0]]  # 255 is no class either


def test_absent_classes_are_left_out() -> None:
    scores = report(torch.tensor([[1, 2], [0, 0], [0, 3]]))
    assert scores.by_class == (0.5, None, 0.0)
    assert scores.mean == 0.25
    assert math.isnan(report(torch.zeros(2, 2)).mean)
    assert statistic(torch.empty(0, 0), torch.empty(0, 0), 2, width=1).tolist() == [[0, 0], [0, 0]]


def test_maps_of_different_size_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        statistic(torch.zeros(2, 3), torch.zeros(3, 2), 2, width=1)
