"""What a dataset layout is: a module whose `LAYOUT` holds a `Config`, `samples(config, split)`, `label_space(config)`.

`samples` lists the files of a split at once and reads each one only when its sample is requested. Both functions raise
ConfigError, DataError or OSError, in one line, for what a user can correct; reading a sample raises the same.

A layout whose labels aren't masks gives `ImageFiles` a `Reader`, which draws the labels of a pair. Where it can tell
things apart, each pair's `instance` is the file that does (it may be the label's own), the drawing has numbers, its
row has `instances`, and its label space, through `naming.with_things`, the classes of things.
"""

import contextlib
from collections.abc import Callable, Collection, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from atrous.data.label_space import LabelSpace
from atrous.data.pixels import read_image as read_image  # for layouts that live in other packages
from atrous.errors import ConfigError, DataError
from atrous.files import composed, require_folder, subfolders, user_path
from atrous.settings import MAX_CLASSES, Seed, Settings
from atrous.types import Sample

ABOVE = 3  # folders above data.root that are looked at, if it doesn't hold a dataset
MOST = 200  # folders below it
Names = (
    Annotated[dict[int, str], Field(max_length=MAX_CLASSES)] | Annotated[tuple[str, ...], Field(max_length=MAX_CLASSES)]
)
Value = Annotated[int, Field(ge=0, le=2**16 - 1)]  # in a label file
Merged = Annotated[tuple[str | Value, ...], Field(max_length=MAX_CLASSES)] | str | Value


class DataConfig(Settings):
    """The settings that all layouts share; a layout narrows `format` to its own name and adds what it needs."""

    format: str
    """The layout of the dataset on the disk: which files are images, which are labels."""
    root: Path | None = None
    """The folder of the dataset; it may begin with ~."""
    train: str = "train"
    """The split for training."""
    val: str = "val"
    """The split for validation."""
    names: Names | None = None
    """Class names, as a list or {label value: name}; none: as the layout defines them."""
    things: Annotated[tuple[str, ...], Field(max_length=MAX_CLASSES)] | None = None
    """Names of the classes whose objects are counted, for panoptic models; none: as the layout defines them."""
    map: Annotated[dict[str, Merged], Field(max_length=MAX_CLASSES)] | None = None
    """Several classes as one: {new name: [names or label values]}; the others stay. None: no class changes."""
    ignore: int | None = None
    """Label value that counts neither in the loss nor in a score; none: as the layout defines it."""
    on_error: Literal["stop", "skip"] = "stop"
    """An unreadable file stops the run, or is skipped, reported and counted."""
    val_share: float | None = Field(None, gt=0, lt=1)
    """Share of the training images that validate where there is no `val`; none: 0.1 without other splits."""
    val_seed: Seed = 0
    """Another one sets other images aside."""


class Layout(NamedTuple):
    """One row of FORMATS."""

    config: type[DataConfig]
    samples: Callable[[Any, str], Sequence[Sample]]
    label_space: Callable[[Any], LabelSpace]
    is_root: Callable[[Any, Path], bool] | None = None  # whether a folder holds a dataset of this layout; None: any may
    expected: str = ""  # what such a folder holds
    instances: str = ""  # what it holds where things are told apart, in a split that is called {split}; "": nothing can


def require_root(config: DataConfig) -> Path:
    """The folder of the dataset. Raises ConfigError if none is set, FileNotFoundError if it does not exist."""
    if config.root is None:
        raise ConfigError(f"data.root is missing: set it to the folder of the dataset (data.format={config.format})")
    root = user_path(config.root)
    if root.suffix.lower() in (".yaml", ".yml") and root.is_file():
        raise ConfigError(
            f"data.root: {root} is a file; set data.root to the folder of images and masks, and write the names of the "
            "classes into classes.yaml in it (of an Ultralytics dataset, see docs/data.md, Polygons)"
        )
    return require_folder(root, "data.root")


class NoSplitError(DataError):
    """A dataset has no such split; `splits` are those that it has."""

    def __init__(self, text: str, splits: Collection[str] = ()) -> None:
        super().__init__(text)
        self.splits = splits


class NoSplitFileError(NoSplitError, FileNotFoundError):
    """The file that would list a split does not exist."""


class NoNamesError(DataError):
    """Nothing says what the label values of a dataset mean."""


def require_split(config: DataConfig, split: str, splits: Collection[str], path: Path) -> None:
    """Refuse a split that is not among `splits`; `path` is the file or folder where it should be."""
    if composed(split) not in map(composed, splits):
        known = ", ".join(sorted(splits)) or "none"
        raise NoSplitError(
            f"no split {split!r}: {path} does not exist; splits: {known}{_split_advice(config, split, splits)}", splits
        )


SYNONYMS = {  # names of splits
    "train": ("training", "trn"),
    "val": ("valid", "validation", "dev", "test", "testing"),
}


def _split_advice(config: DataConfig, split: str, splits: Collection[str]) -> str:
    """The split that is probably meant, or how to make one."""
    setting, kind = ("data.train", "train") if split == config.train else ("data.val", "val")
    likely = [name for name in (kind, *SYNONYMS[kind]) if name in splits] or get_close_matches(split, splits, 1)
    is_default = split == type(config).model_fields["val"].default
    share = f", or data.val_share=0.1 to set a tenth of {config.train!r} aside"
    if likely:
        return f"; set {setting}={likely[0]}{share if kind == 'val' and is_default and config.train in splits else ''}"
    if not splits:
        return "; move the images, and their labels, into folders of splits (see docs/data.md, Splits)"
    if kind == "val" and config.train in splits:
        return (
            f"; set data.val_share=0.1 to set a tenth of {config.train!r} aside to validate on (see docs/data.md, "
            f"Splits), or data.val={config.train} to see no more than how well it has learnt them"
        )
    return ""


# ---- the folder of a dataset


def near_roots(root: Path, is_root: Callable[[Path], bool], *, below_first: bool = False) -> list[Path]:
    """The folder above `root`, or else those below it, that hold a dataset; or the other way round."""
    above = [folder for folder in list(root.absolute().parents)[:ABOVE] if _holds(is_root, folder)]
    below = [folder for folder in _below(root) if _holds(is_root, folder)]
    outermost = [folder for folder in below if folder.parent not in below]
    return (outermost or above[:1]) if below_first else (above[:1] or outermost)


def _holds(is_root: Callable[[Path], bool], folder: Path) -> bool:
    with contextlib.suppress(OSError):  # a folder that can't be read
        return is_root(folder)
    return False


def _below(root: Path) -> list[Path]:
    """Folders in `root`, and in these."""
    folders = [root / name for name in subfolders(root)][:MOST]
    for folder in tuple(folders):
        with contextlib.suppress(OSError):
            folders += [folder / name for name in subfolders(folder)]
    return folders[:MOST]
