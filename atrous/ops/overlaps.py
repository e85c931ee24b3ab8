"""How many pixels each true segment shares with each predicted one: what every measure of panoptic maps begins with."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

SPAN = 1 << 31  # larger than any number in a panoptic map


class Overlaps(NamedTuple):
    """The pairs of a true and a predicted segment that share pixels, N of them, by true and then predicted number."""

    truth: Tensor  # [N] numbers
    prediction: Tensor  # [N]
    pixels: Tensor  # [N]


def overlaps_reference(prediction: Tensor, truth: Tensor) -> Overlaps:
    pairs, pixels = torch.unique(truth.long().flatten() * SPAN + prediction.flatten(), return_counts=True)
    return Overlaps(pairs // SPAN, pairs % SPAN, pixels)


def overlaps(prediction: Tensor, truth: Tensor) -> Overlaps:
    """Equal to the reference. Raises ValueError if the maps differ in size.

    Runs of equal pairs are counted first, because sorting is slow.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {tuple(prediction.shape)} and truth {tuple(truth.shape)} differ in shape")
    runs, lengths = _runs(prediction.flatten(), truth.flatten())
    pairs, place = torch.unique(runs, return_inverse=True)
    return Overlaps(pairs // SPAN, pairs % SPAN, sums(place, lengths, len(pairs)))


def _runs(prediction: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """truth * SPAN + prediction of each run of equal pixels, and its length. NumPy takes a tenth of PyTorch's time."""
    if truth.device.type != "cpu":
        runs, lengths = torch.unique_consecutive(truth.long() * SPAN + prediction, return_counts=True)
        return runs, lengths
    true, predicted = truth.numpy(), prediction.numpy()
    is_change = true[1:] != true[:-1]
    is_change |= predicted[1:] != predicted[:-1]
    starts = np.concatenate([[0], np.flatnonzero(is_change) + 1])[: len(true)]
    lengths = torch.from_numpy(np.diff(starts, append=len(true)))
    return torch.from_numpy(true[starts].astype(np.int64) * SPAN + predicted[starts].astype(np.int64)), lengths


def sums(place: Tensor, values: Tensor, count: int) -> Tensor:
    """The sum of the values at each place: [count], from [N] and [N]."""
    return torch.zeros(count, dtype=values.dtype, device=values.device).scatter_add_(0, place, values)
