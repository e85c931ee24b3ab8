"""`atrous pack`: a dataset as a few large files, which disks and networks read faster than many small ones."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout
from rich.console import Console

from atrous import config as configs
from atrous import data, terminal, verb_module
from atrous.data.contract import DataConfig
from atrous.data.inventory import inventory
from atrous.data.packed import INDEX, Index, Kind, Split, read_index
from atrous.data.recognising import recognised
from atrous.errors import ConfigError, DataError
from atrous.files import prepare_output, user_path, write_atomically
from atrous.packing.job import OPTIONS_OF_OTHERS, Options, Packing
from atrous.packing.shards import BEGUN, LOCK, Written, begun_shards, is_whole, note, whole_shards, write_split
from atrous.progress import counting, say
from atrous.recipes import recipes
from atrous.types import Sample

verb_module.make_callable(__name__)


BASE = "folder/deeplab_v3plus"  # whose section `data` is replaced


class Summary(NamedTuple):
    packed: Index
    out: Path

    @property
    def num_skipped(self) -> int:
        return sum(len(split.skipped) for split in self.packed.splits.values())

    def describe(self) -> str:
        """What was written, a line for each split, and how to use it."""
        lines = [
            f"{name}: {split.samples} images in {len(split.shards)} shard{'s'[: len(split.shards) - 1]}, "
            f"{sum(shard.bytes for shard in split.shards) / 1e6:.1f} MB"
            for name, split in self.packed.splits.items()
        ]
        return "\n".join([*lines, f"train with data.format={self.packed.format} data.root={self.out}"])


def run(
    source: str,
    out: Path,
    overrides: Sequence[str] = (),
    options: Options = Options(),  # noqa: B008 - frozen
    *,
    splits: Sequence[str] = (),
    workers: int = 0,
    console: Console | None = None,
) -> Summary:
    """Pack a dataset: a folder, or the data of a recipe or YAML file. If `out` holds its beginning, that is kept.

    `splits` are those of the config unless they are named. A sample that can't be read stops the packing or, with
    data.on_error=skip, is named and left out. Raises AtrousError and OSError for what the user can correct.
    """
    console, out = console or terminal.console(), user_path(out)
    packing = planned(data_config(source, overrides), options, splits)
    prepare_output(out)
    lock = FileLock(out / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise ConfigError(f"--out {out}: another packing is running there") from None
    try:
        return Summary(finished(out, packing, console) or _pack(out, packing, workers, console), out)
    finally:
        (out / LOCK).unlink(missing_ok=True)  # while it is held: nobody else may hold the file that goes
        lock.release()


def data_config(source: str, overrides: Sequence[str]) -> DataConfig:
    """The section `data` of a recipe or YAML file, or the settings of a folder whose layout is recognised."""
    if others := [text for text in overrides if not text.startswith("data.")]:
        raise ConfigError(f"{others[0]}: atrous pack takes settings of data only, such as data.format=voc")
    if source in recipes() or Path(source).suffix in (".yaml", ".yml"):
        return configs.load(source, overrides).data
    keys = [text.partition("=")[0] for text in overrides]
    root = user_path(source)
    named = [] if "data.format" in keys else [f"data.format={recognised(root, data.FORMATS)}"]
    return configs.load(BASE, [*named, f"data.root={root}", *overrides]).data


def planned(config: DataConfig, options: Options, names: Sequence[str] = ()) -> Packing:
    """Refuses options that contradict one another, before anything is read."""
    if options.for_crops and (options.quality or options.to != "shards"):
        raise ConfigError("--for-crops keeps the pixels of shards as they are: it goes with neither --quality nor --to")
    for name in OPTIONS_OF_OTHERS[options.to]:
        if getattr(options, name) != Options.model_fields[name].default:
            raise ConfigError(f"--{name.replace('_', '-')}: --to {options.to} has no such option")
    space = data.label_space(config)
    splits = {name: data.samples(config, name) for name in names or dict.fromkeys((config.train, config.val))}
    for name, samples in splits.items():
        if not len(samples):
            raise DataError(f"split {name!r} has no samples")
        if not re.fullmatch(r"[\w+-][\w+ .-]{0,99}", name):
            raise ConfigError(f"split {name!r}: its name can't begin that of a shard; rename it")
    facts = [options.model_dump(), space.model_dump(), config.format]
    tree = json.dumps(
        [*facts, {name: inventory(samples) for name, samples in splits.items()}, _painted(config, splits)]
    )
    source = hashlib.sha256(tree.encode()).hexdigest()
    return Packing(options, space, splits, source, config.on_error == "skip")


def _painted(config: DataConfig, splits: Mapping[str, Sequence[Sample]]) -> Any:  # noqa: ANN401
    """The settings, of samples that aren't files."""
    return None if all(map(inventory, splits.values())) else config.model_dump(mode="json")


def finished(out: Path, packing: Packing, console: Console) -> Index | None:
    """The index in `out`, if it is of this very packing and its shards are whole; refuses any other dataset there."""
    if not (out / INDEX).exists():
        return None
    index = read_index(out)
    if index.source != packing.source:
        raise ConfigError(f"--out {out} holds another packed dataset; choose another folder")
    shards = [shard for split in index.splits.values() for shard in split.shards]
    if not all(is_whole(out, shard) for shard in shards):
        raise DataError(f"--out {out} holds this packing, but a shard has changed since; remove the folder")
    say(f"{out}: already packed, and all checksums are right", console)
    return index


def _pack(out: Path, packing: Packing, workers: int, console: Console) -> Index:
    begun = begun_shards(out, packing)
    splits = {}
    total = sum(map(len, packing.splits.values()))
    with counting("packing images", total, console) as advance:
        for name, samples in packing.splits.items():
            rows = whole_shards(out, begun.get(name, []))
            advance(sum(row.taken for row in rows))
            for row in write_split(out, name, samples, packing, rows, workers, advance):
                for problem in row.skipped:
                    say(f"skipped: {problem}", console)
                begun[name] = rows = [*rows, row]
                note(out, packing, begun)
            splits[name] = _split(rows)
            if not splits[name].samples:
                raise DataError(f"split {name!r}: none of its {len(samples)} samples could be read")
    kind: Kind = packing.options.to
    index = Index(format=kind, label_space=packing.space, splits=splits, source=packing.source)
    write_atomically(out / INDEX, index.model_dump_json(indent=1) + "\n")
    (out / BEGUN).unlink(missing_ok=True)
    return index


def _split(rows: Sequence[Written]) -> Split:
    def total(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
        counts: Counter[str] = Counter()
        for part in parts:
            counts.update(part)
        return dict(counts)

    return Split(
        samples=sum(row.shard.samples for row in rows),
        shards=tuple(row.shard for row in rows),
        pixels=total(row.pixels for row in rows),
        images=total(row.images for row in rows),
        ignored=sum(row.ignored for row in rows),
        sizes=total(row.sizes for row in rows),
        skipped=tuple(problem for row in rows for problem in row.skipped),
    )
