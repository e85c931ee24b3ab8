"""What an evaluation finds, as plain values for JSON and as a table for the terminal."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table as RichTable

from atrous.report.pictures import ImageScore
from atrous.tasks.contract import UNKNOWN, Figures
from atrous.terminal import UNBOUNDED, printable


class Evaluation(NamedTuple):
    figures: Figures
    images: list[ImageScore]
    skipped: list[str]  # a line for each image that could not be read
    protocol: dict[str, str]
    environment: dict[str, str]

    def to_tree(self) -> dict[str, Any]:
        """Everything as plain values: what `--json` writes and a model file stores."""
        return {
            **self.figures.to_tree(),
            "images": len(self.images),
            "skipped": self.skipped,
            "protocol": self.protocol,
            "environment": self.environment,
        }


def print_evaluation(evaluation: Evaluation, console: Console) -> None:
    figures = evaluation.figures
    title = f"{evaluation.protocol['data']}, {len(evaluation.images)} images"
    console.print(f"\n{title}")
    for table in tables(figures, console):
        console.print(table)
    console.print("   ".join(figures.describe(name) for name in figures.scores))
    lines = [f"{name}: {value}" for name, value in evaluation.protocol.items() if name != "data"]
    console.print("; ".join(lines))


def tables(figures: Figures, console: Console) -> Iterator[RichTable]:
    """The table of the figures, below one another in parts that are as wide as the console."""
    left = range(len(figures.table.columns))
    while left:
        number = len(left)
        while (
            number > 1
            and _table(figures, left[:number], console)
            .__rich_measure__(console, console.options.update(width=UNBOUNDED))
            .maximum
            > console.width
        ):
            number -= 1
        yield _table(figures, left[:number], console)
        left = left[number:]


def _table(figures: Figures, columns: Sequence[int], console: Console) -> RichTable:
    """Some of the columns."""
    table = RichTable("class")
    for column in columns:
        table.add_column(figures.table.columns[column], justify="right")
    for name, row in figures.table.rows.items():
        table.add_row(printable(name, console.encoding), *(_cell(row[column], column) for column in columns))
    if figures.table.totals:
        table.add_section()
        table.add_row("all", *(_cell(figures.table.totals[column], column) for column in columns))
    return table


def _cell(value: float | int | None, column: int) -> str:
    """A class without a figure in the first column isn't there."""
    if value is None:
        return "absent" if column == 0 else UNKNOWN
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
