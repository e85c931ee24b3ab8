"""Peak memory of a training by setting, each in a process of its own: python benchmarks/memory.py takes ten minutes."""

import os
import platform
import re
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

import torch

RECIPE = "folder/deeplab_v3plus"
DATA = ("data.format=synthetic", "data.num_train=8", "data.num_val=1", "data.size=[128, 192]")
RUN = ("train.steps=1", "train.batch=4", "augment.crop=513,513", "--workers", "0", "--device", "cpu")
ROWS: dict[str, tuple[str, ...]] = {
    "4 images of 513 x 513, MobileNetV2, output stride 16": (),
    "`train.batch=2`": ("train.batch=2",),
    "`augment.crop=385,385`": ("augment.crop=385,385",),
    "`augment.crop=257,257`": ("augment.crop=257,257",),
    "`train.precision=bf16`": ("train.precision=bf16",),
    "`train.batch_norm=frozen`": ("train.batch_norm=frozen",),
    "`model.output_stride=32`": ("model.output_stride=32",),
    "`model.output_stride=8`": ("model.output_stride=8",),
    "`model.backbone=resnet50`": ("model.backbone=resnet50",),
}
MEASURED = """
import resource, sys
from atrous import cli
code = cli.run(sys.argv[1:])
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
sys.exit(code)
"""


def peak(settings: tuple[str, ...]) -> int:
    """MiB of a whole process that trains for a step, PyTorch itself (about 300 MiB) included."""
    with tempfile.TemporaryDirectory() as folder:
        call = [sys.executable, "-c", MEASURED, "train", RECIPE, *DATA, *RUN, *settings, "--out", folder]
        output = subprocess.run(call, capture_output=True, text=True, check=True).stdout
    measured = re.search(r"^peak (\d+)$", output, re.MULTILINE)
    assert measured is not None, output
    return int(measured.group(1))


def machine() -> str:
    listing = Path("/proc/cpuinfo")
    name = re.search(r"model name\s*: (.*)", listing.read_text()) if listing.exists() else None
    cpu = name.group(1) if name else platform.machine()
    versions = f"Python {platform.python_version()}, PyTorch {torch.__version__}"
    return f"{cpu}, {os.cpu_count()} cores; {versions}; {date.today()}"


def main() -> None:
    print("| setting | peak memory (MiB) |\n|---|--:|")
    for name, settings in ROWS.items():
        print(f"| {name} | {peak(settings):,} |", flush=True)
    print(f"\n{machine()}")


if __name__ == "__main__":
    main()
