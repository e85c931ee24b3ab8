"""Confusion matrices and their scores against TensorFlow's figures and maps drawn by hand."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atrous.metrics.confusion import Scores, report, statistic
from atrous.ops import confusion_counts
from tests.reference.tensorflow_deeplab import FIGURES


def scores(truth: list[int], prediction: list[int], num_classes: int, ignore: int = 255) -> Scores:
    return report(statistic(torch.tensor(prediction), torch.tensor(truth), num_classes, ignore=ignore))


def test_rows_are_the_truth_and_columns_the_prediction() -> None:
    truth = torch.tensor([[0, 0, 1], [2, 255, 2]])
    prediction = torch.tensor([[0, 1, 1], [0, 2, 2]])
    assert confusion_counts(prediction, truth, 3).tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 1]]


@settings(max_examples=30, deadline=None)
@given(
    pixels=st.lists(st.tuples(st.integers(0, 4), st.sampled_from([0, 1, 2, 3, 4, 255])), max_size=40),
    prediction_type=st.sampled_from([torch.uint8, torch.int16, torch.int32, torch.int64]),
    truth_type=st.sampled_from([torch.uint8, torch.int32, torch.int64]),
)
def test_counts_are_those_of_a_loop(
    pixels: list[tuple[int, int]], prediction_type: torch.dtype, truth_type: torch.dtype
) -> None:
    expected = torch.zeros(5, 5, dtype=torch.int64)
    for predicted, true in pixels:
        if true != 255:
            expected[true, predicted] += 1
    prediction = torch.tensor([predicted for predicted, _ in pixels]).to(prediction_type)
    truth = torch.tensor([true for _, true in pixels]).to(truth_type)
    counts = confusion_counts(prediction, truth, 5)
    assert counts.dtype == torch.int64
    assert counts.equal(expected)


def test_bytes_do_not_wrap_around() -> None:
    truth, prediction = torch.tensor([200, 44], dtype=torch.uint8), torch.tensor([299, 44])
    counts = confusion_counts(prediction, truth, 300, ignore=300)
    assert counts.nonzero().tolist() == [[44, 44], [200, 299]]


def test_a_prediction_on_an_ignored_pixel_may_be_anything() -> None:
    assert not confusion_counts(torch.tensor([77, -1]), torch.tensor([255, 255]), 3).any()


def test_classes_out_of_range_and_unequal_shapes_are_refused() -> None:
    for prediction, truth, message in (
        ([0, 3], [0, 1], "class 3 in the prediction: with 3 classes it must be 0 to 2"),
        ([0, -1], [0, 1], "class -1 in the prediction"),
        ([0, 1], [0, 7], "class 7 in the truth"),
        ([0, 1, 2], [0, 1], "prediction (3,) and truth (2,)"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            confusion_counts(torch.tensor(prediction), torch.tensor(truth), 3)


def test_mean_iou_is_tensorflows() -> None:
    for name, truth, prediction in (
        ("gt01_pr01_n4_absent23", [0, 0, 1, 1, 255], [0, 1, 1, 1, 3]),
        ("pred_only_class", [0, 0, 1, 1], [0, 2, 1, 1]),
        ("all_ignored", [255, 255], [0, 1]),
    ):
        assert scores(truth, prediction, 4).miou == pytest.approx(FIGURES["miou"][name]), name


def test_scores_of_a_small_map() -> None:
    small = scores([0, 0, 0, 0, 1, 1, 255], [0, 0, 0, 1, 1, 3, 0], 4)
    assert small.iou == pytest.approx((3 / 4, 1 / 3, None, 0))
    assert small.accuracy == pytest.approx((3 / 4, 1 / 2, None, None))
    assert small.miou == pytest.approx((3 / 4 + 1 / 3 + 0) / 3)
    assert small.pixel_accuracy == pytest.approx(4 / 6)
    assert small.mean_accuracy == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert small.pixels == (4, 2, 0, 0)


def test_an_ignored_class_that_is_predicted_stays_in_the_mean() -> None:
    with_ignored = scores([0, 1, 1], [1, 1, 0], 2, ignore=0)
    assert with_ignored.iou == (0, 1 / 2)
    assert with_ignored.miou == 1 / 4


def test_without_a_pixel_every_score_is_zero_or_absent() -> None:
    assert report(torch.zeros(2, 2, dtype=torch.int64)) == Scores(0, (None, None), (None, None), 0, 0, (0, 0))


def test_statistics_of_parts_add_up_to_that_of_the_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    truth, prediction = (torch.randint(0, 4, (2, 9, 9), generator=generator) for _ in range(2))
    parts = [statistic(prediction[index], truth[index], 4) for index in range(2)]
    assert (parts[0] + parts[1]).equal(statistic(prediction, truth, 4))
