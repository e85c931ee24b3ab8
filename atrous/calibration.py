"""The ranges of 8-bit integers, from what the convolutions of a trained network are given on some images."""

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atrous.inference import InferenceConfig
from atrous.inference.frames import as_batch
from atrous.inference.look import look
from atrous.layers import quantization
from atrous.layers.quantization import LEVELS, Range
from atrous.models import Model
from atrous.types import Image

Method = Literal["minmax", "percentile", "entropy"]
BINS = 2048
KEPT = 0.9999  # percentile: of all values
FINEST = 16  # bins between two ranges that entropy tries
TINY = 1e-12  # of a probability, where a range leaves none


class Histogram(NamedTuple):
    """Of all values that one convolution was given."""

    low: float  # 0 or below
    high: float
    counts: NDArray[np.float64]

    def at(self, edge: int) -> float:
        """The value of the edge before a bin."""
        return self.low + (self.high - self.low) * edge / len(self.counts)


Choice = Callable[[Histogram], tuple[float, float]]


def calibrated(
    model: Model,
    images: Callable[[], Iterable[Image]],
    protocol: InferenceConfig,
    method: Method = "minmax",
    *,
    results: bool = False,
) -> Model:
    """A copy of `model` that computes as 8-bit integers do. `images` are read twice, but for minmax.

    With `results`, the ranges of what convolutions give are measured, too; ranges that the model has are kept.
    """
    model = copy.deepcopy(model).eval()
    if not quantization.has_ranges(model):
        quantization.add_ranges(model)
    if results:
        quantization.add_results(model)
    extremes: dict[str, tuple[float, float]] = {}

    def widen(name: str, x: Tensor) -> None:
        low, high = (float(value) for value in x.aminmax())
        before = extremes.get(name, (0.0, 0.0))
        extremes[name] = min(low, before[0]), max(high, before[1])

    _observe(model, images, protocol, widen)
    ranges = extremes if method == "minmax" else _chosen(model, images, protocol, extremes, METHODS[method])
    for name, one in _unknown(model):
        if name in ranges:  # else no image came there
            one.set(*ranges[name])
    return model


def _unknown(model: Model) -> Iterator[tuple[str, Range]]:
    """The ranges without values, by names of their own."""
    for kind in (quantization.NAME, quantization.RESULT):
        for name, one in quantization.ranges(model, kind):
            if not one.count:
                yield f"{name}.{kind}", one


def _chosen(
    model: Model,
    images: Callable[[], Iterable[Image]],
    protocol: InferenceConfig,
    extremes: dict[str, tuple[float, float]],
    choose: Choice,
) -> dict[str, tuple[float, float]]:
    counts = {name: torch.zeros(BINS, dtype=torch.float64) for name in extremes}

    def count(name: str, x: Tensor) -> None:
        low, high = extremes[name]
        if low < high:
            counts[name] += torch.histc(x.float(), BINS, low, high).cpu()

    _observe(model, images, protocol, count)
    return {name: choose(Histogram(*extremes[name], counts[name].numpy())) for name in extremes}


@torch.inference_mode()
def _observe(
    model: Model,
    images: Callable[[], Iterable[Image]],
    protocol: InferenceConfig,
    note: Callable[[str, Tensor], None],
) -> None:
    """Let `note` have all that ranges without values are of, while the network sees the images as in a prediction."""

    def of_input(name: str) -> Callable[..., None]:
        return lambda part, inputs: note(name, inputs[0])

    def of_result(name: str) -> Callable[..., None]:
        return lambda part, inputs, result: note(name, result)

    handles = [
        model.get_submodule(name).register_forward_pre_hook(of_input(name))
        if name.endswith(quantization.NAME)
        else model.get_submodule(name.rpartition(".")[0]).register_forward_hook(of_result(name))
        for name, _ in list(_unknown(model))
    ]
    try:
        for image in images():
            look(model, as_batch(image, model.shift.device), protocol)
    finally:
        for handle in handles:
            handle.remove()


# ---- methods


def percentile(histogram: Histogram) -> tuple[float, float]:
    """Without the rarest values on either side."""
    total = histogram.counts.cumsum()
    spare = (1 - KEPT) / 2 * total[-1]
    first, last = np.searchsorted(total, [spare, total[-1] - spare], side="right")
    return min(histogram.at(int(first)), 0.0), max(histogram.at(min(int(last) + 1, BINS)), 0.0)


def entropy(histogram: Histogram) -> tuple[float, float]:
    """The values up to the greatest, by amount, that makes the relative entropy of all values to their rounding least
    (Migacz 2017, "8-bit inference with TensorRT")."""
    zero = round(-histogram.low / max(histogram.high - histogram.low, TINY) * BINS)
    counts, own = histogram.counts.copy(), min(zero, BINS - 1)
    counts[own] = min(counts[own], counts[max(own - 1, 0) : own + 2].sum() - counts[own])  # 0 is exact in any range
    farthest = max(zero, BINS - zero)
    edges = [(max(zero - far, 0), min(zero + far, BINS)) for far in range(farthest, 0, -FINEST)]
    wide = [(first, last) for first, last in edges if last - first > LEVELS]
    first, last = min(wide, key=lambda one: _divergence(counts, *one))
    return min(histogram.at(first), 0.0), max(histogram.at(last), 0.0)


def _divergence(counts: NDArray[np.float64], first: int, last: int) -> float:
    """Of what is clipped to bins `first` to `last` from the same in LEVELS + 1 levels."""
    inside = counts[first:last]
    clipped = inside.copy()
    clipped[0] += counts[:first].sum()
    clipped[-1] += counts[last:].sum()
    levels = np.arange(last - first) * (LEVELS + 1) // (last - first)
    sums, sizes = (np.bincount(levels, weights) for weights in (inside, clipped > 0))
    rounded = np.where(clipped > 0, (sums / np.maximum(sizes, 1))[levels], 0.0)
    p, q = clipped / max(clipped.sum(), TINY), rounded / max(rounded.sum(), TINY)
    is_seen = p > 0
    return float((p[is_seen] * np.log(p[is_seen] / np.maximum(q[is_seen], TINY))).sum())


METHODS: dict[str, Choice] = {"percentile": percentile, "entropy": entropy}
