"""Semantic segmentation: a class for each pixel."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from atrous import visualize
from atrous.data import survey
from atrous.data.label_space import LabelSpace
from atrous.inference.seen import Seen, labels_at_image
from atrous.losses.semantic import (
    LossConfig,
    hard_pixel_share,
    require_heads,
    semantic_loss,
)
from atrous.ops import with_edge
from atrous.settings import Settings
from atrous.tasks.class_map import BOUNDARY_IOU, CONFUSION, class_weights, label_map, panel_step
from atrous.tasks.contract import Labels, Result, Targets, Task, TrainingData
from atrous.types import Batch, Color, Convention, Facts, Image, Outputs, Sample


class DecodeConfig(Settings):
    """The arg-max has no settings."""


class SemanticObjective(NamedTuple):
    config: LossConfig
    ignore: int
    weights: Tensor | None  # [C]
    convention: Convention

    def targets(self, batch: Batch) -> Targets:  # [B, H, W]
        assert batch.semantic is not None
        return {"semantic": batch.semantic}

    def counts(self, targets: Targets, step: int) -> Tensor | None:
        """The labelled pixels. The hardest pixels are chosen, and averaged, within each pass."""
        if hard_pixel_share(self.config, step) < 1:
            return None
        return (targets["semantic"] != self.ignore).sum(dtype=torch.float64)[None]

    def terms(self, outputs: Outputs, targets: Targets, counts: Tensor | None, step: int) -> dict[str, Tensor]:
        labels, share = targets["semantic"], hard_pixel_share(self.config, step)
        if self.convention == "legacy" and self.config.labels == "image":
            outputs, labels, share = _with_edges(outputs, labels, self.ignore, share)
        return semantic_loss(
            outputs,
            labels,
            self.config,
            ignore=self.ignore,
            class_weights=self.weights,
            hard_pixels=share,
            normalizer=None if counts is None else counts[0].clamp_min(1).float(),
            align_corners=self.convention != "half_pixel",
        )


def _with_edges(outputs: Outputs, labels: Tensor, ignore: int, share: float) -> tuple[Outputs, Tensor, float]:
    """What is upsampled by aligned corners as legacy logits are: see `ops.legacy`. The share is that of the labels."""
    heads = {name: with_edge(x) if x.ndim == 4 else x for name, x in outputs.heads.items()}
    larger = F.pad(labels, (0, 1, 0, 1), value=ignore)
    share = share if share == 1 else (int(share * labels.numel()) + 0.5) / larger.numel()  # as many pixels
    return outputs._replace(semantic=with_edge(outputs.semantic), heads=heads), larger, share


def objective(config: LossConfig, facts: Facts, heads: Sequence[str], data: TrainingData) -> SemanticObjective:
    """Raises ConfigError if the weights in `config` do not fit the network's heads or the classes."""
    require_heads(config, heads)
    weights = class_weights(config, data)
    weights = None if weights is None else weights.to(data.device)  # now: each step would wait for the device
    return SemanticObjective(config, data.space.ignore, weights, facts.convention)


def decode(seen: Seen, space: LabelSpace, config: DecodeConfig) -> list[Labels]:
    labels = labels_at_image(seen)
    probabilities = seen.outputs.semantic if seen.is_mean else [None] * len(labels)
    pairs = zip(labels, probabilities, strict=True)
    return [Labels(semantic, probabilities=probability) for semantic, probability in pairs]


# ---- showing


def paint(image: Image, labels: Labels, space: LabelSpace, alpha: float) -> Image:
    """The background keeps the photo, unless `alpha` asks for the colours alone."""
    background = space.background if alpha < 1 else ()
    return visualize.overlay(image, label_map(labels, space), space.palette(), alpha=alpha, background=background)


def paint_truth(sample: Sample, space: LabelSpace) -> Image:
    assert sample.semantic is not None
    return visualize.overlay(
        sample.image, sample.semantic, space.palette(), ignore=space.ignore, background=space.background
    )


def painted(labels: Labels, space: LabelSpace) -> dict[str, Color]:
    """The classes in the picture with their colours, without the background."""
    present = np.setdiff1d(label_map(labels, space), space.background)
    colors = visualize.colorize(present[None], space.palette())[0].tolist()
    return {space.names[index]: (red, green, blue) for index, (red, green, blue) in zip(present, colors, strict=True)}


def panels(sample: Sample, labels: Labels, space: LabelSpace) -> list[tuple[str, Image]]:
    assert sample.semantic is not None
    step = panel_step(sample.image)
    image, truth = visualize.shrunk(sample.image, step), visualize.thinned(sample.semantic, step)
    prediction = visualize.thinned(label_map(labels, space), step)
    return [
        ("Image", image),
        ("Truth", paint_truth(Sample(sample.name, image, truth), space)),
        ("Prediction", paint(image, Labels(torch.from_numpy(prediction)), space, visualize.ALPHA)),
        ("Errors", visualize.error_map(prediction, truth, space.ignore)),
    ]


def encode(labels: Labels, space: LabelSpace) -> bytes:
    return visualize.palette_png(label_map(labels, space), space.palette())


SEMANTIC = Task(
    loss=LossConfig,
    decoding=DecodeConfig,
    objective=objective,
    decode=decode,
    metrics={"miou": CONFUSION, "boundary_iou": BOUNDARY_IOU},
    paint=paint,
    panels=panels,
    legend={"right": visualize.RIGHT, "wrong": visualize.WRONG, "ignored": visualize.IGNORED},
    results={"masks": Result(".png", encode)},
    needs=("semantic",),
    survey=survey.count,
    class_weights=class_weights,
    paint_truth=paint_truth,
    painted=painted,
    compared=("Truth", "Prediction"),
    meaning="the mean over the classes of the area where prediction and truth agree, as a share of the area of either",
    is_local=True,
)
