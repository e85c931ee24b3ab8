"""Images that are larger than the memory: read, predicted and written a few rows at a time.

What is in memory doesn't grow with their height, and with their width only by the rows of a window.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from rich.console import Console

from atrous import visualize
from atrous.data import raster, rows
from atrous.data.label_space import LabelSpace
from atrous.data.pillow import LIMIT, limit_of_pixels
from atrous.data.rows import RowFile, Strip
from atrous.errors import ConfigError, DataError
from atrous.files import write_atomically, written_aside
from atrous.inference import InferenceConfig
from atrous.inference.sliding import Source, label_rows
from atrous.prediction import encoded_overlay
from atrous.progress import rows_done, say
from atrous.segmenter import Segmenter
from atrous.tasks.contract import Labels
from atrous.types import Image, LabelMap, Size
from atrous.wire import png

BIG = 2**26  # pixels (8192 x 8192) above which an image is predicted in this way without being told
OVERVIEW = 4096  # pixels of the longer side of an overlay


class Choice(NamedTuple):
    """What a call says of large images."""

    is_big: bool | None = None  # whether all images are taken for large ones; None: those of more than BIG pixels
    bands: tuple[int, ...] = ()  # of TIFFs, counted from 1, which are colours; none: the first

    @property
    def is_forced(self) -> bool:
        return bool(self.is_big or self.bands)


NEVER = Choice(is_big=False)


class Target(NamedTuple):
    """Files to write, without suffixes."""

    labels: Path
    overlay: Path | None


# ---- which images


def why_not(model: Segmenter, *, probabilities: bool) -> str:
    """Why this model can't predict an image in rows; empty: it can."""
    config = model.inference
    reasons = {
        f"the task {model.network.facts.task} looks at the whole image": not model.task.is_local,
        f"evaluate.crf={config.crf} needs the whole image; set evaluate.crf=none": config.crf is not None,
        f"evaluate.scales={','.join(f'{scale:g}' for scale in config.scales)} needs the whole image; set "
        "evaluate.scales=1": config.scales != (1.0,),
        "--probabilities of all its pixels don't fit the memory": probabilities,
    }
    return next((reason for reason, is_true in reasons.items() if is_true), "")


def require(model: Segmenter, choice: Choice, *, probabilities: bool) -> None:
    """Raises ConfigError for a choice that this model can't follow."""
    if reason := choice.is_forced and why_not(model, probabilities=probabilities):
        raise ConfigError(f"{'--big' if choice.is_big else '--bands'}: images can't be predicted in rows: {reason}")


def is_big(model: Segmenter, path: Path, choice: Choice, *, probabilities: bool) -> bool:
    """Whether to predict an image in rows. Raises DataError if it is too large for anything else, but that can't be."""
    if choice.is_big is not None or choice.bands:
        return choice.is_forced
    size = rows.size_of(path)
    if size is None or math.prod(size) <= BIG:
        return False
    reason = why_not(model, probabilities=probabilities)
    if reason and math.prod(size) > limit_of_pixels():
        raise DataError(
            f"cannot read image {path}: its {math.prod(size)} pixels can't be predicted in rows, since {reason}; and "
            f"they are more than the limit of {limit_of_pixels()} for an image that is read whole ({LIMIT})"
        )
    return not reason


# ---- one image


def protocol(config: InferenceConfig) -> InferenceConfig:
    """Blended windows of the image at its own size."""
    return config.model_copy(update={"mode": "sliding", "blend": "smooth", "base_size": None})


def predict(
    model: Segmenter,
    path: Path,
    target: Target,
    bands: Sequence[int] = (),
    *,
    legend: bool = False,
    console: Console,
    is_alone: bool = True,
) -> list[Path]:
    """Write the labels as a GeoTIFF if the image is one, else as a PNG, and an overlay; returns these files.

    Raises DataError for what is wrong with the image, and OSError for what is wrong with the output.
    """
    with rows.opened(path, bands) as image:
        say(_described(path, image, model.inference), console)
        overview = Overview(image.size) if target.overlay else None
        void = void_label(model.label_space)
        suffix = ".png" if image.place is None else ".tif"
        file = target.labels.with_name(f"{target.labels.name}{suffix}")
        with (
            written_aside(file) as aside,
            _writer(aside, image, model.label_space, void) as add,
            rows_done(str(path), image.size[0], console, is_alone=is_alone) as advance,
        ):
            num_empty = 0
            for strip, labels in _predicted(model, image):
                empty = strip[..., 3] == 0
                num_empty += int(empty.sum())
                labels = labels if void is None else np.where(empty, labels.dtype.type(void), labels)
                add(labels)
                if overview is not None:
                    overview.add(strip, labels)
                advance(len(labels))
    if num_empty:
        say(_described_gaps(path, num_empty, void), console)
    if overview is None or target.overlay is None:
        return [file]
    return [file, _write_overlay(model, overview, target.overlay, void, legend=legend)]


