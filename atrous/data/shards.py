"""Shards that `atrous pack` has written: tar files in WebDataset's layout, read in place.

A sample is some files of one key: `key.jpg` (or `.png`, or `.npy`), `key.label.png`, `key.instance.png`, `key.json`.
Each is read by its place in the tar, so that any order costs the same on a local disk, and nothing is ever unpacked.
"""

import functools
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, cast, overload
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from atrous.data.contract import DataConfig, Layout, require_root, require_split
from atrous.data.label_space import LabelSpace
from atrous.data.naming import one_line
from atrous.data.packed import Shard, index_of, is_packed, space_of
from atrous.data.pixels import NamedBytes, read_image, read_label
from atrous.data.strips import Strips, strips_of, whole
from atrous.errors import DamagedError, DataError, listing
from atrous.types import NO_IMAGE, Image, Sample
from atrous.wire import tar
from atrous.wire.tar import Member

IMAGES = ("jpg", "png", "npy", "webp", "bmp", "tif")
LABEL, INSTANCE, FACTS = "label", "instance", "json"
ENCODED = ".%\\:"  # what names of samples may have, but those of their files may not
Checksum = Annotated[int, Field(ge=0, lt=2**32)]


class Config(DataConfig):
    """data.format=shards data.root=packed, the folder that atrous pack has written."""

    format: Literal["shards"] = "shards"
    shuffle_buffer: Annotated[int, Field(ge=0, le=10**7)] = 0
    """Images among which the next is drawn, shard by shard: for network shares; 0: all, for local disks."""


class Facts(BaseModel):
    """The content of `key.json`."""

    name: str
    height: Annotated[int, Field(gt=0, le=2**20)]
    width: Annotated[int, Field(gt=0, le=2**20)]
    category: int | None = None
    crc32: dict[str, list[Checksum]]  # by the rest of a file's name; of each strip of rows of .npy


_FACTS = TypeAdapter(Facts)


class Entry(NamedTuple):
    """A sample's files in a shard."""

    name: str
    shard: Path
    files: Mapping[str, Member] = {}  # by what follows the key
    problem: str = ""  # why its shard can't be read; "": it can


def samples(config: Config, split: str) -> Sequence[Sample]:
    """The samples of a split in the order in which they were packed.

    A shard that is missing, cut off or not harmless raises DataError or, with on_error=skip, each of its samples does.
    """
    root, index = require_root(config), index_of(config)
    require_split(config, split, index.splits, root / f"{split}-000000.tar")
    shards = index.splits[split].shards
    entries = [_entries(root / shard.name, shard) for shard in shards]
    problems = [part[0].problem for part in entries if part and part[0].problem]
    if problems and config.on_error == "stop":
        more = f"; {len(problems) - 1} more shards can't be read either" if len(problems) > 1 else ""
        raise DataError(f"{problems[0]}{more}")
    sizes = tuple(len(part) for part in entries)
    return Shards([entry for part in entries for entry in part], sizes, config.shuffle_buffer)


def label_space(config: Config) -> LabelSpace:
    return space_of(index_of(config), config)


def is_root(config: Config, folder: Path) -> bool:
    return is_packed(folder, "shards")


