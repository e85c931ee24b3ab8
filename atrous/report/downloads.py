"""The figures of a report as files: links whose address is the content."""

import base64
import csv
import io
import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from atrous.report.evaluation import Evaluation
from atrous.report.pictures import ImageScore, worst_first
from atrous.report.text import known
from atrous.report.training import Training
from atrous.tasks.contract import Figures

MAX_CELLS = 200_000  # of the table of images; beyond it, the classes of each image are left out


class Download(NamedTuple):
    file: str
    text: str  # of the link
    uri: str


def links(evaluation: Evaluation, training: Training, title: str) -> list[Download]:
    figures, images = evaluation.figures, worst_first(evaluation.images)
    tree = json.dumps(all_figures(evaluation, training, title), indent=1)
    return [
        Download("figures.json", "All figures (JSON)", uri("application/json", tree)),
        Download("classes.csv", "Classes (CSV)", uri("text/csv", csv_of(class_lines(figures)))),
        Download("images.csv", "Images (CSV)", uri("text/csv", csv_of(image_lines(figures, images)))),
    ]


def uri(kind: str, text: str) -> str:
    content = text.encode(errors="backslashreplace")
    return f"data:{kind};charset=utf-8;base64,{base64.b64encode(content).decode()}"


def all_figures(evaluation: Evaluation, training: Training, title: str) -> dict[str, Any]:
    """What `--json` has, each image, and what is known of the training. NaN is null: JSON has no such number."""
    return {
        "title": title,
        **finite(evaluation.to_tree()),
        "per_image": [
            {"name": image.name, "score": known(image.score), "classes": finite(dict(image.classes))}
            for image in worst_first(evaluation.images)
        ],
        "training": finite(training.facts._asdict()) if training.facts else None,
        "validations": [finite(dict(row)) for row in training.history if "scores" in row],
    }


def finite(tree: Any) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(tree, dict):
        return {name: finite(value) for name, value in tree.items()}
    if isinstance(tree, list):
        return [finite(value) for value in tree]
    return known(tree) if isinstance(tree, float) else tree


def csv_of(lines: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(lines)
    return text.getvalue()


def class_lines(figures: Figures) -> list[Sequence[object]]:
    """An unknown value is an empty cell."""
    return [("class", *figures.table.columns), *((name, *map(_cell, row)) for name, row in figures.table.rows.items())]


def image_lines(figures: Figures, images: Sequence[ImageScore]) -> list[Sequence[object]]:
    """Worst first, with a column for each class unless that would be too large."""
    rows = figures.table.rows
    names = list(rows) if len(rows) * len(images) <= MAX_CELLS else []
    lines = ((image.name, _cell(image.score), *(_cell(image.classes.get(name)) for name in names)) for image in images)
    return [("image", figures.headline, *names), *lines]


def _cell(value: float | int | None) -> object:
    return "" if value is None or known(value) is None else value
