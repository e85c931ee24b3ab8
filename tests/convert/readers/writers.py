"""Writers as small as the formats allow, so that tests can make files of any content, right or wrong."""

import itertools
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from atrous.convert.arrays import Array
from atrous.wire.crc32c import masked_crc32c

NAMES = (
    "float32",
    "float64",
    "int32",
    "uint8",
    "int16",
    "int8",
    "int64",
    "bool",
    "uint16",
    "float16",
    "uint32",
    "uint64",
)
DTYPES = dict(zip(NAMES, (1, 2, 3, 4, 5, 6, 9, 10, 17, 19, 22, 23), strict=True))  # TensorFlow's numbers
Value: TypeAlias = int | float | bytes | str
Flat: TypeAlias = Any  # ("i", 3): a number; a dict of fields: a table; a list: tables; text; an array: a vector


def varint(number: int) -> bytes:
    number %= 2**64
    head = [number >> shift & 0x7F | 0x80 for shift in range(0, max(number.bit_length(), 1), 7)]
    return bytes([*head[:-1], head[-1] & 0x7F])


def message(*fields: tuple[int, Value]) -> bytes:
    return b"".join(_field(number, value) for number, value in fields)


def _field(number: int, value: Value) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    content = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(content)) + content


def fixed32(number: int, value: int) -> bytes:
    return varint(number << 3 | 5) + struct.pack("<I", value)


def shape(*sizes: int) -> bytes:
    return message(*((2, message((1, size))) for size in sizes))


def entry(dtype: int, sizes: tuple[int, ...], offset: int, size: int, crc: int, shard: int = 0) -> bytes:
    """A BundleEntryProto."""
    return message((1, dtype), (2, shape(*sizes)), (3, shard), (4, offset), (5, size)) + fixed32(6, crc)


def block(entries: list[tuple[bytes, bytes]], kind: int = 0) -> bytes:
    """A block of a table, with its trailer."""
    content, previous = b"", b""
    for key, value in entries:
        shared = _shared(previous, key)
        content += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        previous = key
    content += struct.pack("<II", 0, 1)
    content = (literals(content) if kind == 1 else content) + bytes([kind])
    return content + struct.pack("<I", masked_crc32c(content))


def literals(content: bytes) -> bytes:
    """Snappy's format without copies."""
    pieces = (content[start : start + 60] for start in range(0, len(content), 60))
    return varint(len(content)) + b"".join(bytes([len(piece) - 1 << 2]) + piece for piece in pieces)


def _shared(previous: bytes, key: bytes) -> int:
    pairs = zip(previous, key, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def table(entries: list[tuple[bytes, bytes]], *, per_block: int = 3, kind: int = 0) -> bytes:
    """A whole `.index`."""
    data, handles = b"", []
    for start in range(0, len(entries), per_block):
        group = entries[start : start + per_block]
        part = block(group, kind)
        handles.append((group[-1][0], varint(len(data)) + varint(len(part) - 5)))
        data += part
    index = block(handles)
    handle = varint(0) + varint(0) + varint(len(data)) + varint(len(index) - 5)
    return data + index + handle.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


HEADER = message((1, 1), (3, message((1, 1))))


def index_of(**entries: bytes) -> bytes:
    """An `.index` of one shard with these entries."""
    return table([(b"", HEADER), *((name.encode(), value) for name, value in sorted(entries.items()))])


def write_checkpoint(prefix: Path, tensors: Mapping[str, Array], *, num_shards: int = 1, suffix: str = "") -> None:
    shards, entries = [b""] * num_shards, [(b"", message((1, num_shards), (3, message((1, 1)))))]
    for number, (name, tensor) in enumerate(sorted(tensors.items())):
        shard, raw = number % num_shards, tensor.tobytes()
        value = entry(DTYPES[tensor.dtype.name], tensor.shape, len(shards[shard]), len(raw), masked_crc32c(raw), shard)
        entries.append((f"{name}{suffix}".encode(), value))
        shards[shard] += raw
    prefix.with_name(f"{prefix.name}.index").write_bytes(table(entries))
    for shard, data in enumerate(shards):
        prefix.with_name(f"{prefix.name}.data-{shard:05}-of-{num_shards:05}").write_bytes(data)


def node(name: str, op: str, *inputs: str, **attributes: bytes) -> bytes:
    """A field of a GraphDef."""
    parts = [(1, name), (2, op), *((3, source) for source in inputs)]
    return message((1, message(*parts, *((5, message((1, key), (2, value))) for key, value in attributes.items()))))


def constant(name: str, tensor: bytes) -> bytes:
    return node(name, "Const", value=message((8, tensor)))


def tensor(array: Array) -> bytes:
    """A TensorProto with its content as bytes."""
    return message((1, DTYPES[array.dtype.name]), (2, shape(*array.shape)), (4, array.tobytes()))


def flatbuffer(root: Flat, identifier: bytes = b"TFL3") -> bytes:
    out = bytearray(struct.pack("<I4s", 0, identifier))
    struct.pack_into("<I", out, 0, put(out, root))
    return bytes(out)


def put(out: bytearray, value: Flat) -> int:
    """Append a value, and all that it leads to; where it begins."""
    out += bytes(-len(out) % 8)
    if isinstance(value, dict):
        return _put_table(out, value)
    at = len(out) + 4  # vectors' elements are aligned, not their length
    out += bytes(4)
    if isinstance(value, list):
        out += struct.pack("<I", len(value)) + bytes(4 * len(value))
        for number, part in enumerate(value):
            _point(out, at + 4 + 4 * number, part)
    else:
        content = value.encode() if isinstance(value, str) else value.tobytes()
        out += struct.pack("<I", len(value)) + content + b"\0"
    return at


def _put_table(out: bytearray, table: dict[int, Flat]) -> int:
    """Every field has eight bytes: simple, and aligned."""
    start, size = len(out), max(table, default=-1) + 1
    places = (8 + 8 * field if field in table else 0 for field in range(size))
    out += struct.pack(f"<{size + 2}H", 4 + 2 * size, 8 + 8 * size, *places)
    out += bytes(-len(out) % 8)
    at = len(out)
    out += struct.pack("<q", at - start) + bytes(8 * size)
    for field, value in table.items():
        if isinstance(value, tuple):
            struct.pack_into(f"<{value[0]}", out, at + 8 + 8 * field, value[1])
        else:
            _point(out, at + 8 + 8 * field, value)
    return at


def _point(out: bytearray, at: int, value: Flat) -> None:
    struct.pack_into("<I", out, at, put(out, value) - at)
