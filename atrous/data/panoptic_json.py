"""COCO's panoptic format (cocodataset/panopticapi): PNGs of segments, and a JSON that says what each segment is.

The id of a segment is red + 256 green + 65536 blue of its pixels; 0 is void. A crowd is several things that nobody told
apart: its pixels have a class, and no number.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from atrous.data.image_files import Drawing, Drawn
from atrous.data.instances import runs_of
from atrous.data.label_space import LabelSpace
from atrous.data.pairing import Complaint, Pair, complaint_of, refuse, refuse_all
from atrous.data.pixels import Codes, read_label
from atrous.errors import DataError, listing
from atrous.files import composed, require_folder
from atrous.trees import TreeError, kind_of, read_json

T = TypeVar("T")

VOID = 0  # the id of no segment
MAX_ID = 2**24 - 1
MAX_CATEGORY = 2**31 - 1
LARGEST_SCORE = 1e30  # that 32 bits hold
LONGEST_SHOWN = 40  # characters of a value in an error
ID, CATEGORY, AREA, CROWD = range(4)  # columns of a row
BARE = "images without an annotation"
UNSAID = -1  # the area of a segment for which the JSON has none


class Category(NamedTuple):
    name: str
    is_thing: bool
    color: tuple[int, int, int] | None


class Annotations(NamedTuple):
    """The content of a JSON file, small enough to send to worker processes: there are millions of segments in COCO."""

    path: Path
    categories: Mapping[int, Category]  # by id; {}: the file has none
    images: Mapping[str, str]  # the file of each image by the file of its PNG; "": not said
    rows: NDArray[np.int32]  # [S, 4] of all segments
    ends: Mapping[str, tuple[int, int]]  # the rows of each PNG
    problems: Mapping[str, str]  # what is wrong with the entry of a PNG
    ids: Mapping[str, str]  # the image_id of each PNG
    scores: NDArray[np.float32]  # [S] how certain a predicted segment is; NaN where the JSON has none
    complaints: tuple[Complaint, ...] = ()  # ids that leave open what is meant


class Segments(NamedTuple):
    """Those of an image."""

    rows: NDArray[np.int32]  # [S, 4]
    scores: NDArray[np.float32]  # [S]


def read(path: Path) -> Annotations:
    """Raises DataError for what isn't such a file. Segments that can't be used are told when their image is read."""
    return _complained(content(path))


def content(path: Path) -> Annotations:
    """The same, whatever is wrong with ids."""
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    return _read(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=2)  # for the label space, and for the samples
def _read(path: Path, changed: int) -> Annotations:
    return _annotations(tree_of(path), path, lists_images=True)


def _complained(annotations: Annotations) -> Annotations:
    refuse_all(annotations.complaints)
    return annotations


def tree_of(path: Path) -> Any:  # noqa: ANN401 - any JSON value
    """Raises OSError, or DataError with the path."""
    try:
        return read_json(path)
    except TreeError as error:
        raise DataError(f"{path}: {error}") from error


def annotations_of(tree: Any, path: Path, *, lists_images: bool = True) -> Annotations:  # noqa: ANN401 - any JSON value
    """The content of a JSON, called `path` in errors. Predictions may lack images, so their list isn't looked at."""
    return _complained(_annotations(tree, path, lists_images=lists_images))


def _annotations(tree: Any, path: Path, *, lists_images: bool) -> Annotations:  # noqa: ANN401 - any JSON value
    entries = [_entry(entry, path) for entry in _list(tree, "annotations", path)]
    images = _images(tree, path) if lists_images else None
    categories = _list(tree, "categories", path) if "categories" in tree else []
    complaints = tuple(_complaints(entries, images, categories, path))
    image_of = dict(reversed(images or []))
    usable = [entry for entry in _first_of_each(entries) if images is None or entry.image_id in image_of]
    scores: list[float] = []
    rows: list[tuple[int, int, int, int]] = []
    ends: dict[str, tuple[int, int]] = {}
    problems: dict[str, str] = {}
    for entry in usable:
        try:
            segments = [_named(_row, segment) for segment in _segments(entry.tree)]
            certain = [_named(_score, segment) for segment in _segments(entry.tree)]
            _require_distinct([str(row[ID]) for row in segments], None, "segments with the same id")
        except DataError as error:
            problems[entry.file], segments, certain = str(error), [], []
        ends[entry.file] = (len(rows), len(rows) + len(segments))
        rows += segments
        scores += certain
    return Annotations(
        path,
        _categories(categories, path),
        {entry.file: image_of.get(entry.image_id, "") for entry in usable},
        np.array(rows, np.int32).reshape(-1, 4),
        ends,
        problems,
        {entry.file: entry.image_id for entry in usable},
        np.array(scores, np.float32),
        complaints,
    )


