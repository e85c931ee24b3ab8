"""Scores of stored predictions in COCO's panoptic format, such as `atrous predict` writes: no network, no image."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from rich.console import Console
from torch import Tensor

from atrous.data import panoptic_json
from atrous.data.instances import runs_of
from atrous.data.label_space import LabelSpace
from atrous.data.panoptic_json import CATEGORY, CROWD, ID, Annotations, Segments
from atrous.environment import environment
from atrous.errors import DataError, listing
from atrous.progress import counting, say
from atrous.report import Evaluation, ImageScore, image_score
from atrous.tasks.contract import Figures, chosen, joined, summed
from atrous.tasks.panoptic_metrics import MEASURES, Maps, Measure
from atrous.types import Size

PNGS, SEGMENTS = "panoptic", "segments"  # folders that `atrous predict` writes
MOST_LOOKED_FOR = 100  # PNGs of a JSON, to see which folder they are in
START = 64  # bytes of a file that tell JSON from a model
Measures = Mapping[str, Measure]


class Drawn(NamedTuple):
    """The segments of one image, and the runs of pixels that they are drawn with."""

    segments: Segments
    ids: NDArray[np.int64]  # that occur in the PNG
    places: NDArray[np.intp]  # of the id of each run, among these
    lengths: NDArray[np.intp]
    size: Size

    def painted(self, numbers: Mapping[int, int], void: int) -> Tensor:  # [H, W]
        """The map with the number of each id."""
        table = np.array([numbers.get(one, void) for one in self.ids.tolist()], np.int32)
        return torch.from_numpy(np.repeat(table[self.places], self.lengths).reshape(self.size))


class Side(NamedTuple):
    """The truth, or the predictions."""

    annotations: Annotations
    folder: Path  # of the PNGs
    classes: Mapping[int, int]  # by the id of the category

    def drawn(self, file: str, *, with_areas: bool) -> Drawn:
        """Raises DataError or OSError for a PNG that is missing, unreadable, or differs from its JSON."""
        png = self.folder / file
        source = f"{png}, in {self.annotations.path.name}"
        segments = panoptic_json.segments_of(self.annotations, file, self.classes, source)
        values = panoptic_json.read_ids(png).values
        runs = runs_of(values)
        ids, places = np.unique(runs.values, return_inverse=True)
        areas = np.bincount(places, runs.lengths, len(ids)).astype(np.int64)
        areas_by_id = dict(zip(ids.tolist(), areas.tolist(), strict=True))
        panoptic_json.require_agreement(areas_by_id, segments.rows, source, with_areas=with_areas)
        height, width = values.shape
        return Drawn(segments, ids.astype(np.int64), places, runs.lengths, (height, width))


class Comparison(NamedTuple):
    truth: Side
    predictions: Side
    files: Mapping[str, str | None]  # of the true PNGs: that of the prediction
    measures: Measures
    num_classes: int
    has_scores: bool


class Measured(NamedTuple):
    """What one image adds."""

    statistics: Mapping[str, Any]
    problem: str = ""  # why it has no prediction that can be used


def is_stored(path: Path) -> bool:
    """Whether a path holds predictions: a JSON file, told by its content, or a folder that `atrous predict` wrote."""
    if path.is_dir():
        return (path / PNGS).is_dir() and (path / SEGMENTS).is_dir()
    if path.suffix.lower() != ".json" or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(START).lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"[")


def run(
    path: Path, truth_path: Path, *, metrics: Sequence[str] | None = None, workers: int = 0, console: Console
) -> Evaluation:
    """Measure predictions against the truth. An image without a usable prediction is named, and all of it is missed."""
    measures = chosen(MEASURES, metrics)
    truth = read_truth(truth_path)
    space = label_space(truth.annotations)
    predictions = read_predictions(path, truth)
    files = matches(truth.annotations, predictions.annotations, by_name=path.is_dir())
    for line in strangers(predictions.annotations, files):
        say(line, console)
    has_scores = bool(np.isfinite(predictions.annotations.scores).any())
    comparison = Comparison(truth, predictions, files, measures, space.num_classes, has_scores)
    total: dict[str, Any] = {}
    images: list[ImageScore] = []
    problems: list[str] = []
    with counting("scoring", len(files), console) as advance, ThreadPoolExecutor(max(1, workers)) as pool:
        parts = pool.map(lambda file: measured(file, comparison), files)
        for index, (file, part) in enumerate(zip(files, parts, strict=True)):
            total = summed([*filter(None, [total]), part.statistics])
            figures = report(part.statistics, measures, space)
            images.append(image_score(index, truth.annotations.ids[file], figures))
            problems += filter(None, [part.problem])
            advance(1)
    for line in problems:
        say(line, console)
    figures = report(total, measures, space)
    missed = f" ({len(problems)} without a usable prediction: their segments are missed)" if problems else ""
    protocol = {"data": f"{path.name} against {truth_path.name}", "images": f"{len(images)}{missed}", **figures.notes}
    return Evaluation(figures, images, problems, protocol, environment(torch.device("cpu")))


def report(statistics: Mapping[str, Any], measures: Measures, space: LabelSpace) -> Figures:
    return joined([measure.report(statistics[name], space) for name, measure in measures.items()])


# ---- an image


def measured(file: str, comparison: Comparison) -> Measured:
    """Raises DataError or OSError for a truth that can't be used: then nothing can be measured."""
    image, problem = comparison.truth.annotations.ids[file], ""
    true = comparison.truth.drawn(file, with_areas=True)
    try:
        prediction = _prediction(comparison.files[file], comparison.predictions, true.size)
    except (DataError, OSError) as error:
        prediction, problem = _nothing(true.size), f"image {image}: {error}"
    maps = maps_of(image, prediction, true, comparison)
    return Measured({name: measure.statistic(maps) for name, measure in comparison.measures.items()}, problem)


