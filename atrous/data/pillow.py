"""Opens image files with Pillow: its limits set, its gaps closed, its complaints made lines that name the file."""

import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeAlias

import PIL.Image
from PIL import TiffImagePlugin

from atrous.errors import ConfigError, DataError
from atrous.files import require_regular
from atrous.wire.image_ends import is_cut_off

logging.getLogger("PIL").addHandler(logging.NullHandler())  # what it logs is in our complaint too
warnings.filterwarnings("ignore", r"Truncated File Read|Corrupt EXIF data", UserWarning, r"PIL\.")  # likewise

Box: TypeAlias = tuple[int, int, int, int]  # left, top, right, bottom

LIMIT = "ATROUS_MAX_PIXELS"  # the environment variable
ORIENTATION, NEW_SUBFILE_TYPE = 0x0112, 254  # tags of EXIF and TIFF
_PHOTOMETRIC, _SAMPLES, _BITS, _FORMAT, _PLANAR, _EXTRA = 262, 277, 258, 339, 284, 338
_WHITE_IS_ZERO, _SIGNED, _IS_NO_PAGE = 0, 2, 0b101  # a smaller copy, or a transparency mask, of another page
_SAMPLE_FORMATS = {1: "whole numbers", 2: "signed numbers", 3: "floats"}
_PARTS = {"TIFF": "pages", "GIF": "frames", "PNG": "frames", "WEBP": "frames", "AVIF": "frames"}  # not MPO: photos
_ADVICE = {"pages": "save each page as a file of its own", "frames": "save the frame that you mean as a PNG"}
# Pillow keeps the high byte of colours with 16 bits. Told the other byte order, it takes the low one: mode and raw
# mode, by the raw mode of the high bytes.
_NATIVE, _SWAPPED = ("L", "B") if sys.byteorder == "little" else ("B", "L")
_LOW_BYTES = {
    f"{bands};16{order}": (bands if bands == "RGBA" else "RGB", f"{bands};16{other}")
    for bands in ("RGB", "RGBA", "RGBX")
    for order, other in (("L", "B"), ("B", "L"), ("N", _SWAPPED))
} | {"LA;16B": ("RGBA", "RGBA")}  # grey, its low byte, alpha, its low byte


class Loaded(NamedTuple):
    """A picture as Pillow decodes it, and what Pillow doesn't tell."""

    image: PIL.Image.Image
    name: str  # for complaints
    orientation: int = 1  # by its EXIF; the pixels are as stored
    is_deep_color: bool = False  # `image` has the high bytes of 16 bits per channel
    low: PIL.Image.Image | None = None  # the low bytes, if the file holds 14 bits or fewer
    significant_bits: int | None = None  # of each channel, as a PNG says
    largest: int | None = None  # the largest value that a pixel may have, as a TIFF says
    num_left_out: int = 0  # bands beyond the colours of a TIFF, whose meaning it doesn't say


class Header(NamedTuple):
    """What an image file says of itself."""

    mode: str  # Pillow's
    is_deep: bool  # more than 8 bits per channel
    orientation: int
    palette: tuple[tuple[int, int, int], ...] = ()


def header(path: Path) -> Header:
    """Raises whatever Pillow does for a file that `load` refuses."""
    with PIL.Image.open(path) as image:
        is_deep = image.mode.startswith("I") or ";16" in _raw_mode(image)
        colors = image.getpalette("RGB") if image.mode == "P" else None
        palette = tuple(zip(*[iter(colors or ())] * 3, strict=False))
        return Header(image.mode, is_deep, orientation_of(image), palette)


def load(
    source: Path | BinaryIO, what: str, check: Callable[[PIL.Image.Image], object], box: Box | None = None
) -> Loaded:
    """Decode a file and `check` the picture; whatever either raises becomes a DataError of one line with the name.

    `box` is the only part that is wanted, of a PNG whose rows follow one another at 8 bits or fewer (`data.png`).
    """
    name = name_of(source)
    try:
        if not isinstance(source, Path):
            return _load(source, name, check, box)
        require_regular(source)
        with source.open("rb") as file:
            return _load(file, name, check, box)
    except (MemoryError, ConfigError):
        raise
    except Exception as error:  # Pillow raises almost anything for a damaged file
        raise DataError(f"cannot read {what} {name}: {_reason(source, error)}") from error


def name_of(source: Path | BinaryIO) -> str:
    if isinstance(source, Path):
        return str(source)
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else f"in memory ({type(source).__name__})"


