"""A training step of Atrous and of segmentation_models_pytorch, each in a process of its own, taking turns.

pip install segmentation-models-pytorch, then: python benchmarks/peers.py [ROUNDS]. It takes a few minutes a round.
"""

import json
import os
import platform
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

BATCH, SIZE, CLASSES, STEPS = 4, 512, 150, 4
BACKBONES = ("mobilenet_v2", "resnet50")
LIBRARIES = ("atrous", "smp", "smp channels-last")
PRECISIONS = ("fp32", "bf16")

Step = Callable[[Tensor, Tensor], Tensor]  # images [B, 3, H, W] uint8, labels [B, H, W] -> the loss


def atrous_step(backbone: str) -> tuple[Step, torch.nn.Module]:
    """As `atrous train` computes it."""
    from atrous import models
    from atrous.config import check
    from atrous.data.label_space import LabelSpace, numbered_names
    from atrous.tasks import TASKS
    from atrous.tasks.contract import TrainingData
    from atrous.types import Batch

    tree = {"model": {"name": "deeplab_v3plus", "backbone": backbone}, "data": {"format": "synthetic"}}
    config = check(tree, source="benchmark")
    model = models.build(config.model, CLASSES).train()
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    data = TrainingData(LabelSpace(names=numbered_names(CLASSES)), None, torch.device("cpu"))
    objective = TASKS[model.task].objective(config.loss, model.facts, model.heads, data)

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        targets = objective.targets(Batch(("",) * BATCH, images, semantic=labels.byte()))
        terms = objective.terms(model(images), targets, objective.counts(targets, 0), 0)
        return torch.stack(list(terms.values())).sum()

    return loss, model


def smp_step(backbone: str, *, is_channels_last: bool) -> tuple[Step, torch.nn.Module]:
    """As its documentation shows: normalised float images, a cross entropy on logits at the image's size."""
    import segmentation_models_pytorch as smp  # type: ignore[import-not-found]

    layout = torch.channels_last if is_channels_last else torch.contiguous_format
    model = smp.DeepLabV3Plus(encoder_name=backbone, encoder_weights=None, classes=CLASSES).train()
    model = model.to(memory_format=layout)
    criterion = torch.nn.CrossEntropyLoss(ignore_index=255)
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        normalized = ((images / 255 - mean) / deviation).to(memory_format=layout)
        value: Tensor = criterion(model(normalized), labels)
        return value

    return loss, model


def measure(library: str, backbone: str, precision: str) -> None:
    """Print the median time of a step, in seconds, and the peak memory of the process, in MiB."""
    torch.manual_seed(0)
    if library == "atrous":
        loss, model = atrous_step(backbone)
    else:
        loss, model = smp_step(backbone, is_channels_last=library.endswith("channels-last"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    images = torch.randint(0, 256, (BATCH, 3, SIZE, SIZE), dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (BATCH, SIZE, SIZE))
    times = []
    for _ in range(STEPS + 1):
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            value = loss(images, labels)
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - start)
    print(json.dumps([median(times[1:]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))


def measured(*case: str) -> tuple[float, float]:
    output = subprocess.run([sys.executable, __file__, *case], capture_output=True, text=True, check=True).stdout
    seconds, memory = json.loads(output.splitlines()[-1])
    return seconds, memory


def medians(runs: list[list[tuple[float, float]]]) -> list[tuple[float, float]]:
    """(seconds, MiB) of each library, from the same of each round."""
    columns = zip(*runs, strict=True)
    return [(median(time for time, _ in column), median(peak for _, peak in column)) for column in columns]


def row(backbone: str, precision: str, rounds: int) -> str:
    runs = [[measured(library, backbone, precision) for library in LIBRARIES] for _ in range(rounds)]
    cells = medians(runs)
    (seconds, peak), (other_seconds, other_peak) = cells[:2]
    texts = " | ".join(f"{time:.2f} s, {memory:,.0f} MiB" for time, memory in cells)
    return f"| {backbone} | {precision} | {texts} | {seconds / other_seconds:.2f}, {peak / other_peak:.2f} |"


def main(rounds: int) -> None:
    print(
        f"DeepLab v3+ at output stride 16, {BATCH} x {SIZE} x {SIZE}, {CLASSES} classes; medians of {rounds} rounds\n"
    )
    print(f"| backbone | arithmetic | {' | '.join(LIBRARIES)} | time, memory against smp |")
    print("|---|---|" + "---|" * (len(LIBRARIES) + 1))
    for backbone in BACKBONES:
        for precision in PRECISIONS:
            print(row(backbone, precision, rounds), flush=True)
    print(f"\n{machine()}")


def machine() -> str:
    listing = Path("/proc/cpuinfo")
    name = re.search(r"model name\s*: (.*)", listing.read_text()) if listing.exists() else None
    cpu = name.group(1) if name else platform.machine()
    peer = version("segmentation-models-pytorch")
    return (
        f"{cpu}, {os.cpu_count()} cores; Python {platform.python_version()}, PyTorch {torch.__version__}, "
        f"segmentation_models_pytorch {peer}; {date.today()}"
    )


if __name__ == "__main__":
    if len(sys.argv) == 4:
        measure(*sys.argv[1:])
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
