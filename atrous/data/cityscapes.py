"""Cityscapes (Cordts et al. 2016, arXiv:1604.01685): photos in `leftImg8bit/`, labels of raw ids in `gtFine/`.

Both have a folder for each split and, in it, for each city. Of the 34 raw ids, 19 are classes; the others are ignored.
Things are told apart by `*_instanceIds.png` (raw id * 1000 + number; a raw id alone is stuff or a group, a crowd) or by
what createPanopticImgs of cityscapesScripts makes of these, `cityscapes_panoptic_{split}.json` and its PNGs.
"""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from atrous.data import panoptic_json
from atrous.data.contract import DataConfig, Layout, require_root, require_split
from atrous.data.image_files import Drawing, Drawn, ImageFiles, decode, late_masks, read_instances
from atrous.data.instances import count_pairs, runs_of
from atrous.data.label_space import LabelSpace
from atrous.data.naming import class_of_value, remapped
from atrous.data.pairing import Pair, pair_by_name
from atrous.data.panoptic_json import Annotations
from atrous.data.pixels import Codes, read_label
from atrous.errors import DataError, listing
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
COUNTED = range(24, 34)  # raw ids of things, caravans and trailers included
NUMBERED = 1000  # an instance id from here on is raw id * 1000 + number
RAW_IDS = {row.raw_id: index for index, row in enumerate(CLASSES.values())}
CITYSCAPES = LabelSpace(
    names=tuple(CLASSES),
    colors=tuple(row.color for row in CLASSES.values()),
    things=tuple(range(11, 19)),  # people and vehicles
    raw_ids=tuple((value, RAW_IDS.get(value, 255)) for value in range(34)),
)
PHOTOS = "leftImg8bit"
TRAIN_IDS = "_trainId"  # how the JSON ends whose categories are the classes
PREFIX = "cityscapes_panoptic_"  # of the JSON of a split
FOLDERS = {"fine": "gtFine", "coarse": "gtCoarse"}


class Config(DataConfig):
    """data.format=cityscapes data.root=cityscapes; a plus joins splits, as in data.train=train+val."""

    format: Literal["cityscapes"] = "cityscapes"
    annotations: Literal["fine", "coarse"] = "fine"
    """Quality of the training labels; the split train_extra has only coarse ones."""
    panoptic: bool | None = None
    """Read cityscapes_panoptic_{split}.json and its PNGs; none: where there are no labelIds or no instanceIds."""


def samples(config: Config, split: str) -> Sequence[Sample]:
    """The photos of a split with their labels. Only those of the training split may be coarse."""
    annotations = FOLDERS[config.annotations if split == config.train else "fine"]
    space = label_space(config)
    parts = [_part(config, part, annotations) for part in split.split("+")]
    documents = {part.folder: part.document for part in parts if part.document is not None}
    pairs = [pair for part in parts for pair in part.pairs]
    return ImageFiles(
        pairs,
        space,
        read=partial(_read, space=space, documents=documents),
        read_late=None if documents else partial(late_masks, space=space),
    )


def is_root(config: Config, folder: Path) -> bool:
    return (folder / PHOTOS).is_dir()


def label_space(config: Config) -> LabelSpace:
    return remapped(CITYSCAPES, config, COUNTED)


# ---- listing


class _Part(NamedTuple):
    """A split that others may be joined to."""

    pairs: list[Pair]
    folder: Path  # of the labels
    document: Annotations | None = None  # what the labels mean, if they are PNGs of segments


def _part(config: Config, split: str, annotations: str) -> _Part:
    root = require_root(config)
    photos = require_folder(root / PHOTOS, PHOTOS)
    folder = _photos_of(config, split, photos, root / annotations)
    images = _by_name(folder, f"_{PHOTOS}.png")
    labels = root / annotations / split
    instances = _files(labels, f"_{annotations}_instanceIds.png")
    document = _document(root / annotations, split)
    is_panoptic = config.panoptic
    if is_panoptic is None:
        is_panoptic = document.exists() and not (instances and _files(labels, f"_{annotations}_labelIds.png"))
    if is_panoptic:
        return _annotated(document, images, folder)
    require_folder(labels, "labels")
    masks = _by_name(labels, f"_{annotations}_labelIds.png")
    pairs = pair_by_name(images, folder, masks, labels)
    return _Part([pair._replace(instance=instances.get(pair.name)) for pair in pairs], labels)


def _photos_of(config: Config, split: str, photos: Path, annotations: Path) -> Path:
    """The folder of a split's photos: all photos belong to the split of the JSON if they lie in no folders."""
    splits = subfolders(photos)
    if splits:
        require_split(config, split, splits, photos / split)
        return photos / split
    documents = (path.stem.removeprefix(PREFIX) for path in annotations.glob(f"{PREFIX}*.json"))
    require_split(config, split, {name.removesuffix(TRAIN_IDS) for name in documents}, photos / split)
    return photos


def _document(folder: Path, split: str) -> Path:
    """The JSON with raw ids, if there is one, or else that with train ids."""
    path = folder / f"{PREFIX}{split}.json"
    other = path.with_stem(path.stem + TRAIN_IDS)
    return path if path.exists() or not other.exists() else other


