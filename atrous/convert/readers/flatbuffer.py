"""FlatBuffers, without generated code: tables whose fields are located through a vtable. Bounds are checked first."""

import struct
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from atrous.convert.readers.damage import DamagedError

TABLE_COST = 32  # a table of one small field, with what leads to it
GROWTH, SLACK = 4, 2**16


class Buffer:
    """A file's bytes, and how much may still be built from them: many offsets may lead to the same place."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.left = GROWTH * len(data) + SLACK

    def spend(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise DamagedError("its parts claim to hold far more than the file does")

    def number(self, at: int, code: str) -> Any:  # noqa: ANN401
        """The little-endian number of `struct`'s `code` at a place in the file."""
        if not 0 <= at <= len(self.data) - struct.calcsize(code):
            raise DamagedError(f"a number at {at}, but the file has {len(self.data)} bytes")
        return struct.unpack_from(f"<{code}", self.data, at)[0]

    def vector(self, at: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """A view of the elements that follow the length at `at`."""
        length: int = self.number(at, "I")
        if length * dtype.itemsize > len(self.data) - at - 4:
            raise DamagedError(f"{length} elements at {at}, but the file has {len(self.data)} bytes")
        return np.frombuffer(self.data, dtype, length, at + 4)


class Table(NamedTuple):
    """A table at its place; fields are read by their numbers in the schema, and absent ones have their default."""

    buffer: Buffer
    at: int
    vtable: int

    def place(self, field: int) -> int | None:
        """Where the field's own bytes are; None if it is absent."""
        entry = 4 + 2 * field
        if entry + 2 > self.buffer.number(self.vtable, "H"):
            return None
        offset: int = self.buffer.number(self.vtable + entry, "H")
        return self.at + offset if offset else None

    def target(self, field: int) -> int | None:
        """Where the text, vector or table that the field refers to is."""
        place = self.place(field)
        return None if place is None else place + int(self.buffer.number(place, "I"))

    def integer(self, field: int, code: str = "i", default: int = 0) -> int:
        place = self.place(field)
        return default if place is None else int(self.buffer.number(place, code))

    def flag(self, field: int) -> bool:
        return self.integer(field, "B") != 0

    def vector(self, field: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """A view; empty if the field is absent."""
        target = self.target(field)
        return np.zeros(0, dtype) if target is None else self.buffer.vector(target, dtype)

    def integers(self, field: int) -> tuple[int, ...]:
        """A vector of int32."""
        vector = self.vector(field, np.dtype("<i4"))
        self.buffer.spend(vector.nbytes)
        return tuple(vector.tolist())

    def text(self, field: int) -> str:
        vector = self.vector(field, np.dtype("u1"))
        self.buffer.spend(vector.nbytes)
        try:
            return vector.tobytes().decode()
        except UnicodeDecodeError as error:
            raise DamagedError(f"the text in field {field} of the table at {self.at} is not UTF-8") from error

    def table(self, field: int) -> "Table | None":
        self.buffer.spend(TABLE_COST)
        target = self.target(field)
        return None if target is None else table_at(self.buffer, target)

    def tables(self, field: int) -> "list[Table]":
        start = self.target(field)
        if start is None:
            return []
        offsets = self.buffer.vector(start, np.dtype("<u4"))
        self.buffer.spend(TABLE_COST * offsets.size)
        return [table_at(self.buffer, start + 4 + 4 * index + offset) for index, offset in enumerate(offsets.tolist())]


def root(data: bytes, identifier: bytes) -> Table:
    """The root table of a file; `identifier` is the format's four letters."""
    require_identifier(data, identifier)
    buffer = Buffer(data)
    return table_at(buffer, buffer.number(0, "I"))


def require_identifier(head: bytes, identifier: bytes) -> None:
    if head[4:8] != identifier:
        raise DamagedError(f"its bytes 4 to 8 are not {identifier.decode()}")


def table_at(buffer: Buffer, at: int) -> Table:
    return Table(buffer, at, at - int(buffer.number(at, "i")))
