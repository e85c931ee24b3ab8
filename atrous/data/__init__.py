"""Datasets by their layout: a row of FORMATS is a file, or a folder, next to this one."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol, Union, runtime_checkable

from pydantic import Field, ValidationError

from atrous.data import (
    ade20k,
    camvid,
    cityscapes,
    coco_instances,
    coco_panoptic,
    cvat,
    folder,
    labelme,
    mapillary,
    mix,
    pennfudan,
    shards,
    synthetic,
    tfrecord,
    voc,
)
from atrous.data import list as list_files
from atrous.data.contract import DataConfig, Layout, NoSplitError, near_roots, require_root
from atrous.data.dividing import DEFAULT_SHARE, Divisible, divided
from atrous.data.image_files import ImageFiles
from atrous.data.label_space import LabelSpace
from atrous.data.merging import Merger, merged, merger
from atrous.data.naming import one_line, with_things
from atrous.data.pairing import IMAGE_SUFFIXES, NoImagesError
from atrous.errors import AtrousError, ConfigError, DataError, listing, text_of, warn_once
from atrous.files import require_folder, subfolders, user_path
from atrous.types import Sample

FORMATS: dict[str, Layout] = {
    "ade20k": ade20k.LAYOUT,
    "camvid": camvid.LAYOUT,
    "cityscapes": cityscapes.LAYOUT,
    "coco_instances": coco_instances.LAYOUT,
    "coco_panoptic": coco_panoptic.LAYOUT,
    "cvat": cvat.LAYOUT,
    "folder": folder.LAYOUT,
    "labelme": labelme.LAYOUT,
    "list": list_files.LAYOUT,
    "mapillary": mapillary.LAYOUT,
    "mix": Layout(mix.Config, lambda config, split: _mixed(config, split), lambda config: _common(config)[0]),
    "pennfudan": pennfudan.LAYOUT,
    "shards": shards.LAYOUT,
    "synthetic": synthetic.LAYOUT,
    "tfrecord": tfrecord.LAYOUT,
    "voc": voc.LAYOUT,
}


if TYPE_CHECKING:
    AnyDataConfig = DataConfig
else:
    AnyDataConfig = Annotated[
        Union[tuple(layout.config for layout in FORMATS.values())],  # noqa: UP007 - built from the table
        Field(discriminator="format"),
    ]


@runtime_checkable
class MayHaveThings(Protocol):
    """Samples in which things may be told apart."""

    def without_instances(self) -> Sequence[Sample]:
        """The same, for a task that doesn't need that."""


def samples(config: DataConfig, split: str, needs: Collection[str] | None = None) -> Sequence[Sample]:
    """One split: its files are listed now, and read when a sample is requested.

    `needs` are the fields of a Sample that a task uses; files for others aren't read. None: all that there are. Where
    there is no split to validate on, data.val_share makes it from the one to learn from. Raises ConfigError, DataError
    or OSError in one line; so does reading a sample.
    """
    if split not in (config.train, config.val) or not _is_divided(config):
        return _of_layout(config, split, needs)
    to_learn, to_validate = divided(_of_layout(config, config.train, needs), config)
    return to_validate if split == config.val else to_learn


def with_validation(config: DataConfig) -> DataConfig:
    """The config with a share of the training images to validate on, where the dataset has no split but that one.

    Without a share where there is a split `val`: then nothing is set aside.
    """
    plain = config.model_copy(update={"val_share": None})
    others = _splits_without_validation(plain)
    if others is None or _is_named(config):
        return plain
    is_alone = config.val_share is None and set(others) <= {config.train}
    return config.model_copy(update={"val_share": DEFAULT_SHARE}) if is_alone else config


def share_of(config: DataConfig) -> str:
    """In words: which images of the training split are set aside."""
    to_learn, to_validate = (samples(config, split) for split in (config.train, config.val))
    names = listing(to_validate.names, 3) if isinstance(to_validate, Divisible) else ""
    which = f" ({names})" if names else ""
    number, total = len(to_validate), len(to_learn) + len(to_validate)
    setting = f"data.val_share={config.val_share:g}, data.val_seed={config.val_seed}"
    return f"{number} of {total} images of {config.train!r} are set aside to validate on{which}; {setting}"


def _is_divided(config: DataConfig) -> bool:
    """Whether the images to validate on are some of the training split."""
    return config.val_share is not None and not _is_named(config) and _splits_without_validation(config) is not None


def _is_named(config: DataConfig) -> bool:
    """Whether the user has chosen a split to validate on."""
    return bool(config.val != type(config).model_fields["val"].default)


