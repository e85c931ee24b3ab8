"""What an evaluation finds, as plain values for JSON and as a table for the terminal."""

from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from atrous.report.pictures import ImageScore
from atrous.tasks.contract import Figures
from atrous.terminal import printable


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
    table = Table("class")
    for column in figures.table.columns:
        table.add_column(column, justify="right")
    for name, row in figures.table.rows.items():
        table.add_row(printable(name, console.encoding), *map(_cell, row))
    table.add_section()
    table.add_row("all", *map(_cell, figures.table.totals))
    console.print(table)
    console.print("   ".join(figures.describe(name) for name in figures.scores))
    lines = [f"{name}: {value}" for name, value in evaluation.protocol.items() if name != "data"]
    console.print("; ".join(lines))


def _cell(value: float | int | None) -> str:
    if value is None:
        return "absent"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
