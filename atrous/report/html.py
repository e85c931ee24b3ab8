"""What a report holds, and its page: pictures inside it, numbers as people read them, all foreign text escaped."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import PIL.Image
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from atrous import visualize
from atrous.types import Image

MAX_WIDTH = 640  # pixels of an embedded picture
QUALITY = 88
MAX_HEAT_MAP = 32  # classes; a larger confusion matrix is told by its largest entries
NUM_CONFUSIONS = 20
UNKNOWN = "–"  # noqa: RUF001 - a dash as wide as a digit


class Picture(NamedTuple):
    """One validation image with what was made of it, all [H, W, 3] uint8."""

    name: str
    score: float  # mIoU of this image alone
    image: Image
    overlay_prediction: Image
    overlay_truth: Image
    errors: Image  # of `visualize.error_map`


class ClassScore(NamedTuple):
    name: str
    color: tuple[int, int, int]
    iou: float | None  # None or NaN: the class is in neither truth nor prediction
    accuracy: float | None  # share of the class's pixels that were found
    pixels: int  # in the truth


class Report(NamedTuple):
    """Plain values; what is empty (history, best, worst, config_yaml) has no section on the page."""

    title: str
    subtitle: str
    scores: dict[str, Any]  # miou, pixel_accuracy, mean_accuracy: fractions; images: count; absent: names of classes
    classes: list[ClassScore]
    confusion: NDArray[np.integer[Any]]  # [C, C] pixels, rows are the truth
    history: list[dict[str, Any]]  # rows of metrics.jsonl: step with loss and learning_rate, or step with miou
    best: list[Picture]
    worst: list[Picture]
    config_yaml: str
    protocol: dict[str, str]
    environment: dict[str, str]


class Figure(Protocol):
    """A chart with its caption."""

    @property
    def title(self) -> str: ...
    @property
    def note(self) -> str: ...
    @property
    def svg(self) -> str: ...


class ClassRow(NamedTuple):
    score: ClassScore  # None where a number isn't known
    share: float  # of all counted pixels of the truth
    bar: Markup


class Cell(NamedTuple):
    pixels: int
    share: float | None  # of its row; None: the truth never holds the class
    strength: float  # 0..1, of its colour


class Confusion(NamedTuple):
    truth: ClassScore
    prediction: ClassScore
    share: float  # of the pixels of the true class
    pixels: int


class Panel(NamedTuple):
    caption: str
    alt: str
    uri: str
    size: tuple[int, int]  # (width, height)


def page(report: Report, figures: Sequence[Figure], bars: Sequence[str]) -> str:
    """The HTML of a report; `figures` are its curves, `bars` one SVG for each class."""
    num_classes = len(report.classes)
    assert report.confusion.shape == (num_classes, num_classes), (report.confusion.shape, num_classes)
    return (
        _environment()
        .get_template("report.html")
        .render(
            report=report,
            scores=report.scores,
            figures=[(figure.title, figure.note, Markup(figure.svg)) for figure in figures],
            classes=class_rows(report.classes, bars),
            cells=heat_map(report.confusion) if num_classes <= MAX_HEAT_MAP else [],
            confusions=largest_confusions(report) if num_classes > MAX_HEAT_MAP else [],
            galleries=[(title, gallery(some)) for title, some in _galleries(report).items() if some],
            states=[("right", visualize.RIGHT), ("wrong", visualize.WRONG), ("ignored", visualize.IGNORED)],
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
    """Two digits that count: 85%, 8.5%, and <0.1% for what is more than nothing."""
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


def class_rows(classes: Sequence[ClassScore], bars: Sequence[str]) -> list[ClassRow]:
    """Best IoU first, absent classes last."""
    total = max(1, sum(row.pixels for row in classes))
    rows = [
        ClassRow(
            score._replace(iou=_known(score.iou), accuracy=_known(score.accuracy)), score.pixels / total, Markup(bar)
        )
        for score, bar in zip(classes, bars, strict=True)
    ]
    return sorted(rows, key=lambda row: (row.score.iou is None, -(row.score.iou or 0.0)))


def heat_map(confusion: NDArray[np.integer[Any]]) -> list[list[Cell]]:
    """Each row in shares of its pixels; the square root in `strength` lets an error of 2% be seen beside one of 90%."""
    totals = confusion.sum(1)
    return [
        [_cell(int(pixels), int(total), row == column) for column, pixels in enumerate(line)]
        for row, (line, total) in enumerate(zip(confusion, totals, strict=True))
    ]


def _cell(pixels: int, total: int, right: bool) -> Cell:
    if total == 0:
        return Cell(0, None, 0.0)
    share = pixels / total
    return Cell(pixels, share, round(share if right else math.sqrt(share), 3))


def largest_confusions(report: Report) -> list[Confusion]:
    """The entries beside the diagonal that cost most pixels, largest first."""
    wrong = report.confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:NUM_CONFUSIONS]
    pairs = [(int(index) // len(wrong), int(index) % len(wrong)) for index in order]
    return [_confusion(report, truth, prediction) for truth, prediction in pairs if wrong[truth, prediction] > 0]


def _confusion(report: Report, truth: int, prediction: int) -> Confusion:
    pixels = int(report.confusion[truth, prediction])
    share = pixels / int(report.confusion[truth].sum())
    return Confusion(report.classes[truth], report.classes[prediction], share, pixels)


def _galleries(report: Report) -> Mapping[str, list[Picture]]:
    return {"Worst": report.worst, "Best": report.best}


def gallery(pictures: Sequence[Picture]) -> list[tuple[Picture, list[Panel]]]:
    return [(picture, panels(picture)) for picture in pictures]


def panels(picture: Picture) -> list[Panel]:
    """The four views of one image, ready to be embedded."""
    views = [
        ("Image", "the image", picture.image),
        ("Prediction", "the predicted classes over the image", picture.overlay_prediction),
        ("Truth", "the true classes over the image", picture.overlay_truth),
        ("Errors", "right, wrong and ignored pixels", picture.errors),
    ]
    shrunk = [(caption, said, shrink(image)) for caption, said, image in views]
    return [Panel(caption, f"{picture.name}: {said}", jpeg(image), image.size) for caption, said, image in shrunk]


def shrink(image: Image) -> PIL.Image.Image:
    """The image, at most MAX_WIDTH pixels wide."""
    picture = PIL.Image.fromarray(image)
    if picture.width <= MAX_WIDTH:
        return picture
    height = max(1, round(picture.height * MAX_WIDTH / picture.width))
    return picture.resize((MAX_WIDTH, height), PIL.Image.Resampling.LANCZOS)


def jpeg(picture: PIL.Image.Image) -> str:
    """A data URI."""
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
