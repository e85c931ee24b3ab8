"""Datasets by their layout: a row of FORMATS is a file, or a folder, next to this one."""

from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Protocol, Union, runtime_checkable

from pydantic import Field

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
from atrous.data.contract import DataConfig, Layout, NoSplitError
from atrous.data.dividing import DEFAULT_SHARE, Divisible, divided
from atrous.data.image_files import ImageFiles
from atrous.data.label_space import LabelSpace
from atrous.data.merging import merged, merger
from atrous.data.mixing import Reading, mixed, space_and_mergers
from atrous.data.naming import with_things
from atrous.data.pairing import NoImagesError
from atrous.data.recognising import require_layout
from atrous.errors import AtrousError, DataError, listing
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
    "mix": Layout(
        mix.Config,
        lambda config, split: mixed(config, split, _reading()),
        lambda config: space_and_mergers(config, _reading())[0],
    ),
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
    require_layout(config, FORMATS)
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
        require_layout(config, FORMATS)  # where the data isn't, its classes aren't either
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


def _reading() -> Reading:
    """Of the parts of a mix."""
    return Reading(FORMATS, samples, label_space, description)