def _splits_without_validation(config: DataConfig) -> Collection[str] | None:
    """The other splits of a dataset that has none to validate on, or an empty one; None: it has one."""
    try:
        return None if len(_of_layout(config, config.val, None)) else (config.train,)
    except NoSplitError as error:
        return error.splits
    except NoImagesError:
        return (config.train,)


def _of_layout(config: DataConfig, split: str, needs: Collection[str] | None) -> Sequence[Sample]:
    """A split as the dataset itself has it."""
    _require_layout(config)
    split_samples = _mapped(config, FORMATS[config.format].samples(_unmapped(config), split))
    if needs is None or not isinstance(split_samples, MayHaveThings):
        return split_samples
    if "instance" not in needs:
        return split_samples.without_instances()
    if isinstance(split_samples, ImageFiles):
        _require_instances(config, split, split_samples)
    return split_samples


def label_space(config: DataConfig) -> LabelSpace:
    """What the label maps of `samples` mean. Raises the same errors."""
    try:
        space = _own_space(config)
        return space if config.map is None else with_things(merger(space, config.map).space, config.things)
    except DataError:
        _require_layout(config)  # where the data isn't, its classes aren't either
        raise


def _own_space(config: DataConfig) -> LabelSpace:
    """As the layout defines it, before data.map."""
    return FORMATS[config.format].label_space(_unmapped(config))


def _unmapped(config: DataConfig) -> DataConfig:
    """data.things are names of mapped classes."""
    return config if config.map is None else config.model_copy(update={"things": None})


def _mapped(config: DataConfig, own_samples: Sequence[Sample]) -> Sequence[Sample]:
    if config.map is None:
        return own_samples
    return merged(own_samples, merger(_own_space(config), config.map)._replace(space=label_space(config)))


def _require_layout(config: DataConfig) -> None:
    """Refuse a root that doesn't hold a dataset of this layout, with the setting that is probably meant."""
    layout = FORMATS[config.format]
    if layout.is_root is None:
        return
    root = require_root(config)
    if not layout.is_root(config, root):
        raise DataError(
            f"data.root: {root} is not a dataset of data.format={config.format}, which has {layout.expected}"
            f"{_meant(config, layout, root)}"
        )


def _require_instances(config: DataConfig, split: str, samples: ImageFiles) -> None:
    """Refuse images whose things aren't told apart, with what is missing."""
    missing = [pair.name for pair in samples.pairs if pair.instance is None]
    if not missing:
        return
    instances = FORMATS[config.format].instances
    known = listing(f"data.format={name}" for name, layout in FORMATS.items() if layout.instances)
    which = "" if len(missing) == len(samples) else f" ({len(missing)}): {listing(missing)}"
    raise DataError(
        f"split {split!r}: images without an instance map, which a panoptic model needs{which}; "
        + (f"expected: {config.root}/{instances.format(split=split)}" if instances else f"{known} can have them")
    )


def _meant(config: DataConfig, layout: Layout, root: Path) -> str:
    """The setting with which `root`, or a folder near it, would be read."""
    assert layout.is_root is not None
    formats = [f"data.format={name}" for name in _likely(root)]
    roots = [f"data.root={path}" for path in near_roots(root, partial(layout.is_root, config))]
    return f"; set {' or '.join((formats or roots)[:3])}" if formats or roots else f"; it holds {_content(root)}"


def formats_of(root: Path) -> Sequence[str]:
    """The layouts of which a folder holds a dataset."""
    return [name for name, row in FORMATS.items() if row.is_root and row.is_root(_defaults(row), root)]


def _content(root: Path) -> str:
    names = subfolders(root)
    number = sum(path.name.lower().endswith(IMAGE_SUFFIXES) for path in root.iterdir())
    images = f"{number} image{'s'[: number != 1]} in no folder of images or of labels" if number else ""
    return " and ".join(filter(None, (f"the folders {listing(names)}" if names else "no folders", images)))


def _defaults(layout: Layout) -> DataConfig:
    return layout.config.model_validate({"format": layout.config.model_fields["format"].default})


# ---- data.format=mix


def _mixed(config: mix.Config, split: str) -> mix.Mix:
    parts, mergers = _parts(config), _common(config)[1]
    if split == config.val and config.validate_on is not None:
        parts = {name: parts[name] for name in config.validate_on}
    own_splits = {
        name: {config.train: part.train, config.val: part.val}.get(split, split) for name, part in parts.items()
    }
    read = {}
    for name, part in parts.items():
        with _naming_part(name):
            read[name] = merged(samples(part, own_splits[name]), mergers[name])
    return mix.Mix(read, mix.weights_of(config, {name: len(part) for name, part in read.items()}))


def _common(config: mix.Config) -> tuple[LabelSpace, Mapping[str, Merger]]:
    spaces = {}
    for name, part in _parts(config).items():
        with _naming_part(name):
            spaces[name] = label_space(part)
    return mix.common_space(spaces, config)


