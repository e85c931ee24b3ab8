"""`atrous predict`: masks and overlays of images, whatever their size, or what a benchmark's server takes."""

import contextlib
import errno
import glob
import hashlib
import shlex
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import ValidationError
from rich.console import Console

from atrous import artefact, big_images, distributed, model_file, prediction_log, segmenter, terminal
from atrous import config as configs
from atrous.big_images import NEVER, Choice
from atrous.data import finding, image_shards
from atrous.data.finding import Found, NamedImage, Skipped
from atrous.data.pairing import IMAGE_SUFFIXES
from atrous.engines import ENGINES, Engine, Outcome, Work
from atrous.engines.contract import Predict, Stages
from atrous.errors import ConfigError, DataError, ModelFileError, listing, out_of_memory, text_of
from atrous.files import beside, composed, prepare_output, remove_leftovers, user_path, write_atomically
from atrous.inference import InferenceConfig
from atrous.interrupt import Interrupted
from atrous.model_file import CONVERTIBLE
from atrous.prediction import OVERLAYS, PROBABILITIES, Prediction
from atrous.prediction_folder import record, recorded_folders
from atrous.prediction_log import Log, Reader
from atrous.progress import say as say_line
from atrous.progress import tracked
from atrous.run_folder import RunFolder
from atrous.runtimes.contract import ARITHMETIC, Speed
from atrous.segmenter import NUM_TRIED, Segmenter, model_in
from atrous.settings import Settings
from atrous.submissions import answers, drafts, image_ids
from atrous.submissions.drafts import Draft
from atrous.submissions.image_ids import ImageList
from atrous.tasks import TASKS, Task
from atrous.types import Image

TASK_RESULTS = tuple(folder for task in TASKS.values() for folder in task.results)
NOWHERE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}  # no further file could be written either
LESS_MEMORY = {  # by evaluate.mode
    "whole": "evaluate.mode=sliding needs less",
    "sliding": "a smaller evaluate.window needs less",
    "canvas": "a smaller evaluate.window needs less",
}


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


def run(
    path: Path,
    sources: Sequence[str],
    out: Path,
    overrides: Sequence[str] = (),
    *,
    overlays: bool = True,
    probabilities: bool = False,
    legend: bool = False,
    big: Choice | None = None,
    device: str | None = None,
    engine: str = "local",
    address: str | None = None,
    speed: Speed = AUTO,
    runtime: str | None = None,
    console: Console | None = None,
    say: Callable[[str], object] = lambda text: None,
) -> Summary:
    """Write the results of each image, such as `masks/NAME.png`, and overlays and probabilities on request.

    `say` is called with a line for each image that fails, at once; the others are predicted. Images whose results are
    there already, by the same model in the same way, are left as they are. `engine` is a row of ENGINES, and `address`
    that of its machines. `big` says which images are predicted a few rows at a time; None: those that are large.
    `runtime` is as in `segmenter.load`.
    """
    console, place, big = console or terminal.console(), place_of(engine, device, address), big or Choice()
    path, out = place.file(user_path(path), runtime), place.folder(out)
    wanted = Wanted(overlays, probabilities, legend)
    model = segmenter.load(path, runtime=place.opener(path, runtime))
    if runtime is not None:
        say_line(f"computed by {model.runtime}", console)
    found = find_images(sources, with_shards=True)
    require_own_names(found.images)
    model = place.of(with_settings(model, overrides, str(path)), speed)
    big_images.require(model, big, probabilities=probabilities)
    folders = tuple(wanted.folders(model.task))
    prepare(out, found.images, path, model, folders)
    model = settled(model, found.images, console, big)
    log = Log(out, maker_of(path, model, legend=legend, big=big))
    for note in notes(found):
        console.print(note, soft_wrap=True)
    write, speed = partial(write_results, out, wanted), speed._replace(precision=model.precision)
    job = Job(path.absolute(), tuple(overrides), wanted, write, log, folders, big, speed)
    return predict_images(found, job, model, place, console, say)


