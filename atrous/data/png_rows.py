"""PNG files as rows from the top, whatever their size: a few rows are in memory at a time.

The file is inflated here, and its rows are filtered back by Pillow: each strip of them is shown to it as a picture of
its own, whose first row is the one above.
"""

import io
import os
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from atrous.data import pillow
from atrous.errors import DataError
from atrous.files import require_regular
from atrous.wire.png import GREY, MOST_SIDE, PALETTE, SIGNATURE, chunk

STRIP_BYTES = 2**22  # of rows that are decoded at a time
READ_BYTES = 2**16
MOST_INFLATED = 1040  # bytes that deflate can make of one
RGB, GREY_ALPHA, RGBA = 2, 4, 6  # more colour types
_SAMPLES = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}
_DEPTHS = {GREY: (1, 2, 4, 8, 16), PALETTE: (1, 2, 4, 8), RGB: (8, 16), GREY_ALPHA: (8, 16), RGBA: (8, 16)}
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # Pillow's, by the bytes of a pixel
_META = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")  # may say how the picture is to be turned
_MOST_META = 2**20  # bytes of a chunk that is read whole


class Chunk(NamedTuple):
    kind: bytes
    start: int  # of its data in the file
    length: int


class Png(NamedTuple):
    """What a file says before its pixels, all of whose chunks are there."""

    path: Path
    height: int
    width: int
    depth: int  # bits of a sample
    kind: int  # the colour type
    is_interlaced: bool
    chunks: tuple[Chunk, ...]
    small: dict[bytes, bytes]  # the data of chunks such as PLTE and tRNS
    orientation: int = 1  # as EXIF numbers it

    @property
    def samples(self) -> int:
        return _SAMPLES[self.kind]

    @property
    def row_bytes(self) -> int:
        return (self.width * self.depth * self.samples + 7) // 8

    @property
    def is_deep(self) -> bool:
        return self.depth == 16


def size_of(head: bytes) -> tuple[int, int] | None:
    """Height and width in the first bytes of a PNG; None for anything else."""
    if not head.startswith(SIGNATURE + b"\0\0\0\rIHDR") or len(head) < len(SIGNATURE) + 16:
        return None
    width, height = struct.unpack_from(">2I", head, len(SIGNATURE) + 8)
    return height, width


def open_png(path: Path) -> Png:
    """Raises DataError, with the path, for a file that is cut off or isn't one picture, before a pixel is decoded."""
    try:
        require_regular(path)
        with path.open("rb") as file:
            return _opened(path, file)
    except OSError as error:
        raise DataError(f"cannot read image {path}: {error.strerror}") from error
    except (ValueError, struct.error) as error:
        raise DataError(f"cannot read image {path}: {error}") from error


def _opened(path: Path, file: BinaryIO) -> Png:
    chunks = _scan(file)
    head = _data(file, chunks[0])
    width, height, depth, kind, method, filtering, interlace = struct.unpack(">2I5B", head)
    if not 0 < height <= MOST_SIDE or not 0 < width <= MOST_SIDE:
        raise ValueError(f"its size is {width} x {height} (width x height), which no PNG can have")
    if depth not in _DEPTHS.get(kind, ()) or method or filtering or interlace > 1:
        raise ValueError(
            f"no PNG has {depth} bits of the colour type {kind}, method {method}, {filtering}, {interlace}"
        )
    names = [one.kind for one in chunks]
    if b"acTL" in names:
        raise ValueError("it is an animation, not one picture; save the frame that you mean as a PNG")
    small = {one.kind: _data(file, one) for one in chunks if one.kind in (b"PLTE", b"tRNS", b"sBIT")}
    if kind == PALETTE and not 3 <= len(small.get(b"PLTE", b"")) <= 768:
        raise ValueError("its palette is missing or damaged")
    png = Png(path, height, width, depth, kind, bool(interlace), tuple(chunks), small)
    _require_all_bytes(png)
    return png._replace(orientation=_orientation(file, chunks))


def _scan(file: BinaryIO) -> list[Chunk]:
    """All chunks, by their places; pixels are not read."""
    size = os.fstat(file.fileno()).st_size
    if file.read(len(SIGNATURE)) != SIGNATURE:
        raise ValueError("not a PNG")
    chunks: list[Chunk] = []
    place = len(SIGNATURE)
    while not chunks or chunks[-1].kind != b"IEND":
        file.seek(place)
        head = file.read(8)
        length = int.from_bytes(head[:4], "big")
        if len(head) < 8 or place + 12 + length > size:
            raise ValueError(f"it is cut off after {size} bytes")
        chunks.append(Chunk(head[4:], place + 8, length))
        place += 12 + length
    if chunks[0][::2] != (b"IHDR", 13) or not any(one.kind == b"IDAT" for one in chunks):
        raise ValueError("it has no header, or no pixels")
    return chunks


def _data(file: BinaryIO, one: Chunk) -> bytes:
    if one.length > _MOST_META:
        raise ValueError(f"its chunk {one.kind.decode('latin-1')} has {one.length} bytes")
    file.seek(one.start)
    data = file.read(one.length)
    if zlib.crc32(one.kind + data) != int.from_bytes(file.read(4), "big"):
        raise ValueError(f"the checksum of {one.kind.decode('latin-1')} is wrong: the file is damaged")
    return data


def _require_all_bytes(png: Png) -> None:
    """A small file can say that it is large: what it holds tells, before the work."""
    stored, needed = sum(one.length for one in png.chunks if one.kind == b"IDAT"), png.height * (png.row_bytes + 1)
    if stored * MOST_INFLATED < needed and not png.is_interlaced:
        raise ValueError(
            f"it says that it is {png.width} x {png.height} pixels (width x height), but its {stored} bytes can't hold "
            "as many"
        )


