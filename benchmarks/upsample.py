"""Time and memory of the tiled upsampling kernels against the plain ones: python benchmarks/upsample.py [--device cuda]

Both alternate in one process, so that other load affects both. On a CPU the peak is the largest resident memory of a
fresh process, as Linux counts it, above what it held before the call; on a GPU it is the allocator's.
"""

import datetime
import os
import platform
import statistics
import time
from collections.abc import Callable
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import typer

from atrous.ops import (
    upsample_argmax,
    upsample_argmax_reference,
    upsample_cross_entropy,
    upsample_cross_entropy_reference,
)

BATCH = 2
MEBIBYTE = 1 << 20


class Case(NamedTuple):
    kernel: str
    classes: int
    size: int
    stride: int
    device: str


CASES = tuple(product(("loss", "argmax"), (19, 150), (512, 769), (4, 16)))
LOSSES = {"plain": upsample_cross_entropy_reference, "tiled": upsample_cross_entropy}
ARGMAXES = {"plain": upsample_argmax_reference, "tiled": upsample_argmax}


def main(
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    rounds: Annotated[int, typer.Option(help="runs of each kernel; the median is printed")] = 7,
) -> None:
    print(f"{_machine(device)}\n")
    print("| kernel | classes | size | stride | plain ms | tiled ms | faster | plain MiB | tiled MiB | smaller |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    for row in CASES:
        case = Case(*row, device)
        plain_time, tiled_time = _times(case, rounds)
        plain_peak, tiled_peak = (_peak(case, version) for version in ("plain", "tiled"))
        print(
            f"| {case.kernel} | {case.classes} | {case.size} | {case.stride} "
            f"| {plain_time:.1f} | {tiled_time:.1f} | {plain_time / tiled_time:.1f}x "
            f"| {plain_peak:.0f} | {tiled_peak:.0f} | {plain_peak / tiled_peak:.1f}x |",
            flush=True,
        )


def _call(case: Case, version: str) -> Callable[[], object]:
    """The loss with its gradient, or the classes, of a batch of random logits."""
    grid = -(-case.size // case.stride)
    logits = torch.randn(BATCH, case.classes, grid, grid, device=case.device, requires_grad=case.kernel == "loss")
    if case.kernel == "argmax":
        return lambda: ARGMAXES[version](logits, (case.size, case.size))
    shape = (BATCH, case.size, case.size)
    labels = torch.randint(case.classes, shape, device=case.device, dtype=torch.uint8)
    return lambda: torch.autograd.grad(LOSSES[version](logits, labels), logits)


def _times(case: Case, rounds: int) -> tuple[float, float]:
    """Milliseconds of the plain and the tiled version."""
    calls = [_call(case, version) for version in ("plain", "tiled")]
    turns = [[_milliseconds(call, case.device) for call in calls] for _ in range(rounds + 1)]
    plain, tiled = (statistics.median(times) for times in zip(*turns[1:], strict=True))  # the first turn warms up
    return plain, tiled


def _milliseconds(call: Callable[[], object], device: str) -> float:
    start = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - start)


def _peak(case: Case, version: str) -> float:
    """MiB above what the process held before the call."""
    if case.device == "cuda":
        return _peak_of_gpu(case, version)
    with get_context("spawn").Pool(1) as fresh:
        return fresh.apply(_peak_of_process, (case, version))


def _peak_of_gpu(case: Case, version: str) -> float:
    call = _call(case, version)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    return (torch.cuda.max_memory_allocated() - before) / MEBIBYTE


def _peak_of_process(case: Case, version: str) -> float:
    _call(case._replace(size=32), version)()  # starts threads and loads libraries
    call = _call(case, version)
    before = _memory("VmRSS")
    call()
    return _memory("VmHWM") - before


def _memory(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def _machine(device: str) -> str:
    name = torch.cuda.get_device_name() if device == "cuda" else _processor()
    torch_version = f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads"
    busy = f"load {os.getloadavg()[0]:.1f} before the first run"
    return f"{name}, {torch_version}, batch {BATCH}, {datetime.date.today().isoformat()}, {busy}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    typer.run(main)
