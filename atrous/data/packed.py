"""What `atrous pack` writes beside its shards: an index of their classes, counts, sizes and checksums."""

import contextlib
import re
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from atrous.data.contract import DataConfig, require_root
from atrous.data.label_space import LabelSpace
from atrous.data.naming import one_line, renamed, with_things
from atrous.errors import ConfigError, DataError, listing
from atrous.files import require_regular
from atrous.trees import TreeError, read_json

INDEX = "index.json"
Kind = Literal["shards", "tfrecord"]
Count = Annotated[int, Field(ge=0, le=2**53)]
FileName = Annotated[str, Field(pattern=r"^[^/\\.:\x00-\x1f][^/\\:\x00-\x1f]*$", max_length=200)]  # in this folder


class Row(BaseModel):
    """A part of what is written beside shards."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Shard(Row):
    name: FileName
    samples: Count
    bytes: Count
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Split(Row):
    samples: Count
    shards: tuple[Shard, ...]
    pixels: dict[str, Count]  # of each class
    images: dict[str, Count]  # that hold the class
    ignored: Count  # pixels
    sizes: dict[str, Count]  # "height x width": the number of images
    skipped: tuple[str, ...] = ()  # a line for each sample that could not be read


class Index(Row):
    """The content of index.json. Labels are the numbers of the classes, whatever values the packed files had."""

    format: Kind
    version: Literal[1] = 1
    label_space: LabelSpace
    splits: dict[str, Split]
    source: str  # a checksum of what was packed, and how

    @model_validator(mode="after")
    def _is_consistent(self) -> "Index":
        names = Counter(shard.name for split in self.splits.values() for shard in split.shards)
        if repeated := [name for name, count in names.items() if count > 1]:
            raise ValueError(f"shards are listed twice: {listing(repeated)}")
        for name, split in self.splits.items():
            if split.samples != sum(shard.samples for shard in split.shards):
                raise ValueError(f"the shards of {name} don't add up to its {split.samples} samples")
        return self


def is_packed(folder: Path, kind: Kind) -> bool:
    """Whether the folder holds what `atrous pack` has written, of this kind: reading it tells if it is damaged."""
    with contextlib.suppress(OSError):
        require_regular(folder / INDEX)
        with (folder / INDEX).open("rb") as file:
            return re.match(rb'\s*{\s*"format"\s*:\s*"%s"' % kind.encode(), file.read(100)) is not None
    return False


def read_index(folder: Path) -> Index:
    """Raises DataError for one that is damaged, FileNotFoundError if there is none."""
    path = folder / INDEX
    try:
        return Index.model_validate(read_json(path))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} does not exist: {folder} holds nothing that `atrous pack` finished") from error
    except TreeError as error:
        raise DataError(f"{path}: {error}") from error
    except ValidationError as error:
        raise DataError(f"{path} is not an index of atrous pack: {one_line(error)}") from error


def plain(space: LabelSpace) -> LabelSpace:
    """The label space in which the values of the label files are the numbers of the classes."""
    return space.model_copy(update={"raw_ids": ()})


def space_of(index: Index, config: DataConfig) -> LabelSpace:
    """The classes of the index, under the names that the config sets. Raises ConfigError if their number differs."""
    space = index.label_space
    if config.ignore is not None and config.ignore != space.ignore:
        raise ConfigError(f"data.ignore: the ignored value of packed labels is {space.ignore}, got {config.ignore}")
    if config.names is None:
        return with_things(space, config.things)
    names = renamed(plain(space), config.model_copy(update={"things": None})).names
    if len(names) != space.num_classes:
        raise ConfigError(f"data.names: {len(names)} names, but the packed labels have {space.num_classes} classes")
    return with_things(space.model_copy(update={"names": names}), config.things)


def index_of(config: DataConfig) -> Index:
    return read_index(require_root(config))
