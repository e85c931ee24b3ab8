"""Crop-first against resize-then-crop: python benchmarks/transforms.py takes 15 seconds on one core."""

import os
import platform
import re
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from statistics import median

import numpy as np
import PIL

from atrous.data.transforms import (
    AugmentConfig,
    Choice,
    choose,
    pad_to,
    resize_then_crop,
    scale_and_crop,
    scaled_window,
)
from atrous.types import Sample

SIZE, CROP = (1024, 2048), (769, 769)  # Cityscapes, and DeepLab's crop for it
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
FILL, IGNORE = (124, 116, 104), 255
REPEATS = 15


def crop_first(sample: Sample, choice: Choice) -> Sample:
    return scale_and_crop(sample, choice, CROP, FILL, IGNORE)


def resize_first(sample: Sample, choice: Choice) -> Sample:
    assert sample.semantic is not None
    window = scaled_window(SIZE, choice.scale, CROP, choice.place)
    image, semantic = resize_then_crop(sample.image, window), resize_then_crop(sample.semantic, window)
    return pad_to(Sample(sample.name, image, semantic), *CROP, FILL, IGNORE)


def milliseconds(cut: Callable[[Sample, Choice], Sample], sample: Sample, choice: Choice) -> float:
    start = time.perf_counter()
    cut(sample, choice)
    return 1000 * (time.perf_counter() - start)


def measure(sample: Sample, scale: float, rng: np.random.Generator) -> tuple[float, float]:
    """Medians of (resize first, crop first), alternating on the same crops after one of each to warm up."""
    config = AugmentConfig(crop=CROP)
    choices = [choose(config, rng)._replace(scale=scale) for _ in range(REPEATS + 1)]
    times = [(milliseconds(resize_first, sample, each), milliseconds(crop_first, sample, each)) for each in choices]
    slow, fast = zip(*times[1:], strict=True)
    return median(slow), median(fast)


def row(name: str, slow: float, fast: float) -> str:
    return f"| {name} | {slow:.1f} | {fast:.1f} | {slow / fast:.1f} x |"


def machine() -> str:
    listing = Path("/proc/cpuinfo")
    name = re.search(r"model name\s*: (.*)", listing.read_text()) if listing.exists() else None
    versions = f"Python {platform.python_version()}, Pillow {PIL.__version__}, NumPy {np.__version__}"
    cpu = name.group(1) if name else platform.machine()
    return f"{cpu}, {os.cpu_count()} cores (one used); {versions}; {date.today()}"


def main() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    sample = Sample("noise", image, image[..., 0] % 19)
    times = [measure(sample, scale, rng) for scale in SCALES]
    rows = [row(f"{scale}", *pair) for scale, pair in zip(SCALES, times, strict=True)]
    total = row("all, summed", *np.sum(times, 0))
    head = ["| scale | resize, then crop (ms) | crop first (ms) | ratio |", "|---|---|---|---|"]
    sys.stdout.write("\n".join([*head, *rows, total, "", machine(), ""]))


if __name__ == "__main__":
    main()
