"""Semantic segmentation: a class for each pixel."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from atrous import visualize
from atrous.data import survey
from atrous.data.label_space import LabelSpace
from atrous.errors import ConfigError
from atrous.inference import Seen, labels_at_image
from atrous.losses.semantic import (
    LossConfig,
    hard_pixel_share,
    median_frequency_weights,
    require_heads,
    semantic_loss,
)
from atrous.metrics import confusion
from atrous.settings import Settings
from atrous.tasks.contract import Figures, Labels, Metric, Result, Table, Targets, Task, TrainingData
from atrous.types import Batch, Color, Facts, Image, LabelMap, Outputs, Sample

PANEL = 1280  # pixels of the longer side of a picture in a report, at most
TITLES = {"miou": "mIoU", "pixel_accuracy": "pixel accuracy", "mean_accuracy": "mean accuracy"}


class DecodeConfig(Settings):
    """The arg-max has no settings."""


class SemanticObjective(NamedTuple):
    config: LossConfig
    ignore: int
    weights: Tensor | None  # [C]
    align_corners: bool

    def targets(self, batch: Batch) -> Targets:  # [B, H, W]
        assert batch.semantic is not None
        return {"semantic": batch.semantic}

    def counts(self, targets: Targets, step: int) -> Tensor | None:
        """The labelled pixels. The hardest pixels are chosen, and averaged, within each pass."""
        if hard_pixel_share(self.config, step) < 1:
            return None
        return (targets["semantic"] != self.ignore).sum(dtype=torch.float64)[None]

    def terms(self, outputs: Outputs, targets: Targets, counts: Tensor | None, step: int) -> dict[str, Tensor]:
        return semantic_loss(
            outputs,
            targets["semantic"],
            self.config,
            ignore=self.ignore,
            class_weights=self.weights,
            hard_pixels=hard_pixel_share(self.config, step),
            normalizer=None if counts is None else counts[0].clamp_min(1).float(),
            align_corners=self.align_corners,
        )


def objective(config: LossConfig, facts: Facts, heads: Sequence[str], data: TrainingData) -> SemanticObjective:
    """Raises ConfigError if the weights in `config` do not fit the network's heads or the classes."""
    require_heads(config, heads)
    weights = class_weights(config, data)
    weights = None if weights is None else weights.to(data.device)  # now: each step would wait for the device
    return SemanticObjective(config, data.space.ignore, weights, facts.convention == "aligned_corners")


def class_weights(config: LossConfig, data: TrainingData) -> Tensor | None:  # [C]
    """The config's weights, or those computed from the pixels of each class in all training labels; None: all are 1."""
    if config.class_weights is None:
        return None
    if config.class_weights == "counts":
        assert data.survey is not None, "the task has a survey"
        return median_frequency_weights(data.survey.pixels, data.survey.pixels_of_images)
    if len(config.class_weights) != data.space.num_classes:
        raise ConfigError(
            f"loss.class_weights: {len(config.class_weights)} values for {data.space.num_classes} classes"
        )
    return torch.tensor(config.class_weights, dtype=torch.float32)


def decode(seen: Seen, space: LabelSpace, config: DecodeConfig) -> list[Labels]:
    labels = labels_at_image(seen)
    probabilities = seen.outputs.semantic if seen.is_mean else [None] * len(labels)
    pairs = zip(labels, probabilities, strict=True)
    return [Labels(semantic, probabilities=probability) for semantic, probability in pairs]


# ---- measuring


def statistic(labels: Labels, sample: Sample, space: LabelSpace) -> Tensor:  # [C, C] int64, on the CPU
    assert labels.semantic is not None
    truth = torch.from_numpy(sample.semantic).to(labels.semantic.device)
    return confusion.statistic(labels.semantic, truth, space.num_classes, ignore=space.ignore).cpu()


def report(total: Tensor, space: LabelSpace) -> Figures:
    scores = confusion.report(total)
    columns = zip(scores.iou, scores.accuracy, scores.pixels, strict=True)
    absent = [name for name, iou in zip(space.names, scores.iou, strict=True) if iou is None]
    left_out = f"; in neither labels nor predictions, so left out: {', '.join(absent)}" if absent else ""
    return Figures(
        {
            "miou": scores.miou,
            "pixel_accuracy": scores.pixel_accuracy,
            "mean_accuracy": scores.mean_accuracy,
        },
        TITLES,
        Table(
            ("IoU", "accuracy", "pixels"),
            dict(zip(space.names, columns, strict=True)),
            (scores.miou, scores.mean_accuracy, sum(scores.pixels)),
        ),
        total.numpy(),
        {
            "compared at": "the size of each image's labels",
            "mean over": f"{space.num_classes - len(absent)} of {space.num_classes} classes{left_out}",
            "pixels": f"one confusion matrix over all pixels whose label isn't {space.ignore}",
        },
    )


# ---- showing


def label_map(labels: Labels, space: LabelSpace) -> LabelMap:
    """The classes as an array, uint8 where they fit."""
    assert labels.semantic is not None
    array: LabelMap = labels.semantic.cpu().numpy()
    return array.astype("uint8" if space.num_classes <= 256 else "int32", copy=False)


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
    step = max(1, -(-max(sample.image.shape[:2]) // PANEL))  # before anything is painted, so that lines stay thin
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
    metrics={"confusion": Metric(statistic, report)},
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
)
