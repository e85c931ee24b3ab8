"""`atrous pack`: a dataset as a few large files, which disks and networks read faster than many small ones."""

import hashlib
import io
import json
import os
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import PIL.Image
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from rich.console import Console

from atrous import config as configs
from atrous import data, terminal, verb_module
from atrous.data import shards as layout
from atrous.data import tfrecord
from atrous.data.contract import DataConfig
from atrous.data.image_files import ImageFiles
from atrous.data.inventory import inventory
from atrous.data.label_space import LabelSpace
from atrous.data.loader import read_each
from atrous.data.packed import INDEX, Index, Kind, Row, Shard, Split, read_index
from atrous.data.recognising import recognised
from atrous.data.strips import checksums
from atrous.data.windows import Window, resample_window
from atrous.errors import AtrousError, ConfigError, DataError, listing, text_of
from atrous.files import prepare_output, remove_leftovers, user_path, write_atomically
from atrous.progress import counting, say
from atrous.recipes import recipes
from atrous.settings import Settings, Side
from atrous.trees import TreeError, parse_json
from atrous.types import Sample
from atrous.wire import records, tar

verb_module.make_callable(__name__)

BASE = "folder/deeplab_v3plus"  # whose section `data` is replaced
BEGUN, LOCK = ".packing.json", ".packing.lock"
SUFFIXES = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "BMP": "bmp", "TIFF": "tif"}  # by Pillow's name of a format
PLAIN = ("JPEG", "PNG"), ("RGB", "L")  # formats and modes that TensorFlow decodes to what we do
MAX_NUMBER = 2**16 - 1  # of a thing, in a PNG


class Options(Settings):
    """What `atrous pack` may be told beside the settings of the data."""

    to: Literal["shards", "tfrecord"] = "shards"
    style: Literal["deeplab", "deeplab2"] = "deeplab"
    quality: Annotated[int, Field(ge=1, le=100)] | None = None
    max_size: Side | None = None
    for_crops: bool = False
    shard_size: Annotated[float, Field(gt=0, le=2**20)] = 256.0
    num_shards: Annotated[int, Field(ge=1, le=99_999)] = 10


OTHERS = {"shards": ("style", "num_shards"), "tfrecord": ("shard_size",)}  # options that aren't of what is written


def checked_options(**options: Any) -> Options:  # noqa: ANN401
    """Raises ConfigError, with the name of the option."""
    try:
        return Options.model_validate(options)
    except ValidationError as error:
        problem = error.errors()[0]
        option = str(problem["loc"][0]).replace("_", "-")
        raise ConfigError(f"--{option} {problem['input']}: {problem['msg'].removeprefix('Input ')}") from error


class Packing(NamedTuple):
    """What is packed, and how."""

    options: Options
    space: LabelSpace
    splits: Mapping[str, Sequence[Sample]]
    source: str  # a checksum of all that decides the bytes
    skip_errors: bool


class Item(NamedTuple):
    """A sample as it will lie in a shard, or what is wrong with it."""

    content: bytes = b""
    size: tuple[int, int] = (0, 0)
    pixels: Mapping[int, int] = {}  # by label
    problem: str = ""


class Written(Row):
    """A finished shard, and what a packing that goes on must know of it."""

    shard: Shard
    taken: int  # samples of the split, with those that were skipped
    pixels: dict[str, int]
    images: dict[str, int]
    ignored: int
    sizes: dict[str, int]
    skipped: tuple[str, ...]


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


# ---- what to pack


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
    for name in OTHERS[options.to]:
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


# ---- the packing


def finished(out: Path, packing: Packing, console: Console) -> Index | None:
    """The index in `out`, if it is of this very packing and its shards are whole; refuses any other dataset there."""
    if not (out / INDEX).exists():
        return None
    index = read_index(out)
    if index.source != packing.source:
        raise ConfigError(f"--out {out} holds another packed dataset; choose another folder")
    shards = [shard for split in index.splits.values() for shard in split.shards]
    if not all(_is_whole(out, shard) for shard in shards):
        raise DataError(f"--out {out} holds this packing, but a shard has changed since; remove the folder")
    say(f"{out}: already packed, and all checksums are right", console)
    return index


def _pack(out: Path, packing: Packing, workers: int, console: Console) -> Index:
    begun = _begun(out, packing)
    splits = {}
    total = sum(map(len, packing.splits.values()))
    with counting("packing images", total, console) as advance:
        for name, samples in packing.splits.items():
            rows = _kept(out, begun.get(name, []))
            advance(sum(row.taken for row in rows))
            for row in _write_split(out, name, samples, packing, rows, workers, advance):
                for problem in row.skipped:
                    say(f"skipped: {problem}", console)
                begun[name] = rows = [*rows, row]
                _note(out, packing, begun)
            splits[name] = _split(rows)
            if not splits[name].samples:
                raise DataError(f"split {name!r}: none of its {len(samples)} samples could be read")
    kind: Kind = packing.options.to
    index = Index(format=kind, label_space=packing.space, splits=splits, source=packing.source)
    write_atomically(out / INDEX, index.model_dump_json(indent=1) + "\n")
    remove_leftovers(out)  # while BEGUN, which they may be of, is there
    (out / BEGUN).unlink(missing_ok=True)
    return index


