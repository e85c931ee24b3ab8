"""From the labels of many images to one archive, which is there as a whole or not at all.

Files are written into a hidden folder. At the end it becomes the folder of the format, and its archive lies beside it.
"""

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from pydantic import ValidationError

from atrous.config_errors import brief
from atrous.data.label_space import LabelSpace
from atrous.errors import ConfigError, DataError, nearest
from atrous.files import prepare_output
from atrous.prediction_folder import read_record, record, recorded_folders
from atrous.settings import Settings
from atrous.submissions.archive import archive
from atrous.submissions.classes import ids_of_classes
from atrous.submissions.contract import Answer, Format
from atrous.submissions.formats import SUBMISSIONS
from atrous.submissions.image_ids import ImageList, missing
from atrous.tasks import Task
from atrous.tasks.contract import Labels
from atrous.types import Size


class Entry(NamedTuple):
    """What a model hands in."""

    name: str  # of a row of SUBMISSIONS
    config: Settings
    space: LabelSpace  # the model's
    official: NDArray[np.int64]  # [C] the official id of each of its classes, or NO_CLASS

    @property
    def form(self) -> Format:
        return SUBMISSIONS[self.name]

    @property
    def archive(self) -> str:
        return self.form.archive(self.config)


class Draft(NamedTuple):
    """An entry that is being written."""

    entry: Entry
    out: Path
    rows: dict[str, Any]  # by image, of the file over all of them

    @property
    def place(self) -> Path:
        return self.out / f".{self.entry.name}.part"

    @property
    def files(self) -> Path:
        return self.place / "files"


def format_named(name: str) -> Format:
    """Raises ConfigError with the nearest name."""
    if name not in SUBMISSIONS:
        raise ConfigError(f"--format {name}: no such format{nearest(name, SUBMISSIONS)}")
    return SUBMISSIONS[name]


def entry_of(name: str, task: Task, space: LabelSpace, settings: Mapping[str, Any]) -> Entry:
    """Raises ConfigError for a model that the format is not for, and for settings that it lacks."""
    form = format_named(name)
    lacking = [need for need in form.needs if need not in task.needs]
    if lacking:
        kinds = {"instance": "a panoptic model, which has things one by one", "semantic": "a class for each pixel"}
        raise ConfigError(f"--format {name} needs {kinds[lacking[-1]]}; this model has none")
    try:
        official = ids_of_classes(space, form)
        return Entry(name, form.config.model_validate(settings), space, official)
    except ValidationError as error:
        raise ConfigError(f"--format {name}: {_explain(error, form)}") from None
    except ConfigError as error:
        raise ConfigError(f"--format {name}: {error}") from None


def _explain(error: ValidationError, form: Format) -> str:
    first, known = error.errors()[0], [f"format.{field}" for field in form.config.model_fields]
    key = f"format.{'.'.join(map(str, first['loc']))}"
    if first["type"] == "extra_forbidden":
        return f"{key}: unknown key; it has {' and '.join(known) or 'no settings'}"
    return brief(error, known, section="format")


def require_replaceable(out: Path, entry: Entry) -> None:
    """Refuse to put a folder and an archive where something else is. Raises ConfigError or OSError."""
    folder, archive = out / entry.name, out / entry.archive
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"cannot write {folder}: it is a file")
    if archive.is_dir():
        raise IsADirectoryError(f"cannot write {archive}: it is a folder")
    if entry.name in recorded_folders(out):
        return
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"--out {out}: {folder} holds files that no prediction wrote; name another folder")
    if archive.exists():
        raise ConfigError(f"--out {out}: {archive} is a file that no prediction wrote; name another folder")


@contextlib.contextmanager
def drafted(entry: Entry, out: Path) -> Iterator[Draft]:
    """A draft in the folder `out`; what it has written is gone afterwards, unless `publish` was called.

    Raises ConfigError while another process writes the same there, and OSError if nothing can be written.
    """
    require_replaceable(out, entry)
    draft = Draft(entry, out, {})
    prepare_output(draft.place)
    lock = FileLock(draft.place / "lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise ConfigError(f"--out {out}: another prediction writes {entry.name} there") from None
    try:
        shutil.rmtree(draft.files, ignore_errors=True)  # of a process that was killed
        yield draft
    finally:
        shutil.rmtree(draft.place, ignore_errors=True)
        lock.release()


def add(draft: Draft, identifier: str, labels: Labels, size: Size | None = None) -> None:
    """Write the files of one image. `size` is what the benchmark's list says.

    Raises DataError for labels that the format can't hold, and OSError if a file can't be written.
    """
    entry = draft.entry
    _require_size(identifier, labels, size)
    part = entry.form.of_image(Answer(identifier, labels, entry.space, entry.official), entry.config)
    for name, content in part.files.items():
        _write(draft.files / name, content)
    draft.rows[identifier] = part.rows


def _require_size(identifier: str, labels: Labels, size: Size | None) -> None:
    assert labels.semantic is not None
    height, width = labels.semantic.shape
    if size is not None and size != (height, width):
        listed = f"{size[1]} x {size[0]} (width x height) in the list of images"
        raise DataError(f"{width} x {height} pixels, but {listed}")


def publish(draft: Draft) -> Path:
    """Put the files and their archive into `out`, in place of those of an earlier prediction; returns the archive."""
    entry, packed = draft.entry, draft.place / draft.entry.archive
    rows = [row for identifier in sorted(draft.rows) for row in draft.rows[identifier]]
    for name, content in entry.form.of_all(rows, entry.config).items():
        _write(draft.files / name, content)
    target, folder = draft.out / entry.archive, draft.out / entry.name
    with _named(target):
        archive(draft.files, packed)
    record(draft.out, [entry.name], read_record(draft.out))
    with _named(folder):
        _put_in_place(draft.files, folder, draft.place / "earlier")
    with _named(target):
        packed.replace(target)
    return target


def _put_in_place(new: Path, folder: Path, earlier: Path) -> None:
    """Rename `new` to `folder`, and what is there to `earlier`; where that fails, all stays as it was."""
    if folder.exists():
        folder.rename(earlier)
    try:
        new.rename(folder)
    except OSError:
        if earlier.exists():
            earlier.rename(folder)
        raise


def _write(path: Path, content: bytes) -> None:
    with _named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """An OSError with the path of what can't be written."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"cannot write {path}: {error.strerror}") from error


def notes(draft: Draft, ids: Mapping[Path, str], image_list: ImageList | None) -> list[str]:
    """What people should know of an archive: what it lacks, and what comes of that."""
    form, name = draft.entry.form, draft.entry.archive
    failed = [identifier for identifier in ids.values() if identifier not in draft.rows]
    count = len({*failed, *missing(ids, image_list)})
    images = "1 image" if count == 1 else f"{count} images"
    lacking = [f"{name} lacks {images}: {form.missing}"] if count else []
    is_empty = form.empty and not any(draft.rows.values())
    return [*lacking, *([f"{name} holds no thing: {form.empty}"] if is_empty else [])]
