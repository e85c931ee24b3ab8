"""The report of a run or of an evaluation: one HTML file that needs no network and no other file."""

from pathlib import Path

from atrous.files import write_atomically
from atrous.report.charts import bar, curves
from atrous.report.html import Report, page
from atrous.report.pictures import Gallery, ImageScore, Picture, galleries

__all__ = ["Gallery", "ImageScore", "Picture", "Report", "galleries", "render", "write"]


def render(report: Report) -> str:
    """The whole page; the same report gives the same text, byte for byte."""
    table, headline = report.figures.table, report.figures.headline
    bars = {name: bar(row[0], report.color(name)) for name, row in table.rows.items()}
    return page(report, curves(report.history, headline, report.figures.titles[headline]), bars)


def write(path: Path, report: Report) -> None:
    """Raises OSError with the path."""
    write_atomically(path, render(report))
