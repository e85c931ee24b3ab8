import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atrous.convert.readers.damage import DamagedError
from atrous.wire.protobuf import FIXED64, Field, fields, varint, varints
from tests.convert.readers import writers


def read(data: bytes) -> list[Field]:
    return list(fields(memoryview(data)))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**64 - 1), st.binary(max_size=5))
def test_varints_are_read(number: int, before: bytes) -> None:
    written = writers.varint(number)
    assert varint(memoryview(before + written + b"\x80"), len(before)) == (number, len(before) + len(written))


def test_a_message_written_by_hand_is_read() -> None:
    number, text, fixed, eight = read(b"\x08\x96\x01\x12\x03abc\x1d\x00\x00\x80\x3f\x21" + bytes(range(8)))
    assert (number.number, number.whole(), number.signed()) == (1, 150, 150)
    assert (text.number, text.text(), bytes(text.content())) == (2, "abc", b"abc")
    assert (fixed.number, fixed.float32(), fixed.fixed32()) == (3, 1.0, 0x3F800000)
    assert (eight.number, bytes(eight.content(FIXED64))) == (4, bytes(range(8)))


@settings(max_examples=50, deadline=None)
@given(st.integers(-(2**63), 2**63 - 1))
def test_signed_numbers_are_read(number: int) -> None:
    (field,) = read(writers.message((7, number)))
    assert (field.number, field.signed()) == (7, number)


def test_lists_may_be_packed() -> None:
    packed, single = read(writers.message((1, writers.varint(3) + writers.varint(300)), (1, 5)))
    assert [*varints(packed), *varints(single)] == [3, 300, 5]


DAMAGE = (  # data, reason
    (b"\x08", "without an end"),
    (b"\x08\xff", "without an end"),
    (b"\x08" + b"\xff" * 10, "64 bits"),
    (b"\x08" + b"\xff" * 9 + b"\x02", "64 bits"),
    (b"\x12\x03ab", "claims 3 bytes where 2 are left"),
    (b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "claims 18446744073709551615 bytes"),
    (b"\x1d\x00\x00", "claims 4 bytes where 2"),
    (b"\x19\x00\x00", "claims 8 bytes where 2"),
    (b"\x0b", "unknown wire type 3"),
    (b"\x0f", "unknown wire type 7"),
)


def test_damage_is_refused_with_its_reason() -> None:
    for data, reason in DAMAGE:
        with pytest.raises(DamagedError, match=reason):
            read(data)


def test_a_field_of_another_type_is_refused() -> None:
    number, text = read(b"\x08\x01\x12\x02\xff\xfe")
    with pytest.raises(DamagedError, match="field 1 has the wire type 0, not 2"):
        number.content()
    with pytest.raises(DamagedError, match="field 2 is not a whole number"):
        text.whole()
    with pytest.raises(DamagedError, match="field 2 is not UTF-8"):
        text.text()
    with pytest.raises(DamagedError, match="field 2 has the wire type 2, not 5"):
        text.float32()
