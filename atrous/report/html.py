"""The content of a report, and its page: pictures embedded, numbers as people read them, all text escaped."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from atrous.report.charts import Curve
from atrous.report.pictures import Gallery, views
from atrous.tasks.contract import Figures
from atrous.types import Color

MAX_HEAT_MAP = 32  # classes; with more, the page lists the largest entries of the confusion matrix
NUM_CONFUSIONS = 20
UNKNOWN = "–"  # noqa: RUF001 - a dash as wide as a digit
NEUTRAL: Color = (128, 128, 128)


class Report(NamedTuple):
    """Plain values. Those that are empty (history, galleries, config_yaml) get no section on the page."""

    title: str
    subtitle: str
    figures: Figures
    colors: Mapping[str, Color]  # of the rows of the figures' table
    num_images: int
    history: list[dict[str, Any]]  # rows of metrics.jsonl: step with loss and learning_rate, or step with scores
    galleries: list[Gallery]
    legend: Mapping[str, Color]  # colours in the galleries that stand for no class
    config_yaml: str
    protocol: dict[str, str]
    environment: dict[str, str]

    def color(self, name: str) -> Color:
        return self.colors.get(name, NEUTRAL)


class Name(NamedTuple):
    """A class as the page writes it."""

    name: str
    color: Color


class Entry(NamedTuple):
    """A cell of the table of figures."""

    value: float | None  # to sort by
    text: str
    bar: Markup | None = None
    is_optional: bool = False  # hidden where the page is narrow


class Row(NamedTuple):
    name: Name
    entries: list[Entry]


class Heading(NamedTuple):
    text: str
    hint: str = ""
    is_optional: bool = False


class Cell(NamedTuple):
    number: int
    share: float | None  # of its row; None: the class is not in the truth
    strength: float  # 0..1, of its colour


class Confusion(NamedTuple):
    truth: Name
    prediction: Name
    share: float  # of the true class
    number: int


def page(report: Report, curves: Sequence[Curve], bars: Mapping[str, str]) -> str:
    """The HTML of a report; `bars` has one SVG for each row of the table."""
    names = [Name(name, report.color(name)) for name in report.figures.table.rows]
    confusion = report.figures.confusion
    is_large = len(names) > MAX_HEAT_MAP
    return (
        _environment()
        .get_template("report.html")
        .render(
            report=report,
            scores=scores(report),
            headline=report.figures.titles[report.figures.headline],
            curves=[(curve.title, curve.note, Markup(curve.svg)) for curve in curves],
            names=names,
            headings=headings(report.figures),
            rows=rows(report, bars),
            confusion=confusion is not None,
            cells=heat_map(confusion) if confusion is not None and not is_large else [],
            confusions=largest_confusions(confusion, names) if confusion is not None and is_large else [],
            galleries=[
                (gallery.title, [(picture, views(picture)) for picture in gallery.pictures])
                for gallery in report.galleries
            ],
        )
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("atrous", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"fraction": fraction, "percent": percent, "count": count}
    return environment


def fraction(value: float | None) -> str:
    """A score as papers print it: 0.853."""
    return UNKNOWN if _known(value) is None else f"{value:.3f}"


def percent(value: float | None) -> str:
    """Two significant digits: 85%, 8.5%, and <0.1% for anything smaller except 0."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    scaled = 100 * value
    if 0 < scaled < 0.1:
        return "<0.1%"
    return f"{scaled:.0f}%" if scaled >= 9.95 or scaled == 0 else f"{scaled:.1f}%"


def count(value: float | None) -> str:
    return UNKNOWN if _known(value) is None else f"{value:,.0f}"


def _known(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def scores(report: Report) -> list[tuple[str, str]]:
    """Titles and values of the headline row: the scores, then the number of images."""
    titles = [(report.figures.titles[name], fraction(value)) for name, value in report.figures.scores.items()]
    return [
        *((title[:1].upper() + title[1:] if " " in title else title, value) for title, value in titles),
        ("Images", count(report.num_images)),
    ]


def headings(figures: Figures) -> list[Heading]:
    """One for each column, and a share next to each column of counts."""
    result: list[Heading] = []
    for index, column in enumerate(figures.table.columns):
        if _is_count(figures, index):
            result.append(Heading("Share", f"of all {column}"))
        result.append(Heading(column[:1].upper() + column[1:], is_optional=_is_count(figures, index)))
    return result


def rows(report: Report, bars: Mapping[str, str]) -> list[Row]:
    """Best first by the first column, rows without a value there last."""
    figures = report.figures
    sums = [sum(row[index] or 0 for row in figures.table.rows.values()) for index in range(len(figures.table.columns))]
    unsorted = [
        Row(Name(name, report.color(name)), _entries(figures, row, sums, Markup(bars[name])))
        for name, row in figures.table.rows.items()
    ]
    return sorted(unsorted, key=lambda row: (row.entries[0].value is None, -(row.entries[0].value or 0.0)))


def _entries(figures: Figures, row: Sequence[float | int | None], sums: Sequence[float], bar: Markup) -> list[Entry]:
    entries: list[Entry] = []
    for index, value in enumerate(row):
        known = _known(value)
        if _is_count(figures, index):
            share = (value or 0) / max(1, sums[index])
            entries += [Entry(share, percent(share)), Entry(known, count(known), is_optional=True)]
        else:
            text = "absent" if index == 0 and known is None else fraction(known)
            entries.append(Entry(known, text, bar if index == 0 and known is not None else None))
    return entries


def _is_count(figures: Figures, column: int) -> bool:
    return all(isinstance(row[column], int) for row in figures.table.rows.values())


def heat_map(confusion: NDArray[Any]) -> list[list[Cell]]:
    """Each row as shares of its sum. The square root in `strength` makes an error of 2% visible next to one of 90%."""
    totals = confusion.sum(1)
    return [
        [_cell(int(count), int(total), row == column) for column, count in enumerate(line)]
        for row, (line, total) in enumerate(zip(confusion, totals, strict=True))
    ]


def _cell(count: int, total: int, is_right: bool) -> Cell:
    if total == 0:
        return Cell(0, None, 0.0)
    share = count / total
    return Cell(count, share, round(share if is_right else math.sqrt(share), 3))


def largest_confusions(confusion: NDArray[Any], names: Sequence[Name]) -> list[Confusion]:
    """The largest entries off the diagonal, largest first."""
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:NUM_CONFUSIONS]
    pairs = [(int(index) // len(wrong), int(index) % len(wrong)) for index in order]
    return [
        Confusion(
            names[truth], names[other], int(wrong[truth, other]) / int(confusion[truth].sum()), int(wrong[truth, other])
        )
        for truth, other in pairs
        if wrong[truth, other] > 0
    ]
