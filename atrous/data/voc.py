"""PASCAL VOC (Everingham et al. 2010): image names in `ImageSets/Segmentation/`, labels as palette images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from atrous.data.contract import DataConfig, Layout, require_root, require_split
from atrous.data.image_files import ImageFiles
from atrous.data.label_space import LabelSpace, voc_colors
from atrous.data.naming import renamed
from atrous.data.pairing import pair_listed
from atrous.types import Sample

NAMES = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
VOC = LabelSpace(names=NAMES, colors=tuple((red, green, blue) for red, green, blue in voc_colors(21).tolist()))


class Config(DataConfig):
    """data.format=voc data.root=VOCdevkit, or the folder of another year in it, such as VOCdevkit/VOC2007."""

    format: Literal["voc"] = "voc"
    labels: str = "SegmentationClass"
    """Folder of the labels; SegmentationClassAug, with data.train=train_aug, has SBD's 10,582."""


def samples(config: Config, split: str) -> Sequence[Sample]:
    """The images that `ImageSets/Segmentation/<split>.txt` lists, in its order."""
    year = _year_folder(require_root(config))
    lists = {path.stem: path for path in (year / "ImageSets" / "Segmentation").glob("*.txt")}
    require_split(config, split, lists, year / "ImageSets" / "Segmentation" / f"{split}.txt")
    lines = lists[split].read_text(encoding="utf-8-sig", errors="replace").splitlines()
    names = [line.strip() for line in lines if line.strip()]
    pairs = pair_listed(names, year / "JPEGImages", year / config.labels, lists[split])
    return ImageFiles(pairs, label_space(config))


def label_space(config: Config) -> LabelSpace:
    return renamed(VOC, config)


def is_root(config: Config, folder: Path) -> bool:
    return (_year_folder(folder) / "ImageSets" / "Segmentation").is_dir()


def _year_folder(root: Path) -> Path:
    return root / "VOC2012" if (root / "VOC2012").is_dir() else root


LAYOUT = Layout(Config, samples, label_space, is_root, "[VOC2012/]ImageSets/Segmentation/")
