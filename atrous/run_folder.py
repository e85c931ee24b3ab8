"""The folder of a training: its files, and who may write there. Each is complete or absent, so a kill loses little.

Only the process that writes (rank 0) changes anything; on the others these functions do nothing.
"""

import contextlib
import difflib
import json
import os
import platform
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from atrous import config as configs
from atrous.config import Config
from atrous.errors import ConfigError, listing
from atrous.files import prepare_output, remove_leftovers, write_atomically

NUM_NEAREST = 3  # runs that are suggested


class RunFolder(NamedTuple):
    """Paths of a run's files; `state` alone, or else `previous`, is enough to resume."""

    path: Path
    is_writer: bool = True

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def best(self) -> Path:
        return self.path / "best.safetensors"

    @property
    def last(self) -> Path:
        return self.path / "last.safetensors"

    @property
    def state(self) -> Path:
        return self.path / "state" / "last.pt"

    @property
    def previous(self) -> Path:
        """The state before the last one, for a disk that loses or damages that."""
        return self.path / "state" / "previous.pt"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def reused(self) -> Path:
        """Which weights the run was initialised from, and which are random."""
        return self.path / "reused.json"

    @property
    def facts(self) -> Path:
        """What only the training knows, for the report: its command, its time, how many images it had."""
        return self.path / "facts.json"

    @property
    def data(self) -> Path:
        """What the labels of both splits hold."""
        return self.path / "data.json"

    @property
    def changes(self) -> Path:
        """Settings and data that changed when the run was resumed; absent if none did."""
        return self.path / "changes.jsonl"

    @property
    def trace(self) -> Path:
        """What PyTorch's profiler recorded, and below the largest costs in it; absent if it did not run."""
        return self.path / "trace.json.gz"

    @property
    def profile(self) -> Path:
        return self.path / "profile.txt"

    @property
    def events(self) -> Path:
        """The folder of TensorBoard's event files; absent if there are none."""
        return self.path / "tensorboard"

    @property
    def watched(self) -> Path:
        """What `atrous evaluate --watch` has measured: a line for each model. The training doesn't write it."""
        return self.path / "watched.jsonl"

    @property
    def best_watched(self) -> Path:
        """The best model of these, where the training validates only at its end."""
        return self.path / "best_watched.safetensors"

    @property
    def lock(self) -> Path:
        """Held by the process that trains. It stays when that process ends."""
        return self.path / "state" / "lock"

    @property
    def process(self) -> Path:
        """Names the process that holds the lock."""
        return self.path / "state" / "process"

    @property
    def files(self) -> tuple[Path, ...]:
        models, extras = (
            (self.best, self.last),
            (self.data, self.facts, self.reused, self.changes, self.trace, self.profile),
        )
        return self.config, self.metrics, *models, self.report, *extras, *self.states

    @property
    def states(self) -> tuple[Path, Path]:
        return self.state, self.previous

    @property
    def folders(self) -> tuple[Path, ...]:
        """The innermost first."""
        return self.state.parent, self.events, self.path

    @property
    def marks(self) -> tuple[Path, ...]:
        return self.lock, self.process

    @property
    def is_saved(self) -> bool:
        """Whether it holds something that could be lost."""
        return any(path.exists() for path in (*self.states, self.best, self.last))

    @property
    def has_begun(self) -> bool:
        """Whether a training was started in it, even if a kill came before the first save."""
        return self.is_saved or (self.config.exists() and (self.metrics.exists() or self.lock.exists()))


class Step(NamedTuple):
    """Of the run so far; 0: unknown."""

    images: int = 0  # by all processes
    processes: int = 0


def step_so_far(run: RunFolder) -> Step:
    """From the facts that the run keeps."""
    with contextlib.suppress(OSError, ValueError, RecursionError, AttributeError):
        tree = json.loads(run.facts.read_text(encoding="utf-8"))
        values = [tree.get(name) for name in ("images_per_step", "processes")]
        return Step(*values) if all(type(value) is int and value > 0 for value in values) else Step()
    return Step()


def require_run(run: RunFolder) -> None:
    """Refuse to resume where nothing was begun: a misspelt folder would start again from step 0."""
    if run.has_begun:
        return
    content = listing(sorted(path.name for path in run.path.iterdir())) if run.path.is_dir() else ""
    what = f"the folder holds {content or 'nothing'}" if run.path.is_dir() else "no such folder"
    what = "a file, not a folder" if run.path.is_file() else what
    near = nearest_runs(run.path)
    runs = f"; the nearest: {listing(near)}" if near else ""
    raise ConfigError(
        f"--resume: no run in {run.path} ({what}){runs}; without --resume a new one starts there, "
        "and --resume-or-start does whichever is possible"
    )


