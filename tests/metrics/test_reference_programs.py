"""The figures of the originals' own programs for stored maps: tests/goldens/panoptic_metrics.json says which."""

import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor

from atrous import scoring
from atrous.metrics import average_precision, boundary_iou, cityscapes_precision, panoptic_quality
from atrous.metrics.average_precision import Ranking
from atrous.metrics.pairs import Pairs, segment_pairs
from atrous.ops import boundary_width
from tests.conftest import SHARED
from tests.reference.panoptic_maps import DIVISOR, NUM_CLASSES, SIZE, THINGS, Scene, moved_samples, scene

GOLDEN = json.loads((Path(__file__).parents[1] / "goldens" / "panoptic_metrics.json").read_text())
SCENES = [scene(seed) for seed in GOLDEN["scenes"]]
WIDTH = boundary_width(SIZE)
IS_THING = torch.tensor([index in THINGS for index in range(NUM_CLASSES)])
SAMPLES = SHARED / "data" / "coco_panoptic_samples" / "panoptic_examples.json"


def pairs(one: Scene, width: int | None) -> Pairs:
    prediction, truth = torch.from_numpy(one.prediction), torch.from_numpy(one.truth)
    return segment_pairs(prediction, truth, IS_THING, divisor=DIVISOR, ignore=255, boundary_width=width)


def ranking(one: Scene, width: int | None, name: str) -> Ranking:
    scores = torch.tensor([*one.scores.items()], dtype=torch.float64).reshape(-1, 2)
    return average_precision.statistic(pairs(one, width), scores, name)


def total(width: int | None) -> Tensor:
    return torch.stack([panoptic_quality.statistic(pairs(one, width)) for one in SCENES]).sum(0)


def test_the_scenes_have_what_is_hard() -> None:
    """Matches and misses, crowds and void, equal scores: else equal figures would prove little."""
    counts = torch.tensor(GOLDEN["panoptic_quality"])[:, 1:]
    assert (counts > 4).all()
    assert all(0.05 < value < 0.5 for value in GOLDEN["average_precision"]["by_class"])
    assert any((one.truth % DIVISOR == 0).any() and (one.truth // DIVISOR == 255).any() for one in SCENES)
    assert any(len(set(one.scores.values())) < len(one.scores) for one in SCENES)


@pytest.mark.parametrize(("name", "width"), [("panoptic_quality", None), ("boundary_quality", WIDTH)])
def test_panoptic_quality(name: str, width: int | None) -> None:
    assert total(width)[:, 1:].tolist() == [row[1:] for row in GOLDEN[name]]
    assert total(width)[:, 0].tolist() == pytest.approx([row[0] for row in GOLDEN[name]], abs=1e-12)


@pytest.mark.parametrize(("name", "width"), [("average_precision", None), ("boundary_precision", WIDTH)])
def test_average_precision(name: str, width: int | None) -> None:
    rankings = [ranking(one, width, f"{index:03}") for index, one in enumerate(SCENES)]
    figures = average_precision.report(rankings, THINGS)
    assert [figures.ap, figures.ap50, figures.ap75] == pytest.approx(GOLDEN[name]["mean"], abs=1e-12)
    assert figures.by_class[:, 0].tolist() == pytest.approx(GOLDEN[name]["by_class"], abs=1e-12)
    assert average_precision.report(rankings[::-1], THINGS)[:3] == figures[:3]


def test_cityscapes_precision() -> None:
    parts = []
    for one in SCENES:
        scores = torch.tensor([*one.scores.items()], dtype=torch.float64).reshape(-1, 2)
        parts += cityscapes_precision.statistic(pairs(one, None), scores)
    figures = cityscapes_precision.report(parts, THINGS)
    for row, expected in zip(figures.by_class.tolist(), GOLDEN["cityscapes_precision"], strict=True):
        assert row == pytest.approx(expected, abs=1e-12)
    means = [sum(column) / len(THINGS) for column in zip(*GOLDEN["cityscapes_precision"], strict=True)]
    assert figures[:2] == pytest.approx(means)
    assert cityscapes_precision.report(parts[::-1], THINGS)[:2] == figures[:2]


def test_boundary_iou() -> None:
    counts = torch.zeros(NUM_CLASSES, 2, dtype=torch.int64)
    for one in SCENES:
        prediction, truth = (torch.from_numpy(ids // DIVISOR) for ids in (one.prediction, one.truth))
        counts += boundary_iou.statistic(prediction, truth, NUM_CLASSES, width=WIDTH)
    assert [[shared, either] for shared, either in counts.tolist()] == GOLDEN["boundary_iou"]


@pytest.mark.skipif(not SAMPLES.exists(), reason="needs COCO's sample files beside the project")
def test_stored_predictions_for_cocos_samples(tmp_path: Path) -> None:
    """With the crowds of a real file, numbers in the millions, and segments that the move pushed out of the image."""
    moved_samples(SAMPLES, tmp_path / "predictions.json")
    evaluation = scoring.run(
        tmp_path / "predictions.json",
        scoring.read_truth(SAMPLES),
        metrics=["pq", "boundary_pq"],
        workers=2,
        console=Console(quiet=True),
    )
    expected = GOLDEN["coco_samples"]
    assert {name: evaluation.figures.scores[name] for name in expected} == pytest.approx(expected, abs=1e-12)
