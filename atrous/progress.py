"""What a long run shows: a bar in a terminal, a line now and then in a log file."""

import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

LINE_EVERY = 30.0  # seconds, where there is no terminal to draw a bar in
NAMED = 5  # files that could not be read; the others are counted
SMOOTHING = 0.05  # weight of the newest step in what is shown; what is logged is not smoothed


class Interrupted(Exception):  # noqa: N818 - not an error
    """Ctrl-C or SIGTERM; what was done is saved, and the message says how to go on.

    Not a KeyboardInterrupt: typer would take that, and its message, for itself.
    """


class Progress:
    """Loss, mIoU, images per second and time left of a training."""

    def __init__(self, console: Console, steps: int, done: int) -> None:
        self.console, self.steps = console, steps
        self.loss: float | None = None
        self.miou: float | None = None
        self.rate: float | None = None
        self.num_skipped = 0
        self.last = self.last_line = time.perf_counter()
        self.bar = Bar(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task("train", total=steps, completed=done, figures="")

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()
        if self.num_skipped > NAMED:
            self._print(f"skipped: {self.num_skipped} in all that could not be read")

    def step(self, step: int, terms: dict[str, float], learning_rate: float, images: int) -> dict[str, Any]:
        """Show a finished step; the row that is logged of it."""
        now = time.perf_counter()
        speed, self.last = images / (now - self.last), now
        loss = sum(terms.values())
        self.loss, self.rate = _smooth(self.loss, loss), _smooth(self.rate, speed)
        self.bar.update(self.task, completed=step, figures=self.figures())
        if self.bar.disable and (now - self.last_line > LINE_EVERY or step == self.steps):
            self.last_line = now
            left = (self.steps - step) * images / self.rate
            self._print(f"step {step}/{self.steps}  {self.figures()}  {left / 60:.1f} min left")
        parts = terms if len(terms) > 1 else {}
        return {"step": step, "loss": loss, **parts, "learning_rate": learning_rate, "images_per_second": speed}

    def figures(self) -> str:
        miou = "" if self.miou is None else f"  mIoU {self.miou:.3f}"
        return f"loss {self.loss or 0.0:.3f}{miou}  {self.rate or 0.0:.1f} images/s"

    def validating(self) -> None:
        self.bar.update(self.task, figures=f"{self.figures()}  validating ...")

    def validated(self, step: int, miou: float) -> None:
        """Show a validation; the time that it took is not counted as a step's."""
        self.miou, self.last = miou, time.perf_counter()
        self._print(f"step {step}: validation mIoU {miou:.4f}")

    def skipped(self, problems: tuple[str, ...]) -> None:
        """Name what could not be read: the first few files; in the end, their number."""
        for problem in problems:
            self.num_skipped += 1
            if self.num_skipped <= NAMED:
                self._print(f"skipped: {problem}")

    def _print(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, emoji=False)  # a file may be called [red].png


def _smooth(old: float | None, new: float) -> float:
    return new if old is None else old + SMOOTHING * (new - old)