class Place(NamedTuple):
    """Where the images are worked on."""

    engine: Engine
    device: str | None
    address: str | None

    def folder(self, path: Path) -> Path:
        """The output folder, for any process."""
        return user_path(path) if self.engine.is_here else user_path(path).absolute()

    def file(self, path: Path, runtime: str | None) -> Path:
        """What the runtime opens."""
        if runtime is None:
            return path
        if not self.engine.is_here:
            raise ConfigError(f"--runtime {runtime}: other machines open the file itself; name an exported one")
        return artefact.file_for(segmenter.model_in(path), runtime, distributed.choose_device(self.device))

    def opener(self, path: Path, runtime: str | None) -> str | None:
        """The runtime that opens this file; None: its own."""
        if runtime is None:
            return None
        return artefact.opener_of(segmenter.model_in(path), runtime, distributed.choose_device(self.device))

    def of(self, model: Segmenter, speed: Speed) -> Segmenter:
        """The model, on the device if that is this machine's. Other machines don't choose a precision."""
        if self.engine.is_here:
            return on_device(model, self.device, speed)
        return model if speed.precision == "bf16" else model.with_speed("fp32")


def on_device(model: Segmenter, device: str | None, speed: Speed) -> Segmenter:
    """Raises ConfigError for a device that there isn't, and for what it can't do."""
    return model.to(distributed.choose_device(device)).with_speed(speed.precision, compile=speed.compile)


def place_of(name: str, device: str | None, address: str | None) -> Place:
    """Raises ConfigError for an engine that there isn't, and for an address that it has no use for."""
    if name not in ENGINES:
        raise ConfigError(f"--engine {name}: no such engine{configs.nearest(name, ENGINES)}")
    if address is not None and ENGINES[name].is_here:
        raise ConfigError(f"--address {address} is that of a cluster; it needs --engine ray")
    return Place(ENGINES[name], device, address)


def maker_of(path: Path, model: Segmenter, *, legend: bool, big: Choice) -> str:
    """What decides the content of the files: not which of them are written, nor what the model's file is called."""
    file = model_in(path)
    weights = model_file.read_metadata(file).get("checksum") or hashlib.sha256(file.read_bytes()).hexdigest()
    header = model.header.to_metadata()  # with the settings of this prediction
    facts = {"weights": weights, "header": header, "legend": legend, "big": big, "precision": model.precision}
    return prediction_log.maker_of(**facts, runtime=model.runtime, atrous=version("atrous"))


def settled(model: Segmenter, images: Sequence[NamedImage], console: Console, big: Choice = NEVER) -> Segmenter:
    """The model in the precision that `auto` stands for, which is said; measured only where that is worth its time."""
    model, share = model.settled(first_images(model, images, big) if len(images) >= NUM_TRIED else ())
    if share is not None:
        reason = f"{share:.2%} of the labels of a first image are the same in bfloat16 as in float32"
        say_line(f"computing in {ARITHMETIC[model.precision]}: {reason}", console)
    return model


def first_images(model: Segmenter, images: Sequence[NamedImage], big: Choice) -> Iterator[Image]:
    """Some that can be read, and are not predicted a few rows at a time."""
    for image in images[:NUM_TRIED]:
        with contextlib.suppress(DataError):
            if image.entry is not None or not big_images.is_big(model, image.path, big, probabilities=False):
                yield read(image)


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
    images = images_left(found.images, job, console)
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


def images_left(images: Sequence[NamedImage], job: Job, console: Console) -> Sequence[NamedImage]:
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


# ---- one image


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


def outcome_of(job: Job, model: Segmenter, reader: Reader | None, predict_large: Predict, image: NamedImage) -> Outcome:
    """Write the files of one image, unless they are there. Raises OSError for what is wrong with the output."""
    files = files_there(job, reader, image)
    if files:
        return Outcome(files)
    try:
        is_large = is_big(job, model, image)
        outcome = predict_large(image) if is_large else predict_image(model, job.write, job.wanted, image)
    except DataError as error:
        return Outcome(failure=text_of(error))
    note(job, image, outcome)
    return outcome


class Large(NamedTuple):
    """In place of the pixels of an image that is predicted a few rows at a time: nothing is read beside it."""

    nbytes: int = 2**62
    shape: None = None


Value = Image | Large | Outcome  # what was read, or why not


def read_one(job: Job, model: Segmenter, image: NamedImage) -> Value:
    try:
        with named(image.path, InferenceConfig()):
            return Large() if is_big(job, model, image) else read(image)
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
        with named(images[0].path, model.inference):
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
            note(job, image, outcome)
            return outcome
        with named(image.path, model.inference):
            return predicted(model, job.wanted, image, value)
    except DataError as error:
        return Outcome(failure=text_of(error))


