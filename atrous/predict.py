"""`atrous predict`: masks and overlays of images, whatever their size."""

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError
from rich.console import Console
from rich.progress import track

from atrous import config as configs
from atrous import distributed, segmenter, terminal
from atrous.data.pairing import IMAGE_SUFFIXES
from atrous.errors import AtrousError, ConfigError, text_of
from atrous.files import prepare_output, user_path, write_atomically
from atrous.inference import InferenceConfig
from atrous.prediction import OVERLAYS, PROBABILITIES, Prediction
from atrous.segmenter import Segmenter
from atrous.settings import Settings
from atrous.tasks import TASKS

RESULTS = (*(folder for task in TASKS.values() for folder in task.results), OVERLAYS, PROBABILITIES)  # folders


class Job(NamedTuple):
    image: Path
    name: Path  # of its results below each output folder, without suffix


class Summary(NamedTuple):
    images: int
    failures: tuple[str, ...]  # one line for each image that could not be read
    folders: tuple[Path, ...]  # that results were written to


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
) -> Summary:
    """Write the results of each image, such as `masks/NAME.png`, and overlays and probabilities on request.

    An image that can't be read is reported at the end, after all others are predicted.
    """
    console = console or terminal.console()
    path, out = user_path(path), user_path(out)
    jobs = list(find_images([str(user_path(source)) for source in sources], out))
    model = with_settings(segmenter.load(path), overrides, str(path))
    model = model.to(distributed.choose_device(device))
    prepare_output(out)
    failures: list[str] = []
    folders: dict[Path, None] = {}
    for job in track(jobs, "predicting", console=console, disable=not console.is_terminal):
        try:
            image = segmenter.read_image(job.image)
        except (AtrousError, OSError) as error:
            failures.append(text_of(error))
            continue
        prediction = model.predict(image, probabilities=probabilities)
        folders |= dict.fromkeys(
            write(prediction, out, job.name, overlays=overlays, probabilities=probabilities, legend=legend)
        )
    return Summary(len(jobs) - len(failures), tuple(failures), tuple(folders))


def write(
    prediction: Prediction, out: Path, name: Path, *, overlays: bool, probabilities: bool, legend: bool
) -> list[Path]:
    """Write the files of one image; returns their folders."""
    files = prediction.files(overlays=overlays, probabilities=probabilities, legend=legend)
    for (folder, suffix), content in files.items():
        write_atomically(out / folder / f"{name}{suffix}", content)
    return [out / folder for folder, _ in files]


def with_settings(model: Segmenter, overrides: Sequence[str], source: str) -> Segmenter:
    """The model by its file's protocol and decoding, with `evaluate.field=value` and `decode.field=value` on top."""
    sections: dict[str, Settings] = {"evaluate": model.inference, "decode": model.header.decode}
    below = {name: configs.to_tree(section) for name, section in sections.items()}
    tree = configs.merge(below, configs.parse_overrides(overrides))
    others = sorted(tree.keys() - sections.keys())
    if others:
        reason = "only settings of evaluate and decode apply to a prediction, such as evaluate.flip=true"
        raise ConfigError(f"{others[0]}: {reason}")
    for name, section in sections.items():
        try:
            sections[name] = type(section).model_validate(tree[name])
        except ValidationError as error:
            raise ConfigError(configs.explain(error, tree, source, overrides, section=name)) from None
    inference = InferenceConfig.model_validate(sections["evaluate"])
    return model.with_inference(inference).with_header(decode=sections["decode"])


def find_images(sources: Sequence[str], out: Path) -> Iterator[Job]:
    """Files, folders (searched recursively) and patterns as jobs with distinct names; results in `out` are left out.

    Raises FileNotFoundError for a source without an image.
    """
    images: dict[Path, Path] = {}
    for source in sources:
        jobs = [job for job in _images_of(source) if not _is_result(job.image, out)]
        if not jobs:
            raise FileNotFoundError(f"{source}: {_why_none(Path(source), out)}")
        for job in jobs:
            other = images.setdefault(job.name, job.image)
            if other != job.image:
                raise ConfigError(
                    f"{job.image} and {other} would both be written as {job.name}; predict them separately"
                )
            yield job


def _images_of(source: str) -> list[Job]:
    path = Path(source)
    if path.is_dir():
        files = [file for file in sorted(path.rglob("*")) if is_image(file)]
        return [Job(file, file.relative_to(path).with_suffix("")) for file in files]
    if path.is_file():
        return [Job(path, Path(path.stem))]
    files = [Path(name) for name in sorted(glob.glob(source, recursive=True))]  # noqa: PTH207 - also absolute patterns
    return [Job(file, Path(file.stem)) for file in files if is_image(file)]


def is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def _is_result(image: Path, out: Path) -> bool:
    folder = image.parent.resolve()
    return any(folder.is_relative_to((out / name).resolve()) for name in RESULTS)


def _why_none(source: Path, out: Path) -> str:
    if source.is_dir():
        return f"no image ({', '.join(IMAGE_SUFFIXES)}) in this folder, apart from results in {out}"
    return f"a result of an earlier prediction in {out}" if source.is_file() else "no such file, folder or pattern"
