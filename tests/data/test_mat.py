"""MATLAB's files, written here by the specification; and damage."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from atrous.data.mat import read_segmentation
from atrous.errors import DataError

HEADER = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
MATRIX, COMPRESSED = 14, 15
INT8, UINT8, INT32, UINT32 = 1, 2, 5, 6


def element(kind: int, content: bytes) -> bytes:
    if len(content) <= 4 and kind != MATRIX:
        return struct.pack("<HH", kind, len(content)) + content.ljust(4, b"\0")
    return struct.pack("<II", kind, len(content)) + content + b"\0" * (-len(content) % 8)


def matrix(kind: int, name: str, shape: tuple[int, ...], *parts: bytes) -> bytes:
    head = element(UINT32, bytes([kind, 0, 0, 0, 0, 0, 0, 0]))
    sizes = element(INT32, np.array(shape, "<i4").tobytes())
    return element(MATRIX, head + sizes + element(INT8, name.encode()) + b"".join(parts))


def numbers(values: NDArray[np.uint8], kind: int = 9) -> bytes:
    return matrix(kind, "", values.shape, element(UINT8, values.T.tobytes()))


def struct_of(name: str, **fields: bytes) -> bytes:
    names = b"".join(field.encode().ljust(32, b"\0") for field in fields)
    parts = (element(INT32, struct.pack("<i", 32)), element(INT8, names), *fields.values())
    return matrix(2, name, (1, 1), *parts)


def write_mat(path: Path, variable: str, values: NDArray[np.uint8], *, is_compressed: bool = True) -> Path:
    """As SBD's: the field Segmentation is one of several."""
    content = struct_of(variable, Boundaries=numbers(np.zeros((3, 5), np.uint8)), Segmentation=numbers(values))
    packed = zlib.compress(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(HEADER + (struct.pack("<II", COMPRESSED, len(packed)) + packed if is_compressed else content))
    return path


@pytest.mark.parametrize("is_compressed", [True, False])
@pytest.mark.parametrize("shape", [(3, 5), (1, 1), (1, 3)])
def test_the_segmentation_is_read(shape: tuple[int, int], is_compressed: bool, tmp_path: Path) -> None:
    values = np.arange(shape[0] * shape[1], dtype=np.uint8).reshape(shape)
    path = write_mat(tmp_path / "a.mat", "GTcls", values, is_compressed=is_compressed)
    assert np.array_equal(read_segmentation(path, "GTcls"), values)
    with pytest.raises(DataError, match=r"it has no GTinst\.Segmentation"):
        read_segmentation(path, "GTinst")


def test_damage_anywhere_is_told(tmp_path: Path) -> None:
    path = write_mat(tmp_path / "a.mat", "GTcls", np.ones((3, 5), np.uint8), is_compressed=False)
    content = path.read_bytes()
    for end in range(0, len(content) - 8, 7):
        path.write_bytes(content[:end])
        with pytest.raises(DataError, match=rf"cannot read label {path}"):
            read_segmentation(path, "GTcls")


def test_a_bomb_takes_no_memory(tmp_path: Path) -> None:
    packed = zlib.compress(b"\0" * 2**28)
    (tmp_path / "a.mat").write_bytes(HEADER + struct.pack("<II", COMPRESSED, len(packed)) + packed)
    with pytest.raises(DataError, match="cannot read label"):
        read_segmentation(tmp_path / "a.mat", "GTcls")
