"""labelme (github.com/wkentaro/labelme): beside each image, or below a folder of its split, a JSON file of outlines.

`labels.txt`, the file that the program is started with, holds a class per line: `__ignore__` and `_background_` have
their special meaning there. Without it, the classes are those that occur in any file, in alphabetical order. Outlines
become pixels as the program's own `labelme2voc.py` makes them; those of one class and one group are one object.
"""

import base64
import binascii
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from atrous.data import pillow, polygons
from atrous.data.annotations import class_of, drawing, ends_of, existing, outline_space, path_within
from atrous.data.contract import DataConfig, Layout, NoSplitError, require_root, require_split
from atrous.data.image_files import Drawing, ImageFiles
from atrous.data.label_space import LabelSpace
from atrous.data.pairing import IMAGE_SUFFIXES, Pair, files_below
from atrous.data.pixels import Picture, read_picture
from atrous.data.polygons import Mask, Region, Shape, as_points
from atrous.errors import DataError, listing, warn_once
from atrous.files import composed, require_folder, subfolders, user_path
from atrous.trees import TreeError, parse_json, read_json
from atrous.types import Sample, Size

IGNORED = "__ignore__"
LABELS = "labels.txt"
SKIPPED = ("line", "linestrip", "point", "points")


class Config(DataConfig):
    """data.format=labelme data.root=my_data, with my_data/train/ and my_data/val/; a split `.` is the root itself."""

    format: Literal["labelme"] = "labelme"
    names_path: Path | None = None
    """File with a class name per line; none: `names`, or labels.txt in the root, or the classes that occur."""


def samples(config: Config, split: str) -> Sequence[Sample]:
    """An image for each JSON file in and below `<split>/`."""
    root = require_root(config)
    folder = _folder(config, root, split)
    files = [folder / path for path in files_below(folder, (".json",))]
    if not files:
        raise DataError(f"no JSON file of labelme in {folder}, or below it")
    pairs = [_pair(root, folder, path) for path in files]
    _say_unlabelled(folder, pairs)
    return ImageFiles(pairs, space := label_space(config), read=partial(_read, space=space), open_image=_open)


def label_space(config: Config) -> LabelSpace:
    root = require_root(config)
    path = _names_file(config, root)
    names = _names_in(path) if path else () if config.names is not None else _names_that_occur(root)
    return outline_space([name for name in names if name != IGNORED], config, path)


def is_root(config: Config, folder: Path) -> bool:
    return any(_is_annotation(folder / path) for path in _some_files(folder))


def _say_unlabelled(folder: Path, pairs: Sequence[Pair]) -> None:
    """Say which images nobody has labelled yet."""
    used = {pair.image for pair in pairs}
    rest = [path for path in files_below(folder, IMAGE_SUFFIXES) if folder / path not in used]
    if rest:
        text = f"{folder}: images without a JSON file are left out ({len(rest)} of {len(rest) + len(pairs)}): "
        warn_once(f"unlabelled {folder}", text + listing(rest))


# ---- files


def _some_files(folder: Path) -> Iterator[str]:
    """A JSON file of the folder, and of each folder in it."""
    for name in (".", *subfolders(folder)):
        files = sorted(path.name for path in (folder / name).glob("*.json"))
        yield from (f"{name}/{path}" for path in files[:1])


def _is_annotation(path: Path) -> bool:
    text = ends_of(path)
    return '"imagePath"' in text and ('"shapes"' in text or '"imageData"' in text)


def _folder(config: Config, root: Path, split: str) -> Path:
    if composed(split) not in map(composed, (".", *subfolders(root))) and any(map(_is_annotation, root.glob("*.json"))):
        raise NoSplitError(
            f"no split {split!r}: the files of labelme lie in {root} itself; move them, with their images, into train/ "
            "and val/ (see docs/data.md, Splits), or set data.train=. data.val=. to learn and validate on all of them",
            [".", *subfolders(root)],
        )
    files = ((name, next(files_below(root / name, (".json",)), None)) for name in subfolders(root))
    names = [name for name, path in files if path and _is_annotation(root / name / path)]
    if composed(split) not in map(composed, (".", *subfolders(root))) or not any(files_below(root / split, (".json",))):
        require_split(config, split, names, root / split)
    return require_folder(root / split, f"split {split}")


def _pair(root: Path, folder: Path, path: Path) -> Pair:
    name = composed(path.relative_to(folder).with_suffix("").as_posix())
    return Pair(name, _image(root, path), path, path)


def _image(root: Path, path: Path) -> Path:
    """The image that the file names, or else the one beside it that is called like it; or itself, if it holds one."""
    text, complaint = _image_path(path), ""
    try:
        named = path_within(root, path.parent, text)
    except DataError as error:
        named, complaint = path.with_name(Path(str(text).replace("\\", "/")).name or "?"), f": {error}"
    beside = (path.with_suffix(suffix) for ending in IMAGE_SUFFIXES for suffix in (ending, ending.upper()))
    for image in (named, path.with_name(named.name), *beside):
        if file := existing(image):
            return file
    if re.search(r'"imageData"\s*:\s*"', ends_of(path)) or _field(_content(path), "imageData", str, ""):
        return path
    raise DataError(f"{path}: no such image: {named}, nor one in the file itself{complaint}")


def _image_path(path: Path) -> str:
    """Of a file that may hold its image, too, only the ends are read if these suffice."""
    match = re.search(r'"imagePath"\s*:\s*("(?:[^"\\]|\\.)*")', ends_of(path))
    return str(parse_json(match[1]) if match else _field(_content(path), "imagePath", str, path.stem))


