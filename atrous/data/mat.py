"""Label maps in MATLAB's files of version 5 (MathWorks, MAT-File Format), as the Semantic Boundaries Dataset has."""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atrous.errors import DataError

MAX_BYTES = 2**26  # of a variable, unpacked
_HEADER = 128  # bytes
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_MATRIX, _COMPRESSED = 14, 15  # other types of elements
_STRUCT, _NUMERIC = 2, range(6, 16)  # classes of matrices


def read_segmentation(path: Path, variable: str) -> NDArray[np.uint8]:  # [H, W]
    """The field Segmentation of a struct. Raises DataError with the path, or OSError."""
    try:
        for body in _matrices(path.read_bytes()):
            name, fields = _struct(body)
            if name == variable and "Segmentation" in fields:
                return _numbers(fields["Segmentation"])
        raise DataError(f"it has no {variable}.Segmentation")
    except (struct.error, zlib.error, ValueError, KeyError, UnicodeDecodeError) as error:
        reason = error if isinstance(error, DataError) else "not a MATLAB file of version 5, or damaged"
        raise DataError(f"cannot read label {path}: {reason}") from None


def _matrices(content: bytes) -> Iterator[bytes]:
    if content[126:128] != b"IM":
        raise ValueError
    for kind, body in _elements(content[_HEADER:]):
        if kind == _COMPRESSED:
            unpacked = zlib.decompressobj().decompress(body, MAX_BYTES)
            yield from (inner for kind, inner in _elements(unpacked) if kind == _MATRIX)
        elif kind == _MATRIX:
            yield body


def _elements(content: bytes) -> Iterator[tuple[int, bytes]]:
    """The type and the bytes of each element; a small one lies in its own head."""
    place = 0
    while place + 8 <= len(content):
        kind, size = struct.unpack_from("<II", content, place)
        if kind >> 16:
            yield kind & 0xFFFF, content[place + 4 : place + 4 + min(4, kind >> 16)]
            place += 8
            continue
        if place + 8 + size > len(content):
            raise ValueError
        yield kind, content[place + 8 : place + 8 + size]
        place += 8 + size + (-size % 8 if kind != _COMPRESSED else 0)


def _struct(matrix: bytes) -> tuple[str, dict[str, bytes]]:
    """The name of a struct and its fields, or no fields if it is something else."""
    (_, flags), _, (_, name), *rest = _elements(matrix)
    if flags[0] != _STRUCT:
        return name.decode("ascii"), {}
    (_, length), (_, names), *fields = rest
    step = int.from_bytes(length[:4], "little")
    words = [names[start : start + step].rstrip(b"\0").decode("ascii") for start in range(0, len(names), max(1, step))]
    return name.decode("ascii"), dict(zip(words, (body for _, body in fields), strict=False))


def _numbers(matrix: bytes) -> NDArray[np.uint8]:
    (_, flags), (_, sizes), _, (kind, values), *_ = _elements(matrix)
    shape = np.frombuffer(sizes, "<i4").tolist()
    array = np.frombuffer(values, "<" + _TYPES[kind])
    if flags[0] not in _NUMERIC or len(shape) != 2 or array.size != shape[0] * shape[1] or not array.size:
        raise ValueError
    if array.min() < 0 or array.max() > 255:
        raise DataError(f"its values are {array.min()}..{array.max()}; labels are 0..255")
    return np.ascontiguousarray(array.astype(np.uint8).reshape(shape[::-1]).T)
