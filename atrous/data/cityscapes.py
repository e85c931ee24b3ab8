"""Cityscapes (Cordts et al. 2016, arXiv:1604.01685): photos in `leftImg8bit/`, labels of raw ids in `gtFine/`.

Both have a folder for each split and, in it, for each city. Of the 34 raw ids, 19 are classes; the others are ignored.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from atrous.data.contract import DataConfig, require_root, require_split
from atrous.data.image_files import ImageFiles
from atrous.data.label_space import LabelSpace
from atrous.data.naming import remapped
from atrous.data.pairing import Pair, pair_by_name
from atrous.errors import DataError
from atrous.files import require_folder, subfolders
from atrous.types import Color, Sample


class Class(NamedTuple):
    raw_id: int
    color: Color


CLASSES = {
    "road": Class(7, (128, 64, 128)),
    "sidewalk": Class(8, (244, 35, 232)),
    "building": Class(11, (70, 70, 70)),
    "wall": Class(12, (102, 102, 156)),
    "fence": Class(13, (190, 153, 153)),
    "pole": Class(17, (153, 153, 153)),
    "traffic light": Class(19, (250, 170, 30)),
    "traffic sign": Class(20, (220, 220, 0)),
    "vegetation": Class(21, (107, 142, 35)),
    "terrain": Class(22, (152, 251, 152)),
    "sky": Class(23, (70, 130, 180)),
    "person": Class(24, (220, 20, 60)),
    "rider": Class(25, (255, 0, 0)),
    "car": Class(26, (0, 0, 142)),
    "truck": Class(27, (0, 0, 70)),
    "bus": Class(28, (0, 60, 100)),
    "train": Class(31, (0, 80, 100)),
    "motorcycle": Class(32, (0, 0, 230)),
    "bicycle": Class(33, (119, 11, 32)),
}
RAW_IDS = {row.raw_id: index for index, row in enumerate(CLASSES.values())}
CITYSCAPES = LabelSpace(
    names=tuple(CLASSES),
    colors=tuple(row.color for row in CLASSES.values()),
    things=tuple(range(11, 19)),  # people and vehicles
    raw_ids=tuple((value, RAW_IDS.get(value, 255)) for value in range(34)),
)
PHOTOS = "leftImg8bit"
FOLDERS = {"fine": "gtFine", "coarse": "gtCoarse"}


class Config(DataConfig):
    """data.format=cityscapes data.root=cityscapes; a plus joins splits, as in data.train=train+val."""

    format: Literal["cityscapes"] = "cityscapes"
    annotations: Literal["fine", "coarse"] = "fine"
    """Quality of the training labels; the split train_extra has only coarse ones."""


def samples(config: Config, split: str) -> Sequence[Sample]:
    """The photos of a split with their labels. Only those of the training split may be coarse."""
    labels = FOLDERS[config.annotations if split == config.train else "fine"]
    pairs = [pair for part in split.split("+") for pair in _pairs(config, part, labels)]
    return ImageFiles(pairs, label_space(config))


def is_root(config: Config, folder: Path) -> bool:
    return (folder / PHOTOS).is_dir()


def label_space(config: Config) -> LabelSpace:
    return remapped(CITYSCAPES, config)


def _pairs(config: Config, split: str, annotations: str) -> list[Pair]:
    root = require_root(config)
    photos = require_folder(root / PHOTOS, PHOTOS)
    require_split(config, split, subfolders(photos), photos / split)
    labels = require_folder(root / annotations / split, "labels")
    images, masks = _by_name(photos / split, f"_{PHOTOS}.png"), _by_name(labels, f"_{annotations}_labelIds.png")
    return pair_by_name(images, photos / split, masks, labels)


def _by_name(folder: Path, suffix: str) -> dict[str, Path]:
    """The files of one kind in all cities, by the beginning of their names, such as aachen_000000_000019."""
    files = [path for path in sorted(folder.glob(f"*/*{suffix}")) if not path.name.startswith(".")]
    if not files:
        raise DataError(f"no such files: {folder}/*/*{suffix}")
    return {path.name.removesuffix(suffix): path for path in files}
