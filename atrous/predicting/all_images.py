"""Predicts all images that are left, and counts what has come of them."""

import contextlib
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from atrous import prediction_log
from atrous.data.finding import Found, NamedImage
from atrous.engines import Outcome, Work
from atrous.errors import text_of
from atrous.files import remove_leftovers
from atrous.interrupt import Interrupted
from atrous.predicting.job import Job
from atrous.predicting.place import Place
from atrous.predicting.predictors import load_predictor, predictors
from atrous.prediction_log import Reader
from atrous.progress import say as say_line
from atrous.progress import tracked
from atrous.segmenter import Segmenter


class Summary(NamedTuple):
    images: int  # that are predicted
    failures: tuple[str, ...]  # a line for each image or folder that could not be read, predicted or written
    folders: tuple[Path, ...]  # that results were written to
    files: tuple[Path, ...]  # of the last image
    earlier: int = 0  # images that were predicted before, by the same model in the same way

    def describe(self) -> str:
        places = ", ".join(map(str, self.files if self.images == 1 else self.folders))
        images = f"{'1 image' if self.images == 1 else f'{self.images} images'}: {places}"
        return images if self.images or not self.earlier else "nothing was left to do"


def predict_images(
    found: Found,
    job: Job,
    model: Segmenter,
    place: Place,
    console: Console,
    say: Callable[[str], object],
    receive: Callable[[NamedImage, Outcome], object] = lambda image, outcome: None,
) -> Summary:
    """Predict all images. Raises Interrupted, or OSError if nothing more can be written; both say how far."""
    images = _images_left(found.images, job, console)
    done = Done(len(found.images), len(found.images) - len(images))
    for failure in found.problems:
        done.fail(failure, say)
    here, parts = predictors(job, model, console, is_alone=len(images) == 1)
    work = Work(images, here, partial(load_predictor, job), place.device, place.address, parts)
    with (
        done.told(),
        contextlib.closing(place.engine.run(work)) as outcomes,
        contextlib.closing(tracked(outcomes, len(images), "predicting", console)) as pairs,
    ):
        for image, outcome in pairs:
            if outcome.failure:
                done.fail(outcome.failure, say)
            else:
                receive(image, outcome)
                done.add(outcome.files)
    return done.summary()


class Done:
    """What has come of the images so far."""

    def __init__(self, total: int, earlier: int) -> None:
        self.total, self.earlier, self.number = total, earlier, 0
        self.failures: list[str] = []
        self.files: Mapping[Path, Path] = {}
        self.folders, self.places = dict[Path, None](), set[Path]()

    def fail(self, failure: str, say: Callable[[str], object]) -> None:
        self.failures.append(failure)
        say(failure)

    def add(self, files: Mapping[Path, Path]) -> None:
        self.number, self.files = self.number + 1, files
        self.folders |= dict.fromkeys(files.values())
        self.places |= {file.parent for file in files}

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Let what ends the prediction say how far it came."""
        try:
            yield
        except (KeyboardInterrupt, Interrupted) as end:
            number = end.number if isinstance(end, Interrupted) else signal.SIGINT
            raise Interrupted(f"interrupted; {self}", number) from None
        except OSError as error:
            raise OSError(error.errno, f"{text_of(error)}; {self}") from error

    def __str__(self) -> str:
        return f"{self.earlier + self.number} of {self.total} images are done"

    def summary(self) -> Summary:
        for place in self.places:
            remove_leftovers(place)
        return Summary(self.number, tuple(self.failures), tuple(self.folders), tuple(self.files), self.earlier)


def _images_left(images: Sequence[NamedImage], job: Job, console: Console) -> Sequence[NamedImage]:
    """The images without results, which is said; from now on this model's results are those in the folder."""
    if job.log is None:
        return images
    prediction_log.begin(job.log)
    reader = Reader(job.log)
    reader.update()
    left = [image for image in images if not reader.files_of(image, job.folders)]
    if len(left) < len(images):
        number = f"{len(images) - len(left)} of {len(images)} images"
        advice = f"to predict them again, name another folder, or remove {job.log.folder}"
        say_line(f"done already, by this model with these settings: {number}; {advice}", console)
    return left
