"""What a few steps of a training spend their time on: PyTorch's profiler, its trace, and the largest costs."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

from atrous.files import write_atomically

NUM_COSTS = 12  # in the table
VIEWER = "https://ui.perfetto.dev"
SILENT = {"KINETO_LOG_LEVEL": "99"}  # it would write two lines of its own to stderr


class Cost(NamedTuple):
    """Of all calls of one operation, without those that it calls itself."""

    name: str
    calls: int
    milliseconds: float  # on the device that does the work


class Profiler:
    """Records the steps `first` to `last`, counted from 1, and then writes what it has seen."""

    def __init__(
        self,
        steps: tuple[int, int],
        done: int,
        trace: Path,
        table: Path,
        device: torch.device,
        say: Callable[[str], None],
    ) -> None:
        self.first, self.last = max(steps[0], done + 1), steps[1]
        self.trace, self.table, self.device, self.say = trace, table, device, say
        self.done = done
        self.running: profile | None = None
        self.advance(done)

    def advance(self, done: int) -> None:
        """Begin or end the recording, where `done` steps are done."""
        self.done = done
        if self.running is not None and done >= self.last:
            self.finish()
        elif self.running is None and self.first <= done + 1 <= self.last:
            kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.device.type == "cuda" else [])]
            os.environ.update(SILENT)
            self.running = profile(activities=kinds)
            self.running.start()

    def finish(self) -> None:
        """End the recording, if it runs, and write it. A full disk is said, and ends nothing."""
        running, self.running = self.running, None
        if running is None:
            return
        running.stop()
        if self.done < self.first:
            return  # stopped within the first step
        text = described(costs_of(running, self.device), self.first, self.done)
        try:
            export(running, self.trace)
            write_atomically(self.table, text)
        except (OSError, RuntimeError) as error:
            self.say(f"cannot write {self.trace}: {error}")
            return
        self.say(f"{text}trace: {self.trace} (open it in chrome://tracing or {VIEWER}); table: {self.table}")


def export(running: profile, path: Path) -> None:
    """Write the trace, completely or not at all."""
    temporary = path.with_name(f".{path.name}")  # ends as the trace does, which the profiler needs
    try:
        running.export_chrome_trace(str(temporary))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def costs_of(running: profile, device: torch.device) -> list[Cost]:
    """All operations, the largest cost first."""
    events: Sequence[Any] = running.key_averages()
    time = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    costs = [Cost(event.key, event.count, getattr(event, time) / 1000) for event in events]
    return sorted(costs, key=lambda cost: -cost.milliseconds)


def described(costs: Sequence[Cost], first: int, last: int) -> str:
    """The largest costs, a line each."""
    total, steps = sum(cost.milliseconds for cost in costs) or 1.0, last - first + 1
    head = f"profiled steps {first} to {last}: {total / steps:.1f} ms of operations in each\n"
    lines = [
        f"{cost.milliseconds / steps:10.2f} ms {cost.milliseconds / total:6.1%} "
        f"{cost.calls / steps:8.0f} calls  {cost.name}\n"
        for cost in costs[:NUM_COSTS]
    ]
    return head + "".join(lines)
