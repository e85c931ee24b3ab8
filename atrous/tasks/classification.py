"""Classification: one class for the whole image, the task that backbones are pretrained on."""

import json
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from atrous import visualize
from atrous.data.label_space import LabelSpace
from atrous.inference.seen import Seen
from atrous.settings import Settings
from atrous.tasks.contract import Figures, Labels, Metric, Result, Table, Targets, Task, TrainingData
from atrous.types import Batch, Facts, Image, Outputs, Sample

NUM_BEST = 5  # classes in pictures and files
TITLES = {"top_1": "top-1 accuracy", "top_5": "top-5 accuracy"}


class LossConfig(Settings):
    """Cross entropy, without settings."""


class DecodeConfig(Settings):
    """The softmax has no settings."""


class ClassificationObjective(NamedTuple):
    """The mean cross entropy over the images of an update (no images are ignored)."""

    def targets(self, batch: Batch) -> Targets:  # [B]
        assert batch.category is not None
        return {"category": batch.category}

    def counts(self, targets: Targets, step: int) -> Tensor | None:
        category = targets["category"]
        return torch.tensor([len(category)], dtype=torch.float64, device=category.device)

    def terms(self, outputs: Outputs, targets: Targets, counts: Tensor | None, step: int) -> dict[str, Tensor]:
        assert outputs.classes is not None and counts is not None
        losses = F.cross_entropy(outputs.classes.float(), targets["category"], reduction="sum")
        return {"category": losses / counts[0].float()}


def objective(config: LossConfig, facts: Facts, heads: Sequence[str], data: TrainingData) -> ClassificationObjective:
    return ClassificationObjective()


def decode(seen: Seen, space: LabelSpace, config: DecodeConfig) -> list[Labels]:
    assert seen.outputs.classes is not None
    return [Labels(classes=likely) for likely in seen.outputs.classes.float().softmax(1)]


# ---- measuring


def statistic(labels: Labels, sample: Sample, space: LabelSpace) -> Tensor:  # [C, 3] int64
    """By true class: images, those where it is predicted first, those where it is among the first five."""
    assert sample.category is not None
    total = torch.zeros(space.num_classes, 3, dtype=torch.int64)
    order = best(labels, min(NUM_BEST, space.num_classes))
    total[sample.category] = torch.tensor([1, sample.category == order[0], sample.category in order])
    return total


def report(total: Tensor, space: LabelSpace) -> Figures:
    images, first, first_five = (int(count) for count in total.sum(0))
    rows = {
        name: (hits / count if count else None, count)
        for name, (count, hits, _) in zip(space.names, total.tolist(), strict=True)
    }
    scores = {"top_1": first / max(images, 1), "top_5": first_five / max(images, 1)}
    return Figures(scores, TITLES, Table(("accuracy", "images"), rows, (scores["top_1"], images), "images"))


# ---- showing


def best(labels: Labels, count: int = NUM_BEST) -> list[int]:
    """The likeliest classes, best first."""
    assert labels.classes is not None
    order: list[int] = labels.classes.topk(min(count, len(labels.classes))).indices.tolist()
    return order


def named(labels: Labels, space: LabelSpace) -> dict[str, float]:
    """The likeliest classes with their probabilities, best first."""
    assert labels.classes is not None
    return {space.names[index]: round(float(labels.classes[index]), 6) for index in best(labels)}


def paint(image: Image, labels: Labels, space: LabelSpace, alpha: float) -> Image:
    """The image with the likeliest classes written beneath it; `alpha` is ignored."""
    return visualize.captioned(image, [f"{name}  {value:.1%}" for name, value in named(labels, space).items()])


def paint_truth(sample: Sample, space: LabelSpace) -> Image:
    assert sample.category is not None
    return visualize.captioned(sample.image, [space.names[sample.category]])


def panels(sample: Sample, labels: Labels, space: LabelSpace) -> list[tuple[str, Image]]:
    assert sample.category is not None
    return [
        (f"Truth: {space.names[sample.category]}", sample.image),
        ("Prediction", paint(sample.image, labels, space, 1.0)),
    ]


def encode(labels: Labels, space: LabelSpace) -> bytes:
    return (json.dumps(named(labels, space), indent=1) + "\n").encode()


CLASSIFICATION = Task(
    loss=LossConfig,
    decoding=DecodeConfig,
    objective=objective,
    decode=decode,
    metrics={"accuracy": Metric(statistic, report)},
    paint=paint,
    panels=panels,
    legend={},
    results={"classes": Result(".json", encode)},
    needs=("category",),
    paint_truth=paint_truth,
    meaning="the share of the images whose likeliest class is the true one",
)
