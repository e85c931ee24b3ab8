"""The HTML page of `atrous check`: each finding with pictures of the first few images that it is about."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL.Image
from PIL import ImageDraw

from atrous.check.checkup import Checkup, Finding, summary
from atrous.check.evidence import Evidence, Item, Severity
from atrous.check.facts import Content, content
from atrous.check.regions import Box
from atrous.check.sources import AllSplits
from atrous.data.naming import class_of_value
from atrous.data.pixels import Codes
from atrous.files import write_atomically
from atrous.report.html import environment
from atrous.report.pictures import View, view
from atrous.report.text import plural
from atrous.types import Image, Size
from atrous.visualize import colorize, overlay

WIDTH = 420  # pixels of a picture
NUM_PICTURES = 6  # of a finding
NUM_LINES = 12  # of a finding, beside the pictures
CLOSE = 4  # times a region's own size that its enlargement shows
SMALLEST = 24  # pixels of an enlargement's content
SMALL = 0.2  # the share of the picture's side up to which a region is enlarged
LEAST_MARK = 12  # pixels of a marked region on the picture
UNKNOWN = (255, 0, 200)  # the colour of codes that are no class
MARKS = (*[(0, 0, 0)] * 2, *[(255, 235, 59)] * 4, *[(0, 0, 0)] * 2)  # colours of a frame, from outside
WORDS: Mapping[Severity, str] = {"error": "fault", "warning": "warning", "note": "note"}  # of the style sheet


class Card(NamedTuple):
    name: str
    text: str
    views: Sequence[View]


class Section(NamedTuple):
    finding: Finding
    weight: str
    number: str
    cards: Sequence[Card]
    lines: Sequence[str]
    num_more: int


def write(path: Path, checkup: Checkup, evidence: Evidence, samples: AllSplits) -> None:
    sections = [_section(finding, evidence, samples) for finding in checkup.findings]
    text = (
        environment()
        .get_template("check.html")
        .render(
            {
                "title": f"Check of {Path(str(checkup.data.get('root', checkup.data['format']))).name}",
                "subtitle": f"data.format={checkup.data['format']}, {checkup.data.get('root', '')}",
                "summary": summary(checkup),
                "scores": _scores(checkup),
                "sections": sections,
                "classes": _classes(checkup),
                "splits": list(checkup.surveys),
            }
        )
    )
    write_atomically(path, text.encode(errors="backslashreplace"))


def _scores(checkup: Checkup) -> list[tuple[str, int]]:
    counts = [
        (word, checkup.number(severity))
        for word, severity in (("Errors", "error"), ("Warnings", "warning"), ("Notes", "note"))
    ]
    return [*counts, ("Images", sum(checkup.images.values()))]


class ClassRow(NamedTuple):
    name: str
    color: Sequence[int]
    shares: Sequence[float]  # of the labelled pixels, by split
    images: Sequence[int]
    weight: float


def _classes(checkup: Checkup) -> list[ClassRow]:
    surveys, palette = list(checkup.surveys.values()), checkup.space.palette().tolist()
    totals = [max(1, sum(one.pixels)) for one in surveys]
    weights = checkup.weights()
    return [
        ClassRow(
            name,
            palette[index],
            [one.pixels[index] / total for one, total in zip(surveys, totals, strict=True)],
            [one.images[index] for one in surveys],
            weights[index],
        )
        for index, name in enumerate(checkup.space.names)
    ]


def _section(finding: Finding, evidence: Evidence, samples: AllSplits) -> Section:
    shown = [item for item in finding.items if item.image is not None][:NUM_PICTURES]
    cards = [card for item in shown if (card := _card(item, evidence, samples)).views]
    pictured = {card.name for card in cards}
    rest = [item for item in finding.items if _name(item) not in pictured or item.image is None]
    lines = [_line(item) for item in rest]
    number = plural(len(finding.items), "case")
    return Section(finding, WORDS[finding.severity], number, cards, lines[:NUM_LINES], max(0, len(lines) - NUM_LINES))


def _name(item: Item) -> str:
    return "/".join(filter(None, (item.split, item.name)))


def _line(item: Item) -> str:
    name = _name(item)
    return f"{name}: {item.text}" if name and name not in item.text else item.text


# ---- pictures


def _card(item: Item, evidence: Evidence, samples: AllSplits) -> Card:
    assert item.image is not None
    if item.other is None:
        return Card(_name(item), item.text, _views(item.image, item.box, evidence, samples))
    reads = {number: content(*samples.place(number)) for number in (item.image, item.other)}
    views = [
        view(f"{evidence.split_of[number]}/{read.name}", grown(read.pixels), WIDTH)
        for number, read in reads.items()
        if read.pixels is not None
    ]
    return Card(_name(item), item.text, views)


def _views(number: int, box: Box | None, evidence: Evidence, samples: AllSplits) -> list[View]:
    read = content(*samples.place(number))
    labels = painted(read, evidence, number)
    views = [] if read.pixels is None else [view("Image", grown(read.pixels), WIDTH)]
    if labels is not None:
        views.append(view("Label", marked(labels, box), WIDTH))
    if labels is not None and box is not None and _is_small(box, labels.shape[:2]):
        views.append(view("Enlarged", enlarged(labels, box), WIDTH))
    return views


def painted(read: Content, evidence: Evidence, number: int) -> Image | None:
    """The label in the colours of the classes, over its image if its values are right; unknown values stand out."""
    if read.codes is None:
        return None
    space, verdict = evidence.space, evidence.verdicts[number]
    if read.codes.is_colored and verdict.kinds:
        return as_colors(read.codes)
    classes = class_of_value(space) if verdict.kinds or verdict.classes is None else verdict.classes
    labels, is_known = np.full(read.codes.values.shape, space.ignore, np.int64), np.zeros(read.codes.values.shape, bool)
    for code, label in classes.items():
        here = read.codes.values == code
        labels[here], is_known[here] = label, True
    if not verdict.kinds and read.pixels is not None and read.pixels.shape[:2] == labels.shape:
        return overlay(read.pixels, labels.astype(np.uint8), space.palette()[:256], ignore=space.ignore)
    picture = colorize(labels.astype(np.uint8), space.palette()[:256])
    picture[~is_known] = UNKNOWN
    return picture


def as_colors(codes: Codes) -> Image:
    values = codes.values.astype(np.int64)
    return np.stack([values & 255, values >> 8 & 255, values >> 16 & 255], -1).astype(np.uint8)


def grown(image: Image) -> Image:
    """A small image with each pixel as a square, so that browsers don't blur it."""
    factor = max(1, WIDTH // max(image.shape[:2]))
    return image if factor == 1 else image.repeat(factor, axis=0).repeat(factor, axis=1)


def marked(image: Image, box: Box | None) -> Image:
    """The image, no wider than a picture of the page, with a frame around the box."""
    picture = PIL.Image.fromarray(grown(image))
    factor = min(1.0, WIDTH / picture.width, WIDTH / picture.height)
    size = max(1, round(factor * picture.width)), max(1, round(factor * picture.height))
    picture = picture.resize(size, PIL.Image.Resampling.BOX)
    if box is not None:
        factor = picture.width / image.shape[1]
        left, top, right, bottom = (factor * side for side in (box.left, box.top, box.right, box.bottom))
        margin = max(0.0, (LEAST_MARK - (right - left)) / 2, (LEAST_MARK - (bottom - top)) / 2) + len(MARKS)
        draw = ImageDraw.Draw(picture)
        for inset, color in enumerate(MARKS):
            place = (left - margin + inset, top - margin + inset, right + margin - inset, bottom + margin - inset)
            draw.rectangle(place, outline=color)
    return np.asarray(picture)


def _is_small(box: Box, size: Size) -> bool:
    return box.bottom - box.top <= SMALL * size[0] and box.right - box.left <= SMALL * size[1]


def enlarged(image: Image, box: Box) -> Image:
    """What is around the box, each pixel as a square."""
    side = max(SMALLEST, CLOSE * (box.bottom - box.top), CLOSE * (box.right - box.left))
    top = min(max(0, (box.top + box.bottom - side) // 2), max(0, image.shape[0] - side))
    left = min(max(0, (box.left + box.right - side) // 2), max(0, image.shape[1] - side))
    part = image[top : top + side, left : left + side]
    return marked(part, Box(*(side - start for side, start in zip(box, (top, left, top, left), strict=True))))
