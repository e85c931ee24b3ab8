"""Panoptic segmentation: a class for each pixel, and the pixels of each thing (arXiv:1801.00868)."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor

from atrous import visualize
from atrous.data import survey
from atrous.data.label_space import LabelSpace
from atrous.data.targets import thing_targets
from atrous.errors import ConfigError, DataError
from atrous.inference import Seen, at_image, maps_at_content, probabilities_at
from atrous.losses.panoptic import heatmap_loss, offset_loss
from atrous.losses.semantic import LossConfig, hard_pixel_share, require_heads, semantic_loss
from atrous.metrics import panoptic_quality
from atrous.postprocess.panoptic import Merging, find_centers, group_pixels, merge, peaks, score_map
from atrous.settings import MAX_COUNT, Settings
from atrous.tasks.class_map import CONFUSION, class_weights, label_map, panel_step
from atrous.tasks.contract import Figures, Labels, Metric, Result, Table, Targets, Task, TrainingData
from atrous.tasks.segments import Segment, is_segment, number_png, panoptic_array, segments
from atrous.types import Batch, Color, Facts, Image, Outputs, Sample

TITLES = {
    "pq": "PQ",
    "sq": "SQ",
    "rq": "RQ",
    "pq_things": "PQ of things",
    "pq_stuff": "PQ of stuff",
}


class PanopticLossConfig(LossConfig):
    """Weights and numbers are those of deeplab2's recipes."""

    center: NonNegativeFloat = 200.0
    """Weight of the squared error of the heatmap of things' centres."""
    offset: NonNegativeFloat = 0.01
    """Weight of the absolute error of the offsets to the centres, in pixels."""
    sigma: float = Field(8.0, gt=0, le=1000)
    """Spread of the Gaussian at each centre in the heatmap, in pixels."""
    small_area: int = Field(4096, ge=0, le=MAX_COUNT)
    """A thing with fewer pixels is small; 0: none is."""
    small_weight: PositiveFloat = 3.0
    """Weight of the classes of a small thing's pixels."""


class PanopticDecodeConfig(Settings):
    threshold: float = Field(0.1, ge=0, lt=1)
    """Lower maxima of the heatmap are no centres."""
    kernel: int = Field(7, gt=0, le=2**10)
    """A centre is the highest of as many pixels around it, in both directions."""
    top_k: int = Field(200, ge=0, le=MAX_COUNT)
    """Centres in an image, at most; 0: any number."""
    stuff_area: int = Field(2048, ge=0, le=MAX_COUNT)
    """A stuff class with fewer pixels in an image is void; 0: none is."""
    at_limit: Literal["kept", "void"] = "kept"
    """Stuff of exactly `stuff_area` pixels; void: as in deeplab2's compiled operator."""
    without_center: Literal["void", "thing"] = "void"
    """Thing pixels of an image without centres; thing: as in deeplab2's compiled operator."""


