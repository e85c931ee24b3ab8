"""What tasks with a class for each pixel share: weights of classes, the confusion matrix, the map, its pictures."""

import torch
from torch import Tensor

from atrous.data.label_space import LabelSpace
from atrous.errors import ConfigError
from atrous.losses.semantic import LossConfig, median_frequency_weights
from atrous.metrics import boundary_iou, confusion
from atrous.ops import boundary_width
from atrous.tasks.contract import Figures, Labels, Metric, Table, TrainingData, one_column
from atrous.types import Image, LabelMap, Sample

PANEL = 1280  # pixels of the longer side of a picture in a report, at most
TITLES = {"miou": "mIoU", "pixel_accuracy": "pixel accuracy", "mean_accuracy": "mean accuracy"}


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
            "pixels",
        ),
        total.numpy(),
        {
            "compared at": "the size of each image's labels",
            "mean over": f"{space.num_classes - len(absent)} of {space.num_classes} classes{left_out}",
            "pixels": f"one confusion matrix over all pixels whose label isn't {space.ignore}",
        },
    )


def boundary_statistic(labels: Labels, sample: Sample, space: LabelSpace) -> Tensor:  # [C, 2]
    assert labels.semantic is not None
    assert sample.semantic is not None
    truth = torch.from_numpy(sample.semantic)
    height, width = truth.shape
    return boundary_iou.statistic(
        labels.semantic.cpu(), truth, space.num_classes, width=boundary_width((height, width)), ignore=space.ignore
    )


def report_boundary_iou(total: Tensor, space: LabelSpace) -> Figures:
    scores = boundary_iou.report(total[: space.num_classes])
    return one_column("boundary_iou", "boundary IoU", scores.mean, scores.by_class, space.names)


def label_map(labels: Labels, space: LabelSpace) -> LabelMap:
    """The classes as an array, uint8 where they fit."""
    assert labels.semantic is not None
    array: LabelMap = labels.semantic.cpu().numpy()
    return array.astype("uint8" if space.num_classes <= 256 else "int32", copy=False)


def panel_step(image: Image) -> int:
    """By how much a report's pictures are smaller; they shrink before anything is painted, so that lines stay thin."""
    longer: int = max(image.shape[:2])
    return max(1, -(-longer // PANEL))


CONFUSION = Metric(statistic, report)
BOUNDARY_IOU = Metric(boundary_statistic, report_boundary_iou, is_costly=True)
