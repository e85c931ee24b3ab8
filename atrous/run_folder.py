"""What a training keeps on disk, and how it is resumed. Files are complete or absent, so that a kill loses little.

Only the process that writes (rank 0) changes anything; on the others these functions do nothing.
"""

import contextlib
import difflib
import hashlib
import io
import json
import os
import pickle
import platform
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from atrous import config as configs
from atrous import distributed
from atrous.config import Config
from atrous.distributed import World
from atrous.errors import ConfigError, ModelFileError, listing
from atrous.files import keep, prepare_output, remove_leftovers, sync_folder, write_atomically
from atrous.models.format_1 import upgraded_row
from atrous.resume import (
    ACCEPTED,
    BATCH,
    MOVED,
    accepted_changes,
    changed_drop_path,
    changed_images,
    changed_learning_rate,
    require_accepted,
    require_steps,
)

State = dict[str, Any]  # of a training between two steps: tensors, numbers and text only
Resume: TypeAlias = bool | Literal["or_start"]
CHECKSUM = b"\nsha256 "  # a state's file ends with this and the hexadecimal digest of all before it
PARTS = {  # of a state
    **dict.fromkeys(("step", "taken", "measured"), int),
    "best": float | int,
    "model": dict,
    "averaged": dict | None,
    "optimizer": dict,
}
FOREIGN = "it is cut off, damaged or of another program"
END_OF_ARCHIVE = b"PK\5\6"
KINDS = {"loss": float | int, "scores": dict, "classes": dict, "micro_batch": int}  # of values in a row of metrics
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


# ---- starting and resuming


class Opened(NamedTuple):
    """What a run goes on from."""

    state: State | None = None  # None: from the start
    changes: tuple[str, ...] = ()  # settings that differ from those of the run so far, a line each
    remarks: tuple[str, ...] = ()  # what was damaged or lost


@contextlib.contextmanager
def opened(run: RunFolder, config: Config, world: World, *, resume: Resume) -> Iterator[Opened]:
    """The run, for this process alone. Rank 0 makes the folder and decides; the others follow.

    A run that fails before it has saved anything leaves nothing new behind.
    """
    if run.is_writer and resume is True:
        require_run(run)
    with locked(run):
        opening = Opened()
        if run.is_writer:
            opening = resumed(run, config, world) if resume and run.has_begun else begin(run, config)
        state = distributed.tree_from_first(opening.state, world.device)
        yield opening if run.is_writer else Opened(state)


def begin(run: RunFolder, config: Config) -> Opened:
    """Start a run. Raises ConfigError if that would overwrite something in the folder."""
    if run.is_saved:
        raise ConfigError(f"--out {run.path}: already holds a run; add --resume to resume it, or name another folder")
    if run.config.exists():
        require_same(run, config, "--out")
    write_config(run, config)
    run.metrics.unlink(missing_ok=True)
    return Opened()


def resumed(run: RunFolder, config: Config, world: World) -> Opened:
    """The state to resume from, none if nothing is saved yet. Raises ConfigError if the run has another config."""
    for path, copies in ((run.config, [run.config]), (run.state, run.states)):
        if run.is_saved and not any(copy.exists() for copy in copies):
            missing = path.relative_to(run.path)
            raise ModelFileError(f"--resume: {run.path} holds models, but {missing} is missing{_way_out(run)}")
    stored = configs.load(str(run.config))
    state, damage = recovered_state(run) if run.is_saved else (None, [])
    images = 0 if state is None else state.get("images", step_so_far(run).images)
    accepted = ACCEPTED | BATCH if state is None else accepted_changes(stored, config, images, world)
    changes = require_accepted(stored, config, accepted, "--resume", run.config)
    if state is None:
        run.metrics.unlink(missing_ok=True)
        return Opened(None, tuple(changes), (f"{run.path}: nothing was saved yet, so the run starts from step 0",))
    require_steps(state["step"], config, run.path)
    remarks = [*damage, *changed_images(config, images, world)]
    remarks += [*changed_learning_rate(stored, config, state["step"]), *changed_drop_path(stored, config)]
    remarks += _lost_best(run, state)
    state = without_lost_best(run, state)
    remarks += drop_rows_after(run.metrics, state["step"], state["measured"])
    return Opened(state, tuple(changes), tuple(remarks))


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


