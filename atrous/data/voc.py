"""PASCAL VOC (Everingham et al. 2010): image names in `ImageSets/Segmentation/`, labels as palette images."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from atrous.data.contract import DataConfig, Layout, require_root, require_split
from atrous.data.image_files import Codes, Drawing, Drawn, ImageFiles, decode, read_masks
from atrous.data.label_space import LabelSpace, voc_colors
from atrous.data.mat import read_segmentation
from atrous.data.naming import named_space, renamed, with_things
from atrous.data.pairing import Pair, images_by_stem, labels_by_stem, pair_by_name, pair_listed
from atrous.errors import DataError, listing
from atrous.files import composed, require_folder, user_path
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
VOC = LabelSpace(
    names=NAMES,
    colors=tuple((red, green, blue) for red, green, blue in voc_colors(21).tolist()),
    things=tuple(range(1, 21)),
)
IMAGES, OBJECTS = "JPEGImages", "SegmentationObject"
CLASS_NAMES = "class_names.txt"  # of labelme's exports


class Config(DataConfig):
    """data.format=voc data.root=VOCdevkit, or the folder of another year in it, such as VOCdevkit/VOC2007."""

    format: Literal["voc"] = "voc"
    labels: str = "SegmentationClass"
    """Folder of the labels; SegmentationClassAug, with data.train=train_aug, has SBD's 10,582."""
    sbd: Path | None = None
    """The folder `dataset` of SBD's own archive: data.train=train_aug then adds its labels to those of VOC."""


def samples(config: Config, split: str) -> Sequence[Sample]:
    """The images that `ImageSets/Segmentation/<split>.txt` lists, in its order.

    Without lists, as in what labelme exports, a split `.` has all that are labelled.
    """
    year, space = _year_folder(require_root(config)), label_space(config)
    if config.sbd is not None and split == "train_aug":
        return ImageFiles(_augmented(year, config), space, read=partial(_read, space=space))
    lists = _lists(year)
    if split == "." and not lists:
        pairs = _labelled(year, config)
    else:
        require_split(config, split, lists or ["."], _folder_of_lists(year) / f"{split}.txt")
        path = lists[composed(split)]
        pairs = pair_listed(_lines(path), year / IMAGES, year / config.labels, path)
    return ImageFiles([_with_objects(pair, year) for pair in pairs], space)


def label_space(config: Config) -> LabelSpace:
    """VOC's classes or, of data in the same layout, those in class_names.txt."""
    path = _year_folder(require_root(config)) / CLASS_NAMES if config.root is not None else Path(CLASS_NAMES)
    if config.names is not None or not path.is_file():
        return renamed(VOC, config)
    space = named_space(_lines(path), config.ignore, path)
    things = tuple(range(1, space.num_classes))
    return with_things(space.model_copy(update={"things": things}), config.things)


def is_root(config: Config, folder: Path) -> bool:
    year = _year_folder(folder)
    return _folder_of_lists(year).is_dir() or ((year / IMAGES).is_dir() and (year / config.labels).is_dir())


# ---- files


def _year_folder(root: Path) -> Path:
    return root / "VOC2012" if (root / "VOC2012").is_dir() else root


def _folder_of_lists(year: Path) -> Path:
    return year / "ImageSets" / "Segmentation"


def _lists(year: Path) -> dict[str, Path]:
    return {composed(path.stem): path for path in _folder_of_lists(year).glob("*.txt")}


def _lines(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    return [line.strip() for line in lines if line.strip()]


def _labelled(year: Path, config: Config) -> list[Pair]:
    """The images that have a label; VOC itself has many without."""
    images, labels = images_by_stem(year / IMAGES, "images"), labels_by_stem(year / config.labels, "labels")
    return pair_by_name({name: path for name, path in images.items() if name in labels}, year / IMAGES, labels, year)


def _with_objects(pair: Pair, year: Path) -> Pair:
    path = year / OBJECTS / f"{pair.name}.png"
    return pair._replace(instance=path) if path.is_file() else pair


# ---- SBD (Hariharan et al. 2011): labels of the other images of VOC 2012, as MATLAB files


def _augmented(year: Path, config: Config) -> list[Pair]:
    """VOC's training images, with VOC's own labels, then SBD's, without those on which VOC validates: 10,582."""
    assert config.sbd is not None
    sbd, lists = require_folder(user_path(config.sbd), "data.sbd"), _lists(year)
    for name in ("train", "val"):
        require_split(config, name, lists, _folder_of_lists(year) / f"{name}.txt")
    own, held_out = _lines(lists["train"]), {*_lines(lists["val"])}
    files = [sbd / f"{name}.txt" for name in ("train", "val")]
    more = [name for path in files for name in _lines(path) if name not in held_out and name not in own]
    images = images_by_stem(year / IMAGES, "images")
    pairs = [
        _with_objects(pair, year) for pair in pair_listed(own, year / IMAGES, year / config.labels, lists["train"])
    ]
    missing = [name for name in more if name not in images or not (sbd / "cls" / f"{name}.mat").is_file()]
    if missing:
        raise DataError(
            f"names in {sbd} without an image in {year / IMAGES}, or without a label in {sbd / 'cls'} "
            f"({len(missing)}): {listing(missing)}"
        )
    return [
        *pairs,
        *(Pair(name, images[name], sbd / "cls" / f"{name}.mat", sbd / "inst" / f"{name}.mat") for name in more),
    ]


def _read(pair: Pair, *, space: LabelSpace) -> Drawing:
    if pair.label is None or pair.label.suffix != ".mat":
        return read_masks(pair, space=space)
    codes = Codes(read_segmentation(pair.label, "GTcls"))
    semantic = Drawn(decode(codes, pair.label, space), pair.label)
    if pair.instance is None:
        return Drawing(semantic)
    return Drawing(semantic, Drawn(read_segmentation(pair.instance, "GTinst").astype(np.int32), pair.instance))


LAYOUT = Layout(
    Config,
    samples,
    label_space,
    is_root,
    "[VOC2012/]ImageSets/Segmentation/",
    "SegmentationObject/, where each pixel has the number of its object",
)
