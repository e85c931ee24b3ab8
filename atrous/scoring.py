"""Scores of stored predictions in COCO's panoptic format, such as `atrous predict` writes: no network, no image."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from rich.console import Console
from torch import Tensor

from atrous import data
from atrous.data import panoptic_json
from atrous.data.contract import DataConfig
from atrous.data.instances import runs_of
from atrous.data.label_space import LabelSpace
from atrous.data.loader import missing_fields
from atrous.data.panoptic_json import CATEGORY, CROWD, ID, Annotations, Segments
from atrous.environment import environment
from atrous.errors import DataError, listing
from atrous.progress import counting, say
from atrous.report import Evaluation, ImageScore, image_score
from atrous.tasks.contract import Figures, chosen, joined, summed
from atrous.tasks.panoptic_metrics import MEASURES, Maps, Measure
from atrous.tasks.segments import thing_mask, true_panoptic
from atrous.types import Size

PNGS, SEGMENTS = "panoptic", "segments"  # folders that `atrous predict` writes
NEEDS = ("semantic", "instance")  # fields of a sample
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


class TrueImage(NamedTuple):
    keys: tuple[str, ...]  # by which its prediction is found; the first is what the image is called
    ids: Tensor  # [H, W] class * divisor + number
    classes: Tensor | None  # [H, W], where the numbers don't say them
    divisor: int


class Truth(NamedTuple):
    """What predictions are compared with."""

    name: str
    space: LabelSpace
    things: Tensor  # bool: the classes whose number 0 is a crowd
    void: int  # the class of what is none
    classes: Mapping[int, int]  # by the id of a prediction's category
    categories: Mapping[str, int]  # their ids by name
    by_name: bool  # a prediction is found by the name of its image or PNG, too, not by its image_id alone
    number: int  # of images
    read: Callable[[int, int], TrueImage]  # the image of an index, with a divisor of at least so much


class Comparison(NamedTuple):
    truth: Truth
    predictions: Side
    files: Mapping[str, str]  # of the PNGs, by what their image is called
    measures: Measures
    least_divisor: int
    has_scores: bool


class Measured(NamedTuple):
    """What one image adds."""

    image: str
    statistics: Mapping[str, Any]
    file: str | None  # of the prediction
    problem: str  # why it has no prediction that can be used


def is_stored(path: Path) -> bool:
    """Whether a path holds predictions: a .json file with JSON in it, or a folder that `atrous predict` wrote."""
    if path.is_dir():
        return (path / PNGS).is_dir() and (path / SEGMENTS).is_dir()
    if path.suffix.lower() != ".json" or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(START).lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"[")


def run(
    path: Path, truth: Truth, *, metrics: Sequence[str] | None = None, workers: int = 0, console: Console
) -> Evaluation:
    """Measure predictions against the truth. An image without a usable prediction is named, and all of it is missed."""
    measures = chosen(MEASURES, metrics)
    predictions = read_predictions(path, truth)
    annotations = predictions.annotations
    least_divisor = 1 + max((end - start for start, end in annotations.ends.values()), default=0)
    has_scores = bool(np.isfinite(annotations.scores).any())
    files = files_by_key(annotations, by_name=truth.by_name or path.is_dir())
    comparison = Comparison(truth, predictions, files, measures, least_divisor, has_scores)
    total: dict[str, Any] = {}
    images: list[ImageScore] = []
    problems: list[str] = []
    used: set[str | None] = set()
    with counting("scoring", truth.number, console) as advance, ThreadPoolExecutor(max(1, workers)) as pool:
        parts = pool.map(lambda index: measured(index, comparison), range(truth.number))
        for index, part in enumerate(parts):
            total = summed([*filter(None, [total]), part.statistics])
            images.append(image_score(index, part.image, report(part.statistics, measures, truth.space)))
            problems += filter(None, [part.problem])
            used.add(part.file)
            advance(1)
    for line in [*renamed_categories(annotations, truth), *strangers(annotations, used), *problems]:
        say(line, console)
    figures = report(total, measures, truth.space)
    missed = f" ({len(problems)} without a usable prediction: their segments are missed)" if problems else ""
    protocol = {"data": f"{path.name} against {truth.name}", "images": f"{len(images)}{missed}", **figures.notes}
    return Evaluation(figures, images, problems, protocol, environment(torch.device("cpu")))


def report(statistics: Mapping[str, Any], measures: Measures, space: LabelSpace) -> Figures:
    return joined([measure.report(statistics[name], space) for name, measure in measures.items()])


# ---- an image


def measured(index: int, comparison: Comparison) -> Measured:
    """Raises DataError or OSError for a truth that can't be used: then nothing can be measured."""
    true, problem = comparison.truth.read(index, comparison.least_divisor), ""
    height, width = true.ids.shape
    file = next((comparison.files[key] for key in true.keys if key in comparison.files), None)
    try:
        prediction = _prediction(file, comparison.predictions, (height, width))
    except (DataError, OSError) as error:
        prediction, problem = _nothing((height, width)), f"image {true.keys[0]}: {error}"
    maps = maps_of(prediction, true, comparison)
    statistics = {name: measure.statistic(maps) for name, measure in comparison.measures.items()}
    return Measured(true.keys[0], statistics, file, problem)


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


