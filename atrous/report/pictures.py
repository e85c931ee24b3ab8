"""The pictures of a report: the best and the worst images of an evaluation, embedded as JPEG."""

import base64
import io
from collections.abc import Sequence
from typing import NamedTuple

import PIL.Image

from atrous.segmenter import Segmenter
from atrous.types import Image, Sample

COUNT = 3  # of the best images, and of the worst
MAX_WIDTH = 640  # pixels of an embedded picture
QUALITY = 88


class ImageScore(NamedTuple):
    sample: int  # its index
    score: float  # the headline, of this image alone


class Picture(NamedTuple):
    """One image of a dataset with its score and its panels."""

    name: str
    score: float
    panels: list[tuple[str, Image]]  # captions and pictures


class Gallery(NamedTuple):
    title: str
    pictures: list[Picture]


class View(NamedTuple):
    """A panel as the page embeds it."""

    caption: str
    alt: str
    uri: str
    size: tuple[int, int]  # (width, height)


def galleries(model: Segmenter, samples: Sequence[Sample], images: Sequence[ImageScore]) -> list[Gallery]:
    """The worst and the best images, predicted again."""
    ordered = sorted(images, key=lambda image: image.score)
    count = min(COUNT, len(ordered) // 2)
    groups = {"Worst": ordered[:count], "Best": ordered[::-1][: max(count, 1)]}
    return [Gallery(title, [_picture(model, samples, image) for image in few]) for title, few in groups.items() if few]


def _picture(model: Segmenter, samples: Sequence[Sample], image: ImageScore) -> Picture:
    sample = samples[image.sample]
    labels = model.decode(sample.image)
    return Picture(sample.name, image.score, model.task.panels(sample, labels, model.label_space))


def views(picture: Picture) -> list[View]:
    shrunk = [(caption, shrink(image)) for caption, image in picture.panels]
    return [View(caption, f"{picture.name}: {caption}", jpeg(image), image.size) for caption, image in shrunk]


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
