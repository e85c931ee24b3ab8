"""Masks in which each object has a number, as in the Penn-Fudan database of pedestrians (Wang et al. 2007).

`PNGImages/a.png` and `PedMasks/a_mask.png`, whose pixels are 0 for the background, else the number of their person. One
class of things, so that the numbers say it all. The database has no splits: the last images become `val`.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, field_validator

from atrous.data.contract import DataConfig, Layout, require_root, require_split
from atrous.data.image_files import Drawing, Drawn, ImageFiles, read_instances
from atrous.data.label_space import MAX_LABEL, LabelSpace
from atrous.data.naming import named_space, names_by_value, with_things
from atrous.data.pairing import Pair, pair_folders
from atrous.errors import ConfigError, DataError, listing, warn_once
from atrous.settings import MAX_COUNT
from atrous.types import Sample

NAMES = ("background", "pedestrian")
THINGS = (1,)
COLORS = ((0, 0, 0), (220, 20, 60))
IMAGES = ("PNGImages", "Images")  # as the folder is called in the database, and in copies with JPEGs
MASKS = "PedMasks"
SPLITS = ("train", "val")
WHITE = 255


class Config(DataConfig):
    """data.format=pennfudan data.root=PennFudanPed"""

    format: Literal["pennfudan"] = "pennfudan"
    num_val: int = Field(40, ge=1, le=MAX_COUNT)
    """Images set aside for validation: the last ones, in the order of their names."""

    @field_validator("ignore")
    @classmethod
    def _is_a_number(cls, ignore: int | None) -> int | None:
        if ignore is not None and not 1 <= ignore <= MAX_LABEL:
            raise ValueError(
                f"the number of ignored pixels must be in 1..{MAX_LABEL}, got {ignore}; 0 is the background"
            )
        return ignore


def samples(config: Config, split: str) -> Sequence[Sample]:
    """The images of a split in the order of their names. Raises DataError if no image is left for training."""
    root = require_root(config)
    require_split(config, split, SPLITS, root / split)
    pairs = pair_folders(_images(root), root / MASKS)
    num_train = len(pairs) - config.num_val
    if num_train < 1:
        raise DataError(
            f"data.num_val={config.num_val} leaves no image for training: {root} has {len(pairs)}; set a smaller number"
        )
    part = pairs[:num_train] if split == SPLITS[0] else pairs[num_train:]
    numbered = [pair._replace(instance=pair.label) for pair in part]
    return ImageFiles(numbered, label_space(config), read=partial(read, ignore=config.ignore))


def label_space(config: Config) -> LabelSpace:
    """The background and a class of things; `config.names` renames the two."""
    names = names_by_value(NAMES if config.names is None else config.names)
    if list(names) != [0, 1]:
        raise ConfigError(
            f"data.names: pixels are background or of an object, so there are two names, as in {list(NAMES)}; got "
            f"{listing(f'{value}: {name}' for value, name in names.items()) or 'none'}"
        )
    space = named_space(names, None, None, dict(zip(names.values(), COLORS, strict=True)))
    numbered = space.model_copy(update={"things": THINGS})
    if with_things(numbered, config.things).things != THINGS:
        raise ConfigError(
            f"data.things: the numbers in the masks are those of {space.names[1]}, the only class of things; got "
            f"{listing(config.things or ['none'])}; leave it out"
        )
    return numbered


def is_root(config: Config, folder: Path) -> bool:
    return _images(folder).is_dir() and (folder / MASKS).is_dir()


def read(pair: Pair, *, ignore: int | None) -> Drawing:
    """The classes and the objects of a mask. Raises DataError for a mask that isn't one of numbers."""
    assert pair.label is not None
    numbers = read_instances(pair.label)
    classes = np.where(numbers.values > 0, np.uint8(1), np.uint8(0))
    if ignore is not None:
        classes[numbers.values == ignore] = WHITE
    _warn_of_white(numbers)
    return Drawing(Drawn(classes, numbers.path, numbers.orientation), numbers)


def _warn_of_white(numbers: Drawn) -> None:
    """A mask of 0 and 255 is read as one object, which it is in a few masks; in all of them it is a mistake."""
    if numbers.values.max(initial=0) == WHITE and np.isin(numbers.values, (0, WHITE)).all():
        warn_once(
            "white object",
            f"{numbers.path} has only the values 0 and {WHITE}, and so counts as one object; if objects aren't "
            "numbered, a panoptic model takes those of an image for one",
        )


def _images(root: Path) -> Path:
    folders = [root / name for name in IMAGES]
    return next((folder for folder in folders if folder.is_dir()), folders[0])


LAYOUT = Layout(
    Config,
    samples,
    label_space,
    is_root,
    "PNGImages/ (or Images/) and PedMasks/",
    "PedMasks/, where each pixel has the number of its object (0: none)",
)