def _load(file: BinaryIO, name: str, check: Callable[[PIL.Image.Image], object], box: Box | None = None) -> Loaded:
    limit = _set_limit()
    with PIL.Image.open(file) as image:
        if limit is not None and image.width * image.height > limit:
            raise PIL.Image.DecompressionBombError(f"({image.width * image.height} pixels)")
        page = _require_one_picture(image)
        tags = getattr(image, "tag_v2", {})  # of a TIFF
        _require_colors(tags)
        raw_mode, largest, left_out = _raw_mode(image), _largest(tags), list(tags.get(_EXTRA, ())).count(0)
        if box is not None:
            _keep_rows(image, box[3])
        image.load()
        check(image)
    if box is not None:
        return Loaded(image.crop(box), name)
    is_deep_color = ";16" in raw_mode and not image.mode.startswith("I")
    low = None
    if is_deep_color and max(high for _, high in _color_extrema(image)) < 64:  # fewer than 15 of the 16 bits
        low = _load_low_bytes(file, page, raw_mode)
    is_deep = is_deep_color or image.mode.startswith("I")
    bits = _significant_bits(file) if is_deep and image.format == "PNG" else None
    return Loaded(image, name, orientation_of(image), is_deep_color, low, bits, largest, left_out)


def _keep_rows(image: PIL.Image.Image, count: int) -> None:
    """Only the first rows: as soon as it has them, Pillow's decoder stops."""
    size = (image.width, count)
    image._size = size
    image.tile = [(tile[0], (0, 0, *size), *tile[2:]) for tile in image.tile]  # type: ignore[attr-defined]


# ---- sizes


def _set_limit() -> int | None:
    """The largest number of pixels, from the environment; None: Pillow's own limit, which it checks itself."""
    text = os.environ.get(LIMIT)
    if not text:
        return None
    if not re.fullmatch(r"[0-9][0-9_]*", text) or not int(text):
        raise ConfigError(f"{LIMIT}={text}: the environment variable must be a whole number of pixels, as 400_000_000")
    PIL.Image.MAX_IMAGE_PIXELS = int(text)  # where Pillow begins to warn
    return int(text)


def limit_of_pixels() -> int:
    return _set_limit() or 2 * (PIL.Image.MAX_IMAGE_PIXELS or 0)


# ---- one picture of colours


def _require_one_picture(image: PIL.Image.Image) -> int:
    """Seek the picture of a file that holds one, apart from smaller copies; returns its page."""
    kind = _PARTS.get(image.format or "")
    if kind is None or not getattr(image, "is_animated", False):
        return 0
    count = int(getattr(image, "n_frames", 1))
    pages = [number for number in range(count) if kind == "frames" or _is_page(image, number)]
    if len(pages) > 1:
        what = f"has {len(pages)} pages" if kind == "pages" else f"is an animation of {count} frames"
        raise DataError(f"it {what}, not one picture; {_ADVICE[kind]}")
    image.seek(pages[0] if pages else 0)
    return image.tell()


def _is_page(image: PIL.Image.Image, number: int) -> bool:
    assert isinstance(image, TiffImagePlugin.TiffImageFile)
    image.seek(number)
    return not int(image.tag_v2.get(NEW_SUBFILE_TYPE, 0)) & _IS_NO_PAGE


def _require_colors(tags: Mapping[int, Any]) -> None:
    """Refuse pixels of TIFFs that Pillow decodes, but to something else."""
    bits = tags.get(_BITS, (1,))
    if tags.get(_SAMPLES, 1) > 4:
        raise DataError(_bands(tags))
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO and bits[0] > 8:
        raise DataError(f"0 is white in it, with {bits[0]} bits; save it so that 0 is black (BlackIsZero)")
    if bits[0] == 8 and _SIGNED in tags.get(_FORMAT, (1,)):
        raise DataError("its pixels are signed numbers; save it with values of 0 to 255")
    if bits[0] > 8 and tags.get(_SAMPLES, 1) > 1 and tags.get(_PLANAR) == 2:
        raise DataError(f"its bands of {bits[0]} bits lie one after the other; save it with interleaved colours")


def _bands(tags: Mapping[int, Any]) -> str:
    count, bits = tags.get(_SAMPLES, 1), tags.get(_BITS, (1,))[0]
    number = _SAMPLE_FORMATS.get(tags.get(_FORMAT, (1,))[0], "numbers of another kind")
    what = f"a TIFF with {count} band{'s'[: count - 1]} of {bits} bits ({number})"
    return f"{what}; save the three bands to show as RGB, or one as grey, with 8 or 16 bits"


# ---- depth


def _raw_mode(image: PIL.Image.Image) -> str:
    """How the pixels lie in the file, in Pillow's words; empty for decoders that have none."""
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else ""
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _color_extrema(image: PIL.Image.Image) -> list[tuple[int, int]]:
    return [image.getchannel(band).getextrema() for band in image.getbands() if band != "A"]  # type: ignore[misc]


