"""TensorFlow's record files and the `tf.train.Example` in each record, without TensorFlow.

A record is its length (8 bytes), the length's checksum (4), the data, the data's checksum (4): all little-endian, the
checksums masked CRC-32C. An Example is a map from names to lists of bytes, whole numbers or floats.
"""

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

from atrous.errors import DamagedError
from atrous.wire.crc32c import masked_crc32c
from atrous.wire.protobuf import LENGTH, Field, fields, varints

HEAD, TAIL = 12, 4  # bytes before and after the data
BYTES, FLOATS, NUMBERS = 1, 2, 3  # the fields of a Feature
Value = bytes | int
Example = Mapping[str, "list[bytes] | list[int]"]  # features of floats are left out


class Extent(NamedTuple):
    """Where a record's data lie in its file."""

    start: int
    size: int


# ---- records


def extents(path: Path) -> Iterator[Extent]:
    """Where each record lies. Only the lengths are read, and checked. Raises DamagedError with the record's number."""
    total = path.stat().st_size
    with path.open("rb") as file:
        at = number = 0
        while at < total:
            start, size = at + HEAD, _length(file.read(HEAD), number)
            if size > total - start - TAIL:
                left = max(0, total - start)
                raise DamagedError(f"record {number} is cut off: it has {size} bytes, of which {left} are left")
            yield Extent(start, size)
            at = start + size + TAIL
            file.seek(at)
            number += 1


def _length(head: bytes, number: int) -> int:
    if len(head) < HEAD:
        raise DamagedError(f"record {number} is cut off after {len(head)} bytes")
    size, checksum = struct.unpack("<QI", head)
    if masked_crc32c(head[:8]) != checksum:
        raise DamagedError(f"the length of record {number} is damaged: its checksum (CRC-32C) is wrong")
    return int(size)


def read(file: BinaryIO, extent: Extent, number: int) -> bytes:
    """A record's data, checked. Raises DamagedError with its number."""
    file.seek(extent.start)
    content = file.read(extent.size + TAIL)
    data, tail = content[: extent.size], content[extent.size :]
    if len(content) < extent.size + TAIL:
        raise DamagedError(f"record {number} is cut off")
    if masked_crc32c(data) != int.from_bytes(tail, "little"):
        raise DamagedError(f"record {number} is damaged: the checksum (CRC-32C) of its data is wrong")
    return data


def framed(data: bytes) -> bytes:
    """A record as it lies in the file."""
    length = struct.pack("<Q", len(data))
    return b"".join((length, struct.pack("<I", masked_crc32c(length)), data, struct.pack("<I", masked_crc32c(data))))


# ---- examples


def parse(data: bytes) -> Example:
    """The features of an Example; the last one counts where a name is repeated. Raises DamagedError."""
    features: dict[str, list[bytes] | list[int]] = {}
    for message in _messages(memoryview(data), 1):  # Features
        for entry in _messages(message, 1):
            parts = {field.number: field for field in fields(entry)}
            name = parts[1].text() if 1 in parts else ""
            value = _values(parts[2].content()) if 2 in parts else []
            if value is not None:
                features[name] = value
    return features


def _messages(message: memoryview, number: int) -> Iterator[memoryview]:
    return (field.content() for field in fields(message) if field.number == number)


def _values(feature: memoryview) -> list[bytes] | list[int] | None:
    """None for floats."""
    lists = {field.number: field.content() for field in fields(feature)}
    if BYTES in lists:
        return [bytes(content) for content in _messages(lists[BYTES], 1)]
    if NUMBERS in lists:
        return [number for field in fields(lists[NUMBERS]) if field.number == 1 for number in _signed(field)]
    return None if FLOATS in lists else []


def _signed(field: Field) -> Iterator[int]:
    return (number - 2**64 if number >> 63 else number for number in varints(field))


def example(features: Mapping[str, Value]) -> bytes:
    """An Example of one value for each name, in the order of the names: equal features are equal bytes."""
    entries = (
        _field(1, _field(1, name.encode()) + _field(2, _feature(value))) for name, value in sorted(features.items())
    )
    return _field(1, b"".join(entries))


def _feature(value: Value) -> bytes:
    if isinstance(value, bytes):
        return _field(BYTES, _field(1, value))
    return _field(NUMBERS, _field(1, _varint(value)))


def _field(number: int, content: bytes) -> bytes:
    return b"".join((_varint(number << 3 | LENGTH), _varint(len(content)), content))


def _varint(value: int) -> bytes:
    value &= 2**64 - 1  # negative numbers: two's complement
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*parts, value))
