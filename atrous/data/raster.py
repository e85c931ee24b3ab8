"""TIFF and JPEG files as rows from the top, and label maps as GeoTIFF, by rasterio: the extra `geo`."""

import contextlib
import errno
import importlib.util
import logging
import os
import re
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from atrous.data import pillow
from atrous.errors import DataError, warn_once

logging.getLogger("rasterio").addHandler(logging.NullHandler())  # what it logs is in our complaint too

ADVICE = "pip install 'atrous[geo]'"
STRIP_BYTES = 2**24  # of rows that are read at a time, unless the file's own blocks are higher
MOST_BYTES = 2**29  # of a row of blocks, which are decoded as a whole
CACHE = 64  # MiB that GDAL keeps
TILE = 512  # pixels of a side
_ROOM = 2**20  # bytes
_OPTIONS = {
    "GDAL_CACHEMAX": CACHE,
    "GDAL_ERROR_ON_LIBJPEG_WARNING": True,  # or what is missing at the end of a file would be grey
}
_STORED = {
    "tiled": True,
    "blockxsize": TILE,
    "blockysize": TILE,
    "compress": "deflate",
    "bigtiff": "IF_SAFER",
}


class Place(NamedTuple):
    """Where a raster lies on the earth, in rasterio's words."""

    crs: Any
    transform: Any
    gcps: Any
    rpcs: Any
    area_or_point: str | None


class Raster(NamedTuple):
    """An open file; its bands are counted from 1."""

    source: Any
    name: str  # for complaints
    colors: tuple[int, ...]  # one band, or three
    kind: str  # NumPy's
    place: Place | None

    @property
    def size(self) -> tuple[int, int]:
        return self.source.height, self.source.width

    @property
    def is_deep(self) -> bool:
        return self.kind != "uint8"

    @property
    def has_gaps(self) -> bool:
        """Whether pixels may have no data: by a nodata value, a mask, or alpha."""
        flags = self.source.mask_flag_enums
        return any(flag.name != "all_valid" for of_band in flags for flag in of_band)


def is_installed() -> bool:
    return importlib.util.find_spec("rasterio") is not None


@contextlib.contextmanager
def opened(path: Path, driver: str, bands: Sequence[int] = ()) -> Iterator[Raster]:
    """Raises DataError with the path. GDAL's settings hold within it, for `writer` too."""
    import rasterio

    with rasterio.Env(**_OPTIONS):
        with _named(path):
            source = _open(path, driver=driver)
        with source:
            with _named(path):
                raster = _checked(source, str(path), tuple(bands))
            yield raster


