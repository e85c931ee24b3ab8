"""What a dataset layout is: a module with a `Config`, `samples(config, split)` and `label_space(config)`.

`samples` lists the files of a split at once and reads each one only when its sample is requested. Both functions raise
ConfigError, DataError or OSError, in one line, for what a user can correct; reading a sample raises the same.
"""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from atrous.data.label_space import LabelSpace
from atrous.data.pixels import read_image as read_image  # for layouts that live in other packages
from atrous.errors import ConfigError, DataError
from atrous.files import require_folder
from atrous.settings import Settings
from atrous.types import Sample


class DataConfig(Settings):
    """The settings that all layouts share; a layout narrows `format` to its own name and adds what it needs."""

    format: str
    root: Path | None = None  # the folder of the dataset
    train: str = "train"  # the split for training
    val: str = "val"  # the split for validation
    names: dict[int, str] | tuple[str, ...] | None = None  # class names; None: as the layout defines them
    ignore: int | None = None  # label value to ignore; None: as the layout defines it
    on_error: Literal["stop", "skip"] = "stop"  # an unreadable file stops the run, or is skipped, reported and counted


class Layout(NamedTuple):
    """One row of FORMATS."""

    config: type[DataConfig]
    samples: Callable[[Any, str], Sequence[Sample]]
    label_space: Callable[[Any], LabelSpace]


def require_root(config: DataConfig) -> Path:
    """The folder of the dataset. Raises ConfigError if none is set, FileNotFoundError if it does not exist."""
    if config.root is None:
        raise ConfigError(f"data.root is missing: set it to the folder of the dataset (data.format={config.format})")
    return require_folder(config.root.expanduser(), "data.root")


def require_split(split: str, splits: Collection[str], path: Path) -> None:
    """Refuse a split that is not among `splits`; `path` is the file or folder where it should be."""
    if split not in splits:
        raise DataError(f"no split {split!r}: {path} does not exist; splits: {', '.join(sorted(splits)) or 'none'}")
