"""Point-wise spatial attention against the dense gather and the loop of the definition: python benchmarks/psa.py

One over-complete mask that covers everything, 512 channels, softmax, a batch of one; forward, and forward with both
gradients. The versions alternate in one process, so that other load affects all of them. On a CPU the peak is the
largest resident memory of a fresh process, as Linux counts it, above what it held before the call; on a GPU it is the
allocator's.
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

from atrous.ops import Direction, point_wise_attention, point_wise_attention_loop, point_wise_attention_reference

CHANNELS = 512  # PSANet's
MEBIBYTE = 1 << 20
VERSIONS = {
    "strided": point_wise_attention,
    "gather": point_wise_attention_reference,
    "loop": point_wise_attention_loop,
}
DIRECTIONS: tuple[Direction, ...] = ("collect", "distribute")


class Case(NamedTuple):
    side: int
    direction: Direction
    with_gradients: bool
    device: str


def main(
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    rounds: Annotated[int, typer.Option(help="runs of each version; the median is printed")] = 5,
) -> None:
    print(f"{_machine(device)}\n")
    names = (*(f"{name} ms" for name in VERSIONS), "gather / strided", "loop / strided")
    names += (*(f"{name} MiB" for name in VERSIONS), "gather / strided", "loop / strided")
    print(f"| map | direction | gradients | {' | '.join(names)} |\n|---|---|---|{'--:|' * len(names)}")
    for side, direction, with_gradients in product((30, 60), DIRECTIONS, (False, True)):
        case = Case(side, direction, with_gradients, device)
        peaks = [_peak(case, name) for name in VERSIONS]
        cells: tuple[str, ...] = (f"{side} x {side}", direction, "yes" if with_gradients else "no")
        cells += (*_with_ratios(_times(case, rounds), 1), *_with_ratios(peaks, 0))
        print(f"| {' | '.join(cells)} |", flush=True)


def _with_ratios(figures: list[float], digits: int) -> list[str]:
    return [*(f"{figure:.{digits}f}" for figure in figures), *(f"{figure / figures[0]:.1f}" for figure in figures[1:])]


def _call(case: Case, version: str) -> Callable[[], object]:
    weights = (2 * case.side - 1) ** 2
    features = torch.randn(1, CHANNELS, case.side, case.side, device=case.device, requires_grad=case.with_gradients)
    mask = torch.randn(1, weights, case.side, case.side, device=case.device)
    if version == "strided":
        mask = mask.contiguous(memory_format=torch.channels_last)  # as PSANet has it
    mask.requires_grad_(case.with_gradients)

    def run() -> object:
        received = VERSIONS[version](features, mask, (2 * case.side - 1, 2 * case.side - 1), case.direction)
        return torch.autograd.grad(received, (features, mask), received) if case.with_gradients else received

    return run


def _times(case: Case, rounds: int) -> list[float]:
    """Milliseconds of each version."""
    calls = [_call(case, version) for version in VERSIONS]
    turns = [[_milliseconds(call, case.device) for call in calls] for _ in range(rounds + 1)]
    return [statistics.median(times) for times in zip(*turns[1:], strict=True)]  # the first turn warms up


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
    _call(case._replace(side=4), version)()  # starts threads and loads libraries
    call = _call(case, version)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak: making the inputs raised it
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
    return f"{name}, {torch_version}, {datetime.date.today().isoformat()}, {busy}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    typer.run(main)