def _load_low_bytes(file: BinaryIO, page: int, raw_mode: str) -> PIL.Image.Image:
    if raw_mode not in _LOW_BYTES:
        raise DataError(f"it has 16 bits per channel ({raw_mode}), of which few are used; save it with 8")
    mode, low_mode = _LOW_BYTES[raw_mode]
    file.seek(0)
    with PIL.Image.open(file) as image:
        image.seek(page)
        image._mode = mode
        image.tile = [_with_arguments(tile, _with_raw_mode(tile[3], low_mode)) for tile in image.tile]
        image.load()
        if raw_mode == "LA;16B":
            green = image.getchannel("G")
            return PIL.Image.merge("RGB", (green, green, green))
        return image.convert("RGB")


def _with_arguments(tile: Any, arguments: object) -> Any:  # noqa: ANN401 - a tuple that Pillow 11 has given names
    return tile._replace(args=arguments) if hasattr(tile, "_replace") else (*tile[:3], arguments)


def _with_raw_mode(arguments: object, raw_mode: str) -> object:
    return (raw_mode, *arguments[1:]) if isinstance(arguments, tuple) else raw_mode


def _significant_bits(file: BinaryIO) -> int | None:
    """The largest number in a PNG's sBIT chunk, which comes before the pixels."""
    file.seek(8)
    while len(head := file.read(8)) == 8 and head[4:] not in (b"IDAT", b"IEND"):
        length = int.from_bytes(head[:4], "big")
        if head[4:] == b"sBIT" and 1 <= length <= 4:
            return max(file.read(length)[:3])
        file.seek(length + 4, os.SEEK_CUR)
    return None


def _largest(tags: Mapping[int, Any]) -> int | None:
    """What a TIFF gives as the largest value of a pixel: of 12-bit pixels, else MaxSampleValue, SMaxSampleValue."""
    bits = tags.get(_BITS, (1,))[0]
    if bits not in (1, 8, 16, 32):
        return int(2**bits - 1)
    for tag in (281, 341):
        value = tags.get(tag)
        largest = max(value) if isinstance(value, tuple) and value else value
        if isinstance(largest, int | float) and largest > 0:
            return int(largest)
    return None


# ---- orientation


def orientation_of(image: PIL.Image.Image) -> int:
    """1 to 8, as EXIF numbers them; 1, upright, where the EXIF is damaged."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # as viewers do
        return 1
    return value if value in range(1, 9) else 1


# ---- reasons


CUT_OFF = "the file is cut off: it ends before its pixels do"


def _reason(source: Path | BinaryIO, error: Exception) -> str:
    if isinstance(error, PIL.Image.DecompressionBombError | PIL.Image.DecompressionBombWarning):
        return _too_large(str(error))
    if not isinstance(error, DataError) and ends_early(source):
        return CUT_OFF
    if isinstance(error, PIL.UnidentifiedImageError):
        return _unknown(source)
    return str(getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__)


def _too_large(text: str) -> str:
    pixels = re.search(r"\((\d+) pixels\)", text)
    count = pixels[1] if pixels else "N"
    return (
        f"its {count} pixels are more than the limit of {limit_of_pixels()}, since a small file could fill the memory; "
        f"to read it, set the environment variable {LIMIT}={count}"
    )


def ends_early(source: Path | BinaryIO) -> bool:
    """Whether the file is shorter than it says, if it says so, and can still be looked at."""
    try:
        if not isinstance(source, Path):
            return is_cut_off(source)
        require_regular(source)
        with source.open("rb") as file:
            return is_cut_off(file)
    except (OSError, ValueError):
        return False


def _unknown(source: Path | BinaryIO) -> str:
    if isinstance(source, Path):
        with source.open("rb") as file:
            return _unknown_content(file)
    source.seek(0)
    return _unknown_content(source)


def tiff_tags(path: Path) -> Mapping[int, Any]:
    """The tags of a TIFF's first page; {} for anything else. Raises OSError."""
    with path.open("rb") as file:
        return dict(_tiff_tags(file, file.read(16)) or {})


def _unknown_content(file: BinaryIO) -> str:
    head = file.read(16)
    if not head:
        return "the file is empty"
    if head.startswith(b"version https:/"):
        return "not an image, but a pointer of Git LFS; fetch the file with `git lfs pull`"
    tags = _tiff_tags(file, head)
    return _bands(tags) if tags else "not an image, or its header is damaged"


def _tiff_tags(file: BinaryIO, head: bytes) -> TiffImagePlugin.ImageFileDirectory_v2 | None:
    """The tags of a TIFF's first page; None for anything else."""
    if head[:4] not in TiffImagePlugin.PREFIXES:
        return None
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(head if 43 in head[2:4] else head[:8])
        file.seek(tags.next)
        tags.load(file)
    except Exception:  # a damaged header
        return None
    return tags if _SAMPLES in tags or _BITS in tags else None