def nearest_runs(path: Path) -> list[Path]:
    """Runs within the folder, or beside it, that have the most similar names."""
    place = next(folder for folder in (path, *path.parents) if folder.is_dir())
    is_root = place.resolve() == place.resolve().parent
    patterns = () if is_root else ("*/config.yaml", "*/*/config.yaml")
    folders = {file.parent for pattern in patterns for file in place.glob(pattern)}
    runs = {str(folder): folder for folder in sorted(folders) if RunFolder(folder).has_begun}
    return [runs[name] for name in difflib.get_close_matches(str(path), runs, NUM_NEAREST, cutoff=0.0)]


def containing(path: Path) -> RunFolder | None:
    """The run that `path` is the folder or a file of."""
    runs = (RunFolder(folder) for folder in (path, path.parent, path.parent.parent))
    return next((run for run in runs if run.has_begun and path in (run.path, run.state.parent, *run.files)), None)


def write_config(run: RunFolder, config: Config) -> None:
    if run.is_writer:
        write_atomically(run.config, configs.to_yaml(config))


def write_changes(run: RunFolder, config: Config, changes: Iterable[str], step: int) -> None:
    """Store the settings that hold from now on, and what has changed."""
    lines = "".join(json.dumps({"step": step, "change": change}) + "\n" for change in changes)
    if run.is_writer and lines:
        before = run.changes.read_text(encoding="utf-8") if run.changes.exists() else ""
        write_atomically(run.changes, before + lines)
        write_config(run, config)


@contextlib.contextmanager
def locked(run: RunFolder) -> Iterator[None]:
    """Keep other trainings out of the folder; a kill releases it. Raises ConfigError if there is one.

    A run that fails before it has saved anything leaves nothing new behind.
    """
    if not run.is_writer:
        yield
        return
    old = [*_event_files(run), *(path for path in (*run.files, *run.marks) if path.exists())]
    new_folders = [path for path in (*run.folders, *run.path.parents) if not path.exists()]
    prepare_output(run.path)
    prepare_output(run.state.parent)
    lock = FileLock(run.lock)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise ConfigError(f"--out {run.path}: another training is running there{_process(run)}") from None
    try:
        for folder in {path.parent for path in (*run.files, *run.marks)}:
            remove_leftovers(folder)
        write_atomically(run.process, f"{os.getpid()} on {platform.node()}")
        yield
    except BaseException:
        if not run.is_saved:
            new = {*run.files, *run.marks, *_event_files(run)}.difference(old)
            _remove(new, new_folders)
        raise
    finally:
        run.process.unlink(missing_ok=True)
        lock.release()


def _process(run: RunFolder) -> str:
    with contextlib.suppress(OSError):  # it has just ended, or just begun
        return f" (process {run.process.read_text(encoding='utf-8')})"
    return ""


def remove(run: RunFolder) -> None:
    """Delete a run's own files, and the folders if nothing else is in them. Raises ConfigError if it is running."""
    with locked(run):
        _remove((*run.files, *run.marks, run.watched, run.best_watched, *_event_files(run)), run.folders)


def _event_files(run: RunFolder) -> list[Path]:
    return list(run.events.glob("events.out.tfevents.*"))


def _remove(files: Iterable[Path], folders: Iterable[Path]) -> None:
    for path in files:
        with contextlib.suppress(OSError):  # it does not exist
            path.unlink()
    for folder in folders:
        with contextlib.suppress(OSError):  # other files are in it, or it does not exist
            folder.rmdir()


def write_data(run: RunFolder, tree: Mapping[str, Any]) -> None:
    """Write what the labels of both splits hold."""
    if run.is_writer:
        write_atomically(run.data, json.dumps(tree, indent=1))


def read_data(run: RunFolder) -> dict[str, Any]:
    """What `write_data` has written; {} if it is missing or damaged, for it can be counted again."""
    try:
        tree = json.loads(run.data.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return tree if isinstance(tree, dict) else {}


def write_reused(run: RunFolder, tree: Mapping[str, Any]) -> None:
    """Write which weights the run was initialised from."""
    if run.is_writer:
        write_atomically(run.reused, json.dumps(tree, indent=1))
