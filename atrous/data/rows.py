"""Images that are larger than the memory, as rows from the top: a few of them are in memory at a time.

PNG is decoded here, TIFF (GeoTIFF, BigTIFF) and JPEG by rasterio, the extra `geo`. What can't be read in rows, such as
an interlaced PNG or WebP, is read whole, up to the limit that holds for all images.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from atrous.data import jpeg, pillow, pixels, png, png_rows, raster
from atrous.data.pillow import LIMIT, limit_of_pixels
from atrous.data.png_rows import RGB, Png
from atrous.errors import ConfigError, DataError
from atrous.files import require_regular
from atrous.types import Size
from atrous.wire.png import PALETTE, SIGNATURE

Strip: TypeAlias = NDArray[np.uint8]  # [rows, W, 4]: red, green, blue, and 0 where a pixel has no data
MOST_WIDE = 2**18  # pixels of a row: a window's rows of them are in memory
_WIDTH, _HEIGHT, _GEOREFERENCE = 256, 257, {33550, 33922, 34264}  # tags of TIFF and GeoTIFF
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


class RowFile(NamedTuple):
    size: Size
    strips: Callable[[], Iterator[Strip]]  # each time from the top; they raise DataError with the path
    place: raster.Place | None = None  # on the earth
    note: str = ""  # for people


# ---- what a file says of its size


def size_of(path: Path) -> Size | None:
    """Height and width of a PNG, TIFF or JPEG of any size, which Pillow doesn't tell; None: of anything else."""
    try:
        require_regular(path)
        with path.open("rb") as file:
            head = file.read(png.HEAD)
        if head.startswith(_TIFF):
            return _size_of_tiff(path)
        if head.startswith(jpeg.START):
            frame = jpeg.read_head(path)
            return None if frame is None else (frame.height, frame.width)
    except OSError:  # whoever reads it says why
        return None
    return png_rows.size_of(head)


def _size_of_tiff(path: Path) -> Size | None:
    height, width = (pillow.tiff_tags(path).get(tag) for tag in (_HEIGHT, _WIDTH))
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


# ---- opening


@contextlib.contextmanager
def opened(path: Path, bands: Sequence[int] = ()) -> Iterator[RowFile]:
    """An image for reading in rows. `bands` are those of a TIFF to take for colours, counted from 1; none: the first.

    Raises DataError with the path for what can't be read.
    """
    with _opened(path, bands) as image:
        width = image.size[1]
        if width > MOST_WIDE:
            raise DataError(
                f"cannot read image {path}: it is {width} pixels wide, more than {MOST_WIDE}, of which the rows of a "
                "window would fill the memory; cut it into pieces"
            )
        yield image


@contextlib.contextmanager
def _opened(path: Path, bands: Sequence[int]) -> Iterator[RowFile]:
    head = _head(path)
    if bands and not head.startswith(_TIFF):
        raise DataError(f"cannot read image {path}: --bands chooses among the bands of a TIFF, which it isn't")
    reason = _why_whole(path, head, bands)
    if reason:
        yield _whole(path, reason)
    elif head.startswith(SIGNATURE):
        yield _of_png(png_rows.open_png(path))
    else:
        with raster.opened(path, _driver(head), bands) as source:
            yield _of_raster(source)


def _head(path: Path) -> bytes:
    try:
        require_regular(path)
        with path.open("rb") as file:
            return file.read(16)
    except OSError as error:
        raise DataError(f"cannot read image {path}: {error.strerror}") from error


def _driver(head: bytes) -> str:
    """GDAL's; empty for formats that it isn't asked to read."""
    drivers = {b"II*\0": "GTiff", b"MM\0*": "GTiff", b"II+\0": "GTiff", b"MM\0+": "GTiff", jpeg.START: "JPEG"}
    return next((driver for start, driver in drivers.items() if head.startswith(start)), "")


def _why_whole(path: Path, head: bytes, bands: Sequence[int]) -> str:
    """Why a file can't be read in rows; empty: it can."""
    if head.startswith(SIGNATURE):
        return _why_whole_png(png_rows.open_png(path))
    if not _driver(head):
        return "only the rows of PNG, TIFF and JPEG files can be read in turn; save it as one of these"
    if not raster.is_installed():
        reason = f"the rows of TIFF and JPEG files are read by rasterio: {raster.ADVICE}"
        if bands:
            raise ConfigError(f"--bands: {reason}")
        return reason
    if head.startswith(jpeg.START):
        return _why_whole_jpeg(path)
    orientation = pillow.tiff_tags(path).get(pillow.ORIENTATION, 1)
    return _why_turned(orientation if orientation in range(1, 9) else 1)


def _why_whole_png(image: Png) -> str:
    if image.is_interlaced:
        return "it is interlaced, so that its rows don't follow one another; save it without that"
    return _why_turned(image.orientation)


def _why_whole_jpeg(path: Path) -> str:
    head = jpeg.read_head(path)
    if head is None:
        return "its header is damaged"
    if head.is_progressive:
        return (
            "it is a progressive JPEG, whose rows are complete only at its end; save it as a baseline JPEG, or as PNG"
        )
    if head.components > 3:
        return "its colours are those of inks (CMYK); save it as RGB"
    return _why_turned(head.orientation)


def _why_turned(orientation: int) -> str:
    if orientation == 1:
        return ""
    return f"its EXIF orientation is {orientation}, so that its rows don't follow one another; save it upright"


def _whole(path: Path, reason: str) -> RowFile:
    size, limit = size_of(path), limit_of_pixels()
    if size is not None and size[0] * size[1] > limit:
        raise DataError(
            f"cannot read image {path}: {reason}; to read its {size[0] * size[1]} pixels at once, set the environment "
            f"variable {LIMIT}={size[0] * size[1]}"
        )
    image = pixels.read_image(path)
    note = f"its place on the earth isn't kept, since {reason}" if _is_on_earth(path) else ""
    return RowFile(image.shape[:2], lambda: iter([_strip(image, None)]), note=note)


