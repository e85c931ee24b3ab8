"""The stages of a prediction, each for several images, so that reading and writing don't wait for computing."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from atrous import segmenter
from atrous.data.finding import NamedImage
from atrous.engines import Outcome
from atrous.engines.contract import Predict
from atrous.errors import DataError, text_of
from atrous.inference import InferenceConfig
from atrous.predicting.job import Job
from atrous.predicting.one_image import add_to_log, is_big, naming_image, prediction_of, read_pixels
from atrous.prediction import Prediction
from atrous.segmenter import Segmenter
from atrous.types import Image


class Large(NamedTuple):
    """In place of the pixels of an image that is predicted a few rows at a time: nothing is read beside it."""

    nbytes: int = 2**62
    shape: None = None


Value = Image | Large | Outcome  # what was read, or why not


def read_one(job: Job, model: Segmenter, image: NamedImage) -> Value:
    try:
        with naming_image(image.path, InferenceConfig()):
            return Large() if is_big(job, model, image) else read_pixels(image)
    except DataError as error:
        return Outcome(failure=text_of(error))


def number_together(model: Segmenter, value: Image | Large) -> int:
    """One on a CPU, which is busy with one; and what it computes would depend, in the last bit, on the others."""
    return 1 if model.device.type == "cpu" or isinstance(value, Large) else segmenter.number_at_once(value)


def predict_some(
    job: Job, model: Segmenter, predict_large: Predict, images: Sequence[NamedImage], values: Sequence[Value]
) -> list[Prediction | Outcome]:
    """All at once, or else one by one, so that each that fails is named."""
    if len(images) == 1:
        return [_predicted(job, model, predict_large, images[0], values[0])]
    pixels = [value for value in values if isinstance(value, np.ndarray)]
    try:
        with naming_image(images[0].path, model.inference):
            return [*model.predict(pixels, probabilities=job.wanted.probabilities)]
    except DataError:
        pairs = zip(images, values, strict=True)
        return [_predicted(job, model, predict_large, image, value) for image, value in pairs]


def _predicted(
    job: Job, model: Segmenter, predict_large: Predict, image: NamedImage, value: Value
) -> Prediction | Outcome:
    if isinstance(value, Outcome):
        return value
    try:
        if isinstance(value, Large):
            outcome = predict_large(image)
            add_to_log(job, image, outcome)
            return outcome
        with naming_image(image.path, model.inference):
            return prediction_of(model, job.wanted, image, value)
    except DataError as error:
        return Outcome(failure=text_of(error))


def write_one(job: Job, image: NamedImage, prediction: Prediction) -> Outcome:
    try:
        with naming_image(image.path, InferenceConfig()):
            outcome = job.write(prediction, image)
    except DataError as error:
        return Outcome(failure=text_of(error))
    add_to_log(job, image, outcome)
    return outcome
