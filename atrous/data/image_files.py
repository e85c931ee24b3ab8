"""Images with labels of the same size, read from files, checked and decoded."""

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias, cast, overload

import numpy as np
from numpy.typing import NDArray

from atrous.data.instances import numbers_of, things_alone
from atrous.data.label_space import LabelSpace
from atrous.data.late import late_image, late_label
from atrous.data.naming import class_of_value, ignored_values
from atrous.data.pairing import LOSSY_SUFFIXES, Pair
from atrous.data.pixels import Codes as Codes
from atrous.data.pixels import Picture, read_picture, stored, upright
from atrous.data.pixels import read_image as read_image
from atrous.data.pixels import read_label as read_label
from atrous.errors import DataError, listing, warn_once
from atrous.files import composed
from atrous.types import NO_IMAGE, Color, Image, Sample

Code: TypeAlias = int | Color  # what a pixel of a label file holds: a value or a colour


class WrongLabelsError(DataError):
    """A label file holds values, or colours, that are no class. `codes` are all that it holds, `wrong` those."""

    def __init__(self, text: str, codes: Collection[Code] = (), wrong: Collection[Code] = ()) -> None:
        super().__init__(text)
        self.codes, self.wrong = codes, wrong


class Drawn(NamedTuple):
    """A label map as its file stores it."""

    values: NDArray[Any]  # [H, W] labels of the label space, or numbers of things
    path: Path  # which errors name
    orientation: int = 1  # by its EXIF


class Drawing(NamedTuple):
    """What is drawn on an image."""

    semantic: Drawn
    instance: Drawn | None = None  # numbers of things over all classes, from 1; 0: none, or a crowd


class Reader(Protocol):
    """Reads what is drawn on an image; a module's function or a `partial` of one, which a worker process can take.

    Raises DataError with the file's path for labels that can't be used.
    """

    def __call__(self, pair: Pair, /) -> Drawing: ...


class ImageFiles(Sequence[Sample]):
    """Image files with labels of the same size, read and checked whenever a sample is requested.

    `read` reads the labels of a pair; None: `read_masks`, where `colors` maps the colours in RGB masks to classes.
    Raises DataError, in one line with the file's path, for a file that can't be decoded, sizes that differ, a value
    that is not a class, or a thing of two classes. `open_image` reads images that aren't files of their own,
    `read_late` labels without things, maybe where they are sliced; None: `read` or, without that, `late_masks`.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        space: LabelSpace,
        colors: Mapping[Color, int] | None = None,
        read: Reader | None = None,
        open_image: Callable[[Path], Picture] = read_picture,
        read_late: Reader | None = None,
    ) -> None:
        self.pairs, self.space, self.open_image = pairs, space, open_image
        self.read = read or partial(read_masks, space=space, colors=colors)
        self.read_late = read_late or read or partial(late_masks, space=space, colors=colors)

    def __len__(self) -> int:
        return len(self.pairs)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> "ImageFiles": ...
    def __getitem__(self, index: int | slice) -> "Sample | ImageFiles":
        if isinstance(index, slice):
            return self.with_pairs(self.pairs[index])
        pair = self.pairs[index]
        picture = self.open_image(pair.image)
        if not pair.label_files:
            return Sample(pair.name, picture.pixels)
        semantic, instance = self._read(pair)
        drawing = Drawing(turned(semantic, picture, pair.image), instance and turned(instance, picture, pair.image))
        return self._sample(pair, picture.pixels, drawing)

    def late(self, index: int) -> Sample:
        """The sample whose pixels are decoded only where they are sliced, if its files allow that (`PngRows`)."""
        pair = self.pairs[index]
        pixels = late_image(pair.image) if self.open_image is read_picture else None
        if pixels is None:
            return self[index]
        image = cast("Image", pixels)  # transforms ask of it what an array has, too
        if not pair.label_files:
            return Sample(pair.name, image)
        return self._sample(pair, image, self._read(pair) if pair.instance else self.read_late(pair))

    def labels(self, index: int) -> Sample:
        """The sample with an empty image: only label files are read, unless just the image can tell how they lie."""
        pair = self.pairs[index]
        if not pair.label_files:
            return Sample(pair.name, NO_IMAGE)
        drawing = self._read(pair)
        if drawing.instance is not None and _lie(drawing.instance) != _lie(drawing.semantic):
            return self[index]._replace(image=NO_IMAGE)
        return self._sample(pair, NO_IMAGE, drawing)

    def without_instances(self) -> "ImageFiles":
        """The same images for a task that doesn't tell things apart: files of things alone are not read."""
        pairs = [pair if pair.instance is None else pair._replace(instance=None) for pair in self.pairs]
        return self.with_pairs(pairs)

    @property
    def names(self) -> list[str]:
        return [pair.name for pair in self.pairs]

    def chosen(self, places: Sequence[int]) -> "ImageFiles":
        return self.with_pairs([self.pairs[place] for place in places])

    def drawn_by(self, read: Reader, space: LabelSpace, read_late: Reader | None = None) -> "ImageFiles":
        """The same images with other labels."""
        return ImageFiles(self.pairs, space, read=read, open_image=self.open_image, read_late=read_late)

    def with_pairs(self, pairs: Sequence[Pair]) -> "ImageFiles":
        return ImageFiles(pairs, self.space, read=self.read, open_image=self.open_image, read_late=self.read_late)

    def _read(self, pair: Pair) -> Drawing:
        drawing = self.read(pair)
        return drawing if pair.instance is not None else drawing._replace(instance=None)

    def _sample(self, pair: Pair, image: Image, drawing: Drawing) -> Sample:
        semantic, instance = drawing
        if image.size:
            _require_same_size(image, pair.image, semantic, "label")
        if instance is None:
            return Sample(pair.name, image, semantic.values)
        if image.size:
            _require_same_size(image, pair.image, instance, "instance map")
        source = f"{instance.path}{'' if _is_own(instance.path, pair) else f': image {pair.name}'}"
        numbers = things_alone(instance.values, semantic.values, self.space, source)
        return Sample(pair.name, image, semantic.values, numbers)