# ---- what ids stand for


class Entry(NamedTuple):
    """An annotation."""

    file: str  # of its PNG
    image_id: str
    tree: Mapping[str, Any]


def _entry(tree: Mapping[str, Any], path: Path) -> Entry:
    return Entry(composed(_text(tree, "file_name", path)), _key(tree, "image_id", path), tree)


def _images(tree: Mapping[str, Any], path: Path) -> list[tuple[str, str]] | None:
    """The id and the file of each image; None where the JSON lists none, as deeplab2's."""
    if "images" not in tree:
        return None
    return [(_key(row, "id", path), _text(row, "file_name", path)) for row in _list(tree, "images", path)]


def _first_of_each(entries: Sequence[Entry]) -> list[Entry]:
    """Without those whose PNG or image has been annotated already."""
    by_file = {entry.file: entry for entry in reversed(entries)}
    by_id = {entry.image_id: entry for entry in reversed(entries)}
    return [entry for entry in entries if by_file[entry.file] is entry and by_id[entry.image_id] is entry]


def _complaints(
    entries: Sequence[Entry],
    images: Sequence[tuple[str, str]] | None,
    categories: Sequence[Mapping[str, Any]],
    path: Path,
) -> Iterator[Complaint]:
    """Ids that are used twice, so that nobody knows what is meant, and ids that stand for nothing."""
    ids, annotated = [one for one, _ in images or []], dict.fromkeys(entry.image_id for entry in entries)
    listed = annotated.keys() if images is None else set(ids)
    kinds = (
        ("repeated-ids", _repeated(entry.file for entry in entries), "annotations of the same PNG"),
        ("repeated-ids", _repeated(entry.image_id for entry in entries), "annotations with the same image_id"),
        ("repeated-ids", _repeated(ids), "images with the same id"),
        ("repeated-ids", _repeated(_key(row, "id", path) for row in categories), "categories with the same id"),
        ("unlisted-ids", [one for one in annotated if one not in listed], "annotations of images that it doesn't list"),
        ("images-without-label", [file for one, file in images or [] if one not in annotated], BARE),
    )
    for kind, names, what in kinds:
        if names:
            yield complaint_of(kind, names, f"{path}: {what}")


def _repeated(values: Iterable[str]) -> list[str]:
    return [value for value, count in Counter(values).items() if count > 1]


# ---- the JSON


def _list(tree: object, key: str, path: Path) -> list[Any]:
    if not isinstance(tree, dict):
        raise DataError(f"{path}: not COCO's panoptic JSON: a mapping with {key!r} was expected, got {kind_of(tree)}")
    values = tree.get(key)
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise DataError(f"{path}: not COCO's panoptic JSON: {key!r} must be a list of mappings, got {kind_of(values)}")
    return values


def _text(entry: Mapping[str, Any], key: str, path: Path) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise _wrong(entry, key, "text", path)
    return value


def _key(entry: Mapping[str, Any], key: str, path: Path) -> str:
    """An id, of which some programs write numbers and others texts."""
    value = entry.get(key)
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise _wrong(entry, key, "a whole number or text", path)
    return str(value)


def _wrong(entry: Mapping[str, Any], key: str, expected: str, path: Path) -> DataError:
    complaint = f"has no {key!r}" if entry.get(key) is None else f"has under {key!r} what isn't {expected}"
    return DataError(f"{path}: an entry {complaint}: {str(entry)[:80]}")


