"""What a long run shows: a bar in a terminal, a line now and then in a log file."""

import contextlib
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

LINE_EVERY = 30.0  # seconds, where there is no terminal to draw a bar in
PATIENCE = 1.0  # seconds of work that need no word
NUM_NAMED = 5  # unreadable files that are named; all others are only counted
T = TypeVar("T")
SMOOTHING = 0.3  # weight of the newest value in the figures on screen; logged figures are not smoothed


def say(line: str, console: Console) -> None:
    """Print a line as it is: a file may be called [red].png, and a long path stays in one piece."""
    console.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)


@contextlib.contextmanager
def counting(what: str, total: int, console: Console) -> Iterator[Callable[[int], None]]:
    """A function to call with each number of finished items.

    If they take longer than a second, a bar shows them in a terminal, and a line says so elsewhere.
    """
    columns = TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    bar = Bar(*columns, console=console, transient=True, disable=not console.is_terminal)
    task, start = bar.add_task(what, total=total), time.perf_counter()
    is_shown = False

    def advance(number: int) -> None:
        nonlocal is_shown
        bar.advance(task, number)
        if not is_shown and time.perf_counter() - start > PATIENCE:
            is_shown = True
            bar.start()
            if bar.disable:
                say(f"{what}: {total}", console)

    try:
        yield advance
    finally:
        bar.stop()


@contextlib.contextmanager
def rows_done(what: str, total: int, console: Console, *, is_alone: bool) -> Iterator[Callable[[int], None]]:
    """A function to call with each number of finished rows of an image, one of many unless it is alone.

    A bar in a terminal that has none yet; elsewhere a line now and then, with the time left.
    """
    if console.is_terminal and is_alone:
        with counting("rows", total, console) as advance:  # a path may hold what a format obeys
            yield advance
        return
    done, start = 0, time.perf_counter()
    last_line = start

    def advance_line(number: int) -> None:
        nonlocal done, last_line
        done, now = done + number, time.perf_counter()
        if now - last_line > LINE_EVERY and done < total:
            last_line = now
            minutes = (now - start) / done * (total - done) / 60
            say(f"{what}: {done} of {total} rows, {minutes:.1f} min left", console)

    yield advance_line


class Progress:
    """Loss, score, images per second and time left of a training."""

    def __init__(self, console: Console, steps: int, done: int) -> None:
        self.console, self.steps = console, steps
        self.loss: float | None = None
        self.score = ""
        self.speed: float | None = None  # images per second
        self.num_skipped = 0
        self.images = self.images_of_step = 0  # since `last`; of one step
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
        if self.num_skipped > NUM_NAMED:
            self._print(f"skipped: {self.num_skipped} unreadable images in total")

    def step(self, step: int, images: int) -> int:
        """Count a finished step, without any figure that would have to wait for the device; returns its number."""
        self.images += images
        self.images_of_step = images
        self.bar.update(self.task, completed=step)
        return step

    def log(self, step: int, terms: dict[str, float], learning_rate: float) -> dict[str, Any]:
        """Show the figures of a step, and return the row that is logged."""
        now = time.perf_counter()
        speed = self.images / (now - self.last)
        self.images, self.last = 0, now
        loss = sum(terms.values())
        self.loss, self.speed = _smooth(self.loss, loss), _smooth(self.speed, speed)
        self.bar.update(self.task, figures=self.figures())
        if self.bar.disable and (now - self.last_line > LINE_EVERY or step == self.steps):
            self.last_line = now
            minutes = (self.steps - step) * self.images_of_step / self.speed / 60
            self._print(f"step {step}/{self.steps}  {self.figures()}  {minutes:.1f} min left")
        parts = terms if len(terms) > 1 else {}
        return {"step": step, "loss": loss, **parts, "learning_rate": learning_rate, "images_per_second": speed}

    def figures(self) -> str:
        return f"loss {self.loss or 0.0:.3f}{self.score}  {self.speed or 0.0:.1f} images/s"

    def validating(self) -> None:
        self.bar.update(self.task, figures=f"{self.figures()}  validating ...")

    def validated(self, step: int, title: str, value: float) -> None:
        """Show a validation, whose time does not count as that of steps."""
        self.score, self.last, self.images = f"  {title} {value:.3f}", time.perf_counter(), 0
        self._print(f"step {step}: validation {title} {value:.4f}")

    def skipped(self, problems: tuple[str, ...]) -> None:
        """Name the first few files that could not be read; the others are counted at the end."""
        for problem in problems:
            self.num_skipped += 1
            if self.num_skipped <= NUM_NAMED:
                self._print(f"skipped: {problem}")

    def _print(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, emoji=False)  # a file may be called [red].png


def _smooth(old: float | None, new: float) -> float:
    return new if old is None else old + SMOOTHING * (new - old)


def tracked(items: Iterable[T], total: int, what: str, console: Console) -> Generator[T]:
    """The images, with a bar in a terminal that ends with them, and a line now and then in a log file."""
    figures = TextColumn("{task.fields[speed]}"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()
    is_shown = console.is_terminal and total > 1
    start = last_line = time.perf_counter()
    with Bar(
        TextColumn(what),
        MofNCompleteColumn(),
        BarColumn(),
        *figures,
        console=console,
        disable=not is_shown,
        transient=True,
        redirect_stderr=sys.stderr.isatty(),  # a log of errors stays one
    ) as bar:
        task = bar.add_task(what, total=total, speed="")
        for index, item in enumerate(items):
            speed = (index + 1) / max(time.perf_counter() - start, 1e-6)
            if not console.is_terminal and time.perf_counter() - last_line > LINE_EVERY:
                last_line = time.perf_counter()
                minutes = (total - index) / speed / 60
                console.print(
                    f"{what} {index}/{total}  {speed:.1f} images/s  {minutes:.1f} min left",
                    markup=False,
                    highlight=False,
                )
            yield item
            bar.update(task, advance=1, speed=f"{speed:.1f} images/s")