def maps_of(prediction: Drawn, truth: TrueImage, comparison: Comparison) -> Maps:
    numbers = _numbers(prediction, comparison.predictions, truth.divisor)
    certain = np.nan_to_num(prediction.segments.scores.astype(np.float64))
    return Maps(
        truth.keys[0],
        prediction.painted(_by_id(prediction, numbers), comparison.truth.void * truth.divisor),
        truth.ids,
        comparison.truth.things,
        truth.divisor,
        comparison.truth.void,
        torch.from_numpy(np.stack([numbers.astype(np.float64), certain], 1)) if comparison.has_scores else None,
        truth.classes,
    )


def _numbers(drawn: Drawn, side: Side, divisor: int) -> NDArray[np.int64]:
    """Class * divisor + number of each segment, from 1 in the order of the JSON: stuff may have several, too."""
    categories = [side.classes[category] for category in drawn.segments.rows[:, CATEGORY].tolist()]
    return np.array(categories, np.int64) * divisor + np.arange(1, len(categories) + 1)


def _by_id(drawn: Drawn, numbers: NDArray[np.int64]) -> dict[int, int]:
    return dict(zip(drawn.segments.rows[:, ID].tolist(), numbers.tolist(), strict=True))


# ---- files


def read_truth(path: Path) -> Truth:
    """A JSON file, whose PNGs lie beside it."""
    annotations = panoptic_json.read(path)
    if not annotations.ends:
        raise DataError(f"{path} annotates no image, so there is nothing to measure")
    if not annotations.categories:
        raise DataError(f"{path} has no categories: the truth must say what its segments are")
    space, files = label_space(annotations), list(annotations.ends)
    side = Side(
        annotations,
        png_folder(path, annotations),
        {category: index for index, category in enumerate(annotations.categories)},
    )
    return Truth(
        path.name,
        space,
        torch.ones(space.num_classes + 1, dtype=torch.bool),  # crowds of stuff are told by their number, too
        space.num_classes + 1,
        side.classes,
        {category.name: number for number, category in annotations.categories.items()},
        False,
        len(files),
        lambda index, divisor: _true_image(side, files[index], space.num_classes, divisor),
    )