def require_same(run: RunFolder, config: Config, what: str) -> None:
    """Refuse an experiment that differs from the folder's, except that its data or the machine may be another."""
    accepted = MOVED | {"train.micro_batch", "train.activation_checkpointing"}
    require_accepted(configs.load(str(run.config)), config, accepted, what, run.config)


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


# ---- one process at a time


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


# ---- states


def recovered_state(run: RunFolder) -> tuple[State, list[str]]:
    """The state to resume from. One that is damaged or missing is replaced by the one before it, which is said.

    Raises ModelFileError, with what can still be done, if that can't be read either.
    """
    try:
        return read_state(run.state), []
    except ModelFileError as error:
        damage = str(error)
    try:
        state = read_state(run.previous)
    except ModelFileError as error:
        also = f", and {run.previous.name} can't be read either" if run.previous.exists() else ""
        raise ModelFileError(f"{damage}{also}{_way_out(run)}") from error
    write_atomically(run.state, run.previous.read_bytes())
    return state, [f"{damage}; the run goes on from the save before it, of step {state['step']}"]


def _way_out(run: RunFolder) -> str:
    """How to go on without a state."""
    models = [path for path in (run.last, run.best) if path.exists()]
    if models:
        return f"; another run can start from its weights: train.init={models[0]}"
    return f"; no model is saved either: delete {run.state.parent}, and the run starts from step 0"


def without_lost_best(run: RunFolder, state: State) -> State:
    """The state, but as if nothing had been validated if the best model is missing: the next one takes its place."""
    if run.best.exists() or state["best"] < 0:
        return state
    return {**state, "best": -1.0, "measured": min(state["measured"], state["step"] - 1)}


def _lost_best(run: RunFolder, state: State) -> list[str]:
    if run.best.exists() or state["best"] < 0:
        return []
    return [
        f"{run.best} is missing: the model that scored {state['best']:.4f} is lost, and the best one from step "
        f"{state['step']} on takes its place"
    ]


def read_state(path: Path) -> State:
    """The state, on the CPU. Raises ModelFileError with the path if it is damaged or not that of a training."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{path}: not a complete training state: {error}") from error
    body, mark, digest = content.rpartition(CHECKSUM)
    if mark and hashlib.sha256(body).hexdigest().encode() != digest:
        raise ModelFileError(f"{path}: not a complete training state: it does not match its checksum")
    if not mark and not _is_archive(content):
        raise ModelFileError(f"{path}: not a complete training state: {FOREIGN}")
    state = _loaded(body if mark else content, path)
    _require_whole(state, path)
    return state


def _is_archive(content: bytes) -> bool:
    """Older versions wrote no checksum, but the zip archive of `torch.save` has its own."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return content[-22:-18] == END_OF_ARCHIVE and archive.testzip() is None
    except Exception:  # whatever zipfile raises for a damaged file
        return False


def _loaded(content: bytes, path: Path) -> State:
    try:
        state: State = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        what = "it holds other Python objects than tensors, numbers and text, which are not read"
        raise ModelFileError(f"{path}: not a complete training state: {what}") from error
    except Exception as error:  # PyTorch may raise anything for a foreign file
        raise ModelFileError(f"{path}: not a complete training state: {FOREIGN}") from error
    return state


def _require_whole(state: State, path: Path) -> None:
    parts = state if isinstance(state, dict) else {}
    wrong = [name for name, kind in PARTS.items() if not isinstance(parts.get(name), kind)]
    wrong = wrong or [name for name, weight in state["model"].items() if not isinstance(weight, Tensor)]
    if wrong:
        raise ModelFileError(f"{path}: not the state of a training: missing or of another kind: {listing(wrong)}")
    broken = next(_not_finite(state), None)
    if broken is not None:
        raise ModelFileError(f"{path}: {broken} holds values that are not finite, from which nothing can be learnt")


