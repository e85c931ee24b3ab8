"""What DATA names: a recipe, or a folder whose layout is recognised; and its splits, whatever is wrong with them."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from atrous import config as configs
from atrous import data
from atrous.config import Config
from atrous.data.contract import DataConfig, NoNamesError, NoSplitError
from atrous.data.image_files import ImageFiles, count_codes, read_label
from atrous.data.inventory import pairs_of
from atrous.data.pairing import IMAGE_SUFFIXES, Complaint, complaints
from atrous.data.recognising import datasets_below, recognised
from atrous.errors import AtrousError, DataError, text_of
from atrous.files import user_path
from atrous.recipes import hint, recipes
from atrous.types import Sample, Size

RECIPE = "folder/deeplab_v3plus"  # of which only the data and the crop are read
VOID = 255  # the value of ignored pixels, if nothing says otherwise
SYSTEM_FILES = {"thumbs.db", "desktop.ini", "icon\r", "ehthumbs.db"}
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".7z", ".rar")
COMPANIONS = 0.5  # files of one suffix, per image, that belong to a data set although they are no images


class Source(NamedTuple):
    config: Config
    crop: Size | None  # None: DATA is a folder, and no crop is set


class Split(NamedTuple):
    name: str
    samples: Sequence[Sample]
    complaints: Sequence[Complaint] = ()


class AllSplits(Sequence[Sample]):
    """The samples of all splits, one split after another."""

    def __init__(self, splits: Sequence[Split]) -> None:
        self.parts = [split.samples for split in splits]
        self.ends = list(accumulate(len(part) for part in self.parts))

    def __len__(self) -> int:
        return self.ends[-1]

    def place(self, index: int) -> tuple[Sequence[Sample], int]:
        """The split of an image, and its place there."""
        part = bisect_right(self.ends, index)
        return self.parts[part], index - (self.ends[part - 1] if part else 0)

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]
        samples, place = self.place(index)
        return samples[place]


def open_source(source: str, overrides: Sequence[str]) -> Source:
    """Raises AtrousError or OSError in one line, as for a training."""
    folder = user_path(source)
    _require_data(folder, source)
    if not folder.is_dir() or (folder / "config.yaml").is_file():
        config = configs.load(str(folder / "config.yaml") if folder.is_dir() else source, overrides)
        return Source(config, config.augment.crop)
    settings = [f"data.root={folder}", *overrides]
    if not any(text.startswith("data.format=") and text != "data.format=auto" for text in overrides):
        settings = [*settings, f"data.format={recognised(_root(folder, overrides), data.FORMATS)}"]
    config = configs.load(RECIPE, settings)
    is_set = any(text.startswith("augment.crop=") for text in overrides)
    return Source(config, config.augment.crop if is_set else None)


def sources_in(source: str, overrides: Sequence[str]) -> list[str]:
    """The datasets in a folder that is none itself; otherwise `source` alone, whatever it is."""
    folder = user_path(source)
    is_told = any(text.startswith(("data.root=", "data.format=")) and text != "data.format=auto" for text in overrides)
    if is_told or not folder.is_dir() or (folder / "config.yaml").is_file():
        return [source]
    return [str(path) for path in datasets_below(folder, data.FORMATS)] or [source]


def _require_data(path: Path, source: str) -> None:
    """Refuse what is neither a folder nor a recipe."""
    if path.is_file() and path.name.lower().endswith(ARCHIVES):
        raise DataError(f"{path} is an archive: unpack it, and name the folder")
    if not path.exists() and source not in recipes():
        raise FileNotFoundError(f"no such folder, recipe or YAML file: {source}{hint(source)}")


def _root(folder: Path, overrides: Sequence[str]) -> Path:
    roots = [text.partition("=")[2] for text in overrides if text.startswith("data.root=")]
    return Path(roots[-1]) if roots else folder


# ---- classes


def with_names(config: DataConfig) -> tuple[DataConfig, str]:
    """The config, and what is wrong if nothing names the classes: then each value in the labels is one.

    Raises the error itself where the labels have no values, such as those of colours.
    """
    try:
        data.label_space(config)
    except NoNamesError as error:
        numbered = config.model_copy(update={"names": {value: f"class_{value}" for value in range(VOID)}})
        values = sorted(_values(open_splits(numbered).splits))
        if not values:
            raise
        names = {value: f"class_{value}" for value in (range(2) if values == [0, VOID] else values) if value != VOID}
        return config.model_copy(update={"names": names}), str(error)
    return config, ""


def _values(splits: Sequence[Split]) -> set[int]:
    """What the pixels of the labels hold, without colours and what can't be read."""
    values: set[int] = set()
    labels = [pair.label for split in splits for pair in pairs_of(split.samples)]
    for label in filter(None, labels):
        with suppress(AtrousError, OSError):  # a finding of its own
            values.update(code for code in count_codes(read_label(label)) if isinstance(code, int))
    return values