def _require_distinct(values: Sequence[str], path: Path | None, complaint: str) -> None:
    if repeated := _repeated(values):
        where = "" if path is None else f"{path}: "
        raise DataError(f"{where}{complaint} ({len(repeated)}): {listing(repeated)}")


def _categories(entries: Sequence[Mapping[str, Any]], path: Path) -> dict[int, Category]:
    """By id; the first of those that share one."""
    categories: dict[int, Category] = {}
    for entry in entries:
        categories.setdefault(_category_id(entry, path), _category(entry, path))
    return categories


def _category_id(entry: Mapping[str, Any], path: Path) -> int:
    try:
        return _number(entry, "id", MAX_CATEGORY)
    except DataError as error:
        raise DataError(f"{path}: categories: {error}") from None


def _category(entry: Mapping[str, Any], path: Path) -> Category:
    color = entry.get("color")
    is_color = isinstance(color, list) and len(color) == 3 and all(value in range(256) for value in color)
    red, green, blue = color if is_color and color is not None else (0, 0, 0)
    return Category(_text(entry, "name", path), _is_thing(entry, path), (red, green, blue) if is_color else None)


def _is_thing(entry: Mapping[str, Any], path: Path) -> bool:
    """Texts are refused: "0" would be a thing."""
    value = entry.get("isthing", 0)
    if isinstance(value, str | float) or value not in (0, 1):
        raise DataError(f"{path}: category {entry['name']}: isthing must be 0 or 1, got {_shown(value)}")
    return bool(value)


