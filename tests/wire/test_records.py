"""TensorFlow's records and Examples: known bytes, round trips, and what is told of damage."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atrous.errors import DamagedError
from atrous.wire import records
from atrous.wire.crc32c import masked_crc32c
from atrous.wire.records import HEAD, TAIL, Value
from tests.reference.crc32c import slow_crc32c

# By hand, after example.proto and feature.proto: "a" is a bytes_list of b"xy", "n" an int64_list, packed, of 300
EXAMPLE = bytes.fromhex("0a1a 0a0b 0a0161 1206 0a04 0a027879 0a0b 0a016e 1206 1a04 0a02ac02")


def write(path: Path, *contents: bytes) -> Path:
    path.write_bytes(b"".join(map(records.framed, contents)))
    return path


def read_all(path: Path) -> list[bytes]:
    with path.open("rb") as file:
        return [records.read(file, extent, number) for number, extent in enumerate(records.extents(path))]


def test_an_example_has_the_bytes_of_its_schema() -> None:
    assert records.example({"n": 300, "a": b"xy"}) == EXAMPLE
    assert records.parse(EXAMPLE) == {"a": [b"xy"], "n": [300]}


def test_a_record_is_length_checksum_data_checksum() -> None:
    """The checksum by its definition, bit by bit, then masked as record_writer.h says."""

    def masked(data: bytes) -> bytes:
        crc = slow_crc32c(data)
        return ((((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")

    length = (3).to_bytes(8, "little")
    assert records.framed(b"foo") == length + masked(length) + b"foo" + masked(b"foo")


@given(
    st.dictionaries(
        st.text(max_size=5), st.one_of(st.binary(max_size=300), st.integers(-(2**63), 2**63 - 1)), max_size=5
    )
)
def test_examples_come_back(features: dict[str, Value]) -> None:
    assert records.parse(records.example(features)) == {name: [value] for name, value in features.items()}


def test_lists_packed_or_not_and_floats_are_read() -> None:
    def nested(number: int, content: bytes) -> bytes:
        return bytes((number << 3 | 2, len(content))) + content

    def feature(name: bytes, value: bytes) -> bytes:
        return nested(1, nested(1, nested(1, name) + nested(2, value)))

    unpacked = feature(b"n", nested(3, bytes((8, 5, 8, 7))))
    packed = feature(b"n", nested(3, nested(1, bytes((5, 7)))))
    floats = feature(b"f", nested(2, nested(1, bytes(4))))
    assert records.parse(unpacked) == records.parse(packed) == {"n": [5, 7]}
    assert records.parse(floats) == {}
    assert records.parse(feature(b"e", b"")) == {"e": []}
    assert records.parse(b"") == {}


def test_records_come_back(tmp_path: Path) -> None:
    contents = [b"", b"x", bytes(100_000), b"last"]
    assert read_all(write(tmp_path / "a", *contents)) == contents


@pytest.mark.parametrize(
    ("at", "complaint"),
    [
        (HEAD + 3 + TAIL, "the length of record 1 is damaged"),
        (HEAD + 3 + TAIL + 9, "the length of record 1 is damaged"),
        (HEAD + 3 + TAIL + HEAD + 1, "record 1 is damaged: the checksum"),
        (HEAD + 3 + TAIL + HEAD + 4, "record 1 is damaged: the checksum"),
    ],
)
def test_a_flipped_bit_is_told_with_the_number_of_the_record(tmp_path: Path, at: int, complaint: str) -> None:
    path = write(tmp_path / "a", b"foo", b"bar")
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedError, match=complaint):
        read_all(path)


@pytest.mark.parametrize("missing", range(1, HEAD + 3 + TAIL))
def test_a_file_that_is_cut_off_is_told(tmp_path: Path, missing: int) -> None:
    path = write(tmp_path / "a", b"foo", b"bar")
    path.write_bytes(path.read_bytes()[:-missing])
    with pytest.raises(DamagedError, match="record 1 is cut off"):
        read_all(path)


def test_a_length_beyond_the_file_takes_no_memory(tmp_path: Path) -> None:
    length = (2**62).to_bytes(8, "little")
    checksum = masked_crc32c(length).to_bytes(4, "little")
    (tmp_path / "a").write_bytes(length + checksum + bytes(50))
    with pytest.raises(DamagedError, match=f"record 0 is cut off: it has {2**62} bytes, of which 50 are left"):
        read_all(tmp_path / "a")


@given(st.binary(max_size=60))
def test_any_bytes_are_an_example_or_damaged(data: bytes) -> None:
    try:
        records.parse(data)
    except DamagedError as error:
        assert "\n" not in str(error)