def predicted(model: Segmenter, wanted: Wanted, image: NamedImage, pixels: Image) -> Prediction:
    try:
        return model.predict(pixels, probabilities=wanted.probabilities)
    except DataError as error:
        raise DataError(f"{image.path}: {error}") from error


def note(job: Job, image: NamedImage, outcome: Outcome) -> None:
    """That its files are there."""
    if job.log is not None:
        prediction_log.add(job.log, image, outcome.files)


def write_one(job: Job, image: NamedImage, prediction: Prediction) -> Outcome:
    try:
        with named(image.path, InferenceConfig()):
            outcome = job.write(prediction, image)
    except DataError as error:
        return Outcome(failure=text_of(error))
    note(job, image, outcome)
    return outcome


def files_there(job: Job, reader: Reader | None, image: NamedImage) -> dict[Path, Path]:
    if reader is None or job.log is None:
        return {}
    reader.update()
    out = job.log.out
    return {file: out / file.relative_to(out).parts[0] for file in reader.files_of(image, job.folders)}


def predict_image(model: Segmenter, write: Write, wanted: Wanted, image: NamedImage) -> Outcome:
    """Write the files of one image.

    Raises DataError with the path for what is wrong with this image, and OSError for what is wrong with the output.
    """
    with named(image.path, model.inference):
        return write(predicted(model, wanted, image, read(image)), image)


def is_big(job: Job, model: Segmenter, image: NamedImage) -> bool:
    """Whether an image is predicted a few rows at a time; those in shards never are."""
    is_file = image.entry is None
    return is_file and big_images.is_big(model, image.path, job.big, probabilities=job.wanted.probabilities)


def predict_big(job: Job, model: Segmenter, image: NamedImage, *, console: Console, is_alone: bool) -> Outcome:
    """Write the files of an image that is larger than the memory. Raises the same errors as `predict_image`."""
    assert job.log is not None, "benchmarks take no large images"
    folders = [job.log.out / folder for folder in job.folders]
    pictures = [folder / image.name for folder in folders if folder.name == OVERLAYS]
    target = big_images.Target(folders[0] / image.name, pictures[0] if pictures else None)
    options: dict[str, Any] = {"legend": job.wanted.legend, "console": console, "is_alone": is_alone}
    with named(image.path, big_images.protocol(model.inference)), writable(image, folders):
        files = big_images.predict(model, image.path, target, job.big.bands, **options)
    return Outcome({file: next(folder for folder in folders if file.is_relative_to(folder)) for file in files})


def write_results(out: Path, wanted: Wanted, prediction: Prediction, job: NamedImage) -> Outcome:
    contents = prediction.files(**wanted._asdict())
    files = {out / folder / f"{job.name}{suffix}": out / folder for folder, suffix in contents}
    with writable(job, [out, *files.values()]):
        for file, content in zip(files, contents.values(), strict=True):
            write_atomically(file, content)
    return Outcome(files)


@contextlib.contextmanager
def writable(image: NamedImage, folders: Sequence[Path]) -> Iterator[None]:
    """Turn what is wrong with the files of one image alone, such as a name that is too long, into an error with it."""
    try:
        yield
    except OSError as error:
        if error.errno not in NOWHERE:
            for folder in folders:
                prepare_output(folder)
            raise DataError(f"{image.path}: {text_of(error)}") from error
        raise


def read(image: NamedImage) -> Image:
    try:
        return segmenter.read_image(image.path) if image.entry is None else image_shards.read(image.entry)
    except OSError as error:
        raise DataError(text_of(error)) from error


@contextlib.contextmanager
def named(image: Path, inference: InferenceConfig) -> Iterator[None]:
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


# ---- what a benchmark's server takes


