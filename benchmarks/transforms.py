"""Crop-first against resize-then-crop, and the originals' styles: python benchmarks/transforms.py takes a minute."""

import os
import platform
import re
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import PIL

from atrous.data.augment_config import AugmentConfig
from atrous.data.choices import Choice, choose
from atrous.data.geometry import pad_to
from atrous.data.transforms import augment, scale_and_crop
from atrous.data.windows import resize_then_crop, scaled_window
from atrous.types import Sample

SIZE, CROP = (1024, 2048), (769, 769)  # Cityscapes, and DeepLab's crop for it
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
FILL, IGNORE = (124, 116, 104), 255
REPEATS = 15
PUBLISHED: dict[str, dict[str, Any]] = {  # the settings of each original
    "tf_deeplab": {},
    "deeplab2": {"padding": "random", "scale_step": 0.1, "autoaugment": 0.2},
    "semseg": {"padding": "around", "scale_step": 0, "rotate": 10, "blur": 0.5, "blur_kernel": "binomial"},
    "forma": {
        "affine": 0.05,
        "hue": 0.08,
        "saturation": 0.5,
        "contrast": 0.3,
        "brightness": 0.2,
        "blur": 0.1,
        "blur_kernel": "area",
        "noise": 0.01,
    },
}


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


def measure_style(sample: Sample, style: str) -> tuple[float, float]:
    """Means of (the style, `atrous` with the same settings) over the same samples, alternating."""
    configs = [AugmentConfig(**{"crop": CROP, **PUBLISHED[style], "style": name}) for name in (style, "atrous")]

    def change(config: AugmentConfig, seed: int) -> float:
        start = time.perf_counter()
        augment(sample, config, np.random.default_rng(seed), fill=FILL, ignore=IGNORE)
        return 1000 * (time.perf_counter() - start)

    exact, ours = zip(*[[change(config, seed) for config in configs] for seed in range(2 * REPEATS)], strict=True)
    return mean(exact), mean(ours)


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
    styles = ["| style | the original's way (ms) | `atrous` (ms) | ratio |", "|---|---|---|---|"]
    styles += [row(f"`{style}`", *measure_style(sample, style)) for style in PUBLISHED]
    sys.stdout.write("\n".join([*head, *rows, total, "", *styles, "", machine(), ""]))


if __name__ == "__main__":
    main()
