"""The pictures of a report: every image that was measured, worst first, as far as the size of the page allows."""

import base64
import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import PIL.Image
from PIL import features

from atrous.data.loader import read_sample
from atrous.report.text import known
from atrous.segmenter import Segmenter
from atrous.tasks import Task
from atrous.tasks.contract import Figures
from atrous.types import Image, Sample

WIDTHS = (960, 640, 480, 320)  # pixels of an embedded picture; the largest with which all images fit
NUM_MEASURED = 3  # images that are encoded at each width to find it
BEST_SHARE = 8  # one in so many pictures is among the best, where not all images fit
QUALITY = 82
FLAT = 16  # colours of a picture that is stored without loss: a map, not a photo
FEW = 97  # one in so many pixels shows that most photos are not flat
CARD = 1200  # bytes of a card beside its pictures and its texts
WEBP = features.check("webp")  # half the size of JPEG; a Pillow built without it is rare


class ImageScore(NamedTuple):
    sample: int  # its index
    score: float  # the headline, of this image alone; NaN where it has no label
    name: str = ""
    classes: Mapping[str, float] = {}  # the first column of the table, of the classes in this image


class View(NamedTuple):
    """A panel as the page embeds it."""

    caption: str
    uri: str
    size: tuple[int, int]  # (width, height)


class Picture(NamedTuple):
    """One image of a dataset with its score and its panels."""

    name: str
    score: float
    classes: Mapping[str, float]
    views: list[View]


class Gallery(NamedTuple):
    pictures: list[Picture]  # worst first
    num_images: int  # that were measured, whether they fit or not


Panels = list[tuple[str, Image]]  # of one image, with captions
Paint = Callable[[ImageScore], Panels]  # empty for an image that can't be read


def image_score(index: int, name: str, figures: Figures) -> ImageScore:
    """The score of one image, from its figures."""
    column = figures.table.first_column()
    classes = {name: float(value) for name, value in column.items() if value is not None and known(value) is not None}
    return ImageScore(index, figures.scores[figures.headline] if classes else math.nan, name, classes)


def painter(model: Segmenter, samples: Sequence[Sample]) -> Paint:
    """Predicts an image again, and lets the task paint its panels."""

    def paint(image: ImageScore) -> Panels:
        sample = read_sample(samples, image.sample).sample
        return [] if sample is None else model.task.panels(sample, model.decode(sample.image), model.label_space)

    return paint


def worst_first(images: Iterable[ImageScore]) -> list[ImageScore]:
    return sorted(images, key=lambda image: rank(image.score))


def rank(score: float) -> tuple[bool, float]:
    """To sort by, worst first: an unknown score comes last."""
    return math.isnan(score), score


def gallery(images: Sequence[ImageScore], paint: Paint, limit: int) -> Gallery:
    """As many images as fit into `limit` bytes: all of them, or the worst and a few of the best."""
    ordered = worst_first(images)
    step = max(1, len(ordered) // NUM_MEASURED)
    few = {place: paint(ordered[place]) for place in range(0, len(ordered), step)[:NUM_MEASURED]}
    width, number = fitting_width([(ordered[place], panels) for place, panels in few.items()], len(ordered), limit)
    num_best = number // BEST_SHARE if number < len(ordered) else 0
    chosen = [*range(len(ordered) - num_best, len(ordered)), *range(number - num_best)]
    drawings = (drawn(ordered[place], few[place] if place in few else paint(ordered[place]), width) for place in chosen)
    return Gallery(sorted(within(limit, drawings), key=lambda one: rank(one.score)), len(ordered))


def fitting_width(few: Sequence[tuple[ImageScore, Panels]], count: int, limit: int) -> tuple[int, int]:
    """The width to draw `count` images at, and how many of them then fit, judged by a few."""
    number = count
    for width in WIDTHS:
        sizes = [weight(drawn(image, panels, width)) for image, panels in few if panels]
        number = max(0, int(limit // (sum(sizes) / len(sizes)))) if sizes else count
        if number >= count:
            return width, count
    return WIDTHS[-1], number


def within(limit: int, pictures: Iterable[Picture]) -> Iterator[Picture]:
    """Those that fit; one that is too large leaves room for others."""
    left = limit
    for one in pictures:
        if one.views and weight(one) <= left:
            left -= weight(one)
            yield one


def weight(one: Picture) -> int:
    """Bytes on the page, at most."""
    texts = (len(one.views) + 2) * 6 * len(one.name)  # a character is at most six bytes: &quot; or an escape
    return CARD + texts + 16 * len(one.classes) + sum(len(view.uri) + 6 * len(view.caption) for view in one.views)


def drawn(image: ImageScore, panels: Panels, width: int) -> Picture:
    views = [view(caption, panel, width) for caption, panel in panels]
    return Picture(image.name, image.score, image.classes, views)


def view(caption: str, image: Image, width: int) -> View:
    if is_flat(image):
        small = shrink(image, width, PIL.Image.Resampling.NEAREST)
        return View(caption, png(small), small.size)
    small = shrink(image, width, PIL.Image.Resampling.LANCZOS)
    return View(caption, photo(small), small.size)


def is_flat(image: Image) -> bool:
    """Whether it has so few colours that it is a map, such as that of the errors."""
    colors = image.reshape(-1, 3) @ np.array([65536, 256, 1])
    return all(len(np.unique(some)) <= FLAT for some in (colors[::FEW], colors))


def shrink(image: Image, width: int, resampling: PIL.Image.Resampling) -> PIL.Image.Image:
    """The image, neither wider nor, in area, larger than a square of this width."""
    small = PIL.Image.fromarray(image)
    factor = min(1.0, width / small.width, width / math.sqrt(small.width * small.height))
    size = (max(1, round(factor * small.width)), max(1, round(factor * small.height)))
    return small if size == small.size else small.resize(size, resampling)


def png(picture: PIL.Image.Image) -> str:
    """A data URI, without loss."""
    content = io.BytesIO()
    picture.quantize(FLAT).save(content, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


def photo(picture: PIL.Image.Image) -> str:
    """A data URI."""
    content = io.BytesIO()
    kind = "webp" if WEBP else "jpeg"
    picture.save(content, kind, quality=QUALITY)
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode()}"


def training_pictures(task: Task, samples: Sequence[Sample], model: Segmenter) -> list[Picture]:
    """Augmented samples under their true labels."""
    painted = [(sample.name, task.paint_truth(sample, model.label_space)) for sample in samples]
    return [Picture(name, math.nan, {}, [view("Labels", image, WIDTHS[-1])]) for name, image in painted]
