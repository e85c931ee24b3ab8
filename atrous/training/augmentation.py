"""What a training makes of a sample before the network sees it, and a picture of that."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from atrous import data, evaluate, models, terminal, visualize
from atrous.config import Config
from atrous.data.batch_transforms import vary_sample
from atrous.data.label_space import LabelSpace
from atrous.data.loader import Augment, Augmented, Read, missing_fields
from atrous.data.transforms import augment, require_packages
from atrous.errors import ConfigError, DataError
from atrous.files import prepare_file, user_path, write_atomically
from atrous.models import Model, task_of
from atrous.progress import say
from atrous.tasks import TASKS
from atrous.types import Color, Sample

NUM_SHOWN, SHOWN_IN_A_ROW = 12, 6  # samples in the picture of the augmentation, and panels side by side in it


def say_missing_landmarks(config: Config, samples: Sequence[Sample], console: Console) -> None:
    """Say that a step can't be done, where the first image lacks what it needs; later ones may have it."""
    skip_errors = config.data.on_error == "skip"
    if config.augment.leg_crop and missing_fields(samples, ("landmarks",), skip_errors=skip_errors):
        say("augment.leg_crop: the first image has no landmarks; legs stay where there are none", console)


def augmentation(model: Model, config: Config, space: LabelSpace) -> Augment:
    return partial(augment, config=config.augment, fill=fill_color(model), ignore=space.ignore)


def fill_color(model: Model) -> Color:
    red, green, blue = (round(value) for value in model.facts.mean)
    return red, green, blue


def first_reads(
    samples: Sequence[Sample], model: Model, config: Config, space: LabelSpace, number: int
) -> Iterator[Read]:
    """Sample numbers 0, 1, ... of a training, as the network sees them."""
    skip_errors = config.data.on_error == "skip"
    stream = Augmented(samples, augmentation(model, config, space), config.train.seed, skip_errors=skip_errors)
    for place in range(number):
        read = stream[place]
        yield read if read.sample is None else read._replace(sample=vary_sample(read.sample, config.augment))


def show_augmentation(config: Config, path: Path, *, number: int = NUM_SHOWN, console: Console | None = None) -> None:
    """Write a picture of the first samples that a training would learn from: each crop, and under its true labels.

    Raises DataError for an image that can't be read, unless data.on_error=skip, and OSError.
    """
    path = user_path(path)
    require_picture(path)
    require_packages(config.augment)
    console, task = console or terminal.console(), TASKS[task_of(config.model)]
    space, samples = data.label_space(config.data), data.samples(config.data, config.data.train)
    evaluate.require_fields(samples, task, config)
    say_missing_landmarks(config, samples, console)
    with torch.device("meta"):  # all that is needed is its mean colour
        model = models.build(config.model, space.num_classes)
    panels = []
    for read in first_reads(samples, model, config, space, number):
        for problem in read.problems:
            say(f"skipped: {problem}", console)
        if read.sample is None:
            raise DataError(read.problems[-1])
        panels += [(read.sample.name, read.sample.image), ("labels", task.paint_truth(read.sample, space))]
    picture = visualize.contact_sheet(panels, columns=SHOWN_IN_A_ROW)
    write_atomically(path, visualize.encoded(picture, path.suffix))
    console.print(f"{path}: {number} crops as step 1 on sees them, each with its labels", markup=False, soft_wrap=True)


def require_picture(path: Path) -> None:
    """Raises ConfigError or OSError for a path that no picture can be written to."""
    if path.suffix.lower() not in visualize.PICTURE_FORMATS:
        known = ", ".join(visualize.PICTURE_FORMATS)
        raise ConfigError(f"--show-augmentation {path}: the name of a picture ends in {known}")
    prepare_file(path)