def submit(
    path: Path,
    sources: Sequence[str],
    out: Path,
    name: str,
    overrides: Sequence[str] = (),
    *,
    images_json: Path | None = None,
    wanted: Wanted = ALONE,
    device: str | None = None,
    engine: str = "local",
    address: str | None = None,
    speed: Speed = AUTO,
    console: Console | None = None,
    say: Callable[[str], object] = lambda text: None,
) -> Summary:
    """Write the archive that the server of a benchmark takes, and its files: see `atrous.submissions`.

    `name` is a row of SUBMISSIONS, `images_json` the benchmark's list of images; all else is as in `run`.
    """
    console, place = console or terminal.console(), place_of(engine, device, address)
    path, out = user_path(path), place.folder(out)
    form = drafts.format_named(name)
    image_list = None if images_json is None else image_ids.read_list(user_path(images_json), form)
    own = [text for text in overrides if text.startswith("format.")]
    model = with_settings(segmenter.load(path), [text for text in overrides if text not in own], str(path))
    entry = drafts.entry_of(name, model.task, model.label_space, configs.parse_overrides(own).get("format", {}))
    found = find_images(sources, with_shards=True)
    ids = image_ids.identified((image.path.absolute() for image in found.images), form, image_list)
    model = place.of(model, speed)
    drafts.require_replaceable(out, entry)
    prepare(out, found.images, path, model, [name, *wanted.folders(model.task)])
    for note in notes(found):
        console.print(note, soft_wrap=True)
    with drafts.drafted(entry, out) as draft:
        write = partial(write_entry, draft, ids, image_list, partial(write_results, out, wanted))
        settings = tuple(text for text in overrides if text not in own)
        model = settled(model, found.images, console)
        job = Job(path.absolute(), settings, wanted, write, speed=speed._replace(precision=model.precision))
        receive = partial(receive_entry, draft, ids)
        summary = predict_images(found, job, model, place, console, say, receive)
        if not summary.images:
            return summary
        archive = drafts.publish(draft)
    for note in drafts.notes(draft, ids, image_list):
        console.print(note, soft_wrap=True)
    return summary._replace(folders=(archive, *summary.folders), files=(archive, *summary.files))


def write_entry(
    draft: Draft,
    ids: Mapping[Path, str],
    image_list: ImageList | None,
    write: Write,
    prediction: Prediction,
    job: NamedImage,
) -> Outcome:
    """The part of one image, and what is written besides. Official labels are those of the pixels as stored."""
    identifier, orientation = ids[job.path.absolute()], orientation_of(job)
    labels = answers.as_stored(prediction.labels, orientation)
    try:
        drafts.add(draft, identifier, labels, image_ids.size_of(identifier, image_list))
    except DataError as error:
        raise DataError(f"{job.path}: {error}") from error
    return write(prediction, job)._replace(row=draft.rows[identifier])


def receive_entry(draft: Draft, ids: Mapping[Path, str], image: NamedImage, outcome: Outcome) -> None:
    """Add what another process knows of an image, whose files it has written."""
    draft.rows[ids[image.path.absolute()]] = outcome.row


def orientation_of(image: NamedImage) -> int:
    """1 for pixels without a file of their own."""
    file = image.path if image.entry is None else image_shards.file_of(image.entry)
    return 1 if file is None else image_ids.orientation_in(file)


# ---- arguments


def require_order(model: Path, sources: Sequence[str], overrides: Sequence[str]) -> None:
    """Refuse arguments without an image, or with an image where the model should be, with the right command."""
    models = [source for source in sources if _looks_like_model(Path(source))]
    is_folder = model.is_dir() and not _looks_like_model(model)
    if model.name.lower().endswith(IMAGE_SUFFIXES) or (models and (is_folder or glob.has_magic(str(model)))):
        images = shlex.join([str(model), *(source for source in sources if source not in models)])
        raise ConfigError(f"the model comes first: atrous predict {shlex.join(models[:1]) or 'MODEL'} {images}")
    if not sources:
        settings = f", got only the setting {overrides[0]}" if overrides else ""
        raise ConfigError(f"expected an image, folder or pattern after the model{settings}")


def _looks_like_model(path: Path) -> bool:
    return path.name.endswith((".safetensors", *CONVERTIBLE)) or RunFolder(path).best.is_file()


def with_settings(model: Segmenter, overrides: Sequence[str], source: str) -> Segmenter:
    """The model by its file's protocol and decoding, with `evaluate.field=value` and `decode.field=value` on top."""
    sections: dict[str, Settings] = {"evaluate": model.inference, "decode": model.header.decode}
    below = {name: configs.to_tree(section) for name, section in sections.items()}
    tree = configs.merge(below, configs.parse_overrides(overrides))
    others = sorted(tree.keys() - sections.keys())
    if others:
        reason = "only settings of evaluate and decode apply to a prediction, such as evaluate.flip=true"
        reason = "settings of a benchmark's format need --format NAME" if others[0] == "format" else reason
        raise ConfigError(f"{others[0]}: {reason}")
    for name, section in sections.items():
        try:
            sections[name] = type(section).model_validate(tree[name])
        except ValidationError as error:
            raise ConfigError(configs.explain(error, tree, source, overrides, section=name)) from None
    inference = InferenceConfig.model_validate(sections["evaluate"])
    return model.with_inference(inference).with_header(decode=sections["decode"])


