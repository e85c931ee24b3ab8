"""TensorFlow's tensors in a file, written by hand as `tf.io.serialize_tensor` writes them."""

import struct

import pytest

from atrous.errors import DamagedError
from atrous.wire.tensors import floats

TYPE = b"\x08\x01"  # DT_FLOAT
SHAPE = b"\x12\x0c" + b"\x12\x02\x08\x01" + b"\x12\x02\x08\x02" + b"\x12\x02\x08\x03"  # 1 x 2 x 3
VALUES = struct.pack("<6f", 1, 2, 0.5, -3, 4, 0)
CONTENT = b"\x22\x18" + VALUES


def read(data: bytes) -> object:
    values: object = floats(memoryview(data)).tolist()
    return values


def test_a_tensor_of_floats_is_read_in_its_shape() -> None:
    expected = [[[1, 2, 0.5], [-3, 4, 0]]]
    assert read(TYPE + SHAPE + CONTENT) == expected
    assert read(TYPE + SHAPE + b"\x2a\x18" + VALUES) == expected  # float_val instead of tensor_content
    assert read(TYPE + b"\x22\x04" + struct.pack("<f", 7)) == 7  # no shape: one number


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the tensor is not of float32"),
        (b"\x08\x02" + SHAPE + CONTENT, "the tensor is not of float32"),
        (TYPE + SHAPE, r"the tensor has 0 bytes, but its shape is 1 x 2 x 3"),
        (TYPE + SHAPE + b"\x22\x14" + VALUES[:20], r"the tensor has 20 bytes, but its shape is 1 x 2 x 3"),
        (TYPE + b"\x12\x0d\x12\x0b\x08" + b"\xff" * 9 + b"\x01" + CONTENT, "shape is not one of known sizes"),
        (TYPE + b"\x12\x08" + b"\x12\x06\x08\xff\xff\xff\xff\x07" + CONTENT, "but its shape is 2147483647"),
        (TYPE + b"\x12\x02\x12\x00" + CONTENT, "shape is not one of known sizes"),
        (TYPE + SHAPE + CONTENT[:9], "."),
    ],
    ids=["nothing", "of doubles", "no numbers", "too few", "endless", "huge", "unknown size", "cut off"],
)
def test_damage_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(DamagedError, match=reason):
        read(data)