def _segments(entry: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    segments = entry.get("segments_info")
    if not isinstance(segments, list) or not all(isinstance(segment, dict) for segment in segments):
        raise DataError(f"segments_info must be a list of mappings, got {kind_of(segments)}")
    yield from segments


def _named(read: Callable[[Mapping[str, Any]], T], segment: Mapping[str, Any]) -> T:
    """Raises DataError with the id of the segment."""
    try:
        return read(segment)
    except DataError as error:
        raise DataError(f"segment {_shown(segment.get('id'))}: {error}") from None


def _row(segment: Mapping[str, Any]) -> tuple[int, int, int, int]:
    area = _number(segment, "area", MAX_CATEGORY) if "area" in segment else UNSAID
    crowd = segment.get("iscrowd", 0)
    crowd = int(crowd) if isinstance(crowd, bool) else _number({"iscrowd": crowd}, "iscrowd", 1)
    return _number(segment, "id", MAX_ID, 1), _number(segment, "category_id", MAX_CATEGORY), area, crowd


def _score(segment: Mapping[str, Any]) -> float:
    """NaN where it has none, as some programs write of stuff."""
    value = segment.get("score")
    if value is None or value != value:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > LARGEST_SCORE:
        raise DataError(f"score must be a number, got {_shown(value)}")
    return float(value)


def _number(entry: Mapping[str, Any], key: str, largest: int, smallest: int = 0) -> int:
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        raise DataError(f"{key} must be a whole number, got {_shown(value)}")
    if not smallest <= value <= largest:
        raise DataError(f"{key} must be in {smallest}..{largest}, got {_shown(value)}")
    return int(value)


def _shown(value: object) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


# ---- an image


def read_segments(pair: Pair, *, annotations: Annotations, space: LabelSpace, classes: Mapping[int, int]) -> Drawing:
    """The PNG of a pair, checked against the JSON; `classes` are those of its categories, all others are refused."""
    assert pair.label is not None
    source = f"{pair.label}, in {annotations.path.name}"
    rows, _ = segments_of(annotations, composed(pair.label.name), classes, source)
    codes = read_ids(pair.label)
    semantic, instance = _maps(codes, rows, source, space, classes)
    return Drawing(*(Drawn(values, pair.label, codes.orientation) for values in (semantic, instance)))


def segments_of(annotations: Annotations, file: str, classes: Mapping[int, int], source: str) -> Segments:
    """What the JSON says of a PNG. Raises DataError, that begins with `source`, if it can't be used."""
    if file in annotations.problems:
        raise DataError(f"{source}: {annotations.problems[file]}")
    own = slice(*annotations.ends[file])
    rows = annotations.rows[own]
    if unknown := sorted(set(rows[:, CATEGORY].tolist()) - set(classes)):
        raise DataError(f"{source}: no category has the id {listing(unknown)}")
    return Segments(rows, annotations.scores[own])


def read_ids(png: Path) -> Codes:
    """The id of the segment of each pixel."""
    codes = read_label(png)
    if not codes.is_colored:
        raise DataError(f"{png}: the PNG of segments has one channel, but RGB is expected: its id in each pixel")
    return codes


def _maps(
    codes: Codes, rows: NDArray[np.int32], source: str, space: LabelSpace, classes: Mapping[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """The class, and the number of the thing, of each pixel."""
    runs = runs_of(codes.values)
    ids, places = np.unique(runs.values, return_inverse=True)
    areas = np.bincount(places, runs.lengths, len(ids)).astype(np.int64)
    require_agreement(dict(zip(ids.tolist(), areas.tolist(), strict=True)), rows, source)
    rows = rows[np.argsort(rows[:, ID])]
    labels = np.array([classes[category] for category in rows[:, CATEGORY].tolist()], np.uint8)
    is_counted = np.isin(labels, space.things) & (rows[:, CROWD] == 0)
    numbers = np.where(is_counted, np.cumsum(is_counted), 0)
    if not ids.size or ids[0] != VOID:
        ids = np.concatenate([[VOID], ids])
        places = places + 1
    label_of = np.concatenate([[space.ignore], labels]).astype(np.uint8)
    number_of = np.concatenate([[0], numbers]).astype(np.int32)
    size = codes.values.shape
    semantic, instance = np.repeat(label_of[places], runs.lengths), np.repeat(number_of[places], runs.lengths)
    return semantic.reshape(size), instance.reshape(size)


def require_agreement(
    areas: Mapping[int, int],  # by id in the PNG
    rows: NDArray[np.int32],
    source: str,
    *,
    with_areas: bool = True,
) -> None:
    """Refuse segments that only the PNG or only the JSON has, and, `with_areas`, those with another area there."""
    said = dict(zip(rows[:, ID].tolist(), rows[:, AREA].tolist(), strict=True))
    both = [one for one in said if one in areas]
    complaints = {
        "that the JSON lacks": [_pixels(one, areas[one]) for one in areas if one not in {*said, VOID}],
        "that the PNG lacks": [str(one) for one in said if one not in areas],
        "whose area differs": [
            f"{one} ({areas[one]} in the PNG, {said[one]} in the JSON)"
            for one in both
            if with_areas and said[one] not in (UNSAID, areas[one])
        ],
    }
    for complaint, segments in complaints.items():
        if segments:
            number = f"{len(segments)} segment{'s'[: len(segments) - 1]}"
            raise DataError(f"{source}: {number} {complaint}: {listing(segments)}")


def _pixels(segment: int, area: int) -> str:
    return f"{segment} ({area} pixel{'s'[: area - 1]})"


def pairs_of(
    annotations: Annotations,
    folder: Path,
    names: Mapping[str, str],  # of samples, by PNG
    images: Mapping[str, Path],  # by sample
    image_folder: Path,
) -> list[Pair]:
    """The images that a JSON annotates, each with its PNG in `folder`. Raises DataError with those that are missing."""
    path, files = annotations.path, _files_in(require_folder(folder, f"the PNGs of {annotations.path.name}"))
    if not annotations.ends:
        raise DataError(f"{path} annotates no image")
    unlabelled = [file for file in annotations.ends if file not in files]
    refuse("images-without-label", unlabelled, f"{path} names PNGs that are not in {folder}")
    missing = [name for name in names.values() if name not in images]
    refuse("listed-files-missing", missing, f"{path} names images that are not in {image_folder}")
    _require_distinct([names[file] for file in annotations.ends], path, "annotations of the same image")
    usable = [file for file in annotations.ends if file in files and names[file] in images]
    return [Pair(names[file], images[names[file]], files[file], files[file]) for file in usable]


def _files_in(folder: Path) -> dict[str, Path]:
    return {composed(path.name): path for path in folder.iterdir()}
