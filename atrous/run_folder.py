"""What a training keeps on disk, and how it is resumed. Files are complete or absent, so that a kill loses little.

Only the process that writes (rank 0) changes anything; on the others these functions do nothing.
"""

import contextlib
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from atrous import config as configs
from atrous import distributed
from atrous.config import Config
from atrous.distributed import World
from atrous.errors import ConfigError, DataError, ModelFileError
from atrous.files import prepare_output, write_atomically
from atrous.models.format_1 import upgraded_row

State = dict[str, Any]  # of a training between two steps: tensors and numbers only
CHECKSUM = b"\nsha256 "  # a state's file ends with this and the hexadecimal digest of all before it


class RunFolder(NamedTuple):
    """Paths of a run's files; `state` alone is enough to resume."""

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
        """How often each class occurs in the data, for the report."""
        return self.path / "data.json"

    @property
    def files(self) -> tuple[Path, ...]:
        return self.config, self.metrics, self.best, self.last, self.report, self.reused, self.facts, self.state

    @property
    def is_saved(self) -> bool:
        """Whether it holds something that could be lost."""
        return self.state.exists() or self.best.exists() or self.last.exists()


# ---- starting and resuming


@contextlib.contextmanager
def opened(run: RunFolder, config: Config, world: World, *, resume: bool) -> Iterator[State | None]:
    """The state to resume from, None for a new run. Rank 0 makes the folder and decides; the others follow.

    A run that fails before it has saved anything leaves nothing new behind.
    """
    with discarded_unless_saved(run):
        state = None
        if run.is_writer:
            state = resumed(run, config) if resume else begin(run, config)
        is_resumed = distributed.from_first(state is not None, world.device)
        yield read_state(run.state) if is_resumed and not run.is_writer else state


def begin(run: RunFolder, config: Config) -> State | None:
    """Start a run, which has no state yet. Raises ConfigError if that would overwrite something in the folder."""
    if run.is_saved:
        raise ConfigError(f"--out {run.path}: already holds a run; add --resume to resume it, or name another folder")
    prepare_output(run.path)
    if run.config.exists():
        require_same(run, config, "--out")
    write_atomically(run.config, configs.to_yaml(config))
    run.metrics.unlink(missing_ok=True)
    return None


def resumed(run: RunFolder, config: Config) -> State | None:
    """The state to resume from, None if nothing is saved yet. Raises ConfigError if the run has another config."""
    if not run.is_saved:
        return begin(run, config)
    prepare_output(run.path)
    for path in (run.config, run.state):
        if not path.exists():
            raise ModelFileError(f"--resume: {run.path} holds models, but {path.relative_to(run.path)} is missing")
    require_same(run, config, "--resume")
    remove_leftovers(run)
    state = read_state(run.state)
    drop_rows_after(run.metrics, state["step"], state["measured"])
    return state


def require_same(run: RunFolder, config: Config, what: str) -> None:
    """Refuse an experiment that differs from the folder's, except that its data may have moved."""
    stored = configs.load(str(run.config))
    for key, there, here in configs.differences(stored, config):
        if key != "data.root":
            raise ConfigError(f"{what}: {key} is {here} here but {there} in {run.config}; use the run's own config")


def remove_leftovers(run: RunFolder) -> None:
    """Delete half-written files of a process that was killed while it saved."""
    for path in run.files:
        for leftover in path.parent.glob(f".{path.name}.*"):
            leftover.unlink()


@contextlib.contextmanager
def discarded_unless_saved(run: RunFolder) -> Iterator[None]:
    new_files = [path for path in run.files if not path.exists()]
    new_folders = [path for path in (run.state.parent, run.path, *run.path.parents) if not path.exists()]
    try:
        yield
    except BaseException:
        if run.is_writer and not run.is_saved:
            _remove(new_files, new_folders)
        raise


def remove(run: RunFolder) -> None:
    """Delete a run's own files, and the folders if nothing else is in them."""
    _remove(run.files, (run.state.parent, run.path))


def _remove(files: Iterable[Path], folders: Iterable[Path]) -> None:
    for path in files:
        with contextlib.suppress(OSError):  # it does not exist
            path.unlink()
    for folder in folders:
        with contextlib.suppress(OSError):  # other files are in it, or it does not exist
            folder.rmdir()


# ---- states


def read_state(path: Path) -> State:
    """The state, on the CPU. Raises ModelFileError with the path if it is damaged; old states have no checksum."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{path}: not a complete training state: {error}") from error
    body, mark, digest = content.rpartition(CHECKSUM)
    if mark and hashlib.sha256(body).hexdigest().encode() != digest:
        raise ModelFileError(f"{path}: not a complete training state: it does not match its checksum")
    state = _loaded(body if mark else content, path)
    if not isinstance(state, dict) or not {"step", "model", "optimizer"} <= state.keys():
        raise ModelFileError(f"{path}: not the state of a training")
    return state


def _loaded(content: bytes, path: Path) -> object:
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # PyTorch may raise anything for a damaged file
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelFileError(f"{path}: not a complete training state: {reason}") from error


def write_state(run: RunFolder, state: State) -> None:
    if not run.is_writer:
        return
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.write(CHECKSUM + hashlib.sha256(buffer.getbuffer()).hexdigest().encode())
    write_atomically(run.state, buffer.getvalue())


# ---- metrics


def log(run: RunFolder, row: Mapping[str, Any]) -> None:
    """Add a row to the run's metrics."""
    if not run.is_writer:
        return
    try:
        with run.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    except OSError as error:
        raise OSError(error.errno, f"cannot write {run.metrics}: {error.strerror}") from error


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics, without a last line that a kill has cut off. Raises DataError for other damage."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    rows = [_row(line) for line in lines]
    for number, row in enumerate(rows[:-1], start=1):
        if row is None:
            raise DataError(f"{path}: line {number} is not a row of metrics; remove it")
    return [row for row in rows if row is not None]


def _row(line: str) -> dict[str, Any] | None:
    """The row, or None for a damaged line."""
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError):
        return None
    return upgraded_row(row) if isinstance(row, dict) and isinstance(row.get("step"), int) else None


def drop_rows_after(path: Path, step: int, validation: int) -> None:
    """Drop rows that a kill lost and the run will repeat: steps after `step`, validations after `validation`."""
    rows = [row for row in read_rows(path) if row["step"] <= (step if "loss" in row else validation)]
    if path.exists():
        write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows))


def write_reused(run: RunFolder, tree: Mapping[str, Any]) -> None:
    """Write which weights the run was initialised from."""
    if run.is_writer:
        write_atomically(run.reused, json.dumps(tree, indent=1))
