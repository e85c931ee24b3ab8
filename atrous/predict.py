"""`atrous predict`: masks and overlays of images, whatever their size, or what a benchmark's server takes."""

import contextlib
import errno
import glob
import os
import shlex
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError
from rich.console import Console

from atrous import config as configs
from atrous import distributed, segmenter, terminal
from atrous.data import finding
from atrous.data.finding import Found, NamedImage, Skipped
from atrous.data.pairing import IMAGE_SUFFIXES
from atrous.errors import ConfigError, DataError, ModelFileError, listing, out_of_memory, text_of
from atrous.files import composed, prepare_output, user_path, write_atomically
from atrous.inference import InferenceConfig
from atrous.interrupt import Interrupted
from atrous.model_file import CONVERTIBLE
from atrous.prediction import OVERLAYS, PROBABILITIES, Prediction
from atrous.prediction_folder import record, recorded_folders
from atrous.progress import tracked
from atrous.run_folder import RunFolder
from atrous.segmenter import Segmenter
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

    def describe(self) -> str:
        places = ", ".join(map(str, self.files if self.images == 1 else self.folders))
        return f"{'1 image' if self.images == 1 else f'{self.images} images'}: {places}"


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
Write = Callable[[Prediction, NamedImage], Mapping[Path, Path]]  # writes the files of an image; each with its folder


def run(
    path: Path,
    sources: Sequence[str],
    out: Path,
    overrides: Sequence[str] = (),
    *,
    overlays: bool = True,
    probabilities: bool = False,
    legend: bool = False,
    device: str | None = None,
    console: Console | None = None,
    say: Callable[[str], object] = lambda text: None,
) -> Summary:
    """Write the results of each image, such as `masks/NAME.png`, and overlays and probabilities on request.

    `say` is called with a line for each image that fails, at once; the others are predicted.
    """
    console = console or terminal.console()
    path, out = user_path(path), user_path(out)
    wanted = Wanted(overlays, probabilities, legend)
    model = segmenter.load(path)
    found = find_images(sources)
    require_own_names(found.images)
    model = with_settings(model, overrides, str(path))
    model = model.to(distributed.choose_device(device))
    prepare(out, found.images, path, model, wanted.folders(model.task))
    for note in notes(found):
        console.print(note, soft_wrap=True)
    predict = partial(predict_image, model, partial(write_results, out, wanted), wanted)
    return predict_images(found, predict, console, say)


def predict_images(
    found: Found,
    predict: Callable[[NamedImage], Mapping[Path, Path]],
    console: Console,
    say: Callable[[str], object],
) -> Summary:
    """Predict image after image. Raises Interrupted, or OSError if nothing more can be written; both say how far."""
    failures, done = found.problems, 0
    folders: dict[Path, None] = {}
    files: Mapping[Path, Path] = {}
    for failure in failures:
        say(failure)
    try:
        with contextlib.closing(tracked(found.images, "predicting", console)) as jobs:
            for job in jobs:
                try:
                    files = predict(job)
                except DataError as error:
                    failures.append(text_of(error))
                    say(failures[-1])
                    continue
                folders |= dict.fromkeys(files.values())
                done += 1
    except (KeyboardInterrupt, Interrupted) as end:
        number = end.number if isinstance(end, Interrupted) else signal.SIGINT
        raise Interrupted(f"interrupted; {done} of {len(found.images)} images are done", number) from None
    except OSError as error:
        raise OSError(error.errno, f"{text_of(error)}; {done} of {len(found.images)} images are done") from error
    return Summary(done, tuple(failures), tuple(folders), tuple(files))


def predict_image(model: Segmenter, write: Write, wanted: Wanted, job: NamedImage) -> Mapping[Path, Path]:
    """Write the files of one image; returns them, each with its folder.

    Raises DataError with the path for what is wrong with this image, and OSError for what is wrong with the output.
    """
    with named(job.path, model.inference):
        image = read(job.path)
        try:
            prediction = model.predict(image, probabilities=wanted.probabilities)
        except DataError as error:
            raise DataError(f"{job.path}: {error}") from error
        return write(prediction, job)


def write_results(out: Path, wanted: Wanted, prediction: Prediction, job: NamedImage) -> Mapping[Path, Path]:
    contents = prediction.files(**wanted._asdict())
    files = {out / folder / f"{job.name}{suffix}": out / folder for folder, suffix in contents}
    try:
        for file, content in zip(files, contents.values(), strict=True):
            write_atomically(file, content)
    except OSError as error:
        if error.errno not in NOWHERE:
            for folder in (out, *files.values()):
                prepare_output(folder)
            raise DataError(f"{job.path}: {text_of(error)}") from error
        raise
    return files


def read(path: Path) -> Image:
    try:
        return segmenter.read_image(path)
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
    console: Console | None = None,
    say: Callable[[str], object] = lambda text: None,
) -> Summary:
    """Write the archive that the server of a benchmark takes, and its files: see `atrous.submissions`.

    `name` is a row of SUBMISSIONS, `images_json` the benchmark's list of images; all else is as in `run`.
    """
    console = console or terminal.console()
    path, out = user_path(path), user_path(out)
    form = drafts.format_named(name)
    image_list = None if images_json is None else image_ids.read_list(user_path(images_json), form)
    own = [text for text in overrides if text.startswith("format.")]
    model = with_settings(segmenter.load(path), [text for text in overrides if text not in own], str(path))
    entry = drafts.entry_of(name, model.task, model.label_space, configs.parse_overrides(own).get("format", {}))
    found = find_images(sources)
    ids = image_ids.identified((image.path for image in found.images), form, image_list)
    model = model.to(distributed.choose_device(device))
    drafts.require_replaceable(out, entry)
    prepare(out, found.images, path, model, [name, *wanted.folders(model.task)])
    for note in notes(found):
        console.print(note, soft_wrap=True)
    with drafts.drafted(entry, out) as draft:
        write = partial(write_entry, draft, ids, image_list, partial(write_results, out, wanted))
        summary = predict_images(found, partial(predict_image, model, write, wanted), console, say)
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
) -> Mapping[Path, Path]:
    """The part of one image, and what is written besides. Official labels are those of the pixels as stored."""
    identifier, orientation = ids[job.path], image_ids.orientation_in(job.path)
    labels = answers.as_stored(prediction.labels, orientation)
    try:
        drafts.add(draft, identifier, labels, image_ids.size_of(identifier, image_list))
    except DataError as error:
        raise DataError(f"{job.path}: {error}") from error
    return write(prediction, job)


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


def find_images(sources: Sequence[str]) -> Found:
    """Files, folders and patterns as images. Results of earlier predictions are left out, also if named themselves.

    Raises FileNotFoundError for a source without an image.
    """
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
    for image, name, _ in images:
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
    probe = folder / f".probe.{os.getpid()}"
    try:
        write_atomically(probe / one, b"")
        return (probe / other).exists()
    finally:
        shutil.rmtree(probe, ignore_errors=True)
