"""Intersection over union and accuracy, from a confusion matrix summed over images and processes."""

from typing import NamedTuple

from torch import Tensor

from atrous.ops import confusion_counts


class Scores(NamedTuple):
    miou: float  # over the classes that occur in truth or prediction; 0 if none does
    iou: tuple[float | None, ...]  # by class; None: in neither truth nor prediction
    accuracy: tuple[float | None, ...]  # by class, the share of its pixels predicted as it; None: not in the truth
    pixel_accuracy: float
    mean_accuracy: float  # over the classes in the truth
    pixels: tuple[int, ...]  # by class, in the truth


def statistic(prediction: Tensor, truth: Tensor, num_classes: int, *, ignore: int = 255) -> Tensor:
    """The confusion matrix of one or more images: [C, C] int64, rows truth, columns prediction."""
    return confusion_counts(prediction, truth, num_classes, ignore=ignore)


def report(total: Tensor) -> Scores:
    """Scores over all pixels. As in `tf.metrics.mean_iou`, a class that is only predicted has an IoU of 0.

    `total` is [C, C], or has a further column for pixels that are predicted as no class.
    """
    hits = total.diagonal().tolist()
    truth, predicted = total.sum(1).tolist(), total.sum(0)[: len(total)].tolist()
    union = [a + b - both for a, b, both in zip(truth, predicted, hits, strict=True)]
    iou, accuracy = _ratios(hits, union), _ratios(hits, truth)
    pixel_accuracy = sum(hits) / max(sum(truth), 1)
    return Scores(_mean(iou), iou, accuracy, pixel_accuracy, _mean(accuracy), tuple(truth))


def _ratios(parts: list[int], wholes: list[int]) -> tuple[float | None, ...]:
    return tuple(part / whole if whole else None for part, whole in zip(parts, wholes, strict=True))


def _mean(values: tuple[float | None, ...]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / max(len(known), 1)
