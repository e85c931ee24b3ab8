"""Whether an image file is shorter than it says of itself: what libraries report of that says nothing to a user."""

import os
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import BinaryIO, NamedTuple

SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
INTEGERS = {3: "H", 4: "I", 16: "Q"}  # of TIFF's types
PIECES = ((273, 279), (324, 325))  # tags of the offsets and the lengths of strips, and of tiles
MOST = 2**22  # bytes of a tag's values that are looked at


class Layout(NamedTuple):
    """The parts of a TIFF's directory: classic ones have offsets of 4 bytes, those of a BigTIFF 8."""

    order: str  # of bytes, as `struct` has it
    entries: str  # of their number
    offset: str

    def number(self, kind: str, data: bytes) -> int:
        """Raises struct.error where the file ends."""
        return int(struct.unpack(self.order + kind, data)[0])

    @property
    def width(self) -> int:
        return struct.calcsize(self.order + self.offset)


class Entry(NamedTuple):
    """A tag of a directory."""

    kind: int
    length: int  # of its values
    start: int

    @property
    def end(self) -> int:
        return self.start + self.length * SIZES.get(self.kind, 1)


def is_cut_off(file: BinaryIO) -> bool:
    """Of a TIFF, by its first directory and the pixels that it names, or of a WebP; False for all others."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(16)
    return any(head.startswith(start) and check(file, head, size) for start, check in CHECKS.items())


def _is_short_riff(file: BinaryIO, head: bytes, size: int) -> bool:
    return size < 8 or size < 8 + int.from_bytes(head[4:8], "little")


def _is_short_tiff(file: BinaryIO, head: bytes, size: int) -> bool:
    order = "<" if head[:1] == b"I" else ">"
    layout, place = (Layout(order, "Q", "Q"), 8) if 43 in head[2:4] else (Layout(order, "H", "I"), 4)
    try:
        start = layout.number(layout.offset, head[place : place + layout.width])
        return start > size or any(end > size for end in _ends(file, layout, _directory(file, layout, start)))
    except struct.error:
        return True


def _directory(file: BinaryIO, layout: Layout, start: int) -> Mapping[int, Entry]:
    """The entries by their tags. Raises struct.error where the file ends."""
    file.seek(start)
    count = layout.number(layout.entries, file.read(struct.calcsize(layout.order + layout.entries)))
    entries, step = {}, 4 + 2 * layout.width
    for place in range(file.tell(), file.tell() + count * step, step):
        file.seek(place)
        tag, kind, number = struct.unpack(f"{layout.order}HH{layout.offset}", file.read(4 + layout.width))
        offset = layout.number(layout.offset, file.read(layout.width))
        is_inside = number * SIZES.get(kind, 1) <= layout.width
        entries[tag] = Entry(kind, number, place + step - layout.width if is_inside else offset)
    return entries


def _ends(file: BinaryIO, layout: Layout, entries: Mapping[int, Entry]) -> Iterator[int]:
    """Where the values of the tags end, and the pixels."""
    yield from (entry.end for entry in entries.values())
    for offsets, lengths in PIECES:
        if offsets in entries and lengths in entries:
            starts, counts = (_integers(file, layout, entries[tag]) for tag in (offsets, lengths))
            yield from (start + count for start, count in zip(starts, counts, strict=False))


def _integers(file: BinaryIO, layout: Layout, entry: Entry) -> tuple[int, ...]:
    if entry.kind not in INTEGERS:
        return ()
    count = min(entry.length, MOST // SIZES[entry.kind])
    file.seek(entry.start)
    return struct.unpack(f"{layout.order}{count}{INTEGERS[entry.kind]}", file.read(count * SIZES[entry.kind]))


CHECKS: Mapping[bytes, Callable[[BinaryIO, bytes, int], bool]] = {  # by the first bytes of a file
    b"II*\0": _is_short_tiff,
    b"MM\0*": _is_short_tiff,
    b"II+\0": _is_short_tiff,
    b"MM\0+": _is_short_tiff,
    b"RIFF": _is_short_riff,
}
