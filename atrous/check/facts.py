"""What one image and its label hold, read once: all that the checks need to know of them."""

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from atrous.check.regions import Box, box_of, interior, smoothness, specks
from atrous.data import pillow
from atrous.data.image_files import (
    Drawn,
    ImageFiles,
    Reader,
    WrongLabelsError,
    pack,
    read_instances,
    read_masks,
    turned,
)
from atrous.data.instances import count_pairs
from atrous.data.label_space import NOT_COUNTED, LabelSpace
from atrous.data.naming import class_of_value, ignored_values, luma
from atrous.data.pairing import LOSSY_SUFFIXES, Pair
from atrous.data.pillow import Header
from atrous.data.pixels import Codes, read_label
from atrous.errors import AtrousError, AtrousWarning, text_of
from atrous.types import Color, Image, LabelMap, Sample, Size

Kind: TypeAlias = Literal["colour", "grey", "16-bit", "alpha"]
Meaning: TypeAlias = Mapping[int, int]  # a code of label files, packed where it is a colour -> class or ignored

THUMB = 32  # pixels of a side
MOST_CODES = 300  # of one label that are kept, the most frequent ones
MOST_BOXES = 8  # specks that are kept


class Problem(NamedTuple):
    """Why a file can't be used."""

    kind: str  # the name of a finding
    text: str
    path: Path | None = None


class ImageFacts(NamedTuple):
    size: Size  # upright
    stored: Size  # in the file
    kind: Kind
    orientation: int
    digest: bytes  # of the upright pixels
    thumb: NDArray[np.uint8]  # [THUMB, THUMB], grey


class InstanceFacts(NamedTuple):
    crossing: tuple[int, ...]  # ids that have pixels of several classes
    crossing_box: Box | None
    largest: int  # id of a thing


class LabelFacts(NamedTuple):
    size: Size  # in the file
    orientation: int
    is_colored: bool
    is_lossy: bool  # the format of the file
    palette: Mapping[int, Color]  # the colours of the indices that occur
    counts: Mapping[int, int]  # pixels of each code, the most frequent ones first
    num_codes: int
    solid: Mapping[int, int]  # pixels of each code that lie within an area of it
    smoothness: float
    wrong_box: Box | None  # around the codes that mean nothing
    specks: tuple[Box, ...]
    num_specks: int
    num_pixels: int


class Facts(NamedTuple):
    name: str
    pair: Pair | None = None  # its files, if it has files
    problems: tuple[Problem, ...] = ()
    image: ImageFacts | None = None
    label: LabelFacts | None = None
    instances: InstanceFacts | None = None
    map_size: Size | None = None  # of the map of instances, in its file


class Content(NamedTuple):
    """What was read of one image and its label; None for what couldn't be, or isn't there."""

    name: str
    pixels: Image | None = None
    header: Header | None = None
    codes: Codes | None = None  # as the photo stands upright
    label_header: Header | None = None
    label_size: Size = (0, 0)  # in the file
    instance: LabelMap | None = None
    map_size: Size | None = None  # in its file
    problems: tuple[Problem, ...] = ()


def meaning_of(space: LabelSpace, colors: Mapping[Color, int] | None, *, is_colored: bool) -> Meaning:
    """What the codes of labels stand for; {} for colours that nobody has named."""
    if is_colored:
        return {pack(color): index for color, index in (colors or {}).items()}
    return class_of_value(space)


# ---- reading