# ---- splits


class Opened(NamedTuple):
    config: DataConfig  # of these splits
    splits: Sequence[Split]
    missing: Mapping[str, str]  # why a split can't be listed


def open_splits(config: DataConfig) -> Opened:
    """The splits for training and for validation; if neither is there nor was set, the others.

    Raises the error of the first one if none can be listed.
    """
    splits, errors = _listed(config, (config.train, config.val))
    known = [name for error in errors.values() if isinstance(error, NoSplitError) for name in sorted(error.splits)]
    if not splits and known and not {"train", "val"} & config.model_fields_set:
        config = config.model_copy(update={"train": known[0], "val": known[-1]})
        splits, errors = _listed(config, known)
    if not any(len(split.samples) for split in splits):
        raise next(iter(errors.values()), DataError(f"{config.root} has no images with labels{_reasons(splits)}"))
    return Opened(config, splits, {name: text_of(error) for name, error in errors.items()})


def _listed(config: DataConfig, names: Sequence[str]) -> tuple[list[Split], dict[str, AtrousError | OSError]]:
    splits: list[Split] = []
    errors: dict[str, AtrousError | OSError] = {}
    for name in dict.fromkeys(names):
        try:
            with complaints() as collected:
                samples = data.samples(config, name)
            splits.append(Split(name, _each_once(samples), collected))
        except (AtrousError, OSError) as error:
            errors[name] = error
    return splits, errors


def _reasons(splits: Sequence[Split]) -> str:
    texts = [complaint.text for split in splits for complaint in split.complaints]
    return f": {texts[0]}" if texts else ""


def _each_once(samples: Sequence[Sample]) -> Sequence[Sample]:
    """Without what a list names a second time."""
    if not isinstance(samples, ImageFiles):
        return samples
    unique = list({pair.image: pair for pair in reversed(samples.pairs)}.values())[::-1]
    return samples if len(unique) == len(samples) else samples.with_pairs(unique)


# ---- files that are no images


def unread_files(splits: Sequence[Split]) -> tuple[list[Path], list[Path]]:
    """Files beside the images and labels: those of systems, and others, unless there is one for nearly each image."""
    pairs = [pair for split in splits for pair in pairs_of(split.samples)]
    images = (path for pair in pairs for path in (pair.image, *pair.label_files) if _is_image(path))
    folders = dict.fromkeys(path.parent for path in images)
    files = [path for folder in folders for path in sorted(folder.iterdir()) if path.is_file()]
    hidden = [path for path in files if path.name.startswith(".") or path.name.lower() in SYSTEM_FILES]
    rest = [path for path in files if path not in set(hidden) and not _is_image(path)]
    known = {path for pair in pairs for path in (pair.image, *pair.label_files)}
    strays = [path for path in rest if path not in known]
    numbers = {suffix: sum(path.suffix == suffix for path in strays) for suffix in {path.suffix for path in strays}}
    return hidden, [path for path in strays if numbers[path.suffix] < COMPANIONS * len(pairs)]


def _is_image(path: Path) -> bool:
    return path.name.lower().endswith(IMAGE_SUFFIXES)
