"""Masks in which each object has its own number, as in the Penn-Fudan database of pedestrians (Wang et al. 2007).

`PNGImages/a.png`, `PedMasks/a_mask.png`: 0 is background, and n the n-th person. The database has no splits.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, overload

import numpy as np
from pydantic import Field

from atrous.data.contract import DataConfig, require_root, require_split
from atrous.data.image_files import read_image, read_label
from atrous.data.label_space import LabelSpace
from atrous.data.naming import renamed
from atrous.data.pairing import Pair, pair_folders
from atrous.errors import DataError
from atrous.settings import MAX_COUNT
from atrous.types import NO_IMAGE, Sample

PENNFUDAN = LabelSpace(names=("background", "pedestrian"), colors=((0, 0, 0), (220, 20, 60)), things=(1,))
IMAGES = ("PNGImages", "Images")
MASKS = "PedMasks"
SPLITS = ("train", "val")


class Config(DataConfig):
    """data.format=pennfudan data.root=PennFudanPed; the last images, in the order of their names, are those of `val`."""

    format: Literal["pennfudan"] = "pennfudan"
    num_val: int = Field(40, ge=1, le=MAX_COUNT)
    """Images at the end that are kept for validation; the others are the training split."""


def samples(config: Config, split: str) -> Sequence[Sample]:
    """The images of a split, in the order of their names."""
    root = require_root(config)
    require_split(config, split, SPLITS, root / split)
    pairs = pair_folders(_images(root), root / MASKS)
    first = len(pairs) - config.num_val
    if first < 1:
        raise DataError(
            f"data.num_val={config.num_val} leaves nothing to train on: there are {len(pairs)} images in {root}"
        )
    return Numbered(pairs[:first] if split == "train" else pairs[first:])


def is_root(config: Config, folder: Path) -> bool:
    return _images(folder).is_dir() and (folder / MASKS).is_dir()


def label_space(config: Config) -> LabelSpace:
    return renamed(PENNFUDAN, config).model_copy(update={"things": PENNFUDAN.things})


def _images(root: Path) -> Path:
    folders = [root / name for name in IMAGES]
    return next((folder for folder in folders if folder.is_dir()), folders[0])


class Numbered(Sequence[Sample]):
    def __init__(self, pairs: Sequence[Pair]) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> "Numbered": ...
    def __getitem__(self, index: int | slice) -> "Sample | Numbered":
        if isinstance(index, slice):
            return Numbered(self.pairs[index])
        return self.labels(index)._replace(image=read_image(self.pairs[index].image))

    def labels(self, index: int) -> Sample:
        pair = self.pairs[index]
        values = read_label(pair.label).values
        return Sample(pair.name, NO_IMAGE, (values > 0).astype(np.uint8), values.astype(np.int32))