def _not_finite(tree: object, place: str = "") -> Iterator[str]:
    """The tensors with NaN or infinite values, by their places in a state."""
    if isinstance(tree, Tensor) and tree.is_floating_point() and not tree.isfinite().all():
        yield place
    for key, value in tree.items() if isinstance(tree, dict) else ():
        yield from _not_finite(value, f"{place}.{key}" if place else str(key))


def write_state(run: RunFolder, state: State) -> None:
    """Save, and keep the state before. At each moment one of the two is whole.

    Raises FloatingPointError, and leaves the last state as it is, for weights that could not be resumed from.
    """
    if not run.is_writer:
        return
    broken = next(_not_finite(state), None)
    if broken is not None:
        raise FloatingPointError(
            f"{broken} is not finite after step {state['step']}; the last save is kept; try a lower optim.lr, "
            "optim.warmup_steps, optim.clip_norm or train.precision=fp32"
        )
    flush(run.metrics)
    content = serialized(state)
    keep(run.state, run.previous)
    write_atomically(run.state, content)
    sync_folder(run.state.parent)


def serialized(state: State) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.write(CHECKSUM + hashlib.sha256(buffer.getbuffer()).hexdigest().encode())
    return buffer.getvalue()


# ---- metrics


def log(run: RunFolder, row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Add a row to the run's metrics; returns it."""
    if not run.is_writer:
        return row
    try:
        with run.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    except OSError as error:
        raise OSError(error.errno, f"cannot write {run.metrics}: {error.strerror}") from error
    return row


def flush(path: Path) -> None:
    """Let rows outlive a power cut if the state that follows them does."""
    if path.exists():
        with path.open("ab") as file:
            os.fsync(file.fileno())


class Lines(NamedTuple):
    """The content of a file of metrics."""

    rows: list[dict[str, Any]]  # of each step and of each validation the last one; and where the memory ran out
    broken: list[int]  # numbers of lines with anything else


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics. Damage costs only the row that it hits."""
    return _read_lines(path).rows


def _read_lines(path: Path) -> Lines:
    rows: dict[tuple[int, bool, int | None], dict[str, Any]] = {}
    broken: list[int] = []
    for number, line in enumerate(path.read_bytes().split(b"\n") if path.exists() else (), start=1):
        pieces = [piece for piece in re.split(rb'(?=\{"step":)', line) if piece.strip()]  # of rows run together
        good = [row for piece in pieces if (row := _row(piece)) is not None]
        places = [(row["step"], "loss" in row, row.get("micro_batch")) for row in good]
        if len(good) < len(pieces) or not rows.keys().isdisjoint(places):
            broken.append(number)
        rows.update(zip(places, good, strict=True))
    return Lines(list(rows.values()), broken)


def _row(text: bytes) -> dict[str, Any] | None:
    """The row, or None for damaged text."""
    try:
        row = json.loads(text.decode())
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or type(row.get("step")) is not int or len(row) == 1:
        return None
    is_whole = all(isinstance(row[key], kind) for key, kind in KINDS.items() if key in row)
    return upgraded_row(row) if is_whole else None


def drop_rows_after(path: Path, step: int, validation: int) -> list[str]:
    """Drop rows that a kill lost and the run will repeat: steps after `step`, validations after `validation`.

    Damaged lines are dropped as well, and told.
    """
    rows, broken = _read_lines(path)
    if path.exists():
        rows = [row for row in rows if "micro_batch" in row or row["step"] <= (step if "loss" in row else validation)]
        write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows))
    lines = f"line{'s'[: len(broken) - 1]} {listing(broken, limit=10)}"
    return [f"{path}: what is damaged or repeated in {lines} is left out"] if broken else []


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
