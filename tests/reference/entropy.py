"""NVIDIA's choice of a range by relative entropy, as `pytorch-quantization` has it, for values that aren't negative."""

from collections import Counter

import numpy as np
from numpy.typing import NDArray

LEVELS = 256


def amax(counts: NDArray[np.float64], high: float, stride: int) -> float:
    """The end of the range, of a histogram from 0 to `high`; `stride` bins lie between two that are tried."""
    counts = counts.copy()
    counts[0] = counts[1]
    divergences = {}
    for last in range(len(counts), LEVELS, -stride):
        levels = [number * LEVELS // last for number in range(last)]
        seen = [number for number in range(last) if counts[number] > 0]
        sums, sizes = Counter[int](), Counter[int]()
        for number in seen:
            sums[levels[number]] += counts[number]
            sizes[levels[number]] += 1
        rounded = np.zeros(last)
        for number in seen:
            rounded[number] = sums[levels[number]] / sizes[levels[number]]
        clipped = counts[:last].copy()
        clipped[-1] += counts[last:].sum()
        divergences[last] = relative_entropy(clipped / clipped.sum(), rounded / rounded.sum())
    return high * min(divergences, key=lambda last: divergences[last]) / len(counts)


def relative_entropy(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    terms = [a * np.log(a / b) if b > 0 else np.inf for a, b in zip(p, q, strict=True) if a > 0]
    return float(sum(terms))