class Shards(Sequence[Sample]):
    """Samples in tar files. Raises DataError with the shard's path for what is missing or damaged."""

    def __init__(self, entries: Sequence[Entry], sizes: tuple[int, ...], buffer: int) -> None:
        self.entries, self.sizes, self.buffer = entries, sizes, buffer

    def __len__(self) -> int:
        return len(self.entries)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> "Shards": ...
    def __getitem__(self, index: int | slice) -> "Sample | Shards":
        if isinstance(index, slice):
            part = self.entries[index]
            return Shards(part, (len(part),), self.buffer)
        return whole(self.late(index))

    def late(self, index: int) -> Sample:
        """The sample whose uncompressed pixels are read only where they are sliced (`Strips`)."""
        entry = self.entries[index]
        facts, labels = _labels(entry)
        image = next((rest for rest in IMAGES if rest in entry.files), None)
        if image is None:
            raise DataError(f"{entry.shard}: {entry.name} has no image ({listing(IMAGES, 10)})")
        pixels = _pixels(entry, facts, image, np.uint8, (3,))
        return labels._replace(image=_checked(pixels, entry, facts, image))

    def labels(self, index: int) -> Sample:
        """The sample with an empty image: only its labels are read."""
        return whole(_labels(self.entries[index])[1])

    def without_instances(self) -> "Shards":
        """The same samples for a task that doesn't tell things apart."""
        entries = [
            entry._replace(files={rest: file for rest, file in entry.files.items() if not rest.startswith(INSTANCE)})
            for entry in self.entries
        ]
        return Shards(entries, self.sizes, self.buffer)

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """In which order an epoch reads the samples."""
        return buffered_order(seed, epoch, self.sizes, self.buffer)

    @property
    def names(self) -> list[str]:
        return [entry.name for entry in self.entries]

    def chosen(self, places: Sequence[int]) -> "Shards":
        ends = np.searchsorted(places, np.cumsum((0, *self.sizes)))  # how many of each shard's are chosen
        return Shards([self.entries[place] for place in places], tuple(np.diff(ends).tolist()), self.buffer)

    def inventory(self) -> dict[str, list[int]]:
        """The sizes of each sample's files."""
        return {entry.name: [member.size for member in entry.files.values()] for entry in self.entries}


# ---- the shards


