"""What a process on any machine needs to know to predict images, and which files it writes."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from atrous.big_images import NEVER, Choice
from atrous.data.finding import NamedImage
from atrous.engines import Outcome
from atrous.prediction import OVERLAYS, PROBABILITIES, Prediction
from atrous.prediction_log import Log
from atrous.runtimes.contract import Speed
from atrous.tasks import Task


class Wanted(NamedTuple):
    """Which files are written for each image."""

    overlays: bool = True
    probabilities: bool = False
    legend: bool = False  # below each overlay
    results: bool = True  # the task's own

    def folders(self, task: Task) -> list[str]:
        pictures = {OVERLAYS: self.overlays, PROBABILITIES: self.probabilities}
        results = task.results if self.results else ()
        return [*results, *(name for name, is_written in pictures.items() if is_written)]


ALONE = Wanted(overlays=False, results=False)  # nothing besides what a server takes
Write = Callable[[Prediction, NamedImage], Outcome]  # writes the files of an image
AUTO = Speed()


class Job(NamedTuple):
    """All that a process on any machine needs to predict images."""

    model: Path
    overrides: tuple[str, ...]
    wanted: Wanted
    write: Write
    log: Log | None = None  # None: the images are worked on as a whole, or not at all
    folders: tuple[str, ...] = ()  # of results, which an image that is done has files in
    big: Choice = NEVER  # which images are predicted a few rows at a time
    speed: Speed = AUTO
