"""Stored predictions in COCO's panoptic format: scored without images, and every fault of a file named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from atrous import cli, data, scoring, verbs
from atrous.config import load
from atrous.data.label_space import LabelSpace
from atrous.errors import ConfigError, DataError
from atrous.report import Evaluation
from atrous.tasks.contract import Labels
from atrous.tasks.panoptic import PANOPTIC
from atrous.tasks.segments import true_panoptic
from tests.runs import QUIET

Tree = dict[str, Any]
CATEGORIES = [
    {"id": 7, "name": "car", "isthing": 1},
    {"id": 90, "name": "sky", "isthing": 0},
    {"id": 3, "name": "person", "isthing": 1},
]
CAR, SKY, PERSON = 7, 90, 3


def draw(path: Path, ids: list[list[int]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.array(ids)[..., None] >> (0, 8, 16) & 255
    Image.fromarray(values.astype(np.uint8)).save(path)


def entry(image: object, *segments: tuple[int, int], **others: object) -> Tree:
    rows = [{"id": number, "category_id": category, **others} for number, category in segments]
    return {"image_id": image, "file_name": f"{image}.png", "segments_info": rows}


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    """Two images: a car of six pixels under the sky, and two persons."""
    folder = tmp_path / "truth"
    draw(folder / "1.png", [[5, 5, 5, 5], [9, 9, 9, 0], [9, 9, 9, 0]])
    draw(folder / "2.png", [[70_000, 70_000, 300, 300]])
    trees = [entry(1, (5, SKY), (9, CAR)), entry(2, (70_000, PERSON), (300, PERSON))]
    images = [{"id": 1, "file_name": "street.jpg"}, {"id": 2, "file_name": "people.jpg"}]
    path = tmp_path / "truth.json"
    path.write_text(json.dumps({"annotations": trees, "categories": CATEGORIES, "images": images}))
    return path


@pytest.fixture
def predictions(tmp_path: Path) -> Path:
    """The car is a column short, a person's two pixels are a person and sky, all with other ids."""
    folder = tmp_path / "predictions"
    draw(folder / "1.png", [[1, 1, 1, 1], [2, 2, 1, 1], [2, 2, 1, 1]])
    draw(folder / "2.png", [[1, 3, 2, 2]])
    trees = [entry(1, (1, SKY), (2, CAR)), entry(2, (1, PERSON), (2, PERSON), (3, SKY))]
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps({"annotations": trees}))
    return path


def change(path: Path, work: Callable[[Tree], object]) -> None:
    tree = json.loads(path.read_text())
    work(tree)
    path.write_text(json.dumps(tree))


def run(predictions: Path, truth: Path, *metrics: str) -> Evaluation:
    return scoring.run(predictions, scoring.read_truth(truth), metrics=metrics or None, console=QUIET)


def test_figures_by_hand(predictions: Path, truth: Path) -> None:
    """Void isn't counted: the sky is 4 pixels of the 6 that are predicted outside void."""
    figures = run(predictions, truth).figures
    rows = figures.table.rows
    assert rows["car"][:6] == pytest.approx((4 / 6, 4 / 6, 1, 1, 0, 0))
    assert rows["sky"][:6] == pytest.approx((4 / 6 / 1.5, 4 / 6, 2 / 3, 1, 1, 0))
    assert rows["person"][:6] == (0.5, 1, 0.5, 1, 1, 1)
    assert figures.scores["pq_things"] == pytest.approx((4 / 6 + 0.5) / 2)
    assert figures.scores["merged_miou"] == pytest.approx((4 / 6 + 4 / 7 + 3 / 4) / 3)
    assert np.isnan(figures.scores["ap"])
    assert figures.to_tree()["scores"]["ap"] is None


def test_scores_give_average_precision(predictions: Path, truth: Path) -> None:
    def score(tree: Tree) -> None:
        for index, segment in enumerate(tree["annotations"][1]["segments_info"]):
            segment["score"] = 0.9 - index / 10

    change(predictions, score)
    figures = run(predictions, truth).figures
    assert figures.table.rows["person"][figures.table.columns.index("AP50")] == pytest.approx(1)
    assert figures.scores["ap50"] == pytest.approx(1)