def read_masks(pair: Pair, *, space: LabelSpace, colors: Mapping[Color, int] | None = None) -> Drawing:
    """A label file whose pixels are classes and, if the pair has one, an instance file whose pixels are numbers."""
    assert pair.label is not None
    codes = read_label(pair.label)
    semantic = Drawn(decode(codes, pair.label, space, colors), pair.label, codes.orientation)
    return Drawing(semantic, None if pair.instance is None else read_instances(pair.instance))


_RIGHT: set[tuple[object, ...]] = set()  # label files that this process has read, and all of whose values are classes
_MOST = 2**18


def late_masks(pair: Pair, *, space: LabelSpace, colors: Mapping[Color, int] | None = None) -> Drawing:
    """Like `read_masks`, of a pair without instances; decoded where it is sliced, once all of the file was right.

    So that a value that is no class is found in the first epoch, wherever it lies.
    """
    assert pair.label is not None
    path = pair.label
    file = _version(path), space.raw_ids, space.num_classes, space.ignore, tuple((colors or {}).items())
    rows = late_label(path, partial(decode, path=path, space=space, colors=colors)) if file in _RIGHT else None
    if rows is not None:
        return Drawing(Drawn(cast("NDArray[Any]", rows), path))
    drawing = read_masks(pair, space=space, colors=colors)
    if len(_RIGHT) < _MOST:
        _RIGHT.add(file)
    return drawing


def _version(path: Path) -> tuple[Path, int, int]:
    """What changes with the content of a file; where there is none, to read it will say so."""
    with contextlib.suppress(OSError):
        status = path.stat()
        return path, status.st_mtime_ns, status.st_size
    return path, 0, 0


def read_instances(path: Path) -> Drawn:
    if path.suffix.lower() in LOSSY_SUFFIXES:
        raise DataError(f"{path}: an instance map in JPEG or WebP, which change its numbers; save it as PNG")
    codes = read_label(path)
    return Drawn(numbers_of(codes, path), path, codes.orientation)


def _is_own(path: Path, pair: Pair) -> bool:
    """Whether a file is that of one image, and called so."""
    rest = composed(path.name).removeprefix(pair.name.rpartition("/")[2])
    return rest != composed(path.name) and not rest[:1].isalnum()


def _lie(drawn: Drawn) -> tuple[tuple[int, ...], int]:
    """Maps that lie alike are turned alike."""
    return drawn.values.shape, drawn.orientation


def turned(drawn: Drawn, picture: Picture, image_path: Path) -> Drawn:
    """A label of a photo that was turned upright, turned with it if it was drawn on the photo as stored.

    Their sizes tell, unless they fit both ways; then a label whose own EXIF is the photo's was drawn on it as stored.
    """
    if picture.orientation == 1:
        return drawn
    upright_size = picture.pixels.shape[:2]
    stored_size = stored(picture.pixels, picture.orientation).shape[:2]
    is_either = upright_size == stored_size and drawn.values.shape == stored_size
    if drawn.values.shape != stored_size or (is_either and drawn.orientation != picture.orientation):
        if is_either:
            _warn_of_turn(f"its label {drawn.path} is taken as drawn on the upright photo", image_path, picture)
        return drawn
    _warn_of_turn(f"its label {drawn.path}, drawn on the photo as stored, is turned with it", image_path, picture)
    return drawn._replace(values=np.ascontiguousarray(upright(drawn.values, picture.orientation)))


