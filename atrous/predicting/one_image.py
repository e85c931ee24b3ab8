"""Reads one image, predicts it and writes its files."""

import contextlib
import errno
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from atrous import big_images, prediction_log, segmenter
from atrous.data import image_shards
from atrous.data.finding import NamedImage
from atrous.engines import Outcome
from atrous.engines.contract import Predict
from atrous.errors import DataError, ModelFileError, out_of_memory, text_of
from atrous.files import prepare_output, write_atomically
from atrous.inference import InferenceConfig
from atrous.predicting.job import Job, Wanted, Write
from atrous.prediction import OVERLAYS, Prediction
from atrous.prediction_log import Log, Reader
from atrous.segmenter import Segmenter
from atrous.types import Image

NO_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}  # no further file could be written either
LESS_MEMORY = {  # by evaluate.mode
    "whole": "evaluate.mode=sliding needs less",
    "sliding": "a smaller evaluate.window needs less",
    "canvas": "a smaller evaluate.window needs less",
}


def outcome_of(job: Job, model: Segmenter, reader: Reader | None, predict_large: Predict, image: NamedImage) -> Outcome:
    """Write the files of one image, unless they are there. Raises OSError for what is wrong with the output."""
    files = _files_there(job, reader, image)
    if files:
        return Outcome(files)
    try:
        is_large = is_big(job, model, image)
        outcome = predict_large(image) if is_large else predict_image(model, job.write, job.wanted, image)
    except DataError as error:
        return Outcome(failure=text_of(error))
    add_to_log(job, image, outcome)
    return outcome


def prediction_of(model: Segmenter, wanted: Wanted, image: NamedImage, pixels: Image) -> Prediction:
    try:
        return model.predict(pixels, probabilities=wanted.probabilities)
    except DataError as error:
        raise DataError(f"{image.path}: {error}") from error


def add_to_log(job: Job, image: NamedImage, outcome: Outcome) -> None:
    """Note in the log, if there is one, that the files of an image are there."""
    if job.log is not None:
        prediction_log.add(job.log, image, outcome.files)


def _files_there(job: Job, reader: Reader | None, image: NamedImage) -> dict[Path, Path]:
    if reader is None or job.log is None:
        return {}
    reader.update()
    out = job.log.out
    return {file: out / file.relative_to(out).parts[0] for file in reader.files_of(image, job.folders)}


def predict_image(model: Segmenter, write: Write, wanted: Wanted, image: NamedImage) -> Outcome:
    """Write the files of one image.

    Raises DataError with the path for what is wrong with this image, and OSError for what is wrong with the output.
    """
    with naming_image(image.path, model.inference):
        return write(prediction_of(model, wanted, image, read_pixels(image)), image)


def is_big(job: Job, model: Segmenter, image: NamedImage) -> bool:
    """Whether an image is predicted a few rows at a time; those in shards never are."""
    is_file = image.entry is None
    return is_file and big_images.is_big(model, image.path, job.big, probabilities=job.wanted.probabilities)


def predict_big(job: Job, model: Segmenter, image: NamedImage, *, console: Console, is_alone: bool) -> Outcome:
    """Write the files of an image that is larger than the memory. Raises the same errors as `predict_image`."""
    assert job.log is not None, "benchmarks take no large images"
    prediction_log.require_current(job.log)
    folders = [job.log.out / folder for folder in job.folders]
    pictures = [folder / image.name for folder in folders if folder.name == OVERLAYS]
    target = big_images.Target(folders[0] / image.name, pictures[0] if pictures else None)
    options: dict[str, Any] = {"legend": job.wanted.legend, "console": console, "is_alone": is_alone}
    with naming_image(image.path, big_images.protocol(model.inference)), naming_unwritable(image, folders):
        files = big_images.predict(model, image.path, target, job.big.bands, **options)
    return Outcome({file: next(folder for folder in folders if file.is_relative_to(folder)) for file in files})


def write_own(log: Log, wanted: Wanted, prediction: Prediction, image: NamedImage) -> Outcome:
    """Write what no other prediction will take for its own."""
    prediction_log.require_current(log)
    return write_results(log.out, wanted, prediction, image)


def write_results(out: Path, wanted: Wanted, prediction: Prediction, image: NamedImage) -> Outcome:
    contents = prediction.files(**wanted._asdict())
    files = {out / folder / f"{image.name}{suffix}": out / folder for folder, suffix in contents}
    with naming_unwritable(image, [out, *files.values()]):
        for file, content in zip(files, contents.values(), strict=True):
            write_atomically(file, content)
    return Outcome(files)


@contextlib.contextmanager
def naming_unwritable(image: NamedImage, folders: Sequence[Path]) -> Iterator[None]:
    """Turn what is wrong with the files of one image alone, such as a name that is too long, into an error with it."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_DISK:
            for folder in folders:
                prepare_output(folder)
            raise DataError(f"{image.path}: {text_of(error)}") from error
        raise


def read_pixels(image: NamedImage) -> Image:
    try:
        return segmenter.read_image(image.path) if image.entry is None else image_shards.read(image.entry)
    except OSError as error:
        raise DataError(text_of(error)) from error


@contextlib.contextmanager
def naming_image(image: Path, inference: InferenceConfig) -> Iterator[None]:
    """Turn what one image may cause into an error with its name: too little memory, an output that isn't finite."""
    try:
        yield
    except ModelFileError as error:
        raise DataError(f"{image}: {error}") from error
    except Exception as error:
        device = out_of_memory(error)
        if device is None:
            raise
        advice = LESS_MEMORY[inference.mode]
        raise DataError(f"{image}: too large for the memory of the {device}; {advice}") from error
