"""TensorFlow's TensorProto, as `tf.io.serialize_tensor` writes it: floats only."""

import numpy as np
from numpy.typing import NDArray

from atrous.errors import DamagedError
from atrous.wire.protobuf import Field, fields

DTYPE, SHAPE, CONTENT, FLOATS = 1, 2, 4, 5  # fields of TensorProto
DIMENSION, SIZE = 2, 1  # of TensorShapeProto and its dimensions
FLOAT = 1  # DT_FLOAT


def floats(message: memoryview) -> NDArray[np.float32]:
    """The tensor in its shape. Raises DamagedError if it holds something else, or not as many numbers as it says."""
    known = {field.number: field for field in fields(message)}
    if DTYPE not in known or known[DTYPE].whole() != FLOAT:
        raise DamagedError("the tensor is not of float32")
    content = known.get(CONTENT) or known.get(FLOATS)
    values = bytes(content.content()) if content is not None else b""
    shape = [_size(field) for field in fields(known[SHAPE].content())] if SHAPE in known else []
    count = 1
    for side in shape:
        count *= side
    if len(values) != 4 * count:
        raise DamagedError(f"the tensor has {len(values)} bytes, but its shape is {' x '.join(map(str, shape))}")
    return np.frombuffer(values, "<f4").reshape(shape)


def _size(field: Field) -> int:
    sizes = [one.signed() for one in fields(field.content()) if one.number == SIZE] if field.number == DIMENSION else []
    if len(sizes) != 1 or not 0 <= sizes[0] < 2**31:
        raise DamagedError("the tensor's shape is not one of known sizes")
    return sizes[0]
