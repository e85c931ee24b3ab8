"""From image and label files to arrays: photos as upright RGB of 8 bits, labels as the numbers or colours they hold."""

from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from atrous.data import pillow
from atrous.data.pillow import Box, Loaded
from atrous.errors import DataError, warn_once
from atrous.types import Image

Numbers = NDArray[np.integer[Any]]

_INDEX_MODES = ("1", "L", "P", "LA", "PA", "I", "I;16", "I;16B", "I;16L")
_COLOR_MODES = ("RGB", "RGBA")
_STRIP = 2**17  # pixels that are converted at a time: a copy of them fits the cache
_DEPTHS = (8, 10, 12, 14, 16)  # bits of cameras and files

# How stored pixels are turned upright, by EXIF's number: swap rows and columns, then reverse rows, then columns.
_TURNS = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}
_BACK = {6: 8, 8: 6}  # all others undo themselves


class Picture(NamedTuple):
    """An image file's content."""

    pixels: Image  # [H, W, 3], upright
    orientation: int  # of the pixels in the file, as EXIF numbers it; 1: upright


class Codes(NamedTuple):
    """The content of a label file, before its values are given a meaning."""

    values: Numbers  # [H, W] label values; where `is_colored`, red + 256 green + 65536 blue
    is_colored: bool = False
    orientation: int = 1  # by its EXIF; the values are as stored


class NamedBytes(BytesIO):
    """A file in memory, with the name that complaints give it."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.name = name


def read_image(source: str | Path | BinaryIO, box: Box | None = None) -> Image:  # [H, W, 3]
    """A photo of any mode as RGB, turned upright as its EXIF orientation says. Raises DataError with the path.

    Pixels of more than 8 bits are scaled by the bits that they use, which is said once. `box`: as of `pillow.load`.
    """
    return read_picture(source, box).pixels


def read_picture(source: str | Path | BinaryIO, box: Box | None = None) -> Picture:
    file = Path(source) if isinstance(source, str) else source
    loaded = pillow.load(file, "image", _require_photo, box)
    if loaded.num_left_out:
        warn_once("bands", f"{loaded.name}: what it holds besides colours is left out (bands: {loaded.num_left_out})")
    return Picture(_as_array(loaded), loaded.orientation)


def as_rgb(image: PIL.Image.Image) -> Image:  # [H, W, 3]
    """The current frame of `image`, upright; `image` itself stays as it is. Raises DataError for pixels of floats."""
    try:
        image.load()
    except (OSError, ValueError) as error:  # its file is read only now, and may be damaged or closed
        raise DataError(f"cannot read the image: {error}") from error
    if not image.width * image.height:
        raise DataError(f"the image has no pixels: it is {image.width} x {image.height} (width x height)")
    _require_photo(image)
    return _as_array(Loaded(image, "the image", pillow.orientation_of(image)))


def read_label(source: Path | BinaryIO, box: Box | None = None) -> Codes:
    """For a palette image, the indices, not the colours, except of a GIF. Raises DataError with the path.

    `box`: as of `pillow.load`.
    """
    loaded = pillow.load(source, "label", _require_codes, box)
    if loaded.image.format == "GIF":
        loaded = loaded._replace(image=_without_palette(loaded.image))
    if loaded.is_deep_color:
        raise DataError(f"cannot read label {loaded.name}: its colours have 16 bits per channel; save it with 8")
    return _as_codes(loaded)


def _without_palette(image: PIL.Image.Image) -> PIL.Image.Image:
    """Grey, or RGB. The indices of a GIF mean nothing: programs leave out and reorder its colours in each file."""
    bands = image.convert("RGB").split()
    return bands[0] if len({band.tobytes() for band in bands}) == 1 else image.convert("RGB")


def upright(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """A view of stored pixels [H, W, ...] as EXIF's `orientation` turns them."""
    is_swapped, *reversals = _TURNS[orientation]
    turned = array.swapaxes(0, 1) if is_swapped else array
    return turned[tuple(slice(None, None, -1 if is_reversed else 1) for is_reversed in reversals)]