def _entries(path: Path, shard: Shard) -> list[Entry]:
    """The samples in a shard; as many as it should have, with the problem, if it can't be read."""
    try:
        return _listed(path, shard)
    except (DataError, DamagedError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        problem = f"shard {path}: {reason}"
        return [Entry(f"{shard.name}/{number}", path, problem=problem) for number in range(shard.samples)]


def _listed(path: Path, shard: Shard) -> list[Entry]:
    if not path.is_file():
        raise DataError("it is not a file" if path.exists() else "it is missing")
    size = path.stat().st_size
    if size != shard.bytes:
        raise DataError(f"it has {size} bytes, but {shard.bytes} when it was packed; copy it again")
    files = files_in(path)
    if len(files) != shard.samples:
        raise DataError(f"it has {len(files)} samples, but {shard.samples} when it was packed; copy it again")
    return [Entry(name_of(key), path, rests) for key, rests in files.items()]


def files_in(path: Path) -> dict[str, dict[str, Member]]:
    """The files in a tar, by key and by what follows. Raises DataError and DamagedError."""
    files: dict[str, dict[str, Member]] = {}
    for name, member in tar.members(path):
        key, rest = split_name(name)
        if rest in files.setdefault(key, {}):
            raise DataError(f"{tar.quoted(name)} occurs twice")
        files[key][rest] = member
    return files


def key_of(name: str) -> str:
    """A sample's name as the beginning of its files' names: dots would end it, and others may not be in a tar."""
    return "".join(_plain(character) for character in name.lstrip("/"))


def _plain(character: str) -> str:
    if character in ENCODED or not character.isprintable():
        return "".join(f"%{byte:02X}" for byte in character.encode(errors="surrogateescape"))
    return character


def name_of(key: str) -> str:
    return unquote(key, errors="surrogateescape")


def split_name(name: str) -> tuple[str, str]:
    """A file's key, and what follows: WebDataset's rule is the first dot after the last slash."""
    folder, slash, file = name.rpartition("/")
    stem, _, rest = file.partition(".")
    return f"{folder}{slash}{stem}", rest


# ---- one sample


def _labels(entry: Entry) -> tuple[Facts, Sample]:
    if entry.problem:
        raise DataError(entry.problem)
    facts = _facts(entry)
    semantic, instance = (
        next((f"{what}.{kind}" for kind in ("png", "npy") if f"{what}.{kind}" in entry.files), None)
        for what in (LABEL, INSTANCE)
    )
    return facts, Sample(
        entry.name,
        NO_IMAGE,
        None if semantic is None else _checked(_pixels(entry, facts, semantic, np.uint8), entry, facts, semantic),
        None if instance is None else _checked(_pixels(entry, facts, instance, np.int32), entry, facts, instance),
        facts.category,
    )


def _facts(entry: Entry) -> Facts:
    if FACTS not in entry.files:
        raise DataError(f"{entry.shard}: {entry.name} has no {FACTS} file")
    try:
        return _FACTS.validate_json(content(entry, FACTS))
    except ValidationError as error:
        raise DataError(f"{entry.shard}: {entry.name}.{FACTS} is damaged: {one_line(error)}") from error


def image_of(entry: Entry, rest: str) -> Image:
    """The image alone: checked by the facts beside it, which only what `atrous pack` has written has."""
    try:
        facts = _facts(entry)
    except DataError:
        return _image(_file(entry, rest, content(entry, rest)))
    pixels: Image = _checked(_pixels(entry, facts, rest, np.uint8, (3,)), entry, facts, rest)[:, :]
    return pixels


def _image(file: NamedBytes) -> Image:
    if not file.name.endswith(".npy"):
        return read_image(file)
    try:
        version = np.lib.format.read_magic(file)
        read_head = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, is_transposed, dtype = read_head(file)
    except ValueError as error:
        raise DataError(f"{file.name}: not an array of NumPy, or cut off: {error}") from error
    if dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or is_transposed:
        raise DataError(f"{file.name}: not an image: that is an array [H, W, 3] of uint8 in RGB, by rows")
    pixels = np.frombuffer(file.read(), np.uint8)
    if pixels.size != np.prod(shape):
        raise DataError(f"{file.name} is cut off")
    return pixels.reshape(shape)


def _file(entry: Entry, rest: str, content: bytes) -> NamedBytes:
    return NamedBytes(content, f"{entry.shard}: {entry.name}.{rest}")


def content(entry: Entry, rest: str) -> bytes:
    """What is in one of its files."""
    member = entry.files[rest]
    with entry.shard.open("rb", buffering=0) as file:
        file.seek(member.start)
        stored = file.read(member.size)
    if len(stored) != member.size:
        raise DataError(f"{entry.shard}: {entry.name}.{rest} is cut off")
    return stored


def _pixels(
    entry: Entry, facts: Facts, rest: str, dtype: type[np.generic], bands: tuple[int, ...] = ()
) -> Strips | NDArray[Any]:
    sums = facts.crc32.get(rest, [])
    if rest.endswith("npy"):
        shape = (facts.height, facts.width, *bands)
        return strips_of(entry.shard, f"{entry.name}.{rest}", entry.files[rest], shape, dtype, sums)
    file = _file(entry, rest, content(entry, rest))
    if [zlib.crc32(file.getbuffer())] != sums:
        raise DataError(f"{file.name} is damaged: its checksum is wrong")
    return read_image(file) if bands else read_label(file).values.astype(dtype)


def _checked(pixels: Strips | NDArray[Any], entry: Entry, facts: Facts, rest: str) -> Any:  # noqa: ANN401
    """The pixels, as what a Sample holds: transforms ask of `Strips` what an array has, too."""
    if pixels.shape[:2] != (facts.height, facts.width):
        height, width = pixels.shape[:2]
        raise DataError(
            f"{entry.shard}: {entry.name}.{rest} is {height} x {width} (height x width), but the sample "
            f"{facts.height} x {facts.width}"
        )
    return cast("Image", pixels)


# ---- order


@functools.lru_cache(maxsize=2)
def buffered_order(seed: int, epoch: int, sizes: tuple[int, ...], buffer: int) -> NDArray[np.int64]:
    """A permutation of all samples; with a buffer, that of shards read one after another, through it.

    The buffer holds the next `buffer` samples; each step takes one of them by chance, and the next sample fills its
    place. It is worked out before anything is read, so that a run can go on at any sample.
    """
    rng, count = np.random.default_rng([seed, epoch]), sum(sizes)
    if buffer == 0 or buffer >= count:
        return rng.permutation(count)
    starts = np.cumsum((0, *sizes))
    order = np.concatenate([np.arange(starts[one], starts[one + 1]) for one in rng.permutation(len(sizes))])
    held, order_out = order[:buffer].tolist(), np.empty(count, np.int64)
    places = rng.integers(0, buffer, count - buffer).tolist()
    for number, (place, following) in enumerate(zip(places, order[buffer:].tolist(), strict=True)):
        order_out[number], held[place] = held[place], following
    order_out[count - buffer :] = np.array(held)[rng.permutation(buffer)]
    return order_out


LAYOUT = Layout(Config, samples, label_space, is_root, "what `atrous pack` has written")