def _content(path: Path) -> Mapping[str, Any]:
    try:
        tree = read_json(path)
    except TreeError as error:
        raise DataError(f"{path}: {error}") from error
    if not isinstance(tree, dict) or not isinstance(tree.get("shapes"), list):
        raise DataError(f"{path} is not a file of labelme: it has no list `shapes`")
    return tree


def _field(tree: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:  # noqa: ANN401 - any JSON value
    value = tree.get(name)
    return value if isinstance(value, kind) and not isinstance(value, bool) else default


# ---- classes


def _names_file(config: Config, root: Path) -> Path | None:
    """None: the config itself has the names, or nothing lists them."""
    if config.names is not None:
        return None
    if config.names_path is None:
        return existing(root / LABELS)
    path = user_path(config.names_path)
    for file in (root / path, path):
        if file.is_file():
            return file
    raise FileNotFoundError(f"data.names_path: no such file: {root / path}")


def _names_in(path: Path) -> list[str]:
    names = [line.strip() for line in path.read_text(encoding="utf-8-sig", errors="replace").splitlines()]
    return [name for name in names if name]


def _names_that_occur(root: Path) -> list[str]:
    shapes = (shape for path in files_below(root, (".json",)) for shape in _content(root / path)["shapes"])
    names = sorted(
        {shape["label"] for shape in shapes if isinstance(shape, dict) and isinstance(shape.get("label"), str)}
    )
    if not names:
        raise DataError(f"{root}: no file of labelme in it has a shape with a label; write the classes into {LABELS}")
    return names


# ---- shapes


def _read(pair: Pair, *, space: LabelSpace) -> Drawing:
    assert pair.label is not None
    tree = _content(pair.label)
    size = _size(tree, pair)
    return drawing(list(_shapes(tree["shapes"], size, space, pair.label)), size, space, pair.label)


def _size(tree: Mapping[str, Any], pair: Pair) -> Size:
    """As the file says; old ones don't."""
    size = _field(tree, "imageHeight", int, 0), _field(tree, "imageWidth", int, 0)
    if min(size) > 0:
        return size
    height, width = _open(pair.image).pixels.shape[:2]
    return height, width


def _shapes(rows: Sequence[Any], size: Size, space: LabelSpace, path: Path) -> Iterator[Shape]:
    groups: dict[tuple[str, object], int] = {}
    for number, row in enumerate(rows, start=1):
        try:
            label, kind = _label_and_kind(row)
            if kind in SKIPPED:
                warn_once(f"labelme {kind}", f"{path}: a {kind} encloses no pixels; shapes of this kind are left out")
                continue
            region = DRAWN[kind](row, size)
            if label == IGNORED:
                yield Shape(space.ignore, region)
            else:
                group = row.get("group_id")
                instance = groups.setdefault((label, number if group is None else f"group {group}"), len(groups) + 1)
                yield Shape(class_of(label, space), region, instance)
        except DataError as error:
            raise DataError(f"{path}: shape {number}: {error}") from None


def _label_and_kind(row: object) -> tuple[str, str]:
    if not isinstance(row, dict) or not isinstance(row.get("label"), str) or not isinstance(row.get("points"), list):
        raise DataError("it has no label, or no points")
    kind = row.get("shape_type") or "polygon"
    if not isinstance(kind, str) or (kind not in SKIPPED and kind not in DRAWN):
        raise DataError(f"unknown shape_type {str(kind)[:40]!r}; those known are {', '.join((*DRAWN, *SKIPPED))}")
    return row["label"], kind


def _polygon(row: Mapping[str, Any], size: Size) -> Region:
    return polygons.polygon(as_points(row["points"]), size)


def _two_points(row: Mapping[str, Any]) -> polygons.Points:
    points = as_points(row["points"])
    if len(points) != 2:
        raise DataError(f"a {row['shape_type']} of {len(points)} points; it takes two")
    return points


def _rectangle(row: Mapping[str, Any], size: Size) -> Region:
    return polygons.rectangle(_two_points(row), size)


def _circle(row: Mapping[str, Any], size: Size) -> Region:
    center, edge = _two_points(row)
    return polygons.circle(center, float(np.hypot(*(edge - center))), size)


def _mask(row: Mapping[str, Any], size: Size) -> Region:
    """A small image in the file, whose corners are the two points."""
    (left, top), (right, bottom) = _two_points(row).round().astype(int).tolist()
    mask = _decoded(row.get("mask"))
    if mask.shape != (bottom - top + 1, right - left + 1):
        raise DataError(
            f"a mask of {mask.shape[1]} x {mask.shape[0]} for {right - left + 1} x {bottom - top + 1} pixels"
        )
    return polygons.placed(mask, top, left, size)


def _decoded(text: object) -> Mask:
    loaded = pillow.load(io.BytesIO(_bytes(text, "mask")), "mask", lambda image: None)
    return np.asarray(loaded.image.convert("L")) > 0


DRAWN: Mapping[str, Callable[[Mapping[str, Any], Size], Region]] = {
    "polygon": _polygon,
    "rectangle": _rectangle,
    "oriented_rectangle": _polygon,
    "circle": _circle,
    "mask": _mask,
}


# ---- images


def _open(path: Path) -> Picture:
    """An image file, or the image that a JSON file holds."""
    if path.suffix.lower() != ".json":
        return read_picture(path)
    try:
        return read_picture(io.BytesIO(_bytes(_content(path).get("imageData"), "imageData")))
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _bytes(text: object, name: str) -> bytes:
    try:
        return base64.b64decode(text if isinstance(text, str) else "", validate=False)
    except binascii.Error:
        raise DataError(f"its {name} is not base64") from None


LAYOUT = Layout(
    Config,
    samples,
    label_space,
    is_root,
    "train/a.json and val/b.json, as labelme writes them",
    "{split}/*.json, as labelme writes them",
)
