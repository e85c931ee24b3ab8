"""The report of a run or of an evaluation: one HTML file that needs no network and no other file."""

from pathlib import Path

from atrous.files import write_atomically
from atrous.report.charts import bar, curves
from atrous.report.html import ClassScore, Picture, Report, page

__all__ = ["ClassScore", "Picture", "Report", "render", "write"]


def render(report: Report) -> str:
    """The whole page; the same report gives the same text, byte for byte."""
    bars = [bar(row.iou, row.color) for row in report.classes]
    return page(report, curves(report.history), bars)


def write(path: Path, report: Report) -> None:
    """Raises OSError with the path."""
    write_atomically(path, render(report))