def _open(path: Path, mode: str = "r", **options: Any) -> Any:  # noqa: ANN401
    """Without a warning of what lies nowhere on the earth, which is most pictures."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(path, mode, **options)


@contextlib.contextmanager
def _named(path: Path | str) -> Iterator[None]:
    """Whatever rasterio raises as a line with the path."""
    try:
        yield
    except (MemoryError, DataError):
        raise
    except Exception as error:
        reason = re.sub(
            rf"^({re.escape(str(path))}|{re.escape(Path(path).name)})[:,] ", "", str(error.__cause__ or error)
        )
        reason = pillow.CUT_OFF if pillow.ends_early(Path(path)) else reason
        raise DataError(f"cannot read image {path}: {reason}") from error


def _checked(source: Any, name: str, bands: tuple[int, ...]) -> Raster:  # noqa: ANN401
    _require_one_page(source, name)
    colors = _colors(source, name, bands)
    kinds = {source.dtypes[index - 1] for index in colors}
    kind = kinds.pop()
    if kinds or not kind.startswith(("uint", "int")) or kind == "int8":
        raise DataError(f"cannot read image {name}: {_wrong_kind(kind, several=bool(kinds))}")
    if _is_white_zero(source) and kind != "uint8":
        raise DataError(
            f"cannot read image {name}: 0 is white in it, with more than 8 bits; save it so that 0 is black "
            "(BlackIsZero)"
        )
    height, width = source.block_shapes[0]
    bytes_of_row = height * max(width, source.width) * source.count * np.dtype(kind).itemsize
    if bytes_of_row > MOST_BYTES:
        raise DataError(
            f"cannot read image {name}: it is stored in blocks of {height} x {width} pixels, a row of which takes "
            f"{bytes_of_row / 2**30:.1f} GiB; tile it: gdal_translate -co TILED=YES -co COMPRESS=DEFLATE"
        )
    return Raster(source, name, colors, kind, _place(source))


def _require_one_page(source: Any, name: str) -> None:  # noqa: ANN401
    if len(source.subdatasets) > 1:
        raise DataError(
            f"cannot read image {name}: it has {len(source.subdatasets)} pages, not one picture; save each page as a "
            "file of its own"
        )


def _wrong_kind(kind: str, *, several: bool) -> str:
    if several:
        return "its bands are of different types; save them with one, of 8 or 16 bits"
    what = "floats" if "float" in kind else "signed numbers" if kind == "int8" else f"numbers of the type {kind}"
    return f"its pixels are {what}; save it with 8 or 16 bits per channel"


def _colors(source: Any, name: str, bands: tuple[int, ...]) -> tuple[int, ...]:  # noqa: ANN401
    if bands:
        return _chosen(source, name, bands)
    meanings = [meaning.name for meaning in source.colorinterp]
    if source.count > 4:
        raise DataError(
            f"cannot read image {name}: it has {source.count} bands ({source.dtypes[0]}); name the three to show, or "
            "one, as in --bands 4,3,2"
        )
    others = [index for index, meaning in enumerate(meanings, 1) if meaning != "alpha"]
    colors = tuple(others[:3] if len(others) >= 3 else others[:1])
    if not colors:
        raise DataError(f"cannot read image {name}: it has no band but alpha")
    if len(colors) < len(others):
        number = len(others) - len(colors)
        warn_once("bands", f"{name}: what it holds besides colours is left out (bands: {number})")
    return colors


def _chosen(source: Any, name: str, bands: tuple[int, ...]) -> tuple[int, ...]:  # noqa: ANN401
    wrong = [band for band in bands if not 1 <= band <= source.count]
    if wrong:
        number = f"{source.count} band{'s'[: source.count - 1]}, counted from 1"
        raise DataError(f"cannot read image {name}: --bands {','.join(map(str, bands))}: it has {number}")
    return bands


def _is_white_zero(source: Any) -> bool:  # noqa: ANN401
    return bool(source.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES")


def _place(source: Any) -> Place | None:  # noqa: ANN401
    gcps, crs_of_gcps = source.gcps
    if source.crs is None and source.transform.is_identity and not gcps and source.rpcs is None:
        return None
    tag = source.tags().get("AREA_OR_POINT")
    return Place(source.crs or crs_of_gcps, source.transform, gcps, source.rpcs, tag)


# ---- reading


def strips(raster: Raster) -> Iterator[tuple[NDArray[Any], NDArray[np.bool_] | None]]:
    """Values [rows, W, 1 or 3] from the top, and which pixels have data; None: all. Raises DataError with the path."""
    from rasterio.windows import Window

    (height, width), source, gaps = raster.size, raster.source, raster.has_gaps
    table = _palette(raster)
    scale = _scale(raster) if table is None else None
    for top, count in _pieces(raster):
        with _named(raster.name):
            window = Window(0, top, width, min(count, height - top))
            values = source.read(raster.colors, window=window).transpose(1, 2, 0)
            valid = source.dataset_mask(window=window) > 0 if gaps else None
        if table is not None:
            values = table[values[..., 0]]
        yield (scale[values] if scale is not None else values), valid


def _pieces(raster: Raster) -> Iterator[tuple[int, int]]:
    """Where strips start, and their number of rows: whole blocks."""
    (height, width), block = raster.size, raster.source.block_shapes[0][0]
    row_bytes = width * raster.source.count * np.dtype(raster.kind).itemsize
    count = max(1, STRIP_BYTES // row_bytes // block) * block
    return ((top, count) for top in range(0, height, count))


def _palette(raster: Raster) -> NDArray[np.uint8] | None:  # [256, 3]
    source = raster.source
    if len(raster.colors) > 1 or raster.is_deep or source.colorinterp[raster.colors[0] - 1].name != "palette":
        return None
    colors = source.colormap(raster.colors[0])
    return np.array([colors.get(index, (0, 0, 0, 0))[:3] for index in range(256)], np.uint8)


def _scale(raster: Raster) -> NDArray[np.uint8] | None:  # [256]
    """What values of fewer than 8 bits, or those of a picture whose 0 is white, are in 0..255; None: they are."""
    source, is_inverse = raster.source, _is_white_zero(raster.source)
    text = source.tags(raster.colors[0], ns="IMAGE_STRUCTURE").get("NBITS", "8")
    largest = 2 ** int(text) - 1 if text.isdigit() and 1 <= int(text) < 8 else 255
    if largest == 255 and not is_inverse:
        return None
    values = np.arange(256).clip(max=largest) * 255 // largest
    return (255 - values if is_inverse else values).astype(np.uint8)


def largest_said(raster: Raster) -> int | None:
    """What a TIFF gives as the largest value of a pixel."""
    bits = raster.source.tags(raster.colors[0], ns="IMAGE_STRUCTURE").get("NBITS", "")
    if bits.isdigit() and 8 < int(bits) < 16:
        return int(2 ** int(bits) - 1)
    text = str(raster.source.tags().get("TIFFTAG_MAXSAMPLEVALUE", ""))
    return int(text) if text.isdigit() and int(text) else None


# ---- writing


@contextlib.contextmanager
def writer(
    path: Path, size: tuple[int, int], place: Place, palette: NDArray[np.uint8] | None, nodata: int | None
) -> Iterator[Callable[[NDArray[Any]], None]]:
    """A function to which all rows [rows, W] are given in turn. With a palette [256, 3] pixels have 8 bits, or 16.

    Raises OSError. GDAL may not notice on closing that a disk is full, so the file is then read again.
    """
    import rasterio

    sums: list[int] = []
    profile = {
        "driver": "GTiff",
        "height": size[0],
        "width": size[1],
        "count": 1,
        "dtype": "uint16" if palette is None else "uint8",
        "nodata": nodata,
        "crs": place.crs,
        "transform": place.transform,
        **_STORED,
    }
    try:
        with _open(path, "w", **profile) as target:
            _describe(target, place, palette)
            yield _tiled(target, sums)
        _read_again(path, sums)
    except rasterio.errors.RasterioError as error:
        _require_room(path)
        raise OSError(errno.EIO, str(error.__cause__ or error)) from error


def _require_room(path: Path) -> None:
    """Raises OSError if nothing more can be written to a file: GDAL doesn't say why it couldn't."""
    with path.open("ab") as file:
        file.write(bytes(_ROOM))
        file.flush()
        os.fsync(file.fileno())


def _describe(target: Any, place: Place, palette: NDArray[np.uint8] | None) -> None:  # noqa: ANN401
    if palette is not None:
        target.write_colormap(1, {index: (*map(int, color), 255) for index, color in enumerate(palette)})
    if place.gcps:
        target.gcps = (place.gcps, place.crs)
    if place.rpcs is not None:
        target.rpcs = place.rpcs
    if place.area_or_point is not None:
        target.update_tags(AREA_OR_POINT=place.area_or_point)


def _tiled(target: Any, sums: list[int]) -> Callable[[NDArray[Any]], None]:  # noqa: ANN401
    """Collects rows until they fill a row of tiles, which thus are compressed once; `sums` gets their checksums."""
    from rasterio.windows import Window

    parts: list[NDArray[Any]] = []
    top = 0

    def add(rows: NDArray[Any]) -> None:
        nonlocal top
        parts.append(rows)
        held = np.concatenate(parts) if sum(map(len, parts)) >= min(TILE, target.height - top) else rows[:0]
        while len(held) >= min(TILE, target.height - top) > 0:
            tiles, held = np.ascontiguousarray(held[:TILE], target.dtypes[0]), held[TILE:]
            target.write(tiles, 1, window=Window(0, top, target.width, len(tiles)))
            sums.append(zlib.crc32(tiles.data))
            top += len(tiles)
            parts[:] = [held]

    return add


def _read_again(path: Path, sums: list[int]) -> None:
    from rasterio.windows import Window

    with _open(path, driver="GTiff") as file:
        for index, checksum in enumerate(sums):
            rows = min(TILE, file.height - index * TILE)
            if zlib.crc32(file.read(1, window=Window(0, index * TILE, file.width, rows))) != checksum:
                raise OSError(errno.EIO, "the disk holds something else than was written")
