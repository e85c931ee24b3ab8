"""Snappy's raw format (format_description.txt of google/snappy): literals, and copies of what came before."""

from atrous.errors import DamagedError
from atrous.wire.protobuf import varint

LITERAL = 0  # the kind of a piece, in the lowest two bits of its first byte
LONGEST_INLINE = 60  # of literals whose length is in that byte; longer ones have 1 to 4 bytes for it
OFFSET_BYTES = {1: 1, 2: 2, 3: 4}  # by the kind of copy
GROWTH = 64  # a copy of 64 bytes takes two or more


def decompressed(data: memoryview) -> bytes:
    """Raises DamagedError where the content is not of the length that it claims, or copies what isn't there."""
    size, at = varint(data, 0)
    if size > GROWTH * len(data):
        raise DamagedError(f"{len(data)} bytes in Snappy's format claim to be {size}")
    out = bytearray()
    while at < len(data) and len(out) <= size:
        tag = data[at]
        at = _literal(out, data, at) if tag & 3 == LITERAL else _copy(out, data, at)
    if len(out) != size:
        raise DamagedError(f"content in Snappy's format has {len(out)} bytes, not {size}")
    return bytes(out)


def _literal(out: bytearray, data: memoryview, at: int) -> int:
    """Append it; where the next piece begins."""
    length, at = data[at] >> 2, at + 1
    if length >= LONGEST_INLINE:
        extra = length - LONGEST_INLINE + 1
        length, at = _number(data, at, extra), at + extra
    end = at + length + 1
    if end > len(data):
        raise DamagedError("a literal in Snappy's format is truncated")
    out += data[at:end]
    return end


def _copy(out: bytearray, data: memoryview, at: int) -> int:
    tag, num_bytes = data[at], OFFSET_BYTES[data[at] & 3]
    offset, length = _number(data, at + 1, num_bytes), (tag >> 2) + 1
    if num_bytes == 1:  # the tag holds three bits of the offset
        offset, length = (tag >> 5) << 8 | offset, (tag >> 2 & 7) + 4
    if not 0 < offset <= len(out):
        raise DamagedError(f"a copy in Snappy's format begins {offset} bytes back, where there are {len(out)}")
    for _ in range(length):  # it may overlap what it makes
        out.append(out[-offset])
    return at + 1 + num_bytes


def _number(data: memoryview, at: int, num_bytes: int) -> int:
    if at + num_bytes > len(data):
        raise DamagedError("a number in Snappy's format is truncated")
    return int.from_bytes(data[at : at + num_bytes], "little")
