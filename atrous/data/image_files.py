"""How image and label files are read, checked and decoded."""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, overload

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL import ImageOps

from atrous.data.label_space import LabelSpace
from atrous.data.naming import class_of_value, ignored_values
from atrous.data.pairing import Pair
from atrous.errors import DataError, listing
from atrous.types import NO_IMAGE, Color, Image, Sample

# What Pillow raises for bad files; also warnings, where the caller has turned them into errors.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, PIL.Image.DecompressionBombError, Warning)
_INDEX_MODES = ("1", "L", "P", "LA", "PA", "I", "I;16", "I;16B", "I;16L")
_COLOR_MODES = ("RGB", "RGBA")

Code: TypeAlias = int | Color  # what a pixel of a label file holds: a value or a colour


class WrongLabelsError(DataError):
    """A label file holds values, or colours, that are no class. `codes` are all that it holds, `wrong` those."""

    def __init__(self, text: str, codes: Collection[Code] = (), wrong: Collection[Code] = ()) -> None:
        super().__init__(text)
        self.codes, self.wrong = codes, wrong


class Codes(NamedTuple):
    """The content of a label file, before its values are given a meaning."""

    values: NDArray[np.integer[Any]]  # [H, W] label values; where `is_colored`, red + 256 green + 65536 blue
    is_colored: bool = False


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
        image = read_image(image_path)
        if label_path is None:
            return Sample(name, image)
        semantic = decode_label(label_path, self.space, self.colors)
        _require_same_size(image, image_path, semantic, label_path)
        return Sample(name, image, semantic)

    def labels(self, index: int) -> Sample:
        """The sample with an empty image: only the label file is read."""
        name, _, label_path = self.pairs[index]
        semantic = None if label_path is None else decode_label(label_path, self.space, self.colors)
        return Sample(name, NO_IMAGE, semantic)


def read_image(path: Path) -> Image:  # [H, W, 3]
    """A photo of any mode as RGB, turned upright as its EXIF orientation says. Raises DataError with the path."""
    return _as_array(_open(path, "image", _to_rgb))


def as_rgb(image: PIL.Image.Image) -> Image:  # [H, W, 3]
    """Turns `image` itself upright. Raises DataError for pixels that are floats."""
    return _as_array(_to_rgb(image))


def read_label(path: Path) -> Codes:
    """For a palette image, the indices, not the colours. EXIF is ignored. Raises DataError with the path."""
    return _as_codes(_open(path, "label", _require_codes))


def decode_label(path: Path, space: LabelSpace, colors: Mapping[Color, int] | None = None) -> NDArray[np.uint8]:
    """A label file as train ids, [H, W]. Raises DataError with the path and the values that are not a class."""
    codes = read_label(path)
    if codes.is_colored and not colors:
        raise WrongLabelsError(f"{path}: {_uncolored(codes, space)}")
    meaning = {_pack(color): index for color, index in (colors or {}).items()}
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
    return dict(zip(map(_unpack, values) if codes.is_colored else values, counts, strict=True))


# Pillow's part: whatever it raises is the file's fault. Code that follows it must stay outside the same `try`.


def _open(path: Path, what: str, prepare: Callable[[PIL.Image.Image], PIL.Image.Image]) -> PIL.Image.Image:
    try:
        with PIL.Image.open(path) as image:
            image.load()
            return prepare(image)
    except _DAMAGED as error:
        raise DataError(f"cannot read {what} {path}: {_reason(path, error)}") from error


def _reason(path: Path, error: Exception) -> str:
    if path.is_file() and path.stat().st_size == 0:
        return "the file is empty"
    if isinstance(error, PIL.UnidentifiedImageError):
        return "not an image, or its header is damaged"
    return str(getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__)


def _to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """Upright, and in mode RGB, or still grey if it has more than 8 bits, which Pillow would clip at 255."""
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode == "F":
        raise DataError("its pixels are floats; save it with 8 or 16 bits per channel")
    if image.mode.startswith("I") or image.mode == "RGB":
        return image
    if isinstance(image.info.get("transparency"), bytes):  # of a palette: Pillow warns about the direct way
        image = image.convert("RGBA")
    return image.convert("RGB")


def _require_codes(image: PIL.Image.Image) -> PIL.Image.Image:
    if image.mode not in _INDEX_MODES + _COLOR_MODES:
        raise DataError(f"an image of mode {image.mode} cannot hold class indices; save it as PNG with one channel")
    return _without_palette(image) if image.format == "GIF" else image


def _without_palette(image: PIL.Image.Image) -> PIL.Image.Image:
    """Grey, or RGB. The indices of a GIF mean nothing: programs leave out and reorder its colours in each file."""
    bands = image.convert("RGB").split()
    return bands[0] if len({band.tobytes() for band in bands}) == 1 else image.convert("RGB")


# Decoding


def _as_array(image: PIL.Image.Image) -> Image:
    if image.mode == "RGB":
        return np.array(image)
    grey = (np.asarray(image).clip(0, 2**16 - 1) >> 8).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def _as_codes(image: PIL.Image.Image) -> Codes:
    if image.mode in _COLOR_MODES:
        four_bytes = image.tobytes("raw", "RGBX" if image.mode == "RGB" else "RGBA")
        packed = np.frombuffer(four_bytes, "<u4") & 0xFFFFFF
        return Codes(packed.reshape(image.height, image.width), is_colored=True)
    band = image.getchannel(0) if image.mode in ("LA", "PA") else image
    values = np.asarray(band)
    return Codes(values.astype(np.uint8) if values.dtype == bool else values)


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


def _pack(color: Color) -> int:
    return color[0] | color[1] << 8 | color[2] << 16


def _unpack(code: int) -> Color:
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
