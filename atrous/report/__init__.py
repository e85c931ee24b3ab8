"""What people see of an evaluation: a table, JSON, and one HTML file that needs no network and no other file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from atrous import config as configs
from atrous.files import write_atomically
from atrous.report.charts import bar, curves
from atrous.report.evaluation import Evaluation, print_evaluation
from atrous.report.html import Report, page
from atrous.report.pictures import Gallery, ImageScore, Picture, galleries
from atrous.segmenter import Segmenter
from atrous.types import Sample

__all__ = ["Evaluation", "Gallery", "ImageScore", "Picture", "Report", "print_evaluation", "render", "write_page"]


def write_page(
    path: Path,
    model: Segmenter,
    samples: Sequence[Sample],
    evaluation: Evaluation,
    *,
    title: str,
    history: Sequence[dict[str, Any]] = (),
) -> None:
    """The HTML page of an evaluation, with its best and worst images."""
    header, space = model.header, model.label_space
    colors = zip(space.names, space.palette().tolist(), strict=False)  # a palette has 256
    content = Report(
        title=title,
        subtitle=f"{header.model.name}, {header.model.backbone.name}",
        figures=evaluation.figures,
        colors={name: (red, green, blue) for name, (red, green, blue) in colors},
        num_images=len(evaluation.images),
        history=list(history),
        galleries=galleries(model, samples, evaluation.images),
        legend=model.task.legend,
        config_yaml=configs.to_yaml(header.training or header.model),
        protocol=evaluation.protocol,
        environment=evaluation.environment,
    )
    write_atomically(path, render(content))


def render(report: Report) -> str:
    """The whole page; the same report gives the same text, byte for byte."""
    table, headline = report.figures.table, report.figures.headline
    bars = {name: bar(row[0], report.color(name)) for name, row in table.rows.items()}
    return page(report, curves(report.history, headline, report.figures.titles[headline]), bars)
