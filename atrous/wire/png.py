"""PNG files of label maps, written a few rows at a time."""

import struct
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, PALETTE = 0, 3  # colour types
MOST_SIDE = 2**31 - 1  # pixels, by the format
LEVEL = 6  # of deflate, as Pillow has it


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def begin(file: BinaryIO, size: tuple[int, int], palette: NDArray[np.uint8] | None) -> Callable[[NDArray[Any]], None]:
    """A function to which all rows [rows, W] are given in turn, and in the end none, which completes the file.

    With a palette [256, 3] a pixel has 8 bits; without one it is grey, with 16.
    """
    height, width = size
    depth, kind = (16, GREY) if palette is None else (8, PALETTE)
    file.write(SIGNATURE + chunk(b"IHDR", struct.pack(">2I5B", width, height, depth, kind, 0, 0, 0)))
    if palette is not None:
        file.write(chunk(b"PLTE", palette.tobytes()))
    deflater, left = zlib.compressobj(LEVEL), height

    def add(rows: NDArray[Any]) -> None:
        nonlocal left
        left -= len(rows)
        if len(rows):
            pixels = np.ascontiguousarray(rows, np.uint8 if depth == 8 else ">u2").view(np.uint8)
            data = deflater.compress(np.pad(pixels, ((0, 0), (1, 0))).data)  # each row begins with its filter: none
        else:
            assert not left, "all rows are there"
            data = deflater.flush()
        if data:
            file.write(chunk(b"IDAT", data))
        if not len(rows):
            file.write(chunk(b"IEND", b""))

    return add
