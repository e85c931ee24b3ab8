"""Grouping and panoptic quality against the obvious ways: python benchmarks/panoptic.py takes a minute on one core."""

import os
import platform
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atrous.metrics import panoptic_quality
from atrous.metrics.pairs import segment_pairs
from atrous.ops import nearest_center, nearest_center_reference

Map = NDArray[np.int64]

SIZE, NUM_CENTERS = (1024, 2048), 200  # of Cityscapes, and deeplab2's most centres
NOISE = 5.0  # pixels: how far a trained network's offsets miss their centre
REPEATS = 5
DIVISOR, IGNORE, NUM_CLASSES, FIRST_THING = 1000, 255, 19, 11


def scene() -> tuple[Tensor, Tensor]:
    """[N, 2] where the pixels of an image point to, and [K, 2] centres."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.stack([torch.randint(0, side, (NUM_CENTERS,), generator=generator) for side in SIZE], 1).float()
    pixels = torch.cartesian_prod(*(torch.arange(side) for side in SIZE)).float()
    own = centers[nearest_center(pixels, centers)]
    return own + NOISE * torch.randn(own.shape, generator=generator), centers


def in_chunks(points: Tensor, centers: Tensor) -> Tensor:
    """The other obvious way: centres a few at a time, the nearest so far kept."""
    best = torch.full((len(points),), torch.inf)
    index = torch.zeros(len(points), dtype=torch.long)
    for start in range(0, len(centers), 32):
        distances = torch.linalg.vector_norm(points[:, None] - centers[start : start + 32], dim=-1)
        nearest, place = distances.min(1)
        closer = nearest < best
        best, index = torch.where(closer, nearest, best), torch.where(closer, place + start, index)
    return index


WAYS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "all distances at once": nearest_center_reference,
    "32 centres at a time": in_chunks,
    "cells (`ops.nearest_center`)": nearest_center,
}


def measure_grouping(name: str) -> None:
    """Print the median time in milliseconds, and the peak memory of the process in MiB."""
    torch.set_num_threads(1)
    points, centers = scene()
    times = []
    for _ in range(REPEATS if name.startswith("cells") else 2):
        start = time.perf_counter()
        WAYS[name](points, centers)
        times.append(1000 * (time.perf_counter() - start))
    print(median(times), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def maps() -> tuple[Map, Map]:
    """A panoptic map of 60 segments, and the same moved by a few pixels."""
    generator = np.random.default_rng(0)
    centers = torch.from_numpy(generator.integers(0, SIZE, (60, 2))).float()
    pixels = torch.cartesian_prod(*(torch.arange(side) for side in SIZE)).float()
    own = nearest_center(pixels, centers).reshape(SIZE).numpy()
    classes = np.where(np.arange(60) < 20, generator.integers(0, 11, 60), generator.integers(11, 19, 60))
    truth = classes[own] * DIVISOR + np.where(classes[own] >= FIRST_THING, own + 1, 0)
    return np.roll(truth, (3, 5), (0, 1)), truth


def sorted_pairs(prediction: Map, truth: Map) -> None:
    """What panopticapi does with a pair of decoded maps: it sorts the pixels of one, and those of both together."""
    np.unique(prediction, return_counts=True)
    np.unique(truth.astype(np.uint64) * 2**24 + prediction.astype(np.uint64), return_counts=True)


def timed(work: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - start))
    return median(times)


def machine() -> str:
    listing = Path("/proc/cpuinfo")
    name = re.search(r"model name\s*: (.*)", listing.read_text()) if listing.exists() else None
    cpu = name.group(1) if name else platform.machine()
    return (
        f"{cpu}, {os.cpu_count()} cores (one used); PyTorch {torch.__version__}, NumPy {np.__version__}; {date.today()}"
    )


def main() -> None:
    print(f"Grouping {SIZE[0]} x {SIZE[1]} pixels by {NUM_CENTERS} centres\n")
    print("| way | time (ms) | peak memory of the process (MiB) |\n|---|--:|--:|")
    for name in WAYS:
        call = [sys.executable, __file__, name]
        milliseconds, peak = map(float, subprocess.run(call, capture_output=True, text=True, check=True).stdout.split())
        print(f"| {name} | {milliseconds:,.0f} | {peak:,.0f} |", flush=True)

    torch.set_num_threads(1)
    prediction, truth = maps()
    things = torch.arange(NUM_CLASSES) >= FIRST_THING
    predicted, true = (torch.from_numpy(one.astype(np.int32)) for one in (prediction, truth))
    fast = timed(
        lambda: panoptic_quality.statistic(segment_pairs(predicted, true, things, divisor=DIVISOR, ignore=IGNORE))
    )
    slow = timed(lambda: sorted_pairs(prediction, truth))
    print("\nPanoptic quality of a pair of decoded maps\n")
    print("| way | time (ms) |\n|---|--:|")
    print(f"| sorting all pixels, as panopticapi counts (the counting alone) | {slow:.1f} |")
    print(f"| runs of equal pixels (`metrics.panoptic_quality`, all of it) | {fast:.1f} |")
    print(f"\n{machine()}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure_grouping(sys.argv[1])
    else:
        main()
