"""Checkpoints of TensorFlow 1 (Saver) and 2 (objects): an `.index` (a sorted table of names) and `.data-` shards.

The index is a LevelDB table: blocks of sorted entries, whose keys leave out the prefix that they share with the key
before; an index block, which locates the blocks; and a footer, which locates the index block.
"""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from atrous.convert.arrays import Array, Shape
from atrous.convert.readers.damage import DamagedError, quoted, read_ends, read_whole, reading, require_file
from atrous.convert.readers.tensor_types import NO_NUMBERS, decode, read_shape, require_bytes
from atrous.errors import ConversionError
from atrous.wire.crc32c import Bytes, masked_crc32c
from atrous.wire.protobuf import fields, varint
from atrous.wire.snappy import decompressed

KIND = "TensorFlow checkpoint"
MAGIC = 0xDB4775248B80FB57
FOOTER_SIZE, TRAILER_SIZE = 48, 5
SNAPPY = 1  # how blocks of an index may be compressed: TensorFlow doesn't, Google's own builds do
KEY_GROWTH = 64  # how many times longer than the file its keys may be, with their shared prefixes written out
OBJECT_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
PART = re.compile(r"\.index$|\.data-\d{5}-of-\d{5}$")
NEWEST = re.compile(r'^\s*model_checkpoint_path:\s*"(?:.*[/\\])?([^"/\\\n]{1,200})"', re.MULTILINE)


class Entry(NamedTuple):
    """Where one tensor lies."""

    name: str
    dtype: int
    shape: Shape
    shard: int
    offset: int
    size: int
    crc: int


def read_checkpoint(path: Path) -> dict[str, Array]:
    """Every tensor of numbers by the name of its variable, an optimiser's slots included.

    `path` is a prefix (`model.ckpt-30000`), the `.index`, a `.data-` file or a folder. Names of TensorFlow 2 lose their
    `/.ATTRIBUTES/VARIABLE_VALUE`. Raises ConversionError for damaged and other files, and FileNotFoundError.
    """
    prefix = find_prefix(path)
    index = prefix.with_name(f"{prefix.name}.index")
    with reading(index, KIND):
        _index_handle(memoryview(read_ends(index, FOOTER_SIZE)[1]))
        num_shards, entries = _read_index(read_whole(index))
    by_shard = sorted(entries, key=lambda entry: (entry.shard, entry.offset, entry.size))
    shards = {
        prefix.with_name(f"{prefix.name}.data-{shard:05}-of-{num_shards:05}"): list(group)
        for shard, group in itertools.groupby(by_shard, lambda entry: entry.shard)
    }
    for shard, group in shards.items():  # all sizes are checked before anything is allocated
        with reading(shard, KIND):
            _require_places(group, require_file(shard).stat().st_size)
    tensors = {name: tensor for shard, group in shards.items() for name, tensor in _read_shard(shard, group)}
    return {entry.name: tensors[entry.name] for entry in entries}


def find_prefix(path: Path) -> Path:
    """The common prefix of a checkpoint's files; in a folder, that of the newest checkpoint."""
    if path.is_dir():
        return _newest(path)
    prefix = path.with_name(PART.sub("", path.name))
    index = prefix.with_name(f"{prefix.name}.index")
    if index.is_file():
        return prefix
    if path.is_file() and prefix == path:
        raise ConversionError(f"not a checkpoint of an .index and .data- files: {path}")
    raise FileNotFoundError(f"no such checkpoint: {prefix} (there is no {index.name})")


def _newest(folder: Path) -> Path:
    state = folder / "checkpoint"
    if not state.is_file():
        return _highest_numbered(folder)
    match = NEWEST.search(state.read_text(encoding="utf-8", errors="replace"))
    if match is None:
        raise ConversionError(f'no line `model_checkpoint_path: "..."` in {state}')
    prefix = folder / match[1]  # without the path before the name: the folder may have moved since
    if not prefix.with_name(f"{prefix.name}.index").is_file():
        raise FileNotFoundError(f"{state} names {quoted(match[1])}, but its .index is missing")
    return prefix


def _highest_numbered(folder: Path) -> Path:
    prefixes = sorted(path.with_suffix("") for path in folder.glob("*.index") if not path.name.startswith("."))
    if not prefixes:
        raise FileNotFoundError(f"no checkpoint (.index) in {folder}")
    highest = max(map(_step, prefixes))
    newest = [prefix for prefix in prefixes if _step(prefix) == highest]
    if len(newest) > 1:
        names = ", ".join(prefix.name for prefix in newest)
        raise ConversionError(f"several checkpoints in {folder}: name one of {names}")
    return newest[0]


def _step(prefix: Path) -> int:
    number = re.search(r"-(\d{1,18})$", prefix.name)
    return int(number[1]) if number else -1


def _read_index(data: bytes) -> tuple[int, list[Entry]]:
    """The number of shards, and the tensors of numbers."""
    table = _read_table(memoryview(data))
    first = next(table, None)
    if first is None or first[0]:
        raise DamagedError("the table does not begin with a header")
    num_shards = _read_header(first[1])
    everything = (_read_entry(_variable(key), value) for key, value in table)
    entries = [entry for entry in everything if entry.dtype not in NO_NUMBERS]
    for entry in entries:
        _require_entry(entry, num_shards)
    if len({entry.name for entry in entries}) < len(entries):
        raise DamagedError("a variable occurs twice, under its names in TensorFlow 1 and 2")
    return num_shards, entries