def _annotated(path: Path, images: Mapping[str, Path], photos: Path) -> _Part:
    """The photos, all of which the JSON annotates. A PNG is called ulm_000000_000019_gtFine_panoptic.png."""
    annotations, folder = panoptic_json.read(path), path.with_suffix("")
    names = {file: re.sub(r"(_gt[A-Z][a-z]+_panoptic)?\.png$", "", file) for file in annotations.ends}
    _require_own_categories(annotations)
    if missing := sorted(set(images) - set(names.values())):
        raise DataError(f"images in {photos} without an annotation in {path} ({len(missing)}): {listing(missing)}")
    return _Part(panoptic_json.pairs_of(annotations, folder, names, images, photos), folder, annotations)


def _require_own_categories(annotations: Annotations) -> None:
    """Refuse numbers that stand for other classes, as train ids do in a file that isn't called so."""
    path, is_numbered = annotations.path, annotations.path.stem.endswith(TRAIN_IDS)
    names = {RAW_IDS[row.raw_id] if is_numbered else row.raw_id: name for name, row in CLASSES.items()}
    for number, category in annotations.categories.items():
        if names.get(number, category.name) != category.name:
            raise DataError(
                f"{path}: category {number} is {category.name}, but {names[number]} in Cityscapes"
                f"{'' if is_numbered else f'; a file with train ids must be called {path.stem}{TRAIN_IDS}.json'}"
            )


def _by_name(folder: Path, suffix: str) -> dict[str, Path]:
    """The files of one kind in all cities, by the beginning of their names, such as aachen_000000_000019."""
    files = _files(folder, suffix)
    if not files:
        raise DataError(f"no such files: {folder}/*/*{suffix}")
    return files


def _files(folder: Path, suffix: str) -> dict[str, Path]:
    """In the folders of cities, or in the folder itself."""
    paths = sorted(folder.glob(f"*/*{suffix}")) or sorted(folder.glob(f"*{suffix}"))
    files = [path for path in paths if not path.name.startswith(".")]
    return {path.name.removesuffix(suffix): path for path in files}


# ---- reading


def _read(pair: Pair, *, space: LabelSpace, documents: Mapping[Path, Annotations]) -> Drawing:
    assert pair.label is not None
    annotations = documents.get(pair.label.parent)
    if annotations is None:
        return _read_ids(pair, space)
    classes = class_of_value(space)
    if annotations.path.stem.endswith(TRAIN_IDS):
        classes = {index: classes[raw_id] for raw_id, index in RAW_IDS.items()}
    if annotations.categories:
        classes = {number: label for number, label in classes.items() if number in annotations.categories}
    return panoptic_json.read_segments(pair, annotations=annotations, space=space, classes=classes)


def _read_ids(pair: Pair, space: LabelSpace) -> Drawing:
    assert pair.label is not None
    codes = read_label(pair.label)
    semantic = Drawn(decode(codes, pair.label, space), pair.label, codes.orientation)
    if pair.instance is None:
        return Drawing(semantic)
    ids = read_instances(pair.instance)
    _require_same_ids(ids, codes)
    return Drawing(semantic, ids._replace(values=_numbers(ids.values, space)))


def _numbers(ids: NDArray[np.int32], space: LabelSpace) -> NDArray[np.int32]:
    """The things of an image from 1 on, in the order of their ids, whatever their class; 0 for stuff and groups."""
    raw_ids = [raw_id for raw_id, label in class_of_value(space).items() if label in space.things]
    runs = runs_of(ids)
    own, places = np.unique(runs.values, return_inverse=True)
    is_thing = (own >= NUMBERED) & np.isin(own // NUMBERED, raw_ids)
    numbers = (np.cumsum(is_thing) * is_thing).astype(np.int32)
    return np.repeat(numbers[places], runs.lengths).reshape(ids.shape)


def _require_same_ids(ids: Drawn, labels: Codes) -> None:
    """Refuse instances whose class isn't that of their pixels. Sizes are compared elsewhere."""
    if ids.values.shape != labels.values.shape:
        return
    pairs, pixels = count_pairs(ids.values, labels.values.astype(np.uint8))  # they are raw ids: `decode` has seen them
    own, label = pairs >> 8, pairs & 255
    is_wrong = np.where(own < NUMBERED, own, own // NUMBERED) != label
    if not is_wrong.any():
        return
    rows = (
        f"{own[index]} where the labelIds are {label[index]} ({pixels[index]} pixel{'s'[: pixels[index] - 1]})"
        for index in np.flatnonzero(is_wrong)
    )
    raise DataError(
        f"{ids.path}: an instance id must be raw id * {NUMBERED} + number, or the raw id alone: {listing(rows)}"
    )


LAYOUT = Layout(
    Config,
    samples,
    label_space,
    is_root,
    "leftImg8bit/ and gtFine/",
    "gtFine/{split}/CITY/*_instanceIds.png, or gtFine/cityscapes_panoptic_{split}.json and its folder of PNGs",
)
