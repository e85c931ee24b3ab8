"""Shards: their names, when one is full, and how it is written, whole or not at all."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from atrous.data.label_space import LabelSpace
from atrous.data.loader import read_each
from atrous.data.packed import Row, Shard
from atrous.errors import ConfigError, DataError, listing
from atrous.files import remove_leftovers, write_atomically, written_aside
from atrous.packing.encoding import encoded
from atrous.packing.job import Item, Options, Packing
from atrous.trees import TreeError, parse_json
from atrous.types import Sample
from atrous.wire import tar

BEGUN, LOCK = ".packing.json", ".packing.lock"


class Written(Row):
    """A finished shard, and what a packing that goes on must know of it."""

    shard: Shard
    taken: int  # samples of the split, with those that were skipped
    pixels: dict[str, int]
    images: dict[str, int]
    ignored: int
    sizes: dict[str, int]
    skipped: tuple[str, ...]


def begun_shards(out: Path, packing: Packing) -> dict[str, list[Written]]:
    """The shards that are noted as written, by split. Refuses a folder with anything else in it."""
    path = out / BEGUN
    remove_leftovers(out)
    if not path.exists():
        others = sorted(entry.name for entry in out.iterdir() if entry.name != LOCK)
        if others:
            raise ConfigError(f"--out {out} is not empty: it holds {listing(others, 3)}; choose another folder")
        note(out, packing, {})
        return {}
    try:
        tree = parse_json(path.read_text(encoding="utf-8"))
        source, rows = tree["source"], tree["splits"]
        begun = {name: [Written.model_validate(row) for row in part] for name, part in rows.items()}
    except (TreeError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{path} is damaged; remove the folder, and pack again") from error
    if source != packing.source:
        raise ConfigError(f"--out {out} holds the beginning of another packing; remove it, or choose another folder")
    return begun


def note(out: Path, packing: Packing, begun: Mapping[str, Sequence[Written]]) -> None:
    rows = {name: [row.model_dump(mode="json") for row in part] for name, part in begun.items()}
    write_atomically(out / BEGUN, json.dumps({"source": packing.source, "splits": rows}))


def whole_shards(out: Path, rows: Sequence[Written]) -> list[Written]:
    """The noted shards up to the first that isn't whole any more."""
    number = next((index for index, row in enumerate(rows) if not is_whole(out, row.shard)), len(rows))
    return list(rows[:number])


def is_whole(out: Path, shard: Shard) -> bool:
    path = out / shard.name
    if not path.is_file() or path.stat().st_size != shard.bytes:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == shard.sha256


def write_split(
    out: Path,
    name: str,
    samples: Sequence[Sample],
    packing: Packing,
    rows: Sequence[Written],
    workers: int,
    advance: Callable[[int], None],
) -> Iterator[Written]:
    """The shards of a split that are not written yet, each when it is finished."""
    done, number = sum(row.taken for row in rows), len(rows)
    encode = partial(encoded, samples, packing.options, packing.space)
    items = (item for _, item in read_each(encode, range(done, len(samples)), workers))
    shards = _BY_KIND[packing.options.to]
    is_full = shards.is_full(packing.options, len(samples))
    pending: list[Item] = []
    for index, item in enumerate(items, done):
        if item.problem and not packing.skip_errors:
            raise DataError(item.problem)
        pending.append(item)
        advance(1)
        if is_full(pending) or index == len(samples) - 1:
            path = out / shards.file_name(name, number, packing.options, len(samples))
            yield _write(path, pending, packing.space, shards.end)
            pending, number = [], number + 1


def _write(path: Path, items: Sequence[Item], space: LabelSpace, end: bytes) -> Written:
    """Aside, then renamed: a shard is whole, or not there."""
    good = [item for item in items if not item.problem]
    content = (*(item.content for item in good), end)
    digest = hashlib.sha256()
    with written_aside(path) as temporary, temporary.open("wb") as file:
        for part in content:
            file.write(part)
            digest.update(part)
    size = sum(map(len, content))
    shard = Shard(name=path.name, samples=len(good), bytes=size, sha256=digest.hexdigest())
    return Written(shard=shard, taken=len(items), skipped=_problems_of(items), **_counts_of(good, space))


def _problems_of(items: Sequence[Item]) -> tuple[str, ...]:
    return tuple(item.problem for item in items if item.problem)


def _counts_of(items: Sequence[Item], space: LabelSpace) -> dict[str, Any]:
    pixels: Counter[int] = Counter()
    for item in items:
        pixels.update(item.pixels)
    classes = [(name, label) for label, name in enumerate(space.names) if label != space.ignore]
    return {
        "pixels": {name: pixels[label] for name, label in classes},
        "images": {name: sum(label in item.pixels for item in items) for name, label in classes},
        "ignored": pixels[space.ignore],
        "sizes": dict(Counter(f"{item.size[0]} x {item.size[1]}" for item in items)),
    }


class _Shards(NamedTuple):
    """How the files of a kind are named, when one is full, and how it ends."""

    file_name: Callable[[str, int, Options, int], str]
    is_full: Callable[[Options, int], Callable[[Sequence[Item]], bool]]
    end: bytes


def _tar_name(split: str, number: int, options: Options, count: int) -> str:
    return f"{split}-{number:06d}.tar"


def _is_large(options: Options, count: int) -> Callable[[Sequence[Item]], bool]:
    return lambda items: sum(len(item.content) for item in items) >= options.shard_size * 10**6


def _record_name(split: str, number: int, options: Options, count: int) -> str:
    total = -(-count // _per_shard(options, count))
    return f"{split}-{number:05d}-of-{total:05d}.tfrecord"


def _is_complete(options: Options, count: int) -> Callable[[Sequence[Item]], bool]:
    return lambda items: len(items) >= _per_shard(options, count)


def _per_shard(options: Options, count: int) -> int:
    """As many records as the originals' programs put into each file."""
    return -(-count // options.num_shards)


_BY_KIND = {
    "shards": _Shards(_tar_name, _is_large, tar.END),
    "tfrecord": _Shards(_record_name, _is_complete, b""),
}