def _variable(key: bytes) -> str:
    try:
        return key.decode().removesuffix(OBJECT_SUFFIX)
    except UnicodeDecodeError as error:
        raise DamagedError(f"the name {quoted(key)} is not UTF-8") from error


def _read_header(message: memoryview) -> int:
    numbers = {field.number: field.signed() for field in fields(message) if field.number in (1, 2)}
    if numbers.get(2):
        raise DamagedError("it was written on a big-endian machine, which is not supported")
    if numbers.get(1, 0) < 1:
        raise DamagedError(f"the header claims {numbers.get(1, 0)} shards")
    return numbers[1]


def _read_entry(name: str, message: memoryview) -> Entry:
    numbers, crc = dict.fromkeys((1, 3, 4, 5), 0), 0
    shape: Shape = ()
    for field in fields(message):
        if field.number in numbers:
            numbers[field.number] = field.signed()
        elif field.number == 2:
            shape = read_shape(field.content())
        elif field.number == 6:
            crc = field.fixed32()
        elif field.number == 7:
            raise DamagedError(f"{quoted(name)} is partitioned into slices, which are not supported")
    return Entry(name, numbers[1], shape, numbers[3], numbers[4], numbers[5], crc)


def _require_entry(entry: Entry, num_shards: int) -> None:
    try:
        require_bytes(entry.shape, entry.dtype, entry.size)
    except DamagedError as error:
        raise DamagedError(f"{quoted(entry.name)}: {error}") from error
    if not 0 <= entry.shard < num_shards or entry.offset < 0:
        raise DamagedError(f"{quoted(entry.name)} lies at {entry.offset} in shard {entry.shard} of {num_shards}")


def _require_places(entries: list[Entry], file_size: int) -> None:
    """Raises DamagedError unless all lie within the file and no byte is in two tensors."""
    end = 0
    for entry in entries:
        if entry.offset < end:
            raise DamagedError(f"{quoted(entry.name)} overlaps another tensor")
        end = entry.offset + entry.size
        if end > file_size:
            raise DamagedError(f"{quoted(entry.name)} ends at {end}, but the file has {file_size} bytes")


def _read_shard(path: Path, entries: list[Entry]) -> Iterator[tuple[str, Array]]:
    with reading(path, KIND), path.open("rb") as file:
        for entry in entries:
            file.seek(entry.offset)
            raw = np.fromfile(file, np.uint8, entry.size)
            _require_checksum(raw, entry.crc, quoted(entry.name))
            yield entry.name, decode(raw, entry.dtype, entry.shape)


def _require_checksum(data: Bytes, expected: int, what: str) -> None:
    if masked_crc32c(data) != expected:
        raise DamagedError(f"{what} does not match its checksum")


def _read_table(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """All keys and values, in ascending order of the keys."""
    previous, keys_size, blocks_end = None, 0, 0
    for _, handle in _read_block(data, *_index_handle(data)):
        offset, size, _ = _read_handle(handle, 0)
        if offset < blocks_end:
            raise DamagedError(f"two blocks share the byte {offset}")
        blocks_end = offset + size
        for key, value in _read_block(data, offset, size):
            if previous is not None and key <= previous:
                raise DamagedError(f"the name {quoted(key)} is out of order")
            keys_size += len(key)
            if keys_size > KEY_GROWTH * len(data):
                raise DamagedError(f"its names are more than {KEY_GROWTH} times as long as the file")
            yield key, value
            previous = key


def _index_handle(data: memoryview) -> tuple[int, int]:
    footer = data[-FOOTER_SIZE:]
    if len(footer) < FOOTER_SIZE or int.from_bytes(footer[-8:], "little") != MAGIC:
        raise DamagedError("the end of the table is missing, or it is not a table")
    _, _, at = _read_handle(footer, 0)  # of the metaindex block, which nothing needs
    offset, size, _ = _read_handle(footer, at)
    return offset, size


def _read_handle(data: memoryview, at: int) -> tuple[int, int, int]:
    """A block's offset and size, and where the handle ends."""
    offset, at = varint(data, at)
    size, at = varint(data, at)
    return offset, size, at


def _read_block(data: memoryview, offset: int, size: int) -> Iterator[tuple[bytes, memoryview]]:
    end = offset + size
    if end + TRAILER_SIZE > len(data) - FOOTER_SIZE:
        raise DamagedError(f"a block ends at {end}, but the file has {len(data)} bytes")
    _require_checksum(data[offset : end + 1], int.from_bytes(data[end + 1 : end + TRAILER_SIZE], "little"), "a block")
    if data[end] not in (0, SNAPPY):
        raise DamagedError(f"a block is compressed by the unknown method {data[end]}")
    block = data[offset:end]
    return _read_entries(memoryview(decompressed(block)) if data[end] == SNAPPY else block)


def _read_entries(block: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    key, at, end = b"", 0, _entries_end(block)
    while at < end:
        shared, at = varint(block, at)
        unshared, at = varint(block, at)
        size, at = varint(block, at)
        if shared > len(key) or unshared + size > end - at:
            raise DamagedError(f"after the name {quoted(key)}, an entry claims more than its block has")
        key = key[:shared] + bytes(block[at : at + unshared])
        at += unshared + size
        yield key, block[at - size : at]


def _entries_end(block: memoryview) -> int:
    """Where the list of restarts begins, which only searches need; its length is the block's last number."""
    num_restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 - 4 * num_restarts
    if end < 0:
        raise DamagedError(f"a block of {len(block)} bytes claims {num_restarts} restarts")
    return end