@contextmanager
def _naming_part(name: str) -> Iterator[None]:
    """Errors say whose settings they are about."""
    try:
        yield
    except (NoSplitError, NoImagesError):
        raise
    except (AtrousError, OSError) as error:
        text = text_of(error)
        setting = f".{text.removeprefix('data.')}" if text.startswith("data.") else f": {text}"
        kind = ConfigError if isinstance(error, ConfigError) else DataError
        raise kind(f"data.parts.{name}{setting}") from error


def _parts(config: mix.Config) -> dict[str, DataConfig]:
    """Raises ConfigError for settings of a part that are wrong."""
    mix.require_parts(config)
    parts = {name: _part(name, settings) for name, settings in config.parts.items()}
    share = {"val_share": config.val_share, "val_seed": config.val_seed}
    return {name: part if part.val_share else part.model_copy(update=share) for name, part in parts.items()}


def _part(name: str, settings: Mapping[str, object]) -> DataConfig:
    own = {key: value for key, value in settings.items() if key != mix.WEIGHT}
    is_auto = own.get("format", "auto") == "auto" and bool(own.get("root"))
    with _naming_part(name):
        kind = FORMATS.get(recognised(Path(str(own["root"]))) if is_auto else str(own.get("format")))
    if kind is None or kind.config is mix.Config:
        known = listing((name for name in FORMATS if name != "mix"), 40)
        raise ConfigError(f"data.parts.{name}.format={own.get('format')}: expected one of {known}")
    _require_settings(name, own, kind.config)
    try:
        part = kind.config.model_validate({**own, "format": kind.config.model_fields["format"].default})
    except ValidationError as error:
        raise ConfigError(f"data.parts.{name}: {one_line(error)}") from None
    if is_auto:
        text = f"data.parts.{name}: {description(part)}"
        warn_once(text, text)
    return part


def _require_settings(part: str, settings: Collection[str], kind: type[DataConfig]) -> None:
    fields = tuple(kind.model_fields)
    for name in settings:
        if name not in fields:
            nearest = get_close_matches(name, fields, 1)
            meant = f"did you mean {nearest[0]}?" if nearest else f"its settings are {listing(fields, 30)}"
            layout = kind.model_fields["format"].default
            raise ConfigError(f"data.parts.{part}.{name}: data.format={layout} has no such setting; {meant}")


# ---- data.format=auto


def recognised(root: Path) -> str:
    """The layout of the dataset in a folder. Raises DataError if it may be several, or none that is known."""
    root = require_folder(user_path(root), "data.root")
    names = _likely(root)
    if len(names) == 1:
        return names[0]
    if names:
        raise DataError(f"data.root: {root} may be {' or '.join(names)}; set data.format to one of them")
    near = near_roots(root, lambda folder: len(_likely(folder)) == 1, below_first=True)
    advice = (
        f"; set {' or '.join(f'data.root={path}' for path in near[:3])}" if near else f"; it holds {_content(root)}"
    )
    raise DataError(f"data.root: {root} has no layout that is known (see docs/data.md, Layouts){advice}")


def datasets_below(root: Path) -> Sequence[Path]:
    """The datasets in a folder that is none itself, nor may be; those inside others left out."""
    if _likely(root):
        return []
    near = near_roots(root, lambda folder: len(_likely(folder)) == 1, below_first=True)
    return [folder for folder in near if folder.is_relative_to(root)]


def _likely(root: Path) -> Sequence[str]:
    """The layouts that a folder may have. What reads like `folder` and like another is the other, unless it says so."""
    names = formats_of(root)
    if "folder" in names and any((root / f"classes.{end}").is_file() for end in ("yaml", "yml")):
        return ["folder"]
    others = [name for name in names if name != "folder"]
    return others or ["list"] * list_files.is_root(root) or names


def description(config: DataConfig) -> str:
    """In one line: the layout, the splits with their images, and the classes, as far as these can be read."""
    splits = [_split_and_images(config, split) for split in dict.fromkeys((config.train, config.val))]
    classes = ""
    with suppress(AtrousError, OSError):
        names = label_space(config).names
        classes = f"; {len(names)} classes: {listing(names, 12)}"
    return f"{config.root} is data.format={config.format}; {', '.join(filter(None, splits)) or 'no split'}{classes}"


def _split_and_images(config: DataConfig, split: str) -> str:
    try:
        return f"{split}: {len(samples(config, split))} images"
    except NoSplitError as error:
        return f"no {split} (splits: {listing(sorted(error.splits)) or 'none'})"
    except (AtrousError, OSError):
        return ""
