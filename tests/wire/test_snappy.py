"""Snappy's raw format by hand: literals of all lengths, copies of all kinds, and content that is damaged."""

import pytest

from atrous.errors import DamagedError
from atrous.wire.snappy import decompressed

LONG = bytes(range(256)) * 300
PACKED = {
    "nothing": (b"\x00", b""),
    "a literal": (b"\x03\x08abc", b"abc"),
    "a literal with its length in a byte": (b"\x46\xf0\x45" + LONG[:70], LONG[:70]),
    "a literal with its length in three bytes": (b"\x80\xd8\x04\xf8\xff\x2b\x01" + LONG, LONG),
    "a near copy": (b"\x08\x08abc\x05\x03", b"abcabcab"),  # 5 bytes from 3 back: it overlaps itself
    "a run": (b"\x09\x00a\x1e\x01\x00", b"a" * 9),  # 8 from 1 back, with an offset of two bytes
    "a copy with an offset of four bytes": (b"\x06\x08abc\x0b\x03\x00\x00\x00", b"abcabc"),
    "a copy from far": (
        b"\xb0\x02\xf4\x2b\x01" + LONG[:300] + b"\x21\x2c",
        LONG[:300] + LONG[:4],
    ),  # 4 from 256 + 44 back
}
DAMAGED = {
    "empty": (b"", "number"),
    "too short": (b"\x05\x08abc", "has 3 bytes, not 5"),
    "too long": (b"\x02\x08abc", "has 3 bytes, not 2"),
    "a literal beyond the end": (b"\x09\x20abc", "a literal .* is truncated"),
    "half a length": (b"\x09\xf4\x01", "a number .* is truncated"),
    "half an offset": (b"\x09\x08abc\x0b\x03", "a number .* is truncated"),
    "a copy from before the beginning": (b"\x08\x08abc\x05\x04", "begins 4 bytes back, where there are 3"),
    "a copy of itself": (b"\x08\x08abc\x05\x00", "begins 0 bytes back"),
    "a claim of 4 GB": (b"\xff\xff\xff\xff\x0f\x08abc", "claim to be 4294967295"),
}


@pytest.mark.parametrize("name", PACKED)
def test_content_by_hand(name: str) -> None:
    packed, content = PACKED[name]
    assert decompressed(memoryview(packed)) == content


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_refused(name: str) -> None:
    packed, reason = DAMAGED[name]
    with pytest.raises(DamagedError, match=reason):
        decompressed(memoryview(packed))
