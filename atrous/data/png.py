"""What the chunks of a PNG say of it, before anything is inflated."""

import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from atrous.wire.png import SIGNATURE as SIGNATURE

HEAD = len(SIGNATURE) + 25  # bytes up to the end of the first chunk
_COLORED = (2, 6)  # colour types with three colours; 3 is a palette, 0 and 4 are grey
_TYPES = (0, 2, 3, 4, 6)
_TEXT = (b"tEXt", b"zTXt", b"iTXt")
_METADATA = (b"exif", b"xmp", b"raw profile")  # in the names of texts: they may say that the picture is to be turned
# Chunks that neither turn a picture nor add others to it.
_PLAIN = {
    *b"IHDR PLTE IDAT IEND tRNS gAMA cHRM sRGB iCCP cICP sBIT pHYs bKGD hIST tIME".split(),
    *_TEXT,
}


class Header(NamedTuple):
    height: int
    width: int
    is_colored: bool  # red, green and blue in each pixel


class _Chunk(NamedTuple):
    kind: bytes
    data: memoryview


def sequential_header(head: bytes) -> Header | None:
    """The header of a PNG whose rows follow one another, at 8 bits or fewer; None of anything else."""
    if len(head) < HEAD or not head.startswith(SIGNATURE + b"\0\0\0\rIHDR"):
        return None
    width, height, depth, kind, method, filtering, interlace = struct.unpack_from(">2I5B", head, len(SIGNATURE) + 8)
    if depth > 8 or kind not in _TYPES or method or filtering or interlace:
        return None
    return Header(height, width, kind in _COLORED)


def is_sound(content: bytes) -> bool:
    """Whether a PNG is complete and upright, and nothing in it has changed: all its checksums are right."""
    try:
        chunks = list(_chunks(content))
    except (struct.error, zlib.error, ValueError):
        return False
    return _is_one_picture([chunk.kind for chunk in chunks]) and not any(map(_may_turn, chunks))


def _chunks(content: bytes) -> Iterator[_Chunk]:
    """Up to the end of the picture. Raises struct.error where the file is cut off, ValueError for a wrong checksum."""
    view, place, kind = memoryview(content), len(SIGNATURE), b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", view, place)
        end = place + 8 + length
        if zlib.crc32(view[place + 4 : end]) != struct.unpack_from(">I", view, end)[0]:
            raise ValueError(f"the checksum of {kind!r} is wrong")
        yield _Chunk(kind, view[place + 8 : end])
        place = end + 4


def _is_one_picture(kinds: Sequence[bytes]) -> bool:
    """A header, what belongs before the pixels, the pixels in one piece, the end."""
    if kinds[0] != b"IHDR" or kinds.count(b"IHDR") > 1 or not _PLAIN.issuperset(kinds) or b"IDAT" not in kinds:
        return False
    first, count = kinds.index(b"IDAT"), kinds.count(b"IDAT")
    pixels = kinds[first : first + count]
    return pixels == [b"IDAT"] * count and b"PLTE" not in kinds[first:] and b"tRNS" not in kinds[first:]


def _may_turn(chunk: _Chunk) -> bool:
    if chunk.kind not in _TEXT:
        return False
    name = bytes(chunk.data[:80]).split(b"\0")[0].lower()
    return any(word in name for word in _METADATA)
