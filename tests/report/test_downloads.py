"""The figures as files inside the page."""

import base64
import csv
import io
import json
import math
from typing import Any

import numpy as np
import pytest

from atrous.report import Evaluation, ImageScore, downloads
from atrous.report.facts import RunFacts
from atrous.report.training import Training
from atrous.tasks.contract import Figures, Table

NAMES = ('a "quoted", name', "=1+1", "\udce9<script>")
FIGURES = Figures(
    {"miou": math.nan},
    {"miou": "mIoU"},
    Table(("IoU", "pixels"), dict(zip(NAMES, ((0.5, 10), (None, 0), (math.nan, 2)), strict=True))),
    np.eye(3, dtype=int),
)
IMAGES = [
    ImageScore(0, 0.75, "good.png", {NAMES[0]: 0.75}),
    ImageScore(1, 0.25, "bad,\n.png", {NAMES[0]: 0.5, NAMES[1]: 0.0}),
    ImageScore(2, math.nan, "blank.png"),
]
EVALUATION = Evaluation(FIGURES, IMAGES, ["x: unreadable"], {"data": "voc"}, {"torch": "2"})
TRAINING = Training([{"step": 4, "scores": {"miou": 0.5}}, {"step": 4, "loss": 1.0}], RunFacts(1, 2, 3, 4, 5, "cpu"))


def contents() -> dict[str, str]:
    links = downloads.links(EVALUATION, TRAINING, "a title")
    return {link.file: base64.b64decode(link.uri.partition(";base64,")[2]).decode() for link in links}


def test_the_json_has_every_figure() -> None:
    tree: dict[str, Any] = json.loads(contents()["figures.json"], parse_constant=pytest.fail)
    assert tree["title"] == "a title" and tree["scores"] == {"miou": None}
    assert tree["confusion"] == np.eye(3).tolist() and tree["protocol"] == {"data": "voc"}
    assert tree["classes"][NAMES[0]] == {"IoU": 0.5, "pixels": 10}
    assert [image["name"] for image in tree["per_image"]] == ["bad,\n.png", "good.png", "blank.png"]
    assert tree["per_image"][0]["classes"] == {NAMES[0]: 0.5, NAMES[1]: 0.0}
    assert tree["per_image"][2] == {"name": "blank.png", "score": None, "classes": {}}
    assert tree["training"]["train_images"] == 2 and tree["validations"] == [TRAINING.history[0]]


def test_the_tables_can_be_read_back() -> None:
    files = contents()
    classes = list(csv.reader(io.StringIO(files["classes.csv"], newline="")))
    assert classes == [
        ["class", "IoU", "pixels"],
        [NAMES[0], "0.5", "10"],
        ["=1+1", "", "0"],
        ["\\udce9<script>", "", "2"],
    ]
    images = list(csv.reader(io.StringIO(files["images.csv"], newline="")))
    assert images[0][:3] == ["image", "miou", NAMES[0]]
    assert [row[:4] for row in images[1:]] == [
        ["bad,\n.png", "0.25", "0.5", "0.0"],
        ["good.png", "0.75", "0.75", ""],
        ["blank.png", "", "", ""],
    ]


def test_a_table_of_very_many_images_has_no_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "MAX_CELLS", 8)
    assert downloads.image_lines(FIGURES, IMAGES)[:2] == [("image", "miou"), ("good.png", 0.75)]
