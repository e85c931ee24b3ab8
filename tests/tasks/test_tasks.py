"""What holds for every row of TASKS, and the values that tasks hand on: tables, figures, sums."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from atrous.errors import ConfigError
from atrous.models import MODELS
from atrous.tasks import TASKS
from atrous.tasks.contract import UNKNOWN, Figures, Labels, Metric, Table, chosen, joined, summed
from atrous.types import Sample


def test_every_model_has_a_task_and_every_task_a_model() -> None:
    assert {model.task for model in MODELS.values()} == TASKS.keys()


def test_every_task_needs_fields_of_a_sample_and_writes_into_folders_of_its_own() -> None:
    folders = [folder for task in TASKS.values() for folder in task.results]
    assert len(set(folders)) == len(folders)
    for task in TASKS.values():
        assert task.needs
        assert set(task.needs) < set(Sample._fields)
        assert task.metrics
        assert task.loss() == task.loss.model_validate({})
        assert task.decoding() == task.decoding.model_validate({})


def test_labels_move_to_the_cpu_whichever_a_task_has() -> None:
    labels = Labels(semantic=torch.zeros(2, 2), classes=torch.ones(3)).cpu()
    assert (labels.panoptic, labels.probabilities) == (None, None)
    assert labels.semantic is not None and labels.semantic.device.type == "cpu"


CONFUSION = Figures(
    {"miou": 0.5, "accuracy": 0.75},
    {"miou": "mIoU", "accuracy": "pixel accuracy"},
    Table(("IoU", "pixels"), {"sky": (0.5, 12), "road": (None, 0)}, (0.5, 12)),
    np.array([[9, 3], [0, 0]]),
    {"mean over": "1 of 2 classes"},
)
BOUNDARY = Figures(
    {"boundary": 0.25},
    {"boundary": "boundary IoU"},
    Table(("boundary IoU",), {"sky": (0.25,), "car": (0.125,)}, (0.25,)),
    notes={"boundary": "3 pixels wide"},
)


def test_figures_are_described_and_are_plain_values() -> None:
    assert CONFUSION.headline == "miou"
    assert CONFUSION.describe("accuracy") == "pixel accuracy 0.7500"
    tree = CONFUSION.to_tree()
    assert json.loads(json.dumps(tree)) == tree
    assert tree == {
        "scores": {"miou": 0.5, "accuracy": 0.75},
        "classes": {"sky": {"IoU": 0.5, "pixels": 12}, "road": {"IoU": None, "pixels": 0}},
        "confusion": [[9, 3], [0, 0]],
    }
    assert "confusion" not in BOUNDARY.to_tree()
    assert CONFUSION.table.first_column() == {"sky": 0.5, "road": None}


def test_the_figures_of_several_metrics_stand_side_by_side() -> None:
    assert joined([CONFUSION]) is CONFUSION
    both = joined([CONFUSION, BOUNDARY])
    assert list(both.scores.items()) == [("miou", 0.5), ("accuracy", 0.75), ("boundary", 0.25)]
    assert both.headline == "miou"
    assert both.titles == {"miou": "mIoU", "accuracy": "pixel accuracy", "boundary": "boundary IoU"}
    assert both.table == Table(
        ("IoU", "pixels", "boundary IoU"),
        {"sky": (0.5, 12, 0.25), "road": (None, 0, None), "car": (None, None, 0.125)},
        (0.5, 12, 0.25),
    )
    assert both.confusion is CONFUSION.confusion
    assert joined([BOUNDARY, CONFUSION]).confusion is CONFUSION.confusion
    assert joined([BOUNDARY, CONFUSION]).headline == "boundary"
    bare = BOUNDARY._replace(table=BOUNDARY.table._replace(totals=()))
    assert joined([bare, CONFUSION]).table.totals == (None, 0.5, 12)
    assert joined([bare, bare]).table.totals == ()
    assert both.notes == {"mean over": "1 of 2 classes", "boundary": "3 pixels wide"}


def test_statistics_are_summed_metric_by_metric() -> None:
    one: dict[str, Any] = {"a": torch.tensor([1, 2]), "b": 3}
    two: dict[str, Any] = {"a": torch.tensor([10, 20]), "b": 4}
    total = summed([{}, one, two])
    assert total["a"].tolist() == [11, 22]
    assert total["b"] == 7
    assert one["a"].tolist() == [1, 2]
    assert summed([]) == {}


def test_a_task_reports_all_of_its_metrics() -> None:
    task = TASKS["semantic"]._replace(metrics={"confusion": metric(CONFUSION), "boundary": metric(BOUNDARY)})
    sample = Sample("x", np.zeros((1, 1, 3), np.uint8))
    space = None
    assert task.statistics(Labels(), sample, space) == {"confusion": 1, "boundary": 1}  # type: ignore[arg-type]
    assert task.report({"confusion": 2, "boundary": 2}, space).scores == joined([CONFUSION, BOUNDARY]).scores  # type: ignore[arg-type]


def metric(figures: Figures) -> Metric:
    return Metric(lambda labels, sample, space: 1, lambda total, space: figures)


def test_metrics_are_chosen_by_name_in_the_tasks_own_order() -> None:
    one, other, costly = (metric(CONFUSION)._replace(is_costly=is_costly) for is_costly in (False, False, True))
    metrics = {"one": one, "other": other, "costly": costly}
    assert list(chosen(metrics, None)) == ["one", "other"]
    assert list(chosen(metrics, ["costly", "one"])) == ["one", "costly"]
    assert list(chosen(metrics, ["all"])) == ["one", "other", "costly"]
    for names, reason in ((["two"], "no metric two; there are one, other, costly, and all"), ([], "none is named")):
        with pytest.raises(ConfigError, match=reason):
            chosen(metrics, names)


def test_undefined_figures_are_a_dash_and_no_number_in_json() -> None:
    figures = Figures({"a": 0.5, "b": math.nan}, {"a": "A", "b": "B"}, Table(("A",), {"x": (None,)}, (None,)))
    assert [figures.describe(name) for name in "ab"] == ["A 0.5000", f"B {UNKNOWN}"]
    assert figures.to_tree()["scores"] == {"a": 0.5, "b": None}