def _warn_of_turn(what: str, path: Path, picture: Picture) -> None:
    warn_once(f"turn: {what[-20:]}", f"{path} is turned upright by its EXIF orientation {picture.orientation}; {what}")


def decode_label(path: Path, space: LabelSpace, colors: Mapping[Color, int] | None = None) -> NDArray[np.uint8]:
    """A label file as train ids, [H, W]. Raises DataError with the path and the values that are not a class."""
    return decode(read_label(path), path, space, colors)


def decode(codes: Codes, path: Path, space: LabelSpace, colors: Mapping[Color, int] | None = None) -> NDArray[np.uint8]:
    """What was read from a label file as train ids. Raises the same errors, with the path."""
    if codes.is_colored and not colors:
        raise WrongLabelsError(f"{path}: {_uncolored(codes, space)}")
    meaning = {pack(color): index for color, index in (colors or {}).items()}
    meaning = meaning if codes.is_colored else class_of_value(space)
    numbers = _look_up(codes.values, _table(tuple(meaning.items())))
    if not numbers.all():
        wrong = Codes(codes.values[numbers == 0], codes.is_colored)
        raise WrongLabelsError(
            f"{path}: {_complaint(wrong, space)}", tuple(count_codes(codes)), tuple(count_codes(wrong))
        )
    return (numbers - 1).astype(np.uint8)


def count_codes(codes: Codes) -> dict[Code, int]:
    """How many pixels each label value, or colour, has."""
    values, counts = (array.tolist() for array in np.unique(codes.values, return_counts=True))
    return dict(zip(map(unpack, values) if codes.is_colored else values, counts, strict=True))


_TABLE = 2**24 + 1  # all colours, and one entry that is none
_PIECE = 2**15  # pixels


@lru_cache(maxsize=8)
def _table(meaning: tuple[tuple[int, int], ...]) -> NDArray[np.uint16]:
    """1 + class for each code, 0 for all others. The system provides only the pages that are read or written."""
    table = np.zeros(_TABLE, np.uint16)
    for code, index in meaning:
        table[code] = index + 1
    return table


def _look_up(codes: NDArray[np.integer[Any]], table: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """`table[codes]`, a piece at a time: NumPy makes 8-byte indices, which for a whole image do not fit the cache."""
    flat = codes.ravel()
    if codes.dtype.kind == "i":
        flat = np.where(flat < 0, _TABLE, flat)  # like too large ones, they get the last entry, which is not a class
    numbers = np.empty(flat.size, np.uint16)
    for start in range(0, flat.size, _PIECE):
        piece = slice(start, start + _PIECE)
        np.take(table, flat[piece], out=numbers[piece], mode="clip")
    return numbers.reshape(codes.shape)


def pack(color: Color) -> int:
    return color[0] | color[1] << 8 | color[2] << 16


def unpack(code: int) -> Color:
    return code & 255, code >> 8 & 255, code >> 16


# Complaints


def describe(codes: Codes) -> str:
    """`values 0 (57 pixels), 255 (3 pixels)`: the most frequent ones first."""
    counts = sorted(count_codes(codes).items(), key=lambda item: -item[1])
    texts = (f"{value} ({count} pixel{'s' if count > 1 else ''})" for value, count in counts)
    return f"{'color' if codes.is_colored else 'value'}{'s' if len(counts) > 1 else ''} {listing(texts)}"


def _require_same_size(image: Image, image_path: Path, drawn: Drawn, what: str) -> None:
    if image.shape[:2] != drawn.values.shape:
        (height, width), (label_height, label_width) = image.shape[:2], drawn.values.shape
        raise DataError(
            f"sizes differ (width x height): image {image_path} is {width} x {height}, "
            f"its {what} {drawn.path} is {label_width} x {label_height}"
        )


def _uncolored(codes: Codes, space: LabelSpace) -> str:
    return (
        f"the mask is RGB, but class indices are expected; it has {describe(codes)}; give each class its colour in "
        f"classes.yaml (data.format=folder), as in colors: {{{space.names[0]}: [0, 0, 0], ...}}"
    )


def _complaint(wrong: Codes, space: LabelSpace) -> str:
    if wrong.is_colored:
        return f"{describe(wrong)}: not the colour of a class; masks must not be anti-aliased or resampled"
    ignored = ignored_values(space)
    classes = listing((value for value, _ in space.raw_ids if value not in ignored), limit=40)
    classes = classes or f"0..{space.num_classes - 1}"
    known = f"the {space.num_classes} classes are {classes}, ignored is {listing(ignored)}"
    return f"{describe(wrong)}: not a class; {known}"
