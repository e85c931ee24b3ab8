"""PASCAL VOC (Everingham et al. 2010): lists of image names in `ImageSets/Segmentation/`, labels as palette images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from atrous.data.contract import DataConfig, ImageFiles, named_files, renamed, require_root, require_split
from atrous.data.label_space import LabelSpace, voc_colors
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
    labels: str = "SegmentationClass"  # SegmentationClassAug, with the list train_aug, for SBD's 10,582 images


def samples(config: Config, split: str) -> Sequence[Sample]:
    """What `ImageSets/Segmentation/<split>.txt` names, in its order. Raises ValueError where a file is missing."""
    year = _year_folder(require_root(config))
    lists = {path.stem: path for path in (year / "ImageSets" / "Segmentation").glob("*.txt")}
    require_split(split, lists, year / "ImageSets" / "Segmentation" / f"{split}.txt")
    lines = lists[split].read_text(encoding="utf-8-sig", errors="replace").splitlines()
    names = [line.strip() for line in lines if line.strip()]
    rows = named_files(names, year / "JPEGImages", year / config.labels, lists[split])
    return ImageFiles(rows, label_space(config))


def label_space(config: Config) -> LabelSpace:
    return renamed(VOC, config)


def _year_folder(root: Path) -> Path:
    for folder in (root, root / "VOC2012"):
        if (folder / "ImageSets" / "Segmentation").is_dir():
            return folder
    raise ValueError(f"data.root: {root} is no VOCdevkit: [VOC2012/]ImageSets/Segmentation is not in it")
