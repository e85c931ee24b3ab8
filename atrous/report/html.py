"""The content of a report, and its page: one file that loads nothing else, with all text escaped."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from atrous.report import balance
from atrous.report.balance import Split
from atrous.report.charts import curves
from atrous.report.downloads import Download
from atrous.report.pictures import Gallery, Picture
from atrous.report.tables import (
    MAX_HEAT_MAP,
    NUM_CONFUSIONS,
    headings,
    heat_map,
    largest_confusions,
    names_of,
    rows,
)
from atrous.report.text import capitalized, count, fraction, known, percent
from atrous.report.verdict import Finding
from atrous.tasks.contract import Figures
from atrous.terminal import printable
from atrous.types import Color

SPLITS = {"train": "training", "val": "validation"}  # as the page calls them


class Report(NamedTuple):
    """Plain values. Those that are empty get no section on the page."""

    title: str
    subtitle: str
    figures: Figures
    colors: Mapping[str, Color]  # of the rows of the figures' table
    num_images: int
    meaning: str = ""  # of the headline
    findings: Sequence[Finding] = ()
    trained: Mapping[str, str] = {}  # what was trained, line by line
    command: str = ""
    history: Sequence[Mapping[str, Any]] = ()  # rows of metrics.jsonl
    samples: Sequence[Picture] = ()  # of the training, augmented
    splits: Mapping[str, Split] = {}  # class balance
    gallery: Gallery = Gallery([], 0)
    compared: Sequence[str] = ()  # captions of the two panels that are laid over each other
    bare: Sequence[str] = ()  # classes that pictures leave uncoloured
    legend: Mapping[str, Color] = {}  # colours in the gallery that stand for no class
    downloads: Sequence[Download] = ()
    config_yaml: str = ""
    protocol: Mapping[str, str] = {}
    environment: Mapping[str, str] = {}


def page(report: Report) -> str:
    """The HTML of a report; the same report gives the same text, byte for byte."""
    figures, confusion = report.figures, report.figures.confusion
    names = names_of(figures, report.colors, report.bare)
    headline = figures.titles[figures.headline]
    is_large = len(names) > MAX_HEAT_MAP
    limit = 2 * NUM_CONFUSIONS if is_large else NUM_CONFUSIONS
    content = {
        "report": report,
        "scores": scores(report),
        "headline": headline,
        "unit": figures.unit,
        "curves": [
            (one.title, one.note, Markup(one.svg)) for one in curves(report.history, figures.headline, headline)
        ],
        "names": names,
        "headings": headings(figures),
        "rows": rows(figures, names),
        "has_confusion": confusion is not None,
        "cells": heat_map(confusion) if confusion is not None and not is_large else [],
        "confusions": largest_confusions(confusion, names, limit) if confusion is not None else [],
        "splits": {SPLITS.get(name, name): split for name, split in report.splits.items()},
        "balance": balance.lines(list(report.splits.values()), names),
        "cards": [(one, class_scores(one, list(figures.table.rows))) for one in report.gallery.pictures],
        "panels": panel_names(report.gallery.pictures),
    }
    return environment().get_template("report.html").render(content)


@cache
def environment() -> Environment:
    """Which compiles each template once."""
    result = Environment(
        loader=PackageLoader("atrous", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=shown,
    )
    result.filters |= {"fraction": fraction, "percent": percent, "count": count}
    return result


def shown(value: Any) -> Any:  # noqa: ANN401 - any value of a template
    """Text with what can't be seen as escapes; line breaks stay, for the configuration."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return printable(value)


def scores(report: Report) -> list[tuple[str, str]]:
    """Titles and values of the headline row: the scores, then the number of images."""
    titles = [(report.figures.titles[name], fraction(value)) for name, value in report.figures.scores.items()]
    return [*((capitalized(title), value) for title, value in titles), ("Images", count(report.num_images))]


def panel_names(pictures: Sequence[Picture]) -> list[str]:
    """Of the panels by place; a caption such as `Truth: cat` says after the colon what differs between images."""
    return [view.caption.partition(":")[0] for view in pictures[0].views] if pictures else []


def class_scores(picture: Picture, names: Sequence[str]) -> str:
    """`3:0.512 7:0`: the classes in a picture by number, for the page's filter."""
    numbers = {name: number for number, name in enumerate(names)}
    pairs = [(numbers[name], known(score)) for name, score in picture.classes.items() if name in numbers]
    return " ".join(f"{number}:{score:.3g}" for number, score in pairs if score is not None)