FAULTS: dict[str, tuple[Callable[[Tree, Path], object], str]] = {
    "no prediction": (lambda tree, folder: tree["annotations"].pop(), "no prediction in .*predictions.json"),
    "no png": (lambda tree, folder: (folder / "2.png").unlink(), "2.png: No such file"),
    "damaged png": (lambda tree, folder: (folder / "2.png").write_bytes(b"\x89PNG"), "cannot read label .*2.png"),
    "another size": (lambda tree, folder: draw(folder / "2.png", [[1, 3, 2]]), r"it is 1 x 3 .* the truth is 1 x 4"),
    "id without a row": (
        lambda tree, folder: tree["annotations"][1]["segments_info"].pop(),
        "that the JSON lacks: 3",
    ),
    "row without an id": (
        lambda tree, folder: tree["annotations"][1]["segments_info"].append({"id": 8, "category_id": CAR}),
        "that the PNG lacks: 8",
    ),
    "unknown category": (
        lambda tree, folder: tree["annotations"][1]["segments_info"][0].update(category_id=4),
        "no category has the id 4",
    ),
    "no list": (lambda tree, folder: tree["annotations"][1].update(segments_info=None), "must be a list"),
    "a score in words": (
        lambda tree, folder: tree["annotations"][1]["segments_info"][0].update(score="high"),
        "segment .: score must be a number, got 'high'",
    ),
    "a score without end": (
        lambda tree, folder: tree["annotations"][1]["segments_info"][0].update(score=10**290),
        "segment .: score must be a number, got 1000000000000000000000000000000000000000\\.\\.\\.$",
    ),
    "an infinite score": (
        lambda tree, folder: tree["annotations"][1]["segments_info"][0].update(score=float("inf")),
        "segment .: score must be a number, got inf",
    ),
    "one channel": (
        lambda tree, folder: Image.new("L", (4, 1)).save(folder / "2.png"),
        "one channel, but RGB is expected",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_image_without_a_usable_prediction_is_named_and_missed(fault: str, predictions: Path, truth: Path) -> None:
    work, reason = FAULTS[fault]
    change(predictions, lambda tree: work(tree, predictions.with_suffix("")))
    evaluation = run(predictions, truth)
    (line,) = evaluation.skipped
    assert line.startswith("image 2: ")
    with pytest.raises(DataError, match=reason):
        raise DataError(line)
    assert evaluation.figures.table.rows["person"][3:6] == (0, 0, 2)
    assert evaluation.figures.table.rows["car"][3:6] == (1, 0, 0)
    assert "(1 without a usable prediction" in evaluation.protocol["images"]


REFUSED: dict[str, tuple[str, Callable[[Tree], object], str]] = {
    "the same image twice": (
        "predictions",
        lambda tree: tree["annotations"].append({**tree["annotations"][0], "file_name": "x.png"}),
        r"predictions.json: annotations with the same image_id \(1\): 1",
    ),
    "no annotations": ("predictions", lambda tree: tree.clear(), "'annotations' must be a list"),
    "no categories": ("truth", lambda tree: tree.pop("categories"), "truth.json has no categories"),
    "nothing to measure": ("truth", lambda tree: tree.update(annotations=[], images=[]), "annotates no image"),
    "areas of the truth": (
        "truth",
        lambda tree: tree["annotations"][0]["segments_info"][1].update(area=7),
        r"9 \(6 in the PNG, 7 in the JSON\)",
    ),
    "a thing in words": (
        "truth",
        lambda tree: tree["categories"][0].update(isthing="0"),
        "truth.json: category .*: isthing must be 0 or 1, got '0'",
    ),
    "a category name twice": (
        "truth",
        lambda tree: tree["categories"][0].update(name="sky"),
        "truth.json: categories: class names must differ, but sky is repeated",
    ),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_cannot_be_measured_is_refused(fault: str, predictions: Path, truth: Path) -> None:
    which, work, reason = REFUSED[fault]
    change({"predictions": predictions, "truth": truth}[which], work)
    with pytest.raises(DataError, match=reason):
        run(predictions, truth)


def test_predictions_of_other_images_are_left_out_and_named(
    predictions: Path, truth: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = run(predictions, truth).figures.scores["pq"]
    change(predictions, lambda tree: tree["annotations"].append(entry("other")))
    evaluation = scoring.run(predictions, scoring.read_truth(truth), console=Console(width=200, soft_wrap=True))
    assert evaluation.figures.scores["pq"] == expected
    assert evaluation.skipped == []
    assert "predictions for images that the truth lacks (1), left out: other" in capsys.readouterr().out


def test_categories_that_are_called_otherwise_are_named(
    predictions: Path, truth: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    categories = json.loads(truth.read_text())["categories"]
    change(predictions, lambda tree: tree.update(categories=categories))
    console = Console(width=300, soft_wrap=True)
    scoring.run(predictions, scoring.read_truth(truth), console=console)
    assert "names differ" not in capsys.readouterr().out
    first, second = categories[:2]
    swapped = [{**first, "name": second["name"]}, {**second, "name": first["name"]}, *categories[2:]]
    change(predictions, lambda tree: tree.update(categories=swapped))
    scoring.run(predictions, scoring.read_truth(truth), console=console)
    assert (
        f"their names differ: {first['id']} is {first['name']} in the truth, but {second['name']} in the predictions, "
        f"{second['id']} is {second['name']} in the truth, but {first['name']} in the predictions"
    ) in capsys.readouterr().out


@pytest.mark.parametrize("score", [None, float("nan")])
def test_a_segment_may_be_without_a_score(score: float | None, predictions: Path, truth: Path) -> None:
    change(predictions, lambda tree: tree["annotations"][1]["segments_info"][0].update(score=score))
    assert run(predictions, truth).skipped == []


def test_the_last_crowd_of_a_class_excuses_as_in_the_original(tmp_path: Path) -> None:
    draw(tmp_path / "truth" / "1.png", [[1, 1, 1, 2, 2, 2]])
    draw(tmp_path / "guess" / "1.png", [[5, 5, 5, 6, 6, 6]])
    truth, guess = tmp_path / "truth.json", tmp_path / "guess.json"
    crowds = entry(1, (1, CAR), (2, CAR), iscrowd=1)
    truth.write_text(json.dumps({"annotations": [crowds], "categories": CATEGORIES[:1]}))
    guess.write_text(json.dumps({"annotations": [entry(1, (5, CAR), (6, CAR))]}))
    figures = run(guess, truth, "all").figures
    assert figures.table.rows["car"][3:6] == (0, 1, 0)
    assert figures.scores["merged_miou"] == figures.scores["boundary_iou"] == 1


def test_void_alone_has_no_figures_but_a_dash(tmp_path: Path) -> None:
    draw(tmp_path / "truth" / "1.png", [[0, 0]])
    path = tmp_path / "truth.json"
    path.write_text(json.dumps({"annotations": [entry(1)], "categories": CATEGORIES}))
    figures = run(path, path, "all").figures
    assert {name for name, value in figures.scores.items() if not np.isnan(value)} == {"pq", "sq", "rq"}
    assert figures.scores["pq"] == 0
    assert figures.describe("pc") == "PC –"  # noqa: RUF001
    assert all(row[0] is None for row in figures.table.rows.values())


def test_a_folder_that_predict_wrote_is_read_by_the_names_of_images_and_classes(tmp_path: Path, truth: Path) -> None:
    space = LabelSpace(names=("sky", "person", "car"), things=(1, 2), panoptic_divisor=10)
    maps = {
        "street": [[0, 0, 0, 0], [21, 21, 21, 2550], [21, 21, 21, 2550]],
        "people": [[11, 11, 12, 12]],
    }
    scores = {"street": [[21, 0.5]], "people": [[11, 0.5], [12, 0.4]]}
    for name, panoptic in maps.items():
        labels = Labels(panoptic=torch.tensor(panoptic), scores=torch.tensor(scores[name]))
        for folder, result in PANOPTIC.results.items():
            target = tmp_path / "predicted" / folder / f"{name}{result.suffix}"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(result.encode(labels, space))
    evaluation = run(tmp_path / "predicted", truth)
    assert evaluation.skipped == []
    assert {evaluation.figures.scores[name] for name in ("pq", "pc", "merged_miou")} == {1.0}
    assert evaluation.figures.scores["ap"] == pytest.approx(1)


@pytest.mark.parametrize("is_folder", [True, False])
def test_predictions_are_compared_with_a_dataset(is_folder: bool, tmp_path: Path) -> None:
    """The true maps of synthetic scenes as predictions of its images, but for one of them."""
    settings = {"data.format": "synthetic", "data.num_val": 3}
    config = load("folder/deeplab_v3plus", ["data.format=synthetic", "data.num_val=3"])
    space, samples = data.label_space(config.data), data.samples(config.data, "val")
    entries = []
    for sample in (samples[0], samples[1]):
        labels = Labels(panoptic=true_panoptic(sample, space))
        for folder, result in PANOPTIC.results.items():
            target = tmp_path / "predicted" / folder / f"{sample.name}{result.suffix}"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(result.encode(labels, space))
        rows = json.loads(target.read_text())["segments_info"]
        entries.append({"image_id": f"id {sample.name}", "file_name": f"{sample.name}.png", "segments_info": rows})
    (tmp_path / "predicted" / "panoptic.json").write_text(json.dumps({"annotations": entries}))
    path = tmp_path / "predicted" if is_folder else tmp_path / "predicted" / "panoptic.json"
    evaluation = verbs.evaluate(path, console=QUIET, **settings)  # type: ignore[arg-type]
    assert evaluation.skipped == [f"image {samples[2].name}: no prediction in {evaluation.skipped[0].split(' in ')[1]}"]
    assert evaluation.figures.scores["sq"] == 1
    assert 0.5 < evaluation.figures.scores["pq"] < 1
    assert sum(int(row[4] or 0) for row in evaluation.figures.table.rows.values()) == 0
    assert evaluation.protocol["data"] == f"{path.name} against synthetic, split val"


def test_a_missing_prediction_is_told_by_the_exit_code(
    predictions: Path, truth: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", str(predictions), "--truth", str(truth)]
    assert cli.run(words) == 0
    change(predictions, lambda tree: tree["annotations"].pop())
    assert cli.run(words) == 1
    printed = capsys.readouterr().out
    assert f"image 2: no prediction in {predictions}" in printed
    assert "PQ of things 0.3333" in printed


def test_the_verb_tells_predictions_from_a_model(predictions: Path, truth: Path, tmp_path: Path) -> None:
    evaluation = verbs.evaluate(predictions, truth=truth, json=tmp_path / "scores.json", console=QUIET)
    assert json.loads((tmp_path / "scores.json").read_text()) == json.loads(json.dumps(evaluation.to_tree()))
    assert evaluation.protocol["data"] == "predictions.json against truth.json"
    model = tmp_path / "model.safetensors"
    model.write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    cases: tuple[tuple[tuple[Path, Path | None, dict[str, Any]], str], ...] = (
        ((predictions, None, {}), "holds predictions; name what they are compared with: --truth"),
        ((model, truth, {}), "--truth is what predictions .* are compared with"),
        (
            (predictions, truth, {"evaluate.flip": True}),
            "flip=true: predictions are compared with --truth, or with data",
        ),
        ((tmp_path / "none.json", truth, {}), "no such file of predictions"),
    )
    for words, reason in cases:
        path, other, settings = words
        with pytest.raises(ConfigError, match=reason):
            verbs.evaluate(path, truth=other, console=QUIET, **settings)
    with pytest.raises(ConfigError, match="--report shows images"):
        verbs.evaluate(predictions, truth=truth, report=tmp_path / "a.html", console=QUIET)
    with pytest.raises(ConfigError, match=r"no metric miou; there are pq, pc, ap, .* and all"):
        verbs.evaluate(predictions, truth=truth, metrics="miou", console=QUIET)
