"""What predicts an image, in this process and in others."""

import hashlib
from functools import partial
from importlib.metadata import version
from pathlib import Path

from rich.console import Console

from atrous import model_file, prediction_log, segmenter, terminal
from atrous.big_images import Choice
from atrous.engines.contract import Predict, Stages
from atrous.errors import ModelFileError
from atrous.predicting.arguments import with_settings
from atrous.predicting.job import Job
from atrous.predicting.one_image import outcome_of, predict_big
from atrous.predicting.place import on_device
from atrous.predicting.stages import number_together, predict_some, read_one, write_one
from atrous.prediction_log import Reader
from atrous.segmenter import Segmenter, model_in


def maker_of(path: Path, model: Segmenter, *, legend: bool, big: Choice) -> str:
    """What decides the content of the files: not which of them are written, nor what the model's file is called."""
    file = model_in(path)
    weights = model_file.read_metadata(file).get("checksum") or hashlib.sha256(file.read_bytes()).hexdigest()
    header = model.header.to_metadata()  # with the settings of this prediction
    facts = {"weights": weights, "header": header, "legend": legend, "big": big, "precision": model.precision}
    return prediction_log.maker_of(**facts, runtime=model.runtime, atrous=version("atrous"))


def predictor(
    job: Job,
    model: Segmenter,
    reader: Reader | None = None,
    *,
    console: Console | None = None,
    is_alone: bool = False,
) -> Predict:
    """`reader` knows of the results of other processes, which die before they can tell.

    How far a large image is goes to the `console`, which has a bar of its own unless the image is alone.
    """
    console = console or terminal.console(quiet=True)
    predict_large = partial(predict_big, job, model, console=console, is_alone=is_alone)
    return partial(outcome_of, job, model, reader, predict_large)


def predictors(job: Job, model: Segmenter, console: Console, *, is_alone: bool) -> tuple[Predict, Stages]:
    """What predicts an image in this process, whole and in parts."""
    predict_large = partial(predict_big, job, model, console=console, is_alone=is_alone)
    parts = Stages(
        partial(read_one, job, model),
        partial(number_together, model),
        partial(predict_some, job, model, predict_large),
        partial(write_one, job),
    )
    return partial(outcome_of, job, model, None, predict_large), parts


def load_predictor(job: Job, device: str) -> Predict:
    """The same in another process, which shares the disk. Raises what `run` does."""
    model = on_device(with_settings(segmenter.load(job.model), job.overrides, str(job.model)), device, job.speed)
    if job.log is not None and job.log.maker != maker_of(job.model, model, legend=job.wanted.legend, big=job.big):
        raise ModelFileError(f"{job.model}: the file has changed since the prediction was started; start it again")
    return predictor(job, model, None if job.log is None else Reader(job.log))
