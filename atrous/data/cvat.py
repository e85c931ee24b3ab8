"""CVAT's own format for images, 1.1 (cvat.ai): `annotations.xml` with polygons, boxes, ellipses and masks; `images/`.

A split is a subset that the images have in the file or, where they have none, the file: `train` is
`train/annotations.xml` or `train.xml`. What a shape covers is decided by its z_order, then by its place in the file;
shapes of one label and one group are one object. Polygons become pixels as in CVAT's own masks, COCO's convention.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal, NamedTuple
from xml.etree.ElementTree import Element

import numpy as np

from atrous.data import polygons
from atrous.data.annotations import (
    class_of,
    drawing,
    ends_of,
    listed_pairs,
    located,
    outline_space,
    stem_of,
    training_part,
)
from atrous.data.contract import DataConfig, Layout, require_root, require_split
from atrous.data.image_files import Drawing, ImageFiles
from atrous.data.label_space import LabelSpace
from atrous.data.pairing import Pair
from atrous.data.polygons import Points, Region, Shape, as_points
from atrous.errors import DataError, warn_once
from atrous.files import composed, subfolders
from atrous.trees import TreeError, read_xml
from atrous.types import Color, Sample, Size

SKIPPED = ("polyline", "points", "cuboid", "skeleton")
FOLDERS = ("images", "data")
WHOLE = "annotations"  # the name of a file that is its folder's only one
CORNERS = 360  # of the polygon that stands for an ellipse


class Config(DataConfig):
    """data.format=cvat data.root=my_export"""

    format: Literal["cvat"] = "cvat"


class Outline(NamedTuple):
    """A shape, as the file describes it."""

    kind: str
    label: str
    values: Mapping[str, str]


class Record(NamedTuple):
    name: str
    size: Size
    subset: str
    outlines: tuple[Outline, ...]


class Annotations(NamedTuple):
    """The content of a file."""

    colors: Mapping[str, Color | None]  # of each label
    records: tuple[Record, ...]


class Part(NamedTuple):
    """Where a split is."""

    path: Path
    subset: str | None = None  # None: all of the file


def samples(config: Config, split: str) -> Sequence[Sample]:
    """The images of a split, in the order of its file."""
    root = require_root(config)
    parts = _parts(root)
    require_split(config, split.lower(), parts, root / f"{split}.xml")
    part, space = parts[composed(split.lower())], label_space(config)
    records = [record for record in _content(part.path).records if part.subset in (None, record.subset)]
    names = [record.name for record in records]
    locate = partial(located, root, _folders(root, part, split))
    pairs = listed_pairs(config, part.path, names, locate, f"put them into {root / FOLDERS[0]}")
    rows = dict(zip(map(stem_of, names), records, strict=True))
    return ImageFiles(pairs, space, read=partial(_read, records=rows, space=space))


def label_space(config: Config) -> LabelSpace:
    """The labels of the training split's task, in its order, after the background."""
    root = require_root(config)
    part = training_part(config, _parts(root), root / f"{config.train}.xml")
    colors = _content(part.path).colors
    return outline_space(list(colors), config, part.path, {name: color for name, color in colors.items() if color})


def is_root(config: Config, folder: Path) -> bool:
    return bool(_files(folder))


# ---- files


def _files(root: Path) -> dict[str, Path]:
    """Each XML file by the name of its split."""
    paths = [path for folder in (".", *subfolders(root)) for path in sorted((root / folder).glob("*.xml"))[:50]]
    files: dict[str, Path] = {}
    for path in paths:
        if not path.name.startswith(".") and _is_annotations(path):
            is_whole = path.stem == WHOLE and path.parent != root
            files.setdefault(composed(path.parent.name if is_whole else path.stem), path)
    return files


def _is_annotations(path: Path) -> bool:
    text = ends_of(path)
    return "annotations>" in text and ("<image " in text or "<track " in text or "<meta>" in text)


def _parts(root: Path) -> dict[str, Part]:
    """The splits, in lower case: subsets, or whole files."""
    parts: dict[str, Part] = {}
    for name, path in _files(root).items():
        subsets = list(dict.fromkeys(record.subset for record in _content(path).records if record.subset))
        parts |= {composed(subset.lower()): Part(path, subset) for subset in subsets} or {name.lower(): Part(path)}
    return parts


