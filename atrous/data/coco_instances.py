"""COCO's object instances (Lin et al. 2014, arXiv:1405.0312): `annotations/instances_train2017.json`, `train2017/`.

A split is a file: `train` is `instances_train2017.json`, `train.json` or `train/_annotations.coco.json`, whichever
there is. Objects are filled as COCO's own programs do it, each over those before it; crowds lie below them all.
"""

import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from atrous.data import polygons
from atrous.data.annotations import (
    class_of,
    drawing,
    ends_of,
    existing,
    listed_pairs,
    located,
    outline_space,
    stem_of,
    training_part,
)
from atrous.data.contract import SYNONYMS, DataConfig, Layout, require_root, require_split
from atrous.data.image_files import Drawing, ImageFiles
from atrous.data.label_space import LabelSpace
from atrous.data.pairing import Complaint, Pair, complaint_of, refuse_all
from atrous.data.polygons import Region, Shape, as_points
from atrous.errors import DataError
from atrous.files import composed, subfolders
from atrous.trees import TreeError, read_json
from atrous.types import Sample, Size

MOST = 50  # files of a folder that are looked at: where there are more, each is an image's
FOLDERS = (".", "annotations")  # besides those of splits
SPLITS = (*SYNONYMS, *(name for names in SYNONYMS.values() for name in names))
IMAGE_FOLDERS = ("images", "JPEGImages", "data")
WORDS = ("image", "annotation", "category")  # what a row of each list is
SMALL = re.compile(r"^instances?_|(?:^_)?annotations(?:\.coco)?$|_annotations(?:\.coco)?$|\.coco$")  # around a split


class Config(DataConfig):
    """data.format=coco_instances data.root=coco"""

    format: Literal["coco_instances"] = "coco_instances"
    images: str | None = None
    """The folder below root that file names are relative to; none: the one in which they are."""


class Record(NamedTuple):
    """An image, as the file lists it."""

    file_name: str
    size: Size
    annotations: bytes  # JSON: a tenth of the memory that its values take


class Annotations(NamedTuple):
    """The content of a file."""

    classes: Mapping[int, str]  # by the id of their category
    records: tuple[Record, ...]
    problems: tuple[Complaint, ...] = ()  # ids that leave open what is meant


class Lists(NamedTuple):
    """The rows of a file."""

    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    categories: list[dict[str, Any]]


def samples(config: Config, split: str) -> Sequence[Sample]:
    """The images that the file of the split lists, in its order."""
    root = require_root(config)
    path = _file(config, root, split)
    content, space = _content(path), label_space(config)
    refuse_all(content.problems)
    folder = _image_folder(config, root, path, split, content.records)
    names = [record.file_name for record in content.records]
    advice = f"they were looked for in {folder}; set data.images to the folder below {root} that has them"
    pairs = listed_pairs(config, path, names, partial(located, root, [folder]), advice)
    records = dict(zip(map(stem_of, names), content.records, strict=True))
    return ImageFiles(pairs, space, read=partial(_read, records=records, classes=content.classes, space=space))


def label_space(config: Config) -> LabelSpace:
    """The categories of the training split's file, in the order of their ids, after the background."""
    root = require_root(config)
    path = training_part(config, _files(root), root / "annotations")
    return outline_space(list(dict.fromkeys(_content(path).classes.values())), config, path)


def is_root(config: Config, folder: Path) -> bool:
    return bool(_files(folder))


# ---- files


def _file(config: Config, root: Path, split: str) -> Path:
    """That of a split. Raises DataError for none, and for one that is too damaged to be recognised."""
    files = _files(root)
    expected = [root / folder / name for folder in FOLDERS for name in (f"instances_{split}.json", f"{split}.json")]
    if composed(split) not in files:
        for path in filter(existing, expected):
            _content(path)
    require_split(config, split, files, expected[-2])
    return files[composed(split)]


def _files(root: Path) -> dict[str, Path]:
    """The file of each split; `train2017` is also `train`, unless there are several."""
    files: dict[str, Path] = {}
    splits = [name for name in subfolders(root) if name.lower() in SPLITS]
    for folder in (*FOLDERS, *splits):
        paths = sorted((root / folder).glob("*.json"))
        for path in paths[:MOST]:
            if not path.name.startswith((".", "panoptic")) and _is_instances(path):
                name = SMALL.sub("", path.stem) or (folder if folder not in FOLDERS else path.stem)
                files.setdefault(composed(name), path)
    short = Counter(re.sub(r"_?(19|20)\d\d$", "", name) for name in files)
    aliases = {re.sub(r"_?(19|20)\d\d$", "", name): path for name, path in files.items()}
    return {**files, **{name: path for name, path in aliases.items() if short[name] == 1 and name not in files}}


def _is_instances(path: Path) -> bool:
    """Told by its beginning and its end: such files may have gigabytes."""
    text = ends_of(path)
    is_coco = all(f'"{key}"' in text for key in ("images", "annotations", "categories"))
    is_coco = is_coco or ('"images"' in text and '"categories"' in text and '"image_id"' in text)
    return is_coco and '"segments_info"' not in text and '"caption"' not in text


def _content(path: Path) -> Annotations:
    return _read_file(path, os.stat(path).st_mtime_ns)  # noqa: PTH116


@lru_cache(maxsize=2)
def _read_file(path: Path, changed: int) -> Annotations:
    """Raises DataError for what is no such file; ids that are used twice or stand for nothing are problems."""
    try:
        lists = _lists(read_json(path))
        classes = {_id(row, "category"): _text(row, "category", "name") for row in reversed(lists.categories)}
        problems = tuple(_problems(lists, classes, path))
        return Annotations(dict(sorted(classes.items())), tuple(_records(lists, classes)), problems)
    except (DataError, TreeError) as error:
        raise DataError(f"{path}: {error}") from None


