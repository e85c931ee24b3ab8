"""What TensorFlow's checkpoints and graphs have in common: numbered element types, and shapes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from atrous.convert.arrays import Array, Shape
from atrous.convert.readers.damage import DamagedError, count_elements
from atrous.wire.protobuf import fields

STORED: dict[int, np.dtype[Any]] = {  # tensorflow/core/framework/types.proto: an element in the file
    1: np.dtype("<f4"),
    2: np.dtype("<f8"),
    3: np.dtype("<i4"),
    4: np.dtype("u1"),
    5: np.dtype("<i2"),
    6: np.dtype("i1"),
    9: np.dtype("<i8"),
    10: np.dtype("?"),
    11: np.dtype("i1"),  # the quantised types are plain integers
    12: np.dtype("u1"),
    13: np.dtype("<i4"),
    14: np.dtype("<u2"),  # bfloat16, which NumPy lacks
    15: np.dtype("<i2"),
    16: np.dtype("<u2"),
    17: np.dtype("<u2"),
    19: np.dtype("<f2"),
    22: np.dtype("<u4"),
    23: np.dtype("<u8"),
}
BOOL, BFLOAT16 = 10, 14
NO_NUMBERS = {7: "string", 20: "resource", 21: "variant"}


def stored_type(code: int) -> np.dtype[Any]:
    """The elements of a type, by its number. Raises DamagedError for unknown types, and complex ones."""
    if code not in STORED:
        raise DamagedError(f"the type {NO_NUMBERS.get(code, code)} is not supported")
    return STORED[code]


def read_shape(message: memoryview) -> Shape:
    """A TensorShapeProto; -1 is an unknown size. Raises DamagedError for an unknown rank."""
    sizes = []
    for field in fields(message):
        if field.number == 2:
            sizes.append(_size(field.content()))
        elif field.number == 3 and field.whole():
            raise DamagedError("a shape of unknown rank")
    return tuple(sizes)


def _size(message: memoryview) -> int:
    return next((field.signed() for field in fields(message) if field.number == 1), 0)


def require_bytes(shape: Shape, code: int, size: int) -> None:
    """Raises DamagedError unless a tensor of this shape and type takes exactly `size` bytes."""
    expected = count_elements(shape) * stored_type(code).itemsize
    if expected != size:
        raise DamagedError(f"the shape {shape} takes {expected} bytes, but {size} are claimed")


def decode(raw: NDArray[np.uint8], code: int, shape: Shape) -> Array:
    """The tensor in these bytes, whose memory it takes over; bfloat16 becomes float32, exactly."""
    if code == BOOL:
        truths: Array = raw != 0
        return truths.reshape(shape)
    elements: Array = raw.view(stored_type(code)).reshape(shape)
    return widened(elements) if code == BFLOAT16 else elements


def widened(bfloat16: NDArray[np.uint16]) -> NDArray[np.float32]:
    """As float32, whose upper half is a bfloat16."""
    return (bfloat16.astype(np.uint32) << 16).view(np.float32)
