"""How often each class was predicted as each class."""

import torch
from torch import Tensor

from atrous.errors import DataError


def confusion_counts(prediction: Tensor, truth: Tensor, num_classes: int, *, ignore: int = 255) -> Tensor:
    """Pixels by true class (rows) and predicted class (columns), without those whose truth is `ignore`: [C, C] int64.

    Both maps have the same shape and any integer type. Raises ValueError if shapes differ, and DataError if a class to
    count is outside 0..C-1; on a GPU that check is the only wait for the device.
    """
    if prediction.shape != truth.shape:
        raise ValueError(
            f"prediction {tuple(prediction.shape)} and truth {tuple(truth.shape)} must have the same shape"
        )
    truth = truth.long().flatten()  # an 8-bit comparison would wrap at 256
    is_counted = truth != ignore
    truth, prediction = truth[is_counted], prediction.flatten()[is_counted].long()
    _require_classes("truth", truth, num_classes)
    _require_classes("prediction", prediction, num_classes)
    counts = torch.bincount(truth * num_classes + prediction, minlength=num_classes**2)
    return counts.view(num_classes, num_classes)


def _require_classes(what: str, labels: Tensor, num_classes: int) -> None:
    if not len(labels):
        return
    lowest, highest = (int(extreme) for extreme in torch.aminmax(labels))
    if lowest < 0 or highest >= num_classes:
        wrong = lowest if lowest < 0 else highest
        raise DataError(f"class {wrong} in the {what}: with {num_classes} classes it must be 0 to {num_classes - 1}")