def _is_on_earth(path: Path) -> bool:
    return bool(_GEOREFERENCE & pillow.tiff_tags(path).keys())


def _strip(colors: NDArray[np.uint8], valid: NDArray[np.bool_] | None) -> Strip:
    """Colours [rows, W, 1 or 3] with what is valid [rows, W]; None: all."""
    strip = np.empty((*colors.shape[:2], 4), np.uint8)
    strip[..., :3] = colors
    strip[..., 3] = 255 if valid is None else valid * np.uint8(255)
    return strip


# ---- PNG


def _of_png(image: Png) -> RowFile:
    bits = _depth_of_png(image) if image.is_deep else 8
    return RowFile((image.height, image.width), functools.partial(_strips_of_png, image, bits))


def _depth_of_png(image: Png) -> int:
    extent = _extent(values for values, _ in _valued(image))
    significant = max(image.small[b"sBIT"][:3], default=None) if b"sBIT" in image.small else None
    said = pixels.bits_by_significant(significant, extent.high, lambda below: bool(extent.union & below))
    return pixels.used_bits(str(image.path), extent.low, extent.high, said)


def _strips_of_png(image: Png, bits: int) -> Iterator[Strip]:
    table = _table_of(image)
    for values, valid in _valued(image):
        if image.kind == PALETTE:
            colors = table[values[..., 0]]
            yield _strip(colors[..., :3], colors[..., 3] > 0)
        elif image.is_deep:
            yield _strip((values >> (bits - 8)).astype(np.uint8), valid)
        else:
            scale = np.uint8(255 // (2**image.depth - 1))
            yield _strip(values * scale, valid)


def _valued(image: Png) -> Iterator[tuple[NDArray[Any], NDArray[np.bool_] | None]]:
    """Samples without alpha, and which pixels aren't wholly transparent."""
    colors, clear = image.samples - (image.samples in (2, 4)), _transparent_color(image)
    for samples in png_rows.strips(image):
        if colors < image.samples:
            yield samples[..., :colors], samples[..., -1] > 0
        else:
            yield samples, None if clear is None else (samples != clear).any(-1)


def _transparent_color(image: Png) -> NDArray[np.uint16] | None:
    """The one colour that a PNG without alpha calls transparent."""
    data = image.small.get(b"tRNS", b"")
    if image.kind == PALETTE or len(data) != 2 * image.samples or image.kind not in (0, RGB):
        return None
    return np.frombuffer(data, ">u2").astype(np.uint16)


def _table_of(image: Png) -> NDArray[np.uint8]:
    """The colours of a palette with their alpha, [256, 4]; those that the file lacks are black."""
    table = np.full((256, 4), 255, np.uint8)
    table[:, :3] = 0
    colors = np.frombuffer(image.small.get(b"PLTE", b""), np.uint8)
    table[: len(colors) // 3, :3] = colors[: len(colors) // 3 * 3].reshape(-1, 3)
    alpha = np.frombuffer(image.small.get(b"tRNS", b"")[:256], np.uint8) if image.kind == PALETTE else colors[:0]
    table[: len(alpha), 3] = alpha
    return table


# ---- rasters


def _of_raster(source: raster.Raster) -> RowFile:
    bits = _depth_of_raster(source) if source.is_deep else 8
    return RowFile(source.size, functools.partial(_strips_of_raster, source, bits), source.place)


def _depth_of_raster(source: raster.Raster) -> int:
    """Values without data, such as 65535, are no brightness."""
    extent = _extent(values if valid is None else values[valid] for values, valid in raster.strips(source))
    largest = raster.largest_said(source)
    said = None if largest is None else pixels.bits_by_largest(largest, extent.high)
    return pixels.used_bits(source.name, extent.low, extent.high, said)


def _strips_of_raster(source: raster.Raster, bits: int) -> Iterator[Strip]:
    for values, valid in raster.strips(source):
        colors = (values.clip(0, 2**bits - 1) >> (bits - 8)).astype(np.uint8) if source.is_deep else values
        yield _strip(colors, valid)


# ---- values of more than 8 bits


class _Extent(NamedTuple):
    low: int
    high: int
    union: int  # of the bits in all values


def _extent(strips: Iterator[NDArray[Any]]) -> _Extent:
    parts = [
        (int(values.min()), int(values.max()), int(np.bitwise_or.reduce(values, axis=None)))
        for values in strips
        if values.size
    ]
    if not parts:
        return _Extent(0, 0, 0)
    lows, highs, unions = zip(*parts, strict=True)
    return _Extent(min(lows), max(highs), functools.reduce(int.__or__, unions))


# ---- rows on request


def reader(strips: Iterator[Strip]) -> Callable[[slice], Strip]:
    """A function from rows to their pixels. Rows above those that were asked for last are forgotten."""
    parts: list[Strip] = []
    top = 0

    def read(rows: slice) -> Strip:
        nonlocal top
        while parts and top + len(parts[0]) <= rows.start:
            top += len(parts.pop(0))
        while top + sum(map(len, parts)) < rows.stop:
            part = next(strips)
            if top + len(part) <= rows.start and not parts:
                top += len(part)
            else:
                parts.append(part)
        inside = [part[max(0, rows.start - start) : max(0, rows.stop - start)] for start, part in _placed(parts, top)]
        return np.concatenate(inside)

    return read


def _placed(parts: Sequence[Strip], top: int) -> Iterator[tuple[int, Strip]]:
    for part in parts:
        yield top, part
        top += len(part)
