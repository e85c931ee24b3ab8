"""`atrous predict`: masks and overlays of images, whatever their size."""

import glob
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import ValidationError
from rich.console import Console
from rich.progress import track

from atrous import config as configs
from atrous import distributed, segmenter
from atrous.data.pairing import IMAGE_SUFFIXES
from atrous.files import prepare_output, write_atomically
from atrous.inference import InferenceConfig
from atrous.segmenter import Prediction

RESULTS = ("masks", "overlays", "probabilities")  # the folders in the output folder


class Task(NamedTuple):
    image: Path
    name: Path  # where its results lie below each output folder, without suffix


class Written(NamedTuple):
    images: int
    failures: tuple[str, ...]  # one line for each image that couldn't be read


def run(
    path: Path,
    sources: Sequence[str],
    out: Path,
    overrides: Sequence[str] = (),
    *,
    overlays: bool = True,
    probabilities: bool = False,
    device: str | None = None,
    console: Console | None = None,
) -> Written:
    """Write `masks/NAME.png`, and `overlays/NAME.jpg` and `probabilities/NAME.npz` where wanted, for each image.

    An image that can't be read is named at the end; the others are done.
    """
    console = console or Console(markup=False, highlight=False, emoji=False)
    tasks = list(find_images(sources, out))
    model = segmenter.load(path)
    model = model.with_inference(inference_settings(model.inference, overrides, str(path)))
    model = model.to(distributed.choose_device(device))
    prepare_output(out)
    failures: list[str] = []
    for task in track(tasks, "predicting", console=console, disable=not console.is_terminal):
        try:
            prediction = model.predict(task.image, probabilities=probabilities)
        except ValueError as error:
            failures.append(str(error))
            continue
        write(prediction, out, task.name, overlays=overlays)
    return Written(len(tasks) - len(failures), tuple(failures))


def write(prediction: Prediction, out: Path, name: Path, *, overlays: bool) -> None:
    prediction.save(out / "masks" / f"{name}.png")
    if overlays:
        buffer = BytesIO()
        prediction.overlay().save(buffer, "JPEG", quality=92)
        write_atomically(out / "overlays" / f"{name}.jpg", buffer.getvalue())
    if prediction.probabilities is not None:
        buffer = BytesIO()
        np.savez_compressed(buffer, probabilities=prediction.probabilities.astype(np.float16))
        write_atomically(out / "probabilities" / f"{name}.npz", buffer.getvalue())


def inference_settings(inference: InferenceConfig, overrides: Sequence[str], source: str) -> InferenceConfig:
    """The model file's protocol with `evaluate.field=value` overrides on top."""
    tree = configs.merge({"evaluate": configs.to_tree(inference)}, configs.parse_overrides(overrides))
    others = sorted(tree.keys() - {"evaluate"})
    if others:
        raise ValueError(f"{others[0]}: a prediction has only the settings of evaluate, such as evaluate.flip=true")
    try:
        return InferenceConfig.model_validate(tree["evaluate"])
    except ValidationError as error:
        raise ValueError(configs.explain(error, tree, source, overrides, section="evaluate")) from None


def find_images(sources: Sequence[str], out: Path) -> Iterator[Task]:
    """Files, folders (searched to the bottom) and patterns, as tasks of different names; not what was written to `out`.

    Raises FileNotFoundError for a source without an image.
    """
    taken: dict[Path, Path] = {}
    for source in sources:
        tasks = [task for task in _images_of(source) if not _is_result(task.image, out)]
        if not tasks:
            raise FileNotFoundError(f"{source}: {_why_none(Path(source), out)}")
        for task in tasks:
            other = taken.setdefault(task.name, task.image)
            if other != task.image:
                raise ValueError(f"{task.image} and {other} would both be written as {task.name}; predict them apart")
            yield task


def _images_of(source: str) -> list[Task]:
    path = Path(source)
    if path.is_dir():
        found = [file for file in sorted(path.rglob("*")) if is_image(file)]
        return [Task(file, file.relative_to(path).with_suffix("")) for file in found]
    if path.is_file():
        return [Task(path, Path(path.stem))]
    files = [Path(name) for name in sorted(glob.glob(source, recursive=True))]  # noqa: PTH207 - absolute too
    return [Task(file, Path(file.stem)) for file in files if is_image(file)]


def is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def _is_result(image: Path, out: Path) -> bool:
    folder = image.parent.resolve()
    return any(folder.is_relative_to((out / name).resolve()) for name in RESULTS)


def _why_none(source: Path, out: Path) -> str:
    if source.is_dir():
        return f"no image ({', '.join(IMAGE_SUFFIXES)}) in it, but for results in {out}"
    return f"a result of an earlier prediction in {out}" if source.is_file() else "no such file, folder or pattern"