def content(samples: Sequence[Sample], index: int) -> Content:
    """Both files, whatever is wrong with one of them. What reading warns of is a finding here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AtrousWarning)
        warnings.filterwarnings("ignore", r"Image size \(\d+ pixels\) exceeds limit")
        return _of_files(samples, index) if isinstance(samples, ImageFiles) else _of_sample(samples, index)


def _of_files(samples: ImageFiles, index: int) -> Content:
    pair = samples.pairs[index]
    picture, header, problems = _opened(pair.image, samples.open_image)
    label = _mask(pair) if is_mask(samples) else _drawing(samples.read, pair)
    maps = [
        drawn and (turned(drawn, picture, pair.image) if picture else drawn) for drawn in (label.drawn, label.things)
    ]
    semantic, things = (None if one is None else one.values for one in maps)
    return Content(
        name=pair.name,
        pixels=None if picture is None else picture.pixels,
        header=header,
        codes=None if semantic is None else Codes(semantic, label.is_colored),
        label_header=label.header,
        label_size=(0, 0) if label.drawn is None else label.drawn.values.shape,
        instance=None if semantic is None or things is None or things.shape != semantic.shape else things,
        map_size=None if label.things is None else label.things.values.shape,
        problems=(*problems, *label.problems),
    )


class _Label(NamedTuple):
    drawn: Drawn | None = None
    things: Drawn | None = None
    is_colored: bool = False
    header: Header | None = None
    problems: tuple[Problem, ...] = ()


def is_mask(samples: ImageFiles) -> bool:
    """Whether labels are images of codes, not polygons or the like, which their layout draws."""
    return isinstance(samples.read, partial) and samples.read.func is read_masks


def space_of_codes(samples: Sequence[Sample], space: LabelSpace) -> LabelSpace:
    """The label space by which the codes of labels are read: what a layout draws has no other values than classes."""
    is_raw = isinstance(samples, ImageFiles) and is_mask(samples)
    return space if is_raw else space.model_copy(update={"raw_ids": ()})


def colors_of(samples: Sequence[Sample]) -> Mapping[Color, int] | None:
    """What the colours of RGB masks mean."""
    if not isinstance(samples, ImageFiles) or not isinstance(samples.read, partial):
        return None
    colors: Mapping[Color, int] | None = samples.read.keywords.get("colors")
    return colors


def _mask(pair: Pair) -> _Label:
    """As its file stores it."""
    if pair.label is None:
        return _Label()
    codes, header, problems = _opened(pair.label, read_label)
    things, more = (None, ()) if pair.instance is None else _tried(read_instances, pair.instance, pair.instance)
    if codes is None:
        return _Label(None, things, problems=(*problems, *more))
    return _Label(
        Drawn(codes.values, pair.label, codes.orientation), things, codes.is_colored, header, (*problems, *more)
    )


def _drawing(read: Reader, pair: Pair) -> _Label:
    drawing, problems = _tried(read, pair, pair.label)
    return _Label(problems=problems) if drawing is None else _Label(*drawing)


def _tried(read: Callable[[Any], Any], source: object, path: Path | None) -> tuple[Any, tuple[Problem, ...]]:
    try:
        return read(source), ()
    except (AtrousError, OSError) as error:
        return None, (Problem(_kind_of_problem(error), text_of(error), path),)


def _kind_of_problem(error: Exception) -> str:
    if isinstance(error, WrongLabelsError):
        return "values-outside"
    is_large = isinstance(error.__cause__, PIL.Image.DecompressionBombError)
    return "too-large-files" if is_large else "unreadable-files"


def _opened(path: Path, read: Callable[[Path], Any]) -> tuple[Any, Header | None, tuple[Problem, ...]]:
    content, problems = _tried(read, path, path)
    header = None if content is None or not path.is_file() else _tried(pillow.header, path, path)[0]
    return content, header, problems


def _of_sample(samples: Sequence[Sample], index: int) -> Content:
    try:
        sample = samples[index]
    except (AtrousError, OSError) as error:
        return Content(str(index), problems=(Problem(_kind_of_problem(error), text_of(error)),))
    codes = None if sample.semantic is None else Codes(sample.semantic)
    size = (0, 0) if codes is None else codes.values.shape
    return Content(sample.name, sample.image, None, codes, None, size, sample.instance)


# ---- judging


def facts(samples: Sequence[Sample], space: LabelSpace, index: int) -> Facts:
    read = content(samples, index)
    pair = samples.pairs[index] if isinstance(samples, ImageFiles) else None
    return Facts(
        name=read.name,
        pair=pair,
        problems=read.problems,
        image=None if read.pixels is None else _image_facts(read.pixels, read.header),
        label=None if read.codes is None else _label_facts(read, space, colors_of(samples), pair),
        instances=_instance_facts(read, space),
        map_size=read.map_size,
    )


def _image_facts(pixels: Image, header: Header | None) -> ImageFacts:
    size = (pixels.shape[0], pixels.shape[1])
    orientation = 1 if header is None else header.orientation
    stored = size if orientation < 5 else size[::-1]
    grey = PIL.Image.fromarray(pixels).convert("L").resize((THUMB, THUMB), PIL.Image.Resampling.BOX)
    digest = hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=16, key=str(size).encode()).digest()
    return ImageFacts(size, stored, _kind(header), orientation, digest, np.asarray(grey))


def _kind(header: Header | None) -> Kind:
    if header is None:
        return "colour"
    if header.is_deep:
        return "16-bit"
    if header.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        return "alpha"
    return "grey" if header.mode in ("L", "1") else "colour"


def _label_facts(read: Content, space: LabelSpace, colors: Mapping[Color, int] | None, pair: Pair | None) -> LabelFacts:
    assert read.codes is not None
    values, is_colored, _ = read.codes
    header = read.label_header or Header("L", False, 1)
    counts = code_counts(values)
    meaning = meaning_of(space, colors, is_colored=is_colored)
    wrong = [code for code in counts if code not in meaning]
    boxes = [] if wrong or is_colored else specks(values, ignored_values(space))
    most = dict(sorted(counts.items(), key=lambda item: -item[1])[:MOST_CODES])
    return LabelFacts(
        size=read.label_size,
        orientation=header.orientation,
        is_colored=is_colored,
        is_lossy=pair is not None and pair.label is not None and pair.label.suffix.lower() in LOSSY_SUFFIXES,
        palette={index: color for index, color in enumerate(header.palette) if index in counts},
        counts=most,
        num_codes=len(counts),
        solid={code: number for code, number in code_counts(values[interior(values)]).items() if code in most},
        smoothness=smoothness(as_levels(read.codes)),
        wrong_box=box_of(np.isin(values, wrong)) if wrong and len(wrong) < len(counts) else None,
        specks=tuple(boxes[:MOST_BOXES]),
        num_specks=len(boxes),
        num_pixels=values.size,
    )


def code_counts(values: NDArray[np.integer[Any]]) -> dict[int, int]:
    """How many pixels each code has."""
    if values.size and values.dtype.kind == "u" and values.dtype.itemsize <= 2:
        numbers = np.bincount(values.ravel())  # sorting, as `unique` does, takes ten times as long
        codes = np.flatnonzero(numbers)
        return dict(zip(codes.tolist(), numbers[codes].tolist(), strict=True))
    codes, numbers = np.unique(values, return_counts=True)
    return dict(zip(codes.tolist(), numbers.tolist(), strict=True))


def as_levels(codes: Codes) -> LabelMap:
    """Codes as numbers in which a mixture of two lies between them: of colours, their grey."""
    if not codes.is_colored:
        return codes.values
    values = codes.values.astype(np.int64)
    return np.asarray(luma((values & 255, values >> 8 & 255, values >> 16 & 255)))  # type: ignore[arg-type]


def _instance_facts(read: Content, space: LabelSpace) -> InstanceFacts | None:
    """Of the things of a label whose codes are classes."""
    if read.instance is None or read.codes is None or read.codes.is_colored:
        return None
    pairs = count_pairs(read.instance.astype(np.int32), _labels(read.codes.values, space))[0].tolist()
    classes: dict[int, set[int]] = {}
    for pair in pairs:
        if pair >> 8 and pair & 255 != NOT_COUNTED:
            classes.setdefault(pair >> 8, set()).add(pair & 255)
    things = {number: own for number, own in classes.items() if own & set(space.things)}
    crossing = tuple(number for number, own in things.items() if len(own) > 1)
    box = box_of(read.instance == crossing[0]) if crossing else None
    return InstanceFacts(crossing, box, max(things, default=0))


def _labels(values: LabelMap, space: LabelSpace) -> NDArray[np.uint8]:
    """Codes as classes; ignored ones, and those that are none, as NOT_COUNTED."""
    labels = np.full(values.shape, NOT_COUNTED, np.uint8)
    for code, index in class_of_value(space).items():
        if index < space.num_classes and index != space.ignore:
            labels[values == code] = index
    return labels
