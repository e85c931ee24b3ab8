"""What a JPEG says of itself before its pixels."""

import io
import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

import PIL.Image

from atrous.data import pillow

START = b"\xff\xd8"
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # the markers that begin one
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
_ALONE = {0x01, *range(0xD0, 0xD8)}  # markers without data
_SCAN, _END = 0xDA, 0xD9


class JpegHead(NamedTuple):
    height: int
    width: int
    components: int
    is_progressive: bool  # its rows are complete only at the end of the file
    orientation: int  # as EXIF numbers it


def read_head(path: Path) -> JpegHead | None:
    """None for anything else, and for a damaged one. Raises OSError."""
    with path.open("rb") as file:
        content = bytearray(file.read(2))
        if content != START:
            return None
        while (marker := _marker(file)) is not None and marker not in (_SCAN, _END):
            if marker in _ALONE:
                continue
            length = file.read(2)
            data = file.read(max(0, int.from_bytes(length, "big") - 2))
            content += bytes((0xFF, marker)) + length + data
            if marker in _FRAMES and len(data) >= 6:
                return _head(content, marker, data)
    return None


def _marker(file: BinaryIO) -> int | None:
    if file.read(1) != b"\xff":
        return None
    byte = file.read(1)
    while byte == b"\xff":  # fill
        byte = file.read(1)
    return byte[0] if byte else None


def _head(content: bytearray, marker: int, data: bytes) -> JpegHead:
    _, height, width, components = struct.unpack_from(">B2HB", data)
    is_progressive = marker in _PROGRESSIVE
    return JpegHead(height, width, components, is_progressive, _orientation(content, len(data)))


def _orientation(content: bytearray, length: int) -> int:
    """Pillow is asked about the same head of a picture of one pixel, since it refuses large ones."""
    start = len(content) - length + 1
    content[start : start + 4] = struct.pack(">2H", 1, 1)
    try:
        with PIL.Image.open(io.BytesIO(bytes(content))) as image:
            return pillow.orientation_of(image)
    except Exception:  # what Pillow raises for damage; whoever reads the pixels says why
        return 1
