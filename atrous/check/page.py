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
MARKS = ((0, 0, 0), (255, 235, 59), (0, 0, 0))  # colours of a frame, from outside
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
    views = _views(item.image, item, evidence, samples)
    if item.other is not None:
        name = f"{evidence.split_of[item.other]}/{evidence.facts[item.other].name}"
        views += [one._replace(caption=name) for one in _views(item.other, Item(""), evidence, samples)[:1]]
    return Card(_name(item), item.text, views)


def _views(index: int, item: Item, evidence: Evidence, samples: AllSplits) -> list[View]:
    read = content(*samples.place(index))
    labels = painted(read, evidence, index)
    result = [] if read.pixels is None else [view("Image", read.pixels, WIDTH)]
    if labels is not None:
        result.append(view("Label", marked(labels, item.box), WIDTH))
    if labels is not None and item.box is not None and _is_small(item.box, labels.shape[:2]):
        result.append(view("Enlarged", enlarged(labels, item.box), WIDTH))
    return result


def painted(read: Content, evidence: Evidence, index: int) -> Image | None:
    """The label over its image in the colours of the classes; what is no class in a colour that none has."""
    if read.codes is None:
        return None
    space, classes = evidence.space, evidence.verdicts[index].classes
    palette = space.palette()
    if classes is None or evidence.verdicts[index].kinds:
        return _raw(read)
    labels = np.full(read.codes.values.shape, space.ignore, np.int64)
    for code, label in classes.items():
        labels[read.codes.values == code] = label
    if read.pixels is None or read.pixels.shape[:2] != labels.shape:
        return colorize(labels.astype(np.uint8), palette[:256])
    return overlay(read.pixels, labels.astype(np.uint8), palette[:256], ignore=space.ignore)


def _raw(read: Content) -> Image:
    """The codes of a label as they are: colours as colours, values each in its own."""
    assert read.codes is not None
    values = read.codes.values.astype(np.int64)
    if read.codes.is_colored:
        return np.stack([values & 255, values >> 8 & 255, values >> 16 & 255], -1).astype(np.uint8)
    return colorize((values + 1) * 7919, np.zeros((0, 3), np.uint8))


def marked(image: Image, box: Box | None) -> Image:
    """The image, no wider than a picture of the page, with a frame around the box."""
    picture = PIL.Image.fromarray(image)
    factor = min(1.0, WIDTH / picture.width, WIDTH / picture.height)
    size = max(1, round(factor * picture.width)), max(1, round(factor * picture.height))
    picture = picture.resize(size, PIL.Image.Resampling.BOX)
    if box is not None:
        left, top, right, bottom = (factor * side for side in (box.left, box.top, box.right, box.bottom))
        grown = max(0.0, (LEAST_MARK - (right - left)) / 2, (LEAST_MARK - (bottom - top)) / 2) + len(MARKS)
        draw = ImageDraw.Draw(picture)
        for inset, color in enumerate(MARKS):
            place = (left - grown + inset, top - grown + inset, right + grown - inset, bottom + grown - inset)
            draw.rectangle(place, outline=color)
    return np.asarray(picture)


def _is_small(box: Box, size: Size) -> bool:
    return box.bottom - box.top <= SMALL * size[0] and box.right - box.left <= SMALL * size[1]


def enlarged(image: Image, box: Box) -> Image:
    """What is around the box, each pixel as a square."""
    side = max(SMALLEST, CLOSE * (box.bottom - box.top), CLOSE * (box.right - box.left))
    top = min(max(0, (box.top + box.bottom - side) // 2), max(0, image.shape[0] - side))
    left = min(max(0, (box.left + box.right - side) // 2), max(0, image.shape[1] - side))
    part = PIL.Image.fromarray(image[top : top + side, left : left + side])
    factor = max(1, WIDTH // max(part.size))
    large = part.resize((part.width * factor, part.height * factor), PIL.Image.Resampling.NEAREST)
    around = Box(*(factor * (side - start) for side, start in zip(box, (top, left, top, left), strict=True)))
    return marked(np.asarray(large), around)
