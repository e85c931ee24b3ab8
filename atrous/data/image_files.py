"""Images with labels of the same size, read from files, checked and decoded."""

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from atrous.data.label_space import LabelSpace
from atrous.data.naming import class_of_value, ignored_values
from atrous.data.pairing import Pair
from atrous.data.pixels import Codes as Codes
from atrous.data.pixels import Picture, read_picture, stored, upright
from atrous.data.pixels import read_image as read_image
from atrous.data.pixels import read_label as read_label
from atrous.errors import DataError, listing, warn_once
from atrous.types import NO_IMAGE, Color, Image, Sample

Code: TypeAlias = int | Color  # what a pixel of a label file holds: a value or a colour


class WrongLabelsError(DataError):
    """A label file holds values, or colours, that are no class. `codes` are all that it holds, `wrong` those."""

    def __init__(self, text: str, codes: Collection[Code] = (), wrong: Collection[Code] = ()) -> None:
        super().__init__(text)
        self.codes, self.wrong = codes, wrong


class ImageFiles(Sequence[Sample]):
    """Image files with label files of the same size, read and checked whenever a sample is requested.

    `colors` maps the colours in RGB masks to classes. Raises DataError, in one line with the file's path, for a file
    that can't be decoded, sizes that differ, or a value that is not a class.
    """

    def __init__(self, pairs: Sequence[Pair], space: LabelSpace, colors: Mapping[Color, int] | None = None) -> None:
        self.pairs, self.space, self.colors = pairs, space, colors

    def __len__(self) -> int:
        return len(self.pairs)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> "ImageFiles": ...
    def __getitem__(self, index: int | slice) -> "Sample | ImageFiles":
        if isinstance(index, slice):
            return ImageFiles(self.pairs[index], self.space, self.colors)
        name, image_path, label_path = self.pairs[index]
        picture = read_picture(image_path)
        if label_path is None:
            return Sample(name, picture.pixels)
        codes = turned(read_label(label_path), label_path, picture, image_path)
        semantic = decode(codes, label_path, self.space, self.colors)
        _require_same_size(picture.pixels, image_path, semantic, label_path)
        return Sample(name, picture.pixels, semantic)

    def labels(self, index: int) -> Sample:
        """The sample with an empty image: only the label file is read."""
        name, _, label_path = self.pairs[index]
        semantic = None if label_path is None else decode_label(label_path, self.space, self.colors)
        return Sample(name, NO_IMAGE, semantic)


def turned(codes: Codes, label_path: Path, picture: Picture, image_path: Path) -> Codes:
    """A label of a photo that was turned upright, turned with it if it was drawn on the photo as stored.

    Their sizes tell, unless they fit both ways; then a label whose own EXIF is the photo's was drawn on it as stored.
    """
    if picture.orientation == 1:
        return codes
    upright_size = picture.pixels.shape[:2]
    stored_size = stored(picture.pixels, picture.orientation).shape[:2]
    is_either = upright_size == stored_size and codes.values.shape == stored_size
    if codes.values.shape != stored_size or (is_either and codes.orientation != picture.orientation):
        if is_either:
            _warn_of_turn(f"its label {label_path} is taken as drawn on the upright photo", image_path, picture)
        return codes
    _warn_of_turn(f"its label {label_path}, drawn on the photo as stored, is turned with it", image_path, picture)
    values = np.ascontiguousarray(upright(codes.values, picture.orientation))
    return codes._replace(values=values)


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


def _require_same_size(image: Image, image_path: Path, label: NDArray[np.uint8], label_path: Path) -> None:
    if image.shape[:2] != label.shape:
        (height, width), (label_height, label_width) = image.shape[:2], label.shape
        raise DataError(
            f"sizes differ (width x height): image {image_path} is {width} x {height}, "
            f"its label {label_path} is {label_width} x {label_height}"
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
