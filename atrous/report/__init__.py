"""What people see of an evaluation: a table, JSON, and one HTML file that needs no network and no other file."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from atrous import config as configs
from atrous.files import write_atomically
from atrous.models import Model
from atrous.report.balance import measured
from atrous.report.downloads import links
from atrous.report.evaluation import Evaluation, print_evaluation
from atrous.report.html import Report, page
from atrous.report.pictures import (
    Gallery,
    ImageScore,
    Picture,
    gallery,
    image_score,
    painter,
    training_pictures,
)
from atrous.report.training import NO_TRAINING, Training, size, training_of, what_was_trained
from atrous.report.verdict import Case, judge
from atrous.segmenter import Segmenter
from atrous.types import Color, Sample

__all__ = [
    "MAX_BYTES",
    "NUM_SAMPLES",
    "Evaluation",
    "Gallery",
    "ImageScore",
    "Picture",
    "Report",
    "Training",
    "image_score",
    "print_evaluation",
    "render",
    "training_of",
    "write_page",
]

MAX_BYTES = 15_000_000  # of a page, unless the user sets another size
NUM_SAMPLES = 6  # augmented training samples


def write_page(
    path: Path,
    model: Segmenter,
    samples: Sequence[Sample],
    evaluation: Evaluation,
    *,
    title: str,
    training: Training = NO_TRAINING,
    max_bytes: int = MAX_BYTES,
    console: Console | None = None,
) -> None:
    """The HTML page of an evaluation, with every image that fits into `max_bytes`."""
    content = without_gallery(model, evaluation, title, training)
    limit = max_bytes - len(encoded(render(content)))
    paint = painter(model, samples)
    if console is not None and limit > 0:
        console.print(f"drawing the report's pictures of {len(evaluation.images)} images")
    pictures = gallery(evaluation.images, paint, limit)
    write_atomically(path, encoded(render(content._replace(gallery=pictures))))


def without_gallery(model: Segmenter, evaluation: Evaluation, title: str, training: Training) -> Report:
    """Everything but the pictures of the images that were measured."""
    header, space, config = model.header, model.label_space, model.training
    case = Case(
        evaluation.figures, [image.score for image in evaluation.images], len(evaluation.skipped), config, training
    )
    split, subtitle = measured(evaluation.figures), f"{header.model.name}, {header.model.backbone.name}"
    return Report(
        title=title,
        subtitle=subtitle,
        figures=evaluation.figures,
        colors=colors_of(model),
        num_images=len(evaluation.images),
        meaning=model.task.meaning,
        findings=judge(case),
        trained={**what_it_is(model), **(what_was_trained(config, training) if config else {})},
        command=training.facts.command if training.facts else "",
        history=list(training.history),
        samples=training_pictures(model.task, training.samples, model),
        splits=training.splits or ({"val": split} if split else {}),
        compared=model.task.compared,
        bare=[space.names[index] for index in space.background],
        legend=model.task.legend,
        downloads=links(evaluation, training, title),
        config_yaml=configs.to_yaml(config or header.model),
        protocol=evaluation.protocol,
        environment=evaluation.environment,
    )


def what_it_is(model: Segmenter) -> dict[str, str]:
    """The network, and the program that its weights come from; an exported one hides its parameters."""
    header, network = model.header, model.network
    parameters = sum(weight.numel() for weight in network.parameters()) if isinstance(network, Model) else 0
    return {
        "model": f"{header.model.name}, {header.model.backbone.name}",
        **({"parameters": size(parameters)} if parameters else {}),
        **{name: value for name, value in header.origin.items() if isinstance(value, str)},
    }


def colors_of(model: Segmenter) -> dict[str, Color]:
    space = model.label_space
    colors = zip(space.names, space.palette().tolist(), strict=False)  # a palette has 256
    return {name: (red, green, blue) for name, (red, green, blue) in colors}


def render(report: Report) -> str:
    """The whole page."""
    return page(report)


def encoded(text: str) -> bytes:
    return text.encode(errors="backslashreplace")