def _lists(tree: object) -> Lists:
    if not isinstance(tree, dict) or not all(isinstance(tree.get(key), list) for key in Lists._fields):
        raise DataError("not a file of COCO instances: it needs the lists images, annotations and categories")
    images, annotations, categories = (
        [_row(row, what) for row in tree[key]] for key, what in zip(Lists._fields, WORDS, strict=True)
    )
    return Lists(images, annotations, categories)


def _row(row: object, what: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise DataError(f"an {what} is not a mapping but {str(row)[:40]!r}")
    return row


def _id(row: Mapping[str, Any], what: str, key: str = "id") -> int:
    value = row.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise DataError(f"{what}: {key} must be a whole number, got {str(value)[:40]!r}")
    return value


def _text(row: Mapping[str, Any], what: str, key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        raise DataError(f"{what} {row.get('id')}: {key} must be text, got {str(value)[:40]!r}")
    return value


def _problems(lists: Lists, classes: Mapping[int, str], path: Path) -> Iterator[Complaint]:
    """Ids that are used twice, so that nobody knows what is meant, and ids that stand for nothing."""
    for rows, what in zip(lists, WORDS, strict=True):
        counts = Counter(str(row["id"]) for row in rows if row.get("id") is not None)
        if repeated := [one for one, count in counts.items() if count > 1]:
            yield complaint_of("repeated-ids", repeated, f"{path}: ids used by more than one {what}")
    for key, known in (("image_id", {_id(row, "image") for row in lists.images}), ("category_id", classes.keys())):
        if strange := sorted({_id(row, "annotation", key) for row in lists.annotations} - known):
            what = {"image_id": "images", "category_id": "categories"}[key]
            names = [f"{key} {one}" for one in strange]
            yield complaint_of("unlisted-ids", names, f"{path}: annotations of {what} that it doesn't list")


def _records(lists: Lists, classes: Mapping[int, str]) -> Iterator[Record]:
    """Of an id that is used twice, the first image."""
    if crowds := [row["iscrowd"] for row in lists.annotations if row.get("iscrowd", 0) not in (0, 1)]:
        raise DataError(f"annotation: iscrowd must be 0 or 1, got {str(crowds[0])[:40]!r}")
    of_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in lists.annotations:
        if row["category_id"] in classes:
            of_image[row["image_id"]].append(row)
    first = {_id(row, "image"): row for row in reversed(lists.images)}
    for row in lists.images:
        if first[row["id"]] is row:
            size = _id(row, "image", "height"), _id(row, "image", "width")
            yield Record(_text(row, "image", "file_name"), size, json.dumps(of_image[row["id"]]).encode())


# ---- images


def _image_folder(config: Config, root: Path, path: Path, split: str, records: Sequence[Record]) -> Path:
    """The first folder that holds one of the first images."""
    if config.images is not None:
        return root / config.images
    year = SMALL.sub("", path.stem)
    names = (split, year, *IMAGE_FOLDERS, *(f"{folder}/{name}" for folder in IMAGE_FOLDERS for name in (split, year)))
    for folder in (path.parent, root, *(root / name for name in names)):
        if any(_is_in(folder, root, record) for record in records[:20]):
            return folder
    return root


def _is_in(folder: Path, root: Path, record: Record) -> bool:
    with suppress(DataError):  # it is told of when the image is listed
        return located(root, [folder], record.file_name) is not None
    return False


# ---- objects


def _read(pair: Pair, *, records: Mapping[str, Record], classes: Mapping[int, str], space: LabelSpace) -> Drawing:
    assert pair.label is not None
    record = records[pair.name]
    rows = json.loads(record.annotations)
    order = sorted(range(len(rows)), key=lambda place: not rows[place].get("iscrowd"))
    try:
        size = polygons.require_pixels(record.size)
        shapes = [_shape(rows[place], number, classes, space, size) for number, place in enumerate(order, start=1)]
        return drawing(shapes, size, space, pair.label)
    except DataError as error:
        raise DataError(f"{pair.label}: image {record.file_name}: {error}") from None


def _shape(row: Mapping[str, Any], number: int, classes: Mapping[int, str], space: LabelSpace, size: Size) -> Shape:
    try:
        label = class_of(classes[row["category_id"]], space)
        return Shape(label, _region(row.get("segmentation"), size), 0 if row.get("iscrowd") else number)
    except DataError as error:
        raise DataError(f"annotation {row.get('id', number)}: {error}") from None


def _region(outline: object, size: Size) -> Region:
    if not outline:
        raise DataError("it has no segmentation: a box alone doesn't say which pixels are the object's")
    if isinstance(outline, list):
        rings = outline if isinstance(outline[0], list) else [outline]
        return polygons.coco_polygons([as_points(ring) for ring in rings], size)
    counts = outline.get("counts") if isinstance(outline, dict) else None
    if not isinstance(outline, dict) or not isinstance(counts, list | str):
        raise DataError("its segmentation is neither a list of polygons nor {size, counts}")
    if outline.get("size") != list(size):
        raise DataError(f"its run lengths have the size {outline.get('size')}, the image {list(size)} (height, width)")
    return polygons.coco_rle(polygons.coco_counts(counts) if isinstance(counts, str) else counts, size)


LAYOUT = Layout(
    Config,
    samples,
    label_space,
    is_root,
    "annotations/instances_train2017.json and train2017/, or train/_annotations.coco.json beside images",
    "annotations/instances_{split}.json",
)
