"""What a training shows beside its metrics, where that is asked for: TensorBoard's events, and a profile."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from rich.console import Console

from atrous import run_metrics, visualize
from atrous.distributed import World
from atrous.errors import ConfigError
from atrous.event_file import EventFile, names_in, require_package
from atrous.profiler import Profiler
from atrous.progress import say
from atrous.report import Evaluation
from atrous.report.pictures import painter
from atrous.report.training import known_number
from atrous.run_folder import RunFolder
from atrous.segmenter import Segmenter
from atrous.train_config import TrainConfig
from atrous.types import Sample

NUM_PICTURES = 3  # validation images, the same ones each time


class Instruments(NamedTuple):
    events: EventFile | None = None
    profiler: Profiler | None = None

    def log(self, row: Mapping[str, Any]) -> None:
        """Take over a row of the metrics."""
        if self.events is not None:
            self.events.add_scalars(row["step"], scalars(row))

    def advance(self, step: int) -> None:
        if self.profiler is not None:
            self.profiler.advance(step)

    def show(self, step: int, model: Segmenter, samples: Sequence[Sample], evaluation: Evaluation) -> None:
        """Show the first validation images: each with its truth and the prediction."""
        if self.events is None:
            return
        paint = painter(model, samples)
        for image in sorted(evaluation.images, key=lambda one: one.sample)[:NUM_PICTURES]:
            panels = paint(image)
            if panels:
                picture = visualize.contact_sheet(panels, columns=len(panels))
                size = (picture.height, picture.width)
                self.events.add_picture(step, f"validation/{image.name}", size, visualize.encoded(picture, ".png"))


def require(settings: TrainConfig) -> None:
    """Raises ConfigError, before any work, for what can't be had."""
    if settings.tensorboard:
        require_package()
    if settings.profile_steps is not None and settings.profile_steps[1] > settings.steps:
        first, last = settings.profile_steps
        raise ConfigError(f"train.profile_steps={first},{last}: the training has only {settings.steps} steps")


@contextlib.contextmanager
def opened(
    run: RunFolder, settings: TrainConfig, world: World, console: Console, *, done: int, is_due: bool
) -> Iterator[Instruments]:
    """The instruments of a training that has done so many steps; `is_due`: the validation of the last one isn't."""
    if not run.is_writer:
        yield Instruments()
        return
    tell = partial(say, console=console)
    events = events_of(run, done, is_due=is_due, console=console) if settings.tensorboard else None
    steps = settings.profile_steps
    if steps is not None and steps[1] <= done and not run.profile.exists():
        say(
            f"train.profile_steps={steps[0]},{steps[1]}: {done} steps are done, so there is nothing to profile", console
        )
    profiler = None if steps is None else Profiler(steps, done, run.trace, run.profile, world.device, tell)
    try:
        yield Instruments(events, profiler)
    finally:
        if profiler is not None:
            profiler.finish()
        if events is not None and events.is_failing:
            events.flush()


def events_of(run: RunFolder, done: int, *, is_due: bool, console: Console) -> EventFile:
    """A new event file. It begins with the rows so far that no earlier file has, or that their files will lose.

    Where the validation after the last step is still due, a kill may have come between it and the save: then that
    whole step is written again.
    """
    first_step = done if is_due else done + 1
    first_step = first_step if names_in(run.events) and done else 0
    events = EventFile(run.events, first_step, partial(say, console=console))
    for row in run_metrics.read_rows(run.metrics):
        if row["step"] >= first_step:
            events.add_scalars(row["step"], scalars(row))
    return events


def scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a row of metrics, by TensorBoard's tags."""
    if "scores" not in row:
        return numbers("train", {key: value for key, value in row.items() if key != "step"})
    return {**numbers("validation", row["scores"]), **numbers("classes", row.get("classes", {}))}


def numbers(group: str, values: Mapping[str, Any]) -> dict[str, float]:
    """An absent class has no figure."""
    known = {name: known_number(value) for name, value in values.items()}
    return {f"{group}/{name}": float(values[name]) for name, is_known in known.items() if is_known}