def _begun(out: Path, packing: Packing) -> dict[str, list[Written]]:
    """The shards that are noted as written, by split. Refuses a folder with anything else in it."""
    path = out / BEGUN
    if not path.exists():
        others = sorted(entry.name for entry in out.iterdir() if entry.name != LOCK)
        if others:
            raise ConfigError(f"--out {out} is not empty: it holds {listing(others, 3)}; choose another folder")
        _note(out, packing, {})
        return {}
    try:
        tree = parse_json(path.read_text(encoding="utf-8"))
        source, rows = tree["source"], tree["splits"]
        begun = {name: [Written.model_validate(row) for row in part] for name, part in rows.items()}
    except (TreeError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{path} is damaged; remove the folder, and pack again") from error
    if source != packing.source:
        raise ConfigError(f"--out {out} holds the beginning of another packing; remove it, or choose another folder")
    for leftover in out.glob(".*.part"):  # of a packing that was killed
        leftover.unlink()
    return begun


def _note(out: Path, packing: Packing, begun: Mapping[str, Sequence[Written]]) -> None:
    rows = {name: [row.model_dump(mode="json") for row in part] for name, part in begun.items()}
    write_atomically(out / BEGUN, json.dumps({"source": packing.source, "splits": rows}))


def _kept(out: Path, rows: Sequence[Written]) -> list[Written]:
    """The noted shards up to the first that isn't whole any more."""
    number = next((index for index, row in enumerate(rows) if not _is_whole(out, row.shard)), len(rows))
    return list(rows[:number])


def _is_whole(out: Path, shard: Shard) -> bool:
    path = out / shard.name
    if not path.is_file() or path.stat().st_size != shard.bytes:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == shard.sha256


def _write_split(
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
    digest, temporary = hashlib.sha256(), path.with_name(f".{path.name}.part")
    try:
        with temporary.open("wb") as file:
            for part in content:
                file.write(part)
                digest.update(part)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OSError(error.errno, f"cannot write {path}: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)
    size = sum(map(len, content))
    shard = Shard(name=path.name, samples=len(good), bytes=size, sha256=digest.hexdigest())
    return Written(shard=shard, taken=len(items), skipped=_problems(items), **_counts(good, space))


def _problems(items: Sequence[Item]) -> tuple[str, ...]:
    return tuple(item.problem for item in items if item.problem)


def _counts(items: Sequence[Item], space: LabelSpace) -> dict[str, Any]:
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


# ---- kinds of shards


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


# ---- one sample


def encoded(samples: Sequence[Sample], options: Options, space: LabelSpace, index: int) -> Item:
    """A sample as bytes. Errors of the user become values: it may run in a worker process."""
    try:
        sample = _shrunk(samples[index], options.max_size)
        path = samples.pairs[index].image if isinstance(samples, ImageFiles) else None
        pixels: dict[int, int] = {}
        if sample.semantic is not None:
            counts = np.bincount(sample.semantic.ravel()).tolist()
            pixels = {label: count for label, count in enumerate(counts) if count}
        write = _as_tar if options.to == "shards" else _as_record
        height, width = sample.image.shape[:2]
        return Item(write(sample, path, options, space), (height, width), pixels)
    except (AtrousError, OSError) as error:
        return Item(problem=text_of(error))


def _shrunk(sample: Sample, max_size: int | None) -> Sample:
    """The sample with sides of at most `max_size` pixels, its image antialiased."""
    height, width = sample.image.shape[:2]
    if max_size is None or max(height, width) <= max_size:
        return sample
    scaled = tuple(max(1, round(side * max_size / max(height, width))) for side in (height, width))
    window = Window((scaled[0], scaled[1]), 0, 0, scaled[0], scaled[1])
    return sample._replace(
        image=resample_window(sample.image, window),
        semantic=None if sample.semantic is None else resample_window(sample.semantic, window),
        instance=None if sample.instance is None else resample_window(sample.instance, window),
    )


def _as_tar(sample: Sample, path: Path | None, options: Options, space: LabelSpace) -> bytes:
    """The files of a sample, one after another as they lie in a tar."""
    maps = {layout.LABEL: sample.semantic, layout.INSTANCE: sample.instance}
    if options.for_crops:
        arrays = {"npy": sample.image} | {f"{what}.npy": values for what, values in maps.items() if values is not None}
        files = {rest: _npy(values) for rest, values in arrays.items()}
        sums = {rest: checksums(values) for rest, values in arrays.items()}
    else:
        kind, image = _image(sample, path, options)
        files = {kind: image} | {
            f"{what}.png": _png(_in_png(values, sample.name)) for what, values in maps.items() if values is not None
        }
        sums = {rest: [zlib.crc32(content)] for rest, content in files.items()}
    height, width = sample.image.shape[:2]
    name = sample.name.encode(errors="backslashreplace").decode()  # of a file whose name isn't UTF-8
    facts = layout.Facts(name=name, height=height, width=width, category=sample.category, crc32=sums)
    files[layout.FACTS] = facts.model_dump_json().encode()
    key = layout.key_of(sample.name)
    return b"".join(tar.member_bytes(f"{key}.{rest}", content) for rest, content in files.items())


def _image(sample: Sample, path: Path | None, options: Options) -> tuple[str, bytes]:
    """The suffix and the content: that of the file, if nothing asks for another."""
    if options.quality is not None:
        return "jpg", _jpeg(sample.image, options.quality)
    if path is not None and options.max_size is None:
        content = path.read_bytes()
        with PIL.Image.open(io.BytesIO(content)) as image:
            if image.format in SUFFIXES:
                return SUFFIXES[image.format], content
    return "png", _png(sample.image)


def _as_record(sample: Sample, path: Path | None, options: Options, space: LabelSpace) -> bytes:
    """The sample under the originals' keys (specs of `build_data.py` and of deeplab2's `data_utils.py`)."""
    kind, image = _plain_image(sample, path, options)
    height, width = sample.image.shape[:2]
    features: dict[str, records.Value] = {
        tfrecord.IMAGE: image,
        tfrecord.NAME: sample.name.encode(errors="surrogateescape"),
        "image/format": kind.encode(),
        tfrecord.HEIGHT: height,
        tfrecord.WIDTH: width,
        "image/channels": 3,
    }
    if sample.semantic is not None:
        is_raw = options.style == "deeplab2"
        labels = panoptic(sample, space).tobytes() if is_raw else _png(sample.semantic)
        features |= {tfrecord.LABELS: labels, tfrecord.LABEL_FORMAT: b"raw" if is_raw else b"png"}
    return records.framed(records.example(features))


def _plain_image(sample: Sample, path: Path | None, options: Options) -> tuple[str, bytes]:
    """JPEG or PNG, which TensorFlow must decode to the pixels that we see: it turns no photo upright."""
    kind, content = _image(sample, path, options)
    with PIL.Image.open(io.BytesIO(content)) as image:
        is_plain = image.format in PLAIN[0] and image.mode in PLAIN[1] and image.getexif().get(0x0112, 1) == 1
    kind, content = (kind, content) if is_plain else ("png", _png(sample.image))
    return {"jpg": "jpeg"}.get(kind, kind), content


def panoptic(sample: Sample, space: LabelSpace) -> NDArray[np.int32]:
    """deeplab2's map of class * divisor + number in the class, from 1 for things; 0 for stuff."""
    assert sample.semantic is not None
    ids = sample.semantic.astype(np.int32) * space.panoptic_divisor
    if sample.instance is None:
        return ids.astype("<i4")
    for label in space.things:
        numbers = np.where(sample.semantic == label, sample.instance, 0)
        known, places = np.unique(numbers, return_inverse=True)
        in_class = places.reshape(numbers.shape) + bool(known[0])
        if in_class.max() >= space.panoptic_divisor:
            raise DataError(
                f"{sample.name}: {in_class.max()} things of {space.names[label]}, but the panoptic divisor "
                f"{space.panoptic_divisor} leaves room for {space.panoptic_divisor - 1}"
            )
        ids += in_class.astype(np.int32)
    return ids.astype("<i4")


def _in_png(values: NDArray[np.integer[Any]], name: str) -> NDArray[np.integer[Any]]:
    if values.dtype == np.uint8:
        return values
    if values.max(initial=0) > MAX_NUMBER:
        raise DataError(f"{name}: thing {values.max()} can't be stored in a PNG, whose numbers end at {MAX_NUMBER}")
    return values.astype(np.uint16)


def _png(pixels: NDArray[Any]) -> bytes:
    return _saved(pixels, "PNG")


def _jpeg(pixels: NDArray[np.uint8], quality: int) -> bytes:
    """With all of its colours: their usual halving moves the borders of what is labelled."""
    return _saved(pixels, "JPEG", quality=quality, subsampling=0)


def _saved(pixels: NDArray[Any], kind: str, **settings: int) -> bytes:
    stream = io.BytesIO()
    PIL.Image.fromarray(pixels).save(stream, kind, **settings)
    return stream.getvalue()


def _npy(pixels: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.ascontiguousarray(pixels), allow_pickle=False)
    return stream.getvalue()