def _described(path: Path, image: RowFile, config: InferenceConfig) -> str:
    height, width = image.size
    step = _step(image.size)
    shrunk = config.mode == "canvas" or config.base_size is not None
    parts = [
        f"{path}: {width} x {height} pixels (width x height), predicted in blended windows of "
        f"{config.window[1]} x {config.window[0]}, a few rows at a time (--no-big: as a whole)",
        *(["at its own size, other than the model's protocol, which shrinks it"] if shrunk else []),
        *([f"the overlay is shrunk to 1/{step}"] if step > 1 else []),
        *([image.note] if image.note else []),
    ]
    return "; ".join(parts)


def _described_gaps(path: Path, number: int, void: int | None) -> str:
    if void is None:
        return (
            f"{path}: {number} pixels have no data, but all values are classes: they have the class that was predicted"
        )
    return f"{path}: {number} pixels have no data (nodata, or transparent): they are {void} in the labels"


def void_label(space: LabelSpace) -> int | None:
    """The label of pixels without data, which is no class; None: a file can hold no other."""
    largest = 255 if len(space.names) <= 256 else 2**16 - 1
    return next((label for label in (space.ignore, largest) if len(space.names) <= label <= largest), None)


@torch.inference_mode()
def _predicted(model: Segmenter, image: RowFile) -> Iterator[tuple[Strip, LabelMap]]:
    """Rows from the top, with their labels."""
    read = rows.reader(image.strips())

    def images_in(part: slice) -> torch.Tensor:  # [1, 3, rows, W]
        pixels = torch.from_numpy(np.ascontiguousarray(read(part)[..., :3].transpose(2, 0, 1)))
        return pixels[None].to(model.device)

    source = Source(1, image.size, images_in)
    for part, labels in label_rows(model.prepared, source, protocol(model.inference)):
        yield read(part), labels[0].cpu().numpy()


@contextlib.contextmanager
def _writer(
    path: Path, image: RowFile, space: LabelSpace, void: int | None
) -> Iterator[Callable[[NDArray[Any]], None]]:
    palette = space.palette()[:256] if len(space.names) <= 256 else None
    if image.place is not None:
        with raster.writer(path, image.size, image.place, palette, void) as add:
            yield add
        return
    with path.open("wb") as file:
        add = png.begin(file, image.size, palette)
        yield add
        add(np.empty((0, image.size[1]), np.uint8))


# ---- the overlay


def _step(size: Size) -> int:
    return -(-max(size) // OVERVIEW)


class Overview:
    """Image and labels, shrunk while they pass by."""

    def __init__(self, size: Size) -> None:
        self.step = _step(size)
        self.images: list[Image] = []
        self.labels: list[LabelMap] = []
        self._rest: list[tuple[Strip, LabelMap]] = []  # fewer rows than a step
        self._left = size[0]

    def add(self, strip: Strip, labels: LabelMap) -> None:
        strips, maps = zip(*self._rest, (strip, labels), strict=True)
        pixels, classes = np.concatenate(strips), np.concatenate(maps)
        self._left -= len(labels)
        count = len(classes) // self.step * self.step if self._left else len(classes)
        if count:
            self.images.append(visualize.shrunk(np.ascontiguousarray(pixels[:count, :, :3]), self.step))
            self.labels.append(visualize.thinned(classes[:count], self.step))
        self._rest = [(pixels[count:], classes[count:])]


def _write_overlay(model: Segmenter, overview: Overview, stem: Path, void: int | None, *, legend: bool) -> Path:
    image, labels = np.concatenate(overview.images), np.concatenate(overview.labels)
    empty = labels == void if void is not None else np.zeros(labels.shape, bool)
    classes = torch.from_numpy(np.where(empty, labels.dtype.type(0), labels))
    picture = np.array(model.task.paint(image, Labels(classes), model.label_space, visualize.ALPHA))
    picture[empty] = image[empty]
    names = model.task.painted(Labels(classes[torch.from_numpy(~empty)][None]), model.label_space) if legend else {}
    suffix, content = encoded_overlay(PIL.Image.fromarray(visualize.with_legend(picture, names) if names else picture))
    file = stem.with_name(f"{stem.name}{suffix}")
    write_atomically(file, content)
    return file