def _true_image(side: Side, file: str, num_classes: int, divisor: int) -> TrueImage:
    """A crowd has number 0. As in the original, only the last one of a class excuses predictions.

    Earlier ones are a crowd of a class of their own, which nothing is predicted as.
    """
    drawn = side.drawn(file, with_areas=True)
    divisor = max(divisor, 1 + len(drawn.segments.rows))
    numbers = _numbers(drawn, side, divisor)
    classes, is_crowd = numbers // divisor, drawn.segments.rows[:, CROWD] == 1
    last = {category: row for row, category in enumerate(classes.tolist()) if is_crowd[row]}
    numbers[is_crowd] = num_classes * divisor
    for category, row in last.items():
        numbers[row] = category * divisor
    void, annotations = num_classes + 1, side.annotations
    names = (str(Path(name).with_suffix("")) for name in (annotations.images[file], file) if name)
    return TrueImage(
        (annotations.ids[file], *names),
        drawn.painted(_by_id(drawn, numbers), void * divisor),
        drawn.painted(_by_id(drawn, classes), void),
        divisor,
    )


def truth_of_data(config: DataConfig) -> Truth:
    """The validation split of a dataset. Predictions are found by the names of its images."""
    samples, space = data.samples(config, config.val, NEEDS), data.label_space(config)
    if missing := missing_fields(samples, NEEDS):
        raise DataError(f"data.format={config.format}: its samples lack {', '.join(missing)}, which the scores need")

    def read(index: int, divisor: int) -> TrueImage:
        sample, own = samples[index], space.panoptic_divisor
        ids, divisor = true_panoptic(sample, space), max(divisor, own)
        ids = ids // own * divisor + ids % own
        return TrueImage((sample.name, Path(sample.name).name), ids, None, divisor)

    raw_ids = {raw: label for raw, label in space.raw_ids if label < space.num_classes and label != space.ignore}
    classes = raw_ids or {index: index for index in range(space.num_classes)}
    categories = {space.names[label]: raw for raw, label in classes.items()}
    name = f"{config.format}, split {config.val}"
    return Truth(name, space, thing_mask(space), space.ignore, classes, categories, True, len(samples), read)


def read_predictions(path: Path, truth: Truth) -> Side:
    """Of a JSON file, or of a folder that `atrous predict` wrote, whose classes are told by their names."""
    if path.is_dir():
        tree = _joined_tree(path, truth.categories)
        annotations = panoptic_json.annotations_of(tree, path / SEGMENTS, lists_images=False)
        return Side(annotations, path / PNGS, truth.classes)
    annotations = panoptic_json.annotations_of(panoptic_json.tree_of(path), path, lists_images=False)
    return Side(annotations, png_folder(path, annotations), truth.classes)


def _joined_tree(folder: Path, ids: Mapping[str, int]) -> dict[str, Any]:
    """The JSON of all images as one, with the truth's `ids` of categories."""
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


def files_by_key(predictions: Annotations, *, by_name: bool) -> dict[str, str]:
    """The PNG of each prediction by its image_id, and `by_name` by its own name without suffix."""
    names = {str(Path(file).with_suffix("")): file for file in predictions.ends} if by_name else {}
    return {**names, **{image: file for file, image in predictions.ids.items()}}


def strangers(predictions: Annotations, used: Collection[str | None]) -> Iterator[str]:
    """What is said of predictions for images that the truth doesn't have."""
    unknown = [predictions.ids[file] for file in predictions.ends if file not in used]
    if unknown:
        yield (
            f"{predictions.path}: predictions for images that the truth lacks ({len(unknown)}), left out: "
            f"{listing(unknown)}"
        )


def renamed_categories(predictions: Annotations, truth: Truth) -> Iterator[str]:
    """What is said of categories that the predictions call otherwise than the truth: its numbers count, not names."""
    names = {number: name for name, number in truth.categories.items()}
    others = [
        f"{number} is {names[number]} in the truth, but {category.name} in the predictions"
        for number, category in predictions.categories.items()
        if names.get(number, category.name) != category.name
    ]
    if others:
        yield f"{predictions.path}: categories are told by their ids alone, but their names differ: {listing(others)}"


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
