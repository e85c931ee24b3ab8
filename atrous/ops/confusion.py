"""How often each class was taken for each."""

import torch
from torch import Tensor


def confusion_counts(prediction: Tensor, truth: Tensor, num_classes: int, *, ignore: int = 255) -> Tensor:
    """Pixels by true class (rows) and predicted class (columns), without those whose truth is `ignore`: [C, C] int64.

    Both maps have the same shape, of any integer type. Raises ValueError where shapes differ or a class that is to be
    counted lies outside 0..C-1; on a GPU that check is the one wait for the device.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {tuple(prediction.shape)} and truth {tuple(truth.shape)} must be of one shape")
    truth = truth.long().flatten()  # an 8-bit comparison would wrap at 256
    kept = truth != ignore
    truth, prediction = truth[kept], prediction.flatten()[kept].long()
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
        raise ValueError(f"class {wrong} in the {what}: with {num_classes} classes it must be 0 to {num_classes - 1}")