# ---- images


def find_images(sources: Sequence[str], *, with_shards: bool = False) -> Found:
    """Files, folders and patterns as images. Results of earlier predictions are left out, also if named themselves.

    `with_shards`: also those in tars, and in what `atrous pack` has written. Raises FileNotFoundError for a source
    without an image.
    """
    shards = {source: part for source in sources if with_shards and (part := image_shards.shards_of(source))}
    tars = dict.fromkeys(shard for part in shards.values() for shard in part)
    items = [item for shard in tars for item in image_shards.images_in(shard)]
    found = find_files([source for source in sources if source not in shards])
    images = [item for item in items if isinstance(item, NamedImage)]
    return Found([*found.images, *images], [*found.skipped, *(item for item in items if isinstance(item, Skipped))])


def find_files(sources: Sequence[str]) -> Found:
    recorded = cache(recorded_folders)
    found = finding.find(sources, lambda folder: folder.name in recorded(folder.parent) or _looks_written(folder))

    @cache
    def is_result(folder: Path) -> bool:
        real = folder.resolve()
        return any(above.name in recorded(above.parent) for above in (real, *real.parents))

    results = [image for image in found.images if is_result(image.path.parent)]
    if results and len(results) == len(found.images):
        raise FileNotFoundError(f"{results[0].path}: a result of an earlier prediction, not an image to predict")
    images = [image for image in found.images if not is_result(image.path.parent)]
    return Found(images, [*found.skipped, *(Skipped(image.path.parent, "result") for image in results)])


def _looks_written(folder: Path) -> bool:
    """Whether it looks like the result of a prediction that left no record: masks and overlays of the same images."""
    if folder.name not in (*TASK_RESULTS, OVERLAYS):
        return False
    overlays = _stems(folder.with_name(OVERLAYS))
    return bool(overlays) and any(overlays == _stems(folder.with_name(name)) for name in TASK_RESULTS)


def _stems(folder: Path) -> set[str]:
    try:
        return {path.stem for path in folder.iterdir()}
    except OSError:  # it isn't a folder, or can't be read
        return set()


def notes(found: Found) -> list[str]:
    """What people should know about images that are not predicted."""
    results = dict.fromkeys(path.parent for path in found.paths("result"))
    left_out = [f"left out: results of earlier predictions in {listing(results)}"] if results else []
    repeated = [skipped.text for skipped in found.skipped if skipped.why == "repeated"]
    return left_out + ([f"predicted once: {listing(repeated)}"] if repeated else [])


def require_own_names(images: Sequence[NamedImage]) -> None:
    """Refuse images whose results would overwrite one another's."""
    owners: dict[Path, Path] = {}
    for image, name, *_ in images:
        if (other := owners.setdefault(name, image)) != image:
            raise ConfigError(f"{image} and {other} would both be written as {name}; predict them separately")


# ---- the output folder


def prepare(out: Path, images: Sequence[NamedImage], path: Path, model: Segmenter, folders: Sequence[str]) -> None:
    """Make the output folder, and record in it what will be there. Refuses what would be overwritten."""
    recorded = recorded_folders(out)
    for folder in (out / name for name in folders if name not in recorded):
        if _stems(folder) and not _looks_written(folder):
            raise ConfigError(f"--out {out}: {folder} holds files that no prediction wrote; name another folder")
    prepare_output(out)
    require_names_differ_on_disk(images, out)
    facts = {"model": str(path.absolute()), "evaluate": model.inference.model_dump(mode="json")}
    record(out, folders, facts)


def require_names_differ_on_disk(images: Sequence[NamedImage], out: Path) -> None:
    """Refuse names that differ only in case or in the form of accents, if the disk doesn't tell them apart."""
    owners: dict[str, NamedImage] = {}
    for image in images:
        other = owners.setdefault(composed(str(image.name)).casefold(), image)
        if other is not image and is_one_file(out, other.name, image.name):
            raise ConfigError(
                f"{image.path} and {other.path} would both be written as {image.name} on the disk of {out}; "
                "predict them separately"
            )


def is_one_file(folder: Path, one: Path, other: Path) -> bool:
    """Whether the disk of `folder` takes two names for the same."""
    probe = beside(folder / "probe")
    try:
        write_atomically(probe / one, b"")
        return (probe / other).exists()
    finally:
        shutil.rmtree(probe, ignore_errors=True)