class PanopticObjective(NamedTuple):
    config: PanopticLossConfig
    space: LabelSpace
    things: Tensor  # [C] bool
    weights: Tensor | None  # [C]
    align_corners: bool

    def targets(self, batch: Batch) -> Targets:
        assert batch.semantic is not None
        assert batch.instance is not None
        targets = thing_targets(
            batch.semantic,
            batch.instance,
            self.things,
            ignore=self.space.ignore,
            sigma=self.config.sigma,
            small_area=self.config.small_area,
            small_weight=self.config.small_weight,
        )
        return {"semantic": batch.semantic, **targets._asdict()}

    def counts(self, targets: Targets, step: int) -> Tensor | None:
        """Labelled pixels, pixels with a height, pixels with an offset."""
        if hard_pixel_share(self.config, step) < 1:
            return None
        counted = (
            targets["semantic"] != self.space.ignore,
            targets["heatmap_weight"] > 0,
            targets["offset_weight"] > 0,
        )
        return torch.stack([one.sum(dtype=torch.float64) for one in counted])

    def terms(self, outputs: Outputs, targets: Targets, counts: Tensor | None, step: int) -> dict[str, Tensor]:
        assert outputs.center is not None
        assert outputs.offset is not None
        pixels, heights, offsets = (None, None, None) if counts is None else counts.clamp_min(1).float().unbind()
        semantic = semantic_loss(
            outputs,
            targets["semantic"],
            self.config,
            ignore=self.space.ignore,
            class_weights=self.weights,
            pixel_weights=targets["semantic_weight"],
            hard_pixels=hard_pixel_share(self.config, step),
            normalizer=pixels,
            align_corners=self.align_corners,
        )
        center = heatmap_loss(
            outputs.center,
            targets["heatmap"],
            targets["heatmap_weight"],
            normalizer=heights,
            align_corners=self.align_corners,
        )
        offset = offset_loss(
            outputs.offset,
            targets["offset"],
            targets["offset_weight"],
            normalizer=offsets,
            align_corners=self.align_corners,
        )
        return {**semantic, "center": self.config.center * center, "offset": self.config.offset * offset}


def objective(config: PanopticLossConfig, facts: Facts, heads: Sequence[str], data: TrainingData) -> PanopticObjective:
    """Raises ConfigError if the label space has no things, or the weights in `config` fit neither heads nor classes."""
    if not data.space.things:
        raise ConfigError("a panoptic model needs classes of things, whose objects are counted; the data has none")
    require_heads(config, heads)
    weights = class_weights(config, data)
    weights = None if weights is None else weights.to(data.device)  # now: each step would wait for the device
    things = thing_mask(data.space).to(data.device)
    return PanopticObjective(config, data.space, things, weights, facts.convention == "aligned_corners")


def thing_mask(space: LabelSpace) -> Tensor:  # [C] bool
    mask = torch.zeros(space.num_classes, dtype=torch.bool)
    mask[list(space.things)] = True
    return mask


# ---- decoding


def decode(seen: Seen, space: LabelSpace, config: PanopticDecodeConfig) -> list[Labels]:
    classes, center, offset = maps_at_content(seen)
    assert center is not None
    assert offset is not None
    labels = []
    for index in range(len(classes)):
        semantic = classes[index].long()
        panoptic, heights = decode_one(semantic, center[index, 0], offset[index], space, config)
        scores = thing_scores(panoptic, heights, partial(probabilities_at, seen, index), space)
        at_size = [at_image(one[None], seen)[0] for one in (semantic, panoptic)]
        probabilities = seen.outputs.semantic[index] if seen.is_mean else None
        labels.append(Labels(at_size[0], panoptic=at_size[1], scores=scores, probabilities=probabilities))
    return labels


def decode_one(
    semantic: Tensor,  # [H, W]
    center: Tensor,  # [H, W]
    offset: Tensor,  # [2, H, W]
    space: LabelSpace,
    config: PanopticDecodeConfig,
) -> tuple[Tensor, Tensor]:
    """The panoptic map [H, W], and the height of each pixel's own centre, [H, W], 0 where it has none."""
    things = thing_mask(space).to(semantic.device)
    maxima = peaks(center, threshold=config.threshold, kernel=config.kernel)
    centers = find_centers(maxima, top_k=config.top_k)
    instances = group_pixels(centers, offset, things[semantic])
    how = Merging(
        space.panoptic_divisor,
        void_of(space),
        config.stuff_area,
        is_limit_void=config.at_limit == "void",
        is_thing_without_center=config.without_center == "thing",
    )
    return merge(semantic, instances, things, how), score_map(maxima, centers, instances)


