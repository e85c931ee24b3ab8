"""Time and memory of the fully connected CRF on one core: python benchmarks/crf.py takes two minutes.

The image is synthetic: smooth colours, edges and grain, with about as many lattice vertices as a photograph (more grain
gives more vertices). The peak is the largest resident memory of a fresh process, as Linux counts it, above what it
held before the call.
"""

import datetime
import platform
import statistics
import sys
import time
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from atrous.postprocess import CRFS, CRFName, refine
from atrous.types import Image

ROUNDS = 3


class Case(NamedTuple):
    crf: CRFName
    classes: int
    height: int
    width: int


CASES = (
    Case("v1_large_fov", 21, 375, 500),
    Case("v2_resnet101", 21, 375, 500),
    Case("v2_resnet101", 150, 375, 500),
    Case("v2_resnet101", 19, 512, 1024),
)


def main() -> None:
    rows = ["| row of CRFS | classes | image | seconds | peak MiB |", "|---|--:|--:|--:|--:|"]
    for case in CASES:
        seconds, peak = measure(case)
        rows.append(f"| {case.crf} | {case.classes} | {case.height} x {case.width} | {seconds:.2f} | {peak:.0f} |")
    sys.stdout.write("\n".join([*rows, "", machine(), ""]))


def measure(case: Case) -> tuple[float, float]:
    """Median seconds, and the peak in MiB."""
    with get_context("spawn").Pool(1) as fresh:
        return fresh.apply(_measure_alone, (case,))


def _measure_alone(case: Case) -> tuple[float, float]:
    torch.set_num_threads(1)
    _call(case._replace(height=32, width=32))  # loads the libraries
    before = _memory("VmRSS")
    times = [_call(case) for _ in range(ROUNDS)]
    return statistics.median(times), _memory("VmHWM") - before


def _call(case: Case) -> float:
    probabilities, image = _scene(case)
    start = time.perf_counter()
    refine(probabilities, image, CRFS[case.crf])
    return time.perf_counter() - start


def _scene(case: Case) -> tuple[Tensor, Image]:
    y, x = np.mgrid[: case.height, : case.width]
    waves = [np.sin(y / 40 + k) * np.cos(x / (50 + 10 * k)) for k in range(3)]
    edges = 40 * ((y // 60 + x // 80) % 2)
    grain = np.random.default_rng(0).normal(0, 4, (case.height, case.width, 3))
    image = 110 + 50 * np.stack(waves, 2) + edges[..., None] + grain
    logits = torch.randn(case.classes, case.height, case.width, generator=torch.Generator().manual_seed(0))
    return logits.softmax(0), image.clip(0, 255).astype(np.uint8)


def _memory(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def machine() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return f"{name}, one thread, PyTorch {torch.__version__}, {datetime.date.today().isoformat()}"


if __name__ == "__main__":
    main()
