"""Panoptic segmentation: a class for each pixel, and the pixels of each thing (arXiv:1801.00868)."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor

from atrous.data import survey
from atrous.data.label_space import LabelSpace
from atrous.data.survey import Survey
from atrous.data.targets import thing_targets
from atrous.deployed import Decoder
from atrous.distributed import World
from atrous.errors import ConfigError, listing
from atrous.inference.seen import Seen, at_image, maps_at_content, probabilities_at
from atrous.losses.panoptic import heatmap_loss, offset_loss
from atrous.losses.semantic import LossConfig, hard_pixel_share, require_heads, semantic_loss
from atrous.postprocess.panoptic import Merging, find_centers, group_pixels, merge, peaks, score_map
from atrous.postprocess.panoptic_graph import Grouping, panoptic_map
from atrous.settings import MAX_COUNT, Settings
from atrous.tasks.class_map import CONFUSION, class_weights
from atrous.tasks.contract import Labels, Metric, Result, Targets, Task, TrainingData
from atrous.tasks.panoptic_metrics import MEASURES, Maps, Measure
from atrous.tasks.panoptic_pictures import LEGEND, paint, paint_truth, painted, panels
from atrous.tasks.segments import (
    Segment,
    is_segment,
    number_png,
    panoptic_array,
    segments,
    thing_mask,
    true_panoptic,
    void_of,
)
from atrous.types import Batch, Facts, Outputs, Sample


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
    crowds: Literal["ignored", "learnt"] = "ignored"
    """The classes of pixels whose things nobody told apart; deeplab2 ignores them in Cityscapes and COCO."""


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
        semantic = batch.semantic
        if self.config.crowds == "ignored":
            semantic = semantic.masked_fill(targets.heatmap_weight[:, 0] == 0, self.space.ignore)
        return {"semantic": semantic, **targets._asdict()}

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
    require_things(data.space)
    require_heads(config, heads)
    weights = class_weights(config, data)
    weights = None if weights is None else weights.to(data.device)  # now: each step would wait for the device
    things = thing_mask(data.space).to(data.device)
    return PanopticObjective(config, data.space, things, weights, facts.convention == "aligned_corners")


def require_things(space: LabelSpace) -> None:
    if not space.things:
        example = space.names[-1]
        raise ConfigError(
            "a panoptic model needs classes of things, whose objects are counted, and the data names none; of "
            f"{listing(space.names, limit=20)}, name those, as in data.things=[{example}] or, with data.format=folder, "
            f"`things: [{example}]` in classes.yaml"
        )


def count(
    samples: Sequence[Sample],
    space: LabelSpace,
    world: World,
    *,
    workers: int = 0,
    advance: Callable[[int], None] = lambda number: None,
) -> Survey:
    """Like `survey.count`, for which there must be things."""
    require_things(space)
    return survey.count(samples, space, world, workers=workers, advance=advance)


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
    return merge(semantic, instances, things, merging(space, config)), score_map(maxima, centers, instances)


def merging(space: LabelSpace, config: PanopticDecodeConfig) -> Merging:
    return Merging(
        space.panoptic_divisor,
        void_of(space),
        config.stuff_area,
        is_limit_void=config.at_limit == "void",
        is_thing_without_center=config.without_center == "thing",
    )


def decoders(space: LabelSpace, config: PanopticDecodeConfig) -> dict[str, Decoder]:
    """Raises ConfigError where a graph might find more things than there are numbers, which it can't refuse."""
    if not 0 < config.top_k < space.panoptic_divisor:
        raise ConfigError(
            f"decode.top_k={config.top_k}: a graph that groups things needs a limit to their number, below "
            f"panoptic_divisor={space.panoptic_divisor}; export with --no-grouping"
        )
    how = Grouping(thing_mask(space), config.threshold, config.kernel, config.top_k, merging(space, config))

    def panoptic(classes: Tensor, maps: Outputs) -> Tensor:
        assert maps.center is not None
        assert maps.offset is not None
        return panoptic_map(classes, maps.center, maps.offset, how)

    return {"panoptic": panoptic}


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


# ---- measuring


def maps_of(labels: Labels, sample: Sample, space: LabelSpace) -> Maps:
    assert labels.panoptic is not None
    return Maps(
        sample.name,
        labels.panoptic.cpu(),
        true_panoptic(sample, space),
        thing_mask(space),
        space.panoptic_divisor,
        space.ignore,
        None if labels.scores is None else labels.scores.cpu(),
    )


def metric(measure: Measure) -> Metric:
    def statistic(labels: Labels, sample: Sample, space: LabelSpace) -> Any:  # noqa: ANN401 - whatever is added
        return measure.statistic(maps_of(labels, sample, space))

    return Metric(statistic, measure.report, measure.is_costly)


METRICS = {name: metric(measure) for name, measure in MEASURES.items()}


# ---- files


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
    metrics={**METRICS, "miou": CONFUSION},
    paint=paint,
    panels=panels,
    legend=LEGEND,
    results={"panoptic": Result(".png", encode_png), "segments": Result(".json", encode_segments)},
    needs=("semantic", "instance"),
    survey=count,
    class_weights=class_weights,
    paint_truth=paint_truth,
    painted=painted,
    decoders=decoders,
    compared=("Truth", "Prediction"),
    meaning="the mean over the classes of the share of segments that are matched, times how well these agree",
)
