"""The wire format of protocol buffers, without schemas: a message is a sequence of numbered fields, within bounds."""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from atrous.errors import DamagedError

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5  # the wire types; 3 and 4 are groups, which are obsolete
FIXED_SIZES = {FIXED64: 8, FIXED32: 4}


class Field(NamedTuple):
    """A field in the file; its methods read it as a type, and raise DamagedError if it can't be of that type."""

    number: int
    wire_type: int
    value: int | memoryview  # an int for VARINT only

    def whole(self) -> int:
        """An unsigned number, the value of an enumeration or a bool."""
        if not isinstance(self.value, int):
            raise DamagedError(f"field {self.number} is not a whole number")
        return self.value

    def signed(self) -> int:
        """An int32 or int64; negative ones are in two's complement of 64 bits."""
        value = self.whole()
        return value - 2**64 if value >> 63 else value

    def content(self, wire_type: int = LENGTH) -> memoryview:
        """Text, bytes, a message or packed numbers; with another `wire_type`, the bytes of a fixed-size number."""
        if isinstance(self.value, int) or self.wire_type != wire_type:
            raise DamagedError(f"field {self.number} has the wire type {self.wire_type}, not {wire_type}")
        return self.value

    def text(self) -> str:
        try:
            return bytes(self.content()).decode()
        except UnicodeDecodeError as error:
            raise DamagedError(f"the text in field {self.number} is not UTF-8") from error

    def fixed32(self) -> int:
        return int.from_bytes(self.content(FIXED32), "little")

    def float32(self) -> float:
        value: float = struct.unpack("<f", self.content(FIXED32))[0]
        return value


def fields(message: memoryview) -> Iterator[Field]:
    """The fields in the file's order; repeated fields occur more than once."""
    at = 0
    while at < len(message):
        tag, at = varint(message, at)
        number, wire_type = tag >> 3, tag & 7
        if number == 0:
            raise DamagedError(f"a field of the number 0, {len(message) - at} bytes before the end of its message")
        if wire_type == VARINT:
            value, at = varint(message, at)
            yield Field(number, wire_type, value)
        else:
            start, at = _extent(message, at, number, wire_type)
            yield Field(number, wire_type, message[start:at])


def _extent(message: memoryview, at: int, number: int, wire_type: int) -> tuple[int, int]:
    """Where a field's bytes start and end, within the message."""
    if wire_type == LENGTH:
        size, at = varint(message, at)
    elif wire_type in FIXED_SIZES:
        size = FIXED_SIZES[wire_type]
    else:
        raise DamagedError(f"field {number} has the unknown wire type {wire_type}")
    if size > len(message) - at:
        raise DamagedError(f"field {number} claims {size} bytes where {len(message) - at} are left")
    return at, at + size


def varint(data: memoryview, at: int) -> tuple[int, int]:
    """The number of at most 64 bits that begins at `at`, and where it ends."""
    value = 0
    for index, byte in enumerate(data[at : at + 10]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80 and value < 2**64:
            return value, at + index + 1
    raise DamagedError(
        f"a number without an end, or of more than 64 bits, {len(data) - at} bytes before the end of its message"
    )


def varints(field: Field) -> Iterator[int]:
    """The numbers of a repeated field, packed or one by one."""
    if field.wire_type != LENGTH:
        yield field.whole()
        return
    packed, at = field.content(), 0
    while at < len(packed):
        value, at = varint(packed, at)
        yield value