def _prediction(file: str | None, predictions: Side, size: Size) -> Drawn:
    if file is None:
        raise DataError(f"no prediction in {predictions.annotations.path}")
    drawn = predictions.drawn(file, with_areas=False)
    if drawn.size != size:
        ours, theirs = (f"{height} x {width}" for height, width in (drawn.size, size))
        raise DataError(f"{predictions.folder / file}: it is {ours} (height x width), but the truth is {theirs}")
    return drawn


def _nothing(size: Size) -> Drawn:
    """A prediction that is void everywhere."""
    segments = Segments(np.empty((0, 4), np.int32), np.empty(0, np.float32))
    one = np.zeros(1, np.int64)
    return Drawn(segments, one, one, one + size[0] * size[1], size)


def maps_of(image: str, prediction: Drawn, truth: Drawn, comparison: Comparison) -> Maps:
    """Segments are numbered from 1 as the JSON lists them, so that stuff may have several, too; a crowd has 0.

    As in the original, only the last crowd of a class excuses predictions. Earlier ones get a class of their own.
    """
    num_classes = comparison.num_classes
    divisor = 1 + max(len(prediction.segments.rows), len(truth.segments.rows))
    predicted, true = _numbers(prediction, comparison.predictions, divisor), _numbers(truth, comparison.truth, divisor)
    is_crowd = truth.segments.rows[:, CROWD] == 1
    last = {category: row for row, category in enumerate((true // divisor).tolist()) if is_crowd[row]}
    true_classes = _by_id(truth, true // divisor)
    true[is_crowd] = num_classes * divisor
    for category, row in last.items():
        true[row] = category * divisor
    certain = np.nan_to_num(prediction.segments.scores.astype(np.float64))
    return Maps(
        image,
        prediction.painted(_by_id(prediction, predicted), (num_classes + 1) * divisor),
        truth.painted(_by_id(truth, true), (num_classes + 1) * divisor),
        torch.ones(num_classes + 1, dtype=torch.bool),  # crowds of stuff are told by their number, too
        divisor,
        num_classes + 1,
        torch.from_numpy(np.stack([predicted.astype(np.float64), certain], 1)) if comparison.has_scores else None,
        truth.painted(true_classes, num_classes + 1),
    )


def _numbers(drawn: Drawn, side: Side, divisor: int) -> NDArray[np.int64]:
    """Class * divisor + number of each segment."""
    categories = [side.classes[category] for category in drawn.segments.rows[:, CATEGORY].tolist()]
    return np.array(categories, np.int64) * divisor + np.arange(1, len(categories) + 1)


def _by_id(drawn: Drawn, numbers: NDArray[np.int64]) -> dict[int, int]:
    return dict(zip(drawn.segments.rows[:, ID].tolist(), numbers.tolist(), strict=True))


# ---- files


def read_truth(path: Path) -> Side:
    annotations = panoptic_json.read(path)
    if not annotations.ends:
        raise DataError(f"{path} annotates no image, so there is nothing to measure")
    if not annotations.categories:
        raise DataError(f"{path} has no categories: the truth must say what its segments are")
    classes = {category: index for index, category in enumerate(annotations.categories)}
    return Side(annotations, png_folder(path, annotations), classes)


def read_predictions(path: Path, truth: Side) -> Side:
    """Of a JSON file, or of a folder that `atrous predict` wrote, whose classes are told by their names."""
    if path.is_dir():
        tree = _joined_tree(path, truth.annotations)
        annotations = panoptic_json.annotations_of(tree, path / SEGMENTS, lists_images=False)
        return Side(annotations, path / PNGS, truth.classes)
    annotations = panoptic_json.annotations_of(panoptic_json.tree_of(path), path, lists_images=False)
    return Side(annotations, png_folder(path, annotations), truth.classes)


def _joined_tree(folder: Path, truth: Annotations) -> dict[str, Any]:
    """The JSON of all images as one, with the truth's categories."""
    ids = {category.name: number for number, category in truth.categories.items()}
    entries = []
    for path in sorted((folder / SEGMENTS).rglob("*.json")):
        tree, name = panoptic_json.tree_of(path), path.relative_to(folder / SEGMENTS).with_suffix("").as_posix()
        segments = tree.get("segments_info") if isinstance(tree, dict) else None
        if isinstance(segments, list):
            segments = [{**one, "category_id": _category(one, ids)} for one in segments if isinstance(one, dict)]
        entries.append({"image_id": name, "file_name": f"{name}.png", "segments_info": segments})
    return {"annotations": entries}


def _category(segment: Mapping[str, Any], ids: Mapping[str, int]) -> object:
    """The truth's number for the name of a segment's class, the name itself if it has none, which is refused later."""
    name = str(segment.get("category"))
    return ids.get(name, name)


def png_folder(path: Path, annotations: Annotations) -> Path:
    """Beside a JSON, and called as it is, as panopticapi has it; or where the first of its PNGs lies."""
    own = path.with_suffix("")
    files = list(annotations.ends)[:MOST_LOOKED_FOR]
    for folder in (own, path.parent / PNGS, path.parent):
        if any((folder / file).is_file() for file in files):
            return folder
    if own.is_dir():
        return own
    raise DataError(f"{path}: its PNGs are expected in the folder {own}")


def matches(truth: Annotations, predictions: Annotations, *, by_name: bool) -> dict[str, str | None]:
    """The PNG of the prediction for each true one, by image_id; `by_name`, the image's or PNG's name will do."""
    known = {image: file for file, image in predictions.ids.items()}
    return {
        file: next((known[key] for key in _keys(file, truth, by_name=by_name) if key in known), None)
        for file in truth.ends
    }


def _keys(file: str, truth: Annotations, *, by_name: bool) -> Iterator[str]:
    yield truth.ids[file]
    if by_name:
        yield from (str(Path(name).with_suffix("")) for name in (truth.images[file], file) if name)


def strangers(predictions: Annotations, files: Mapping[str, str | None]) -> Iterator[str]:
    """What is said of predictions for images that the truth doesn't have."""
    unknown = [predictions.ids[file] for file in predictions.ends if file not in set(files.values())]
    if unknown:
        yield f"{predictions.path}: {len(unknown)} of images that the truth lacks, left out: {listing(unknown)}"


def label_space(truth: Annotations) -> LabelSpace:
    """The categories in their order. A class "void" joins one that is alone: a label space has two at least."""
    categories = list(truth.categories.values())
    names = [category.name for category in categories] + (["void"] if len(categories) == 1 else [])
    things = [index for index, category in enumerate(categories) if category.is_thing]
    try:
        return LabelSpace(names=tuple(names), things=tuple(things), ignore=len(names))
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise DataError(f"{truth.path}: categories: {reason}") from error
