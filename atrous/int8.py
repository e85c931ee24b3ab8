"""Models in 8-bit integers for `atrous export --int8`: calibrated on images, compared with floats, and measured."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
from rich.console import Console

from atrous import calibration, data, distributed, evaluate, segmenter
from atrous.artefact import CPU, fitted, in_floats, protocol_of
from atrous.calibration import Method
from atrous.data.finding import find_all
from atrous.deployed import CLASSES, LABELS
from atrous.errors import AtrousError, ConfigError, DataError, Mismatch
from atrous.inference import InferenceConfig
from atrous.inference.frames import as_batch
from atrous.inference.look import look
from atrous.inference.seen import labels_at_image
from atrous.layers import quantization
from atrous.models import Model
from atrous.progress import counting, say
from atrous.report.text import plural
from atrous.runtimes.contract import Opened
from atrous.segmenter import Segmenter, read_image
from atrous.types import Image, Network, Sample, Size

MOST = 100  # images to calibrate on: more change the ranges little
FEW = 10  # images
FEW_SAID = ": few; what other images have beyond these ranges is clipped, and tens of images would show it"
LEAST_AGREEMENT = 0.95  # of the labels, with those in floats
Reader = tuple[str, Callable[[], Image]]  # an image's name, and what reads it


class Request(NamedTuple):
    """What is asked for."""

    images: Sequence[str] = ()  # files, folders and patterns to calibrate on
    method: str = "minmax"
    settings: Sequence[str] = ()  # of the data to measure on, and to calibrate on where no images are named


def require_possible(request: Request) -> None:
    """Raises ConfigError for an unknown method, before anything is read."""
    if request.method not in get_args(Method):
        raise ConfigError(f"--calibration {request.method}: expected {', '.join(get_args(Method))}")


def integer_model(
    model: Segmenter, request: Request, console: Console, *, results: bool = False
) -> tuple[Segmenter, list[Reader]]:
    """The model with ranges, its own or those of images, and the images that floats are compared on.

    With `results`, what convolutions give has ranges, too; a training did not learn them, but without images some
    convolutions then compute in floats. Raises ConfigError, FileNotFoundError or DataError where there is nothing to
    calibrate on.
    """
    if not quantization.rounds(model.model):
        readers = readable(images_of(model, request), console)
        floats = replace(model, network=in_floats(model.model))
        return calibrated(floats, readers, request.method, console, results=results), readers
    if request.images and not results:
        raise ConfigError("--calibrate: the model has learnt its ranges (train.quantize_after); leave it out")
    say("the ranges of 8-bit integers are those of the training", console)
    if results and (request.images or request.settings):
        readers = readable(images_of(model, request), console)
        return calibrated(model, readers, request.method, console, results=True), []
    if results:
        say("shortcuts and the like compute in floats: --calibrate IMAGES measures the ranges of their sums", console)
    return model, []


def calibrated(model: Segmenter, readers: Sequence[Reader], name: str, console: Console, *, results: bool) -> Segmenter:
    """With those ranges that it has not yet."""
    method: Method = next(one for one in get_args(Method) if one == name)
    passes = 1 if method == "minmax" else 2
    assert isinstance(model.network, Model)
    with counting(f"calibrating on {len(readers)} images", passes * len(readers), console) as advance:
        network = calibration.calibrated(
            model.network, lambda: counted(readers, advance), model.inference, method, results=results
        )
    say(f"calibrated on {plural(len(readers), 'image')} ({method}){FEW_SAID if len(readers) < FEW else ''}", console)
    return replace(model, network=network)


def counted(readers: Sequence[Reader], advance: Callable[[int], object]) -> Iterator[Image]:
    for _, read in readers:
        yield read()
        advance(1)


def images_of(model: Segmenter, request: Request) -> list[Reader]:
    """The images that are named; without names, those that the data has for training."""
    if request.images:
        return spread([(str(image.path), reader_of(image.path)) for image in find_all(request.images)])
    if not request.settings:
        raise ConfigError(
            "--int8 needs images to calibrate on: add --calibrate IMAGES, or the data, such as data.root=MYDATA"
        )
    config = evaluate.settings(model, request.settings, "--int8")
    samples = data.samples(config.data, config.data.train)
    return spread([(samples[number].name, image_of(samples, number)) for number in range(len(samples))])


def image_of(samples: Sequence[Sample], number: int) -> Callable[[], Image]:
    return lambda: samples[number].image


def reader_of(path: Path) -> Callable[[], Image]:
    return lambda: read_image(path)


def spread(readers: list[Reader]) -> list[Reader]:
    """At most MOST of them, from first to last."""
    chosen = np.linspace(0, len(readers) - 1, min(MOST, len(readers))).round().astype(int)
    return [readers[number] for number in chosen]


def readable(readers: Sequence[Reader], console: Console) -> list[Reader]:
    """Those that can be read and show something; the others are said. Raises DataError if there is none."""
    good, problems = [], []
    for name, read in readers:
        try:
            _require_contents(name, read())
            good.append((name, read))
        except (AtrousError, OSError) as error:
            problems.append(str(error))
            say(f"not calibrated on: {error}", console)
    if not good:
        raise DataError(f"no usable image to calibrate on among {len(readers)}: {problems[0]}")
    return good


def _require_contents(name: str, image: Image) -> None:
    """Raises DataError for an image of one colour: its values have hardly a range."""
    if (image == image[:1, :1]).all():
        raise DataError(f"{name}: all of one colour")


# ---- what is lost


def require_agreement(
    floats: Network, network: Opened, readers: Sequence[Reader], size: Size | None, console: Console
) -> None:
    """Print the share of pixels with the label that floats give. Raises Mismatch if it is too small."""
    if not readers:
        return
    shares = []
    with counting("comparing with floats", len(readers), console) as advance:
        for image in counted(readers, advance):
            shares.append(agreement(floats, network, fitted(image, size)))
    share = float(np.mean(shares))
    images = plural(len(readers), "image")
    text = f"{share:.2%} of labels are those of floats, on the {images} of the calibration"
    if share < LEAST_AGREEMENT:
        raise Mismatch(
            f"the file was not written: only {text}, less than {LEAST_AGREEMENT:.0%}; try another --calibration, other "
            "images, or a training with train.quantize_after"
        )
    console.print(text, soft_wrap=True)


def agreement(floats: Network, network: Opened, image: Image) -> float:
    seen, outputs = look(floats, as_batch(image, CPU), protocol_of(network)), network.outputs(image[None])
    if LABELS in outputs:
        return float((outputs[LABELS] == labels_at_image(seen)).double().mean())
    classes = seen.outputs.classes
    assert classes is not None
    return float((outputs[CLASSES].argmax(1) == classes.argmax(1)).double().mean())


def canvas_for(network: Network, inference: InferenceConfig) -> list[str]:
    """The settings by which a file for images of one size takes any, as when it predicts."""
    own = segmenter.fitting(network, inference)
    height, width = own.window
    return [] if own == inference else [f"evaluate.mode={own.mode}", f"evaluate.window={height},{width}"]


def print_loss(model: Segmenter, target: Path, settings: Sequence[str], console: Console) -> None:
    """Measure the model in floats and the exported file, on the validation split of the data, and print both."""
    world, quiet = distributed.join("cpu"), Console(quiet=True)
    floats, integers = replace(model, network=in_floats(model.model)), segmenter.load(target)
    canvas = canvas_for(integers.network, evaluate.settings(model, settings, str(target)).evaluate)
    scores, lines = list[float](), list[str]()
    for one in (floats, integers):
        with console.status("measuring"):
            evaluation = evaluate.measured(
                one, [*settings, *canvas], target, world, workers=0, metrics=None, console=quiet, is_known=bool(scores)
            ).evaluation
        figures = evaluation.figures
        scores.append(figures.scores[figures.headline])
        lines.append(f"{figures.titles[figures.headline]} {scores[-1]:.2%}")
    loss = 100 * (scores[0] - scores[1])
    change = f"{abs(loss):.2f} points {'less' if loss >= 0 else 'more'}"
    data_of = ", ".join([evaluation.protocol["data"], f"{evaluation.protocol['images']} images", *canvas])
    console.print(f"in floats: {lines[0]}; in 8-bit integers: {lines[1]}, {change} ({data_of})", soft_wrap=True)
