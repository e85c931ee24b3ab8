"""Checkpoints of TensorFlow 1 (Saver) and 2 (objects): an `.index`, a sorted table of names, and `.data-` shards.

The index is a table as LevelDB has them: blocks of sorted entries whose keys are shortened by the prefix that they
share with the key before, an index block that says where the blocks lie, and a footer that says where that lies.
"""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from atrous.convert.readers.contract import Array, DamagedError, Shape, naming, quoted, read_whole, require_file
from atrous.convert.readers.crc32c import Bytes, masked_crc32c
from atrous.convert.readers.protobuf import fields, varint
from atrous.convert.readers.tensor_types import NO_NUMBERS, decode, read_shape, require_bytes

KIND = "TensorFlow checkpoint"
MAGIC = 0xDB4775248B80FB57
FOOTER_SIZE, TRAILER_SIZE = 48, 5
COMPRESSIONS = {1: "with snappy, which TensorFlow's own checkpoints never are"}
KEY_GROWTH = 64  # how much longer than the file its keys may be in all, once their shared prefixes are written out
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
    """Every tensor that holds numbers, by its variable's name, optimiser's slots included.

    `path` is a prefix (`model.ckpt-30000`), the `.index`, a `.data-` file or a folder. Names of TensorFlow 2 come
    without `/.ATTRIBUTES/VARIABLE_VALUE`. ValueError: damaged, or none; FileNotFoundError: a file is missing.
    """
    prefix = find_prefix(path)
    index = prefix.with_name(f"{prefix.name}.index")
    with naming(index, KIND):
        num_shards, entries = _read_index(read_whole(index))
    by_shard = sorted(entries, key=lambda entry: (entry.shard, entry.offset, entry.size))
    shards = {
        prefix.with_name(f"{prefix.name}.data-{shard:05}-of-{num_shards:05}"): list(group)
        for shard, group in itertools.groupby(by_shard, lambda entry: entry.shard)
    }
    for shard, group in shards.items():  # all sizes are known to be right before anything is allocated
        with naming(shard, KIND):
            _require_places(group, require_file(shard).stat().st_size)
    tensors = {name: tensor for shard, group in shards.items() for name, tensor in _read_shard(shard, group)}
    return {entry.name: tensors[entry.name] for entry in entries}


def find_prefix(path: Path) -> Path:
    """What the names of a checkpoint's files begin with; of several in a folder, the newest."""
    if path.is_dir():
        return _newest(path)
    prefix = path.with_name(PART.sub("", path.name))
    index = prefix.with_name(f"{prefix.name}.index")
    if index.is_file():
        return prefix
    if path.is_file() and prefix == path:
        raise ValueError(f"not a checkpoint of an .index and .data- files: {path}")
    raise FileNotFoundError(f"no such checkpoint: {prefix} (there is no {index.name})")


def _newest(folder: Path) -> Path:
    state = folder / "checkpoint"
    if not state.is_file():
        return _highest_numbered(folder)
    named = NEWEST.search(state.read_text(encoding="utf-8", errors="replace"))
    if named is None:
        raise ValueError(f'no line `model_checkpoint_path: "..."` in {state}')
    prefix = folder / named[1]  # the folder may have moved since, so what is before the name is not looked at
    if not prefix.with_name(f"{prefix.name}.index").is_file():
        raise FileNotFoundError(f"{state} names {quoted(named[1])}, but there is no such .index beside it")
    return prefix


def _highest_numbered(folder: Path) -> Path:
    found = sorted(path.with_suffix("") for path in folder.glob("*.index") if not path.name.startswith("."))
    if not found:
        raise FileNotFoundError(f"no checkpoint (.index) in {folder}")
    highest = max(map(_step, found))
    newest = [prefix for prefix in found if _step(prefix) == highest]
    if len(newest) > 1:
        raise ValueError(f"several checkpoints in {folder}: name one of {', '.join(prefix.name for prefix in newest)}")
    return newest[0]


def _step(prefix: Path) -> int:
    number = re.search(r"-(\d{1,18})$", prefix.name)
    return int(number[1]) if number else -1


def _read_index(data: bytes) -> tuple[int, list[Entry]]:
    """The number of shards, and the tensors that hold numbers."""
    table = _read_table(memoryview(data))
    first = next(table, None)
    if first is None or first[0]:
        raise DamagedError("the table does not begin with a header")
    num_shards = _read_header(first[1])
    entries = [_read_entry(_variable(key), value) for key, value in table]
    kept = [entry for entry in entries if entry.dtype not in NO_NUMBERS]
    for entry in kept:
        _require_entry(entry, num_shards)
    if len({entry.name for entry in kept}) < len(kept):
        raise DamagedError("a variable is there twice, as TensorFlow 1 and 2 write it")
    return num_shards, kept


def _variable(key: bytes) -> str:
    try:
        return key.decode().removesuffix(OBJECT_SUFFIX)
    except UnicodeDecodeError as error:
        raise DamagedError(f"the name {quoted(key)} is not UTF-8") from error


def _read_header(message: memoryview) -> int:
    numbers = {field.number: field.signed() for field in fields(message) if field.number in (1, 2)}
    if numbers.get(2):
        raise DamagedError("written on a big-endian machine, which is not read")
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
            raise DamagedError(f"{quoted(name)} is partitioned into slices, which are not read")
    return Entry(name, numbers[1], shape, numbers[3], numbers[4], numbers[5], crc)


def _require_entry(entry: Entry, num_shards: int) -> None:
    try:
        require_bytes(entry.shape, entry.dtype, entry.size)
    except DamagedError as error:
        raise DamagedError(f"{quoted(entry.name)}: {error}") from error
    if not 0 <= entry.shard < num_shards or entry.offset < 0:
        raise DamagedError(f"{quoted(entry.name)} lies at {entry.offset} in shard {entry.shard} of {num_shards}")


def _require_places(entries: list[Entry], file_size: int) -> None:
    """Within the file, and no byte in two tensors: together they take no more than the file."""
    end = 0
    for entry in entries:
        if entry.offset < end:
            raise DamagedError(f"{quoted(entry.name)} overlaps another tensor")
        end = entry.offset + entry.size
        if end > file_size:
            raise DamagedError(f"{quoted(entry.name)} ends at {end}, but the file has {file_size} bytes")


def _read_shard(path: Path, entries: list[Entry]) -> Iterator[tuple[str, Array]]:
    with naming(path, KIND), path.open("rb") as file:
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
        raise DamagedError("the end of the table is missing, or it never was one")
    _, _, at = _read_handle(footer, 0)  # of the block about the blocks, which nothing needs
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
    if compression := data[end]:
        raise DamagedError(
            f"a block is compressed {COMPRESSIONS.get(compression, f'in the unknown way {compression}')}"
        )
    return _read_entries(data[offset:end])


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
    """Where the list of restarts begins, which is there to search in; its length is the block's last number."""
    num_restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 - 4 * num_restarts
    if end < 0:
        raise DamagedError(f"a block of {len(block)} bytes claims {num_restarts} restarts")
    return end
