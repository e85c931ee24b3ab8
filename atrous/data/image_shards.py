"""Images in tar files of WebDataset's layout, such as `atrous pack` writes, for whoever wants only those."""

import glob
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from atrous.data import shards
from atrous.data.finding import NamedImage, Skipped
from atrous.data.packed import is_packed, read_index
from atrous.data.pixels import NamedBytes
from atrous.errors import DamagedError, DataError
from atrous.files import on_disk, user_path
from atrous.types import Image
from atrous.wire.tar import Member

SUFFIX = ".tar"
IMAGES = (*shards.IMAGES, "jpeg", "tiff")


class Shard(NamedTuple):
    path: Path
    folder: str = ""  # before the names of its images


def shards_of(source: str) -> list[Shard]:
    """The tars that a file, a pattern or a packed folder names; [] for any other source."""
    path = on_disk(user_path(source)) if source else None
    if path is not None and path.is_dir() and is_packed(path, "shards"):
        splits = read_index(path).splits
        folders = {name: name if len(splits) > 1 else "" for name in splits}
        return [Shard(path / shard.name, folders[name]) for name, split in splits.items() for shard in split.shards]
    if not source.lower().endswith(SUFFIX):
        return []
    if path is not None:
        return [Shard(path)] if path.is_file() else []
    matches = map(Path, sorted(glob.glob(str(user_path(source)), recursive=True)))  # noqa: PTH207 - any pattern
    return [Shard(match) for match in matches if match.is_file()]


def images_in(shard: Shard) -> Iterator[NamedImage | Skipped]:
    """The images in a tar, and what can't be read, in a line each."""
    try:
        files = shards.files_in(shard.path)
    except (DataError, DamagedError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        yield Skipped(shard.path, "unreadable", f"shard {shard.path}: {reason}")
        return
    images = {key: rest for key, rests in files.items() if (rest := _image_among(rests))}
    if not images:
        yield Skipped(shard.path, "unreadable", f"shard {shard.path}: no image ({', '.join(IMAGES)}) in it")
    for key, rest in images.items():
        yield _named(shard, shards.name_of(key), shards.Entry(shards.name_of(key), shard.path, files[key]), rest)


def _image_among(rests: Mapping[str, Member]) -> str:
    return next((rest for rest in IMAGES if rest in rests), "")


def _named(shard: Shard, name: str, entry: shards.Entry, rest: str) -> NamedImage | Skipped:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
        return Skipped(shard.path, "unreadable", f"shard {shard.path}: {name!r} is not the name of a file in a folder")
    return NamedImage(shard.path / f"{name}.{rest}", Path(shard.folder, name), entry=entry)


def read(entry: shards.Entry) -> Image:
    """Raises DataError and OSError."""
    return shards.image_of(entry, _image_among(entry.files))


def file_of(entry: shards.Entry) -> NamedBytes | None:
    """The image's file; None for one that is nothing but pixels."""
    rest = _image_among(entry.files)
    return None if rest == "npy" else NamedBytes(shards.content(entry, rest), f"{entry.shard}: {entry.name}.{rest}")
