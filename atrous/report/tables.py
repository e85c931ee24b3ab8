"""The tables of a report: figures by class, the confusion matrix, the largest confusions."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from atrous.report.charts import bar
from atrous.report.text import count, fraction, known, percent
from atrous.tasks.contract import Figures
from atrous.types import Color

MAX_HEAT_MAP = 32  # classes; with more, the page has no matrix, only the largest confusions
NUM_CONFUSIONS = 10
SMALLEST = 1e-3  # of a class of mean size: rarer confusions say nothing
NEUTRAL: Color = (128, 128, 128)


class Name(NamedTuple):
    """A class as the page writes it."""

    name: str
    color: Color
    is_bare: bool = False  # not coloured in pictures


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


def names_of(figures: Figures, colors: Mapping[str, Color], bare: Sequence[str]) -> list[Name]:
    return [Name(name, colors.get(name, NEUTRAL), name in bare) for name in figures.table.rows]


def headings(figures: Figures) -> list[Heading]:
    """One for each column, and the share of all that is labelled."""
    result: list[Heading] = []
    for index, column in enumerate(figures.table.columns):
        if column == figures.unit:
            result.append(Heading("Share", f"of all {column}"))
        result.append(Heading(column[:1].upper() + column[1:], is_optional=is_count(figures, index)))
    return result


def rows(figures: Figures, names: Sequence[Name]) -> list[Row]:
    """Worst first by the first column, rows without a value there last."""
    values = figures.table.rows.values()
    sums = [sum(row[index] or 0 for row in values) for index in range(len(figures.table.columns))]
    unsorted = [Row(name, _entries(figures, row, sums, name.color)) for name, row in zip(names, values, strict=True)]
    return sorted(unsorted, key=lambda row: (row.entries[0].value is None, row.entries[0].value or 0.0))


def _entries(figures: Figures, row: Sequence[float | int | None], sums: Sequence[float], color: Color) -> list[Entry]:
    entries: list[Entry] = []
    for index, cell in enumerate(row):
        value = known(cell)
        if figures.table.columns[index] == figures.unit:
            share = (cell or 0) / max(1, sums[index])
            entries.append(Entry(share, percent(share)))
        if is_count(figures, index):
            entries.append(Entry(value, count(value), is_optional=True))
        else:
            text = "absent" if index == 0 and value is None else fraction(value)
            svg = Markup(bar(value, color)) if index == 0 and value is not None else None
            entries.append(Entry(value, text, svg))
    return entries


def is_count(figures: Figures, column: int) -> bool:
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


def largest_confusions(confusion: NDArray[Any], names: Sequence[Name], limit: int = NUM_CONFUSIONS) -> list[Confusion]:
    """The entries off the diagonal that are the largest shares of their true classes, largest first."""
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    wrong[wrong < SMALLEST * confusion.sum() / len(confusion)] = 0
    shares = wrong / np.maximum(confusion.sum(1, keepdims=True), 1)
    order = np.lexsort((-wrong.ravel(), -shares.ravel()))[:limit]
    pairs = [(int(index) // len(wrong), int(index) % len(wrong)) for index in order]
    return [
        Confusion(names[truth], names[other], float(shares[truth, other]), int(wrong[truth, other]))
        for truth, other in pairs
        if wrong[truth, other] > 0
    ]
