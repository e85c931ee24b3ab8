"""The folder that results are written to: what is there already, and what may be."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from atrous.data.finding import NamedImage
from atrous.errors import ConfigError
from atrous.files import beside, composed, prepare_output, write_atomically
from atrous.prediction import OVERLAYS
from atrous.prediction_folder import record, recorded_folders
from atrous.segmenter import Segmenter
from atrous.tasks import TASKS

TASK_RESULTS = tuple(folder for task in TASKS.values() for folder in task.results)


def looks_written(folder: Path) -> bool:
    """Whether it looks like the result of a prediction that left no record: masks and overlays of the same images."""
    if folder.name not in (*TASK_RESULTS, OVERLAYS):
        return False
    overlays = stems_in(folder.with_name(OVERLAYS))
    return bool(overlays) and any(overlays == stems_in(folder.with_name(name)) for name in TASK_RESULTS)


def stems_in(folder: Path) -> set[str]:
    try:
        return {path.stem for path in folder.iterdir()}
    except OSError:  # it isn't a folder, or can't be read
        return set()


def prepare_results(
    out: Path, images: Sequence[NamedImage], path: Path, model: Segmenter, folders: Sequence[str]
) -> None:
    """Make the output folder, and record in it what will be there. Refuses what would be overwritten."""
    recorded = recorded_folders(out)
    for folder in (out / name for name in folders if name not in recorded):
        if stems_in(folder) and not looks_written(folder):
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