def thing_scores(
    panoptic: Tensor,  # [H, W]
    heights: Tensor,  # [H, W]
    probability: Callable[[Tensor, Tensor], Tensor],  # of places [P, 2], and a class for each
    space: LabelSpace,
) -> Tensor:
    """[N, 2] the number of each thing with the height of its centre times its class's mean probability on its pixels.

    As deeplab2 scores things for average precision.
    """
    places = (heights > 0).nonzero()
    numbers = panoptic[heights > 0]
    keys, owner, areas = numbers.unique(return_inverse=True, return_counts=True)  # type: ignore[no-untyped-call]
    both = torch.stack([heights[heights > 0], probability(places, numbers // space.panoptic_divisor)], 1).double()
    means = both.new_zeros(len(keys), 2).index_add_(0, owner, both) / areas[:, None]
    return torch.stack([keys.double(), means.prod(1)], 1)


def void_of(space: LabelSpace) -> int:
    return space.ignore * space.panoptic_divisor


def true_panoptic(sample: Sample, space: LabelSpace) -> Tensor:
    """[H, W] class * divisor + number of the thing, 0 for stuff and crowds. Raises DataError for too many things."""
    assert sample.semantic is not None
    assert sample.instance is not None
    semantic, instance = torch.from_numpy(sample.semantic).long(), torch.from_numpy(sample.instance).long()
    if instance.numel() and int(instance.max()) >= space.panoptic_divisor:
        raise DataError(
            f"{sample.name}: thing {int(instance.max())}, but panoptic_divisor={space.panoptic_divisor} leaves numbers "
            f"up to {space.panoptic_divisor - 1}"
        )
    is_class = semantic < space.num_classes
    is_thing = thing_mask(space)[semantic.where(is_class, 0)] & is_class
    return semantic * space.panoptic_divisor + instance.where(is_thing, 0)


# ---- measuring


def statistic(labels: Labels, sample: Sample, space: LabelSpace) -> Tensor:  # [C, 4]
    assert labels.panoptic is not None
    truth = true_panoptic(sample, space)
    return panoptic_quality.statistic(
        labels.panoptic.cpu(), truth, thing_mask(space), divisor=space.panoptic_divisor, ignore=space.ignore
    )


def report(total: Tensor, space: LabelSpace) -> Figures:
    things = thing_mask(space)
    everything, of_things, of_stuff = (
        panoptic_quality.mean_quality(total, among) for among in (things | ~things, things, ~things)
    )
    by_class, occurs = panoptic_quality.report(total)
    rows: dict[str, tuple[float | int | None, ...]] = {}
    for index, name in enumerate(space.names):
        found = [int(count) for count in total[index, 1:].tolist()]
        rows[name] = (*by_class[index].tolist(), *found) if occurs[index] else (None, None, None, 0, 0, 0)
    sums = [int(count) for count in total[:, 1:].sum(0).tolist()]
    return Figures(
        {
            "pq": everything.pq,
            "sq": everything.sq,
            "rq": everything.rq,
            "pq_things": of_things.pq,
            "pq_stuff": of_stuff.pq,
        },
        TITLES,
        Table(
            ("PQ", "SQ", "RQ", "matched", "false", "missed"), rows, (everything.pq, everything.sq, everything.rq, *sums)
        ),
        notes={
            "panoptic quality": f"mean over {everything.num_classes} of {space.num_classes} classes, "
            f"{of_things.num_classes} of things; crowds count as in COCO's own program"
        },
    )


# ---- showing


def paint(image: Image, labels: Labels, space: LabelSpace, alpha: float) -> Image:
    """The background keeps the photo, unless `alpha` asks for the colours alone."""
    return paint_map(image, panoptic_array(labels), space, alpha)


def paint_map(image: Image, panoptic: np.ndarray, space: LabelSpace, alpha: float = visualize.ALPHA) -> Image:
    """Things in shades of their class's colour, a bright line between segments; void shows the image."""
    ids, places = np.unique(panoptic, return_inverse=True)
    colors = np.array([shade(int(segment), space) for segment in ids], np.uint8).reshape(-1, 3)
    shown = np.setdiff1d(range(space.num_classes), space.background if alpha < 1 else ())
    bare = np.isin(panoptic // space.panoptic_divisor, shown, invert=True)
    return visualize.overlay_colors(image, colors[places.reshape(panoptic.shape)], panoptic, bare, alpha=alpha)


def paint_truth(sample: Sample, space: LabelSpace) -> Image:
    return paint_map(sample.image, true_panoptic(sample, space).numpy().astype(np.int32), space)


def painted(labels: Labels, space: LabelSpace) -> dict[str, Color]:
    """The classes in the picture, without the background. Things of a class have shades of its colour."""
    present = np.unique(panoptic_array(labels) // space.panoptic_divisor)
    shown = np.setdiff1d(np.intersect1d(present, range(space.num_classes)), space.background)
    return {space.names[index]: shade(int(index) * space.panoptic_divisor, space) for index in shown}


def shade(segment: int, space: LabelSpace) -> Color:
    """The colour of a segment: its class's, for things lighter or darker by its number."""
    category, number = divmod(segment, space.panoptic_divisor)
    color = space.palette()[category % 256].astype(int)
    if number:
        spread = np.random.default_rng([category, number]).integers(-60, 61, 3)  # as deeplab2 spreads them
        color = (color + spread).clip(0, 255)
    red, green, blue = color.tolist()
    return red, green, blue


def panels(sample: Sample, labels: Labels, space: LabelSpace) -> list[tuple[str, Image]]:
    assert labels.semantic is not None
    assert sample.semantic is not None
    step = panel_step(sample.image)
    truth, prediction, classes, true_classes = (
        visualize.thinned(one, step)
        for one in (
            true_panoptic(sample, space).numpy().astype(np.int32),
            panoptic_array(labels),
            label_map(labels, space),
            sample.semantic,
        )
    )
    image = visualize.shrunk(sample.image, step)
    return [
        ("Image", image),
        ("Truth", paint_map(image, truth, space)),
        ("Prediction", paint_map(image, prediction, space)),
        ("Errors", visualize.error_map(classes, true_classes, space.ignore)),
    ]


def encode_png(labels: Labels, space: LabelSpace) -> bytes:
    """COCO's panoptic PNG: the number of each segment as red + 256 green + 65536 blue, void 0."""
    return number_png(coco_numbers(labels, space))


def coco_numbers(labels: Labels, space: LabelSpace) -> np.ndarray:
    """The panoptic map with numbers from 1 and 0 for void, as COCO's format wants them."""
    numbers = panoptic_array(labels)
    return np.where(is_segment(numbers, space), numbers + 1, 0)


def encode_segments(labels: Labels, space: LabelSpace) -> bytes:
    """A list of the segments in the PNG, in the words of COCO's panoptic JSON."""
    rows = [coco_segment(segment, space) for segment in segments(labels, space)]
    return json.dumps({"segments_info": rows}, indent=1).encode()


def coco_segment(segment: Segment, space: LabelSpace) -> dict[str, object]:
    y, x, height, width = segment.box
    return {
        "id": segment.id + 1,
        "category_id": segment.category,
        "category": space.names[segment.category],
        "isthing": int(segment.category in space.things),
        "area": segment.area,
        "bbox": [x, y, width, height],
        **({} if segment.score is None else {"score": round(segment.score, 4)}),
    }


PANOPTIC = Task(
    loss=PanopticLossConfig,
    decoding=PanopticDecodeConfig,
    objective=objective,
    decode=decode,
    metrics={"panoptic": Metric(statistic, report), "confusion": CONFUSION},
    paint=paint,
    panels=panels,
    legend={"right": visualize.RIGHT, "wrong": visualize.WRONG, "ignored": visualize.IGNORED},
    results={"panoptic": Result(".png", encode_png), "segments": Result(".json", encode_segments)},
    needs=("semantic", "instance"),
    survey=survey.count,
    class_weights=class_weights,
    paint_truth=paint_truth,
    painted=painted,
    compared=("Truth", "Prediction"),
    meaning="the mean over the classes of the share of segments that are matched, times how well these agree",
)