def stored(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """A view of upright pixels as they are stored: `upright` undone."""
    return upright(array, _BACK.get(orientation, orientation))


# ---- what Pillow can convert; the file is to blame for the rest


def _require_photo(image: PIL.Image.Image) -> None:
    if image.mode == "F":
        raise DataError("its pixels are floats; save it with 8 or 16 bits per channel")
    if not image.mode.startswith("I"):
        _converted(image.crop((0, 0, 1, 1)))


def _require_codes(image: PIL.Image.Image) -> None:
    if image.mode not in _INDEX_MODES + _COLOR_MODES:
        raise DataError(f"an image of mode {image.mode} cannot hold whole numbers; save it as PNG with one channel")


def _converted(image: PIL.Image.Image) -> PIL.Image.Image:
    if image.mode == "RGB":
        return image
    if isinstance(image.info.get("transparency"), bytes):  # of a palette: Pillow warns about the direct way
        image = image.convert("RGBA")
    return image.convert("RGB")


# ---- photos


def _as_array(loaded: Loaded) -> Image:
    """A strip at a time, each laid where it belongs in the upright picture: no second whole copy is made."""
    width, height = loaded.image.size
    size = (height, width) if not _TURNS[loaded.orientation][0] else (width, height)
    pixels = np.empty((*size, 3), np.uint8)
    target = stored(pixels, loaded.orientation)
    if loaded.image.mode.startswith("I") or loaded.low is not None:
        bits = _depth(loaded)
        for rows, values in _deep_strips(loaded):
            target[rows] = values >> (bits - 8)
    else:
        for rows, strip in _strips(loaded.image):
            target[rows] = np.asarray(_converted(strip))
    return pixels


def _strips(image: PIL.Image.Image) -> Iterator[tuple[slice, PIL.Image.Image]]:
    step = max(1, _STRIP // max(1, image.width))
    for top in range(0, image.height, step):
        bottom = min(top + step, image.height)
        yield slice(top, bottom), image.crop((0, top, image.width, bottom))


def _deep_strips(loaded: Loaded) -> Iterator[tuple[slice, Numbers]]:  # [rows, W, 1 or 3]
    if loaded.low is None:
        for rows, strip in _strips(loaded.image):
            yield rows, np.asarray(strip)[..., None]
        return
    for (rows, high), (_, low) in zip(_strips(loaded.image), _strips(loaded.low), strict=True):
        yield rows, np.asarray(_converted(high)).astype(np.uint16) << 8 | np.asarray(low)


def _depth(loaded: Loaded) -> int:
    """How many bits the pixels use, of 8 to 16: what the file says or, where that can't be, what its values need.

    Only a number of bits keeps the images of a sequence alike: by its largest value, each would be scaled differently.
    """
    low, high = _extent(loaded)
    return used_bits(loaded.name, low, high, _said_depth(loaded, high))


def used_bits(name: str, low: int, high: int, said: int | None) -> int:
    """The bits of pixels that are low..high, if the file doesn't say which. Raises DataError with the name."""
    if low < 0 or high >= 2**16:
        raise DataError(
            f"cannot read image {name}: its pixels are {low}..{high}; save it with values in 0..65535, or 0..255"
        )
    bits = said or _needed(high)
    if high and min(bits, _needed(high)) < 16:
        reason = ", as the file says" if said else ""
        warn_once(
            "depth",
            f"{name}: its values, at most {high}, are read as {bits}-bit ones{reason}: 0..{2**bits - 1} becomes "
            "0..255; other images of more than 8 bits are read likewise, each by its own number of bits",
        )
    return bits


def _extent(loaded: Loaded) -> tuple[int, int]:
    extents = [(int(values.min()), int(values.max())) for _, values in _deep_strips(loaded)]
    return min(low for low, _ in extents), max(high for _, high in extents)


def _needed(largest: int) -> int:
    return next(bits for bits in _DEPTHS if largest < 2**bits)


def _said_depth(loaded: Loaded, high: int) -> int | None:
    if loaded.largest is not None:
        return bits_by_largest(loaded.largest, high)
    masked = (values for _, values in _deep_strips(loaded))
    return bits_by_significant(loaded.significant_bits, high, lambda below: any((v & below).any() for v in masked))


def bits_by_largest(largest: int, high: int) -> int | None:
    """By what a TIFF gives as the largest value; None where that isn't true."""
    return _needed(min(largest, 2**16 - 1)) if high <= largest else None


def bits_by_significant(bits: int | None, high: int, has_any: Callable[[int], bool]) -> int | None:
    """By the bits that a PNG calls significant; `has_any` says whether a value has one of these bits.

    A PNG's significant bits are the upper ones, so all 16 count; but many programs write them as the lower ones.
    """
    if bits is None or not 8 <= bits <= 16 or high >= 2**bits:
        return None
    return bits if has_any(2 ** (16 - bits) - 1) else 16


# ---- labels


def _as_codes(loaded: Loaded) -> Codes:
    image = loaded.image
    if image.mode in _COLOR_MODES:
        four_bytes = image.tobytes("raw", "RGBX" if image.mode == "RGB" else "RGBA")
        packed = np.frombuffer(four_bytes, "<u4") & 0xFFFFFF
        return Codes(packed.reshape(image.height, image.width), True, loaded.orientation)
    band = image.getchannel(0) if image.mode in ("LA", "PA") else image
    values = np.asarray(band)
    return Codes(values.astype(np.uint8) if values.dtype == bool else values, False, loaded.orientation)