def _content(path: Path) -> Annotations:
    return _read_file(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _read_file(path: Path, changed: int) -> Annotations:
    try:
        root = read_xml(path)
        if root.tag != "annotations":
            raise DataError(f"not a file of CVAT: its root is <{root.tag}>, not <annotations>")
        if root.find("track") is not None:
            raise DataError("it has the tracks of a video; export the task as `CVAT for images 1.1`")
        records = tuple(_record(image) for image in root.findall("image"))
        used = {outline.label: None for record in records for outline in record.outlines}
        return Annotations({**_labels(root), **{name: None for name in used if name not in _labels(root)}}, records)
    except (DataError, TreeError) as error:
        raise DataError(f"{path}: {error}") from None


def _labels(root: Element) -> dict[str, Color | None]:
    rows = [row for row in root.findall("./meta//label") if row.findtext("name")]
    return {str(row.findtext("name")): _color(row.findtext("color") or "") for row in rows}


def _color(text: str) -> Color | None:
    try:
        red, green, blue = bytes.fromhex(text.removeprefix("#"))
    except ValueError:
        return None
    return red, green, blue


def _record(image: Element) -> Record:
    name = image.get("name", "")
    size = (
        _whole(image.get("height"), f"image {name!r}: its height"),
        _whole(image.get("width"), f"image {name!r}: its width"),
    )
    outlines = [Outline(row.tag, row.get("label", ""), _values(row)) for row in image if row.tag != "tag"]
    ordered = sorted(outlines, key=lambda outline: _whole(outline.values.get("z_order", "0"), "z_order"))
    return Record(name, size, image.get("subset", ""), tuple(ordered))


def _values(row: Element) -> dict[str, str]:
    return {str(key): str(value) for key, value in row.attrib.items()}


def _whole(text: str | None, what: str) -> int:
    try:
        return int(text or "")
    except ValueError:
        raise DataError(f"{what} must be a whole number, got {(text or '')[:40]!r}") from None


# ---- images


def _folders(root: Path, part: Part, split: str) -> list[Path]:
    """Where images may be: below images/, or a folder of the split in it; or beside the file."""
    names = (*FOLDERS, *(f"{folder}/{name}" for folder in FOLDERS for name in (split, part.subset) if name))
    bases = dict.fromkeys((part.path.parent, root))
    return list(dict.fromkeys((part.path.parent, *(base / name for base in bases for name in names), root)))


# ---- shapes


def _read(pair: Pair, *, records: Mapping[str, Record], space: LabelSpace) -> Drawing:
    assert pair.label is not None
    record = records[pair.name]
    try:
        size = polygons.require_pixels(record.size)
        return drawing(list(_shapes(record, size, space, pair.label)), size, space, pair.label)
    except DataError as error:
        raise DataError(f"{pair.label}: image {record.name}: {error}") from None


def _shapes(record: Record, size: Size, space: LabelSpace, path: Path) -> Iterator[Shape]:
    groups: dict[tuple[str, str], int] = {}
    for number, outline in enumerate(record.outlines, start=1):
        if outline.kind in SKIPPED:
            warn_once(f"cvat {outline.kind}", f"{path}: a {outline.kind} encloses no pixels; these are left out")
            continue
        try:
            if outline.kind not in DRAWN:
                raise DataError(f"unknown; those known are {', '.join((*DRAWN, *SKIPPED))}")
            group = outline.values.get("group_id", "0")
            key = outline.label, f"shape {number}" if group in ("", "0") else group
            instance = groups.setdefault(key, len(groups) + 1)
            yield Shape(class_of(outline.label, space), DRAWN[outline.kind](outline, size), instance)
        except DataError as error:
            raise DataError(f"<{outline.kind}> {number}: {error}") from None


def _number(outline: Outline, key: str) -> float:
    try:
        return float(outline.values[key])
    except (KeyError, ValueError):
        raise DataError(f"{key} must be a number, got {outline.values.get(key, '')[:40]!r}") from None


def _polygon(outline: Outline, size: Size) -> Region:
    rows = [pair.split(",") for pair in outline.values.get("points", "").split(";") if pair.strip()]
    return polygons.coco_polygons([as_points(rows)], size)


def _box(outline: Outline, size: Size) -> Region:
    left, top, right, bottom = (_number(outline, key) for key in ("xtl", "ytl", "xbr", "ybr"))
    corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    return polygons.coco_polygons([as_points(_rotated(corners, outline))], size)


def _ellipse(outline: Outline, size: Size) -> Region:
    x, y, across, down = (_number(outline, key) for key in ("cx", "cy", "rx", "ry"))
    angles = np.linspace(0, 2 * math.pi, CORNERS, endpoint=False)
    corners = np.stack([x + across * np.cos(angles), y + down * np.sin(angles)], axis=1)
    return polygons.coco_polygons([as_points(_rotated(corners, outline))], size)


def _rotated(corners: Points, outline: Outline) -> Points:
    """Clockwise in degrees, about the centre."""
    angle = math.radians(_number(outline, "rotation")) if "rotation" in outline.values else 0.0
    center = (corners.min(0) + corners.max(0)) / 2
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return np.asarray((corners - center) @ turn + center) if angle else corners


def _mask(outline: Outline, size: Size) -> Region:
    left, top, width, height = (_whole(outline.values.get(key), key) for key in ("left", "top", "width", "height"))
    polygons.require_pixels((height, width))
    counts = [_whole(text, "rle") for text in outline.values.get("rle", "").split(",")]
    return polygons.box_rle(counts, top, left, (height, width), size)


DRAWN: Mapping[str, Callable[[Outline, Size], Region]] = {
    "polygon": _polygon,
    "box": _box,
    "ellipse": _ellipse,
    "mask": _mask,
}


LAYOUT = Layout(
    Config,
    samples,
    label_space,
    is_root,
    "annotations.xml and images/, as CVAT exports them (CVAT for images 1.1)",
    "annotations.xml with the subset {split}",
)