def _orientation(file: BinaryIO, chunks: Sequence[Chunk]) -> int:
    """By EXIF in any of the places where Pillow looks for it, which is asked about a picture of one pixel."""
    meta = [chunk(one.kind, _data(file, one)) for one in chunks if one.kind in _META and one.length <= _MOST_META]
    if not any(re.search(rb"exif|xmp|raw profile", part[4:100], re.IGNORECASE) for part in meta):
        return 1
    head = chunk(b"IHDR", struct.pack(">2I5B", 1, 1, 8, GREY, 0, 0, 0))
    pixel = chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")
    content = SIGNATURE + head + b"".join(meta) + pixel
    with PIL.Image.open(io.BytesIO(content)) as image:
        image.load()
        return pillow.orientation_of(image)


# ---- pixels


def strips(png: Png) -> Iterator[NDArray[Any]]:
    """Samples [rows, W, samples] from the top, uint8, or uint16 where they are deep; indices of a palette.

    Raises DataError, with the path, where the file turns out to be damaged.
    """
    count = max(1, STRIP_BYTES // png.row_bytes)
    above = np.zeros(png.row_bytes, np.uint8)
    left = png.height
    try:
        for filtered in _filtered(png, count):
            rows = _unfiltered(filtered, above, max(1, png.depth * png.samples // 8))
            above, left = rows[-1], left - len(rows)
            yield _samples(rows, png)
    except (OSError, ValueError, zlib.error, SyntaxError) as error:
        if isinstance(error, DataError):
            raise
        row = png.height - left
        raise DataError(f"cannot read image {png.path}: it is damaged near row {row}: {error}") from error


def _filtered(png: Png, count: int) -> Iterator[NDArray[np.uint8]]:
    """Rows as they are stored, [rows, 1 + row_bytes]: `count` at a time."""
    length = png.row_bytes + 1
    left, held = png.height * length, bytearray()
    for data in _inflated(png, count * length):
        held += data[: left - len(held)]
        while held and len(held) >= min(count * length, left):
            rows = bytes(held[: min(count * length, left)])
            del held[: len(rows)]
            left -= len(rows)
            yield np.frombuffer(rows, np.uint8).reshape(-1, length)
    if left:
        raise ValueError("its pixels end too early")


def _inflated(png: Png, most: int) -> Iterator[bytes]:
    """The bytes of all rows, at most so many at a time."""
    inflater = zlib.decompressobj()
    for data in _idat(png):
        while data and not inflater.eof:
            yield inflater.decompress(data, most)
            data = inflater.unconsumed_tail


def _idat(png: Png) -> Iterator[bytes]:
    with png.path.open("rb") as file:
        for one in png.chunks:
            if one.kind != b"IDAT":
                continue
            file.seek(one.start)
            checksum, left = zlib.crc32(b"IDAT"), one.length
            while left:
                data = file.read(min(left, READ_BYTES))
                if not data:
                    raise ValueError("the file became shorter")
                checksum, left = zlib.crc32(data, checksum), left - len(data)
                yield data
            if file.read(4) != checksum.to_bytes(4, "big"):
                raise ValueError("a checksum is wrong")


def _unfiltered(filtered: NDArray[np.uint8], above: NDArray[np.uint8], pixel: int) -> NDArray[np.uint8]:
    """The bytes of rows, [rows, row_bytes]; `above` are those of the row above, `pixel` is the length of one.

    Each byte of a pixel depends on the same byte of its neighbours only, so pixels of 6 and 8 bytes are two halves.
    """
    if pixel > 4:
        return _in_halves(filtered, above, pixel)
    count, width = len(filtered), above.size // pixel
    rows = np.concatenate([np.concatenate([[np.uint8(0)], above])[None], filtered])
    mode = _MODES[pixel]
    image = PIL.Image.frombytes(mode, (width, count + 1), zlib.compress(rows.data, 0), "zip", mode)
    decoded: NDArray[np.uint8] = np.asarray(image).reshape(count + 1, -1)[1:]
    return decoded


def _in_halves(filtered: NDArray[np.uint8], above: NDArray[np.uint8], pixel: int) -> NDArray[np.uint8]:
    count, half = len(filtered), pixel // 2
    pixels, previous = filtered[:, 1:].reshape(count, -1, 2, half), above.reshape(-1, 2, half)
    halves = [
        _unfiltered(
            np.concatenate([filtered[:, :1], pixels[:, :, part].reshape(count, -1)], 1),
            previous[:, part].ravel(),
            half,
        ).reshape(count, -1, 1, half)
        for part in (0, 1)
    ]
    return np.concatenate(halves, 2).reshape(count, -1)


def _samples(rows: NDArray[np.uint8], png: Png) -> NDArray[Any]:
    if png.is_deep:
        return rows.view(">u2").astype(np.uint16).reshape(len(rows), png.width, png.samples)
    if png.depth == 8:
        return rows.reshape(len(rows), png.width, png.samples)
    return _unpacked(rows, png.depth)[:, : png.width, None]


def _unpacked(rows: NDArray[np.uint8], depth: int) -> NDArray[np.uint8]:
    """Values of fewer than 8 bits, the first of a byte in its highest bits."""
    shifts = np.arange(8 - depth, -1, -depth, dtype=np.uint8)
    values: NDArray[np.uint8] = (rows[..., None] >> shifts & (2**depth - 1)).astype(np.uint8)
    return values.reshape(len(rows), -1)
