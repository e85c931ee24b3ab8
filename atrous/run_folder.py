"""What a training keeps on disk, and how it is found again. All files are whole, so that a kill loses little."""

import contextlib
import io
import json
import pickle
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from atrous import config as configs
from atrous.config import Config
from atrous.files import prepare_output, write_atomically
from atrous.models import format_1

State = dict[str, Any]  # of a training between two steps: tensors and numbers only


class RunFolder(NamedTuple):
    """Paths of a run's files; `state` alone is enough to go on from."""

    path: Path

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
        """Which weights the run began with, and which were drawn."""
        return self.path / "reused.json"

    @property
    def files(self) -> tuple[Path, ...]:
        return self.config, self.metrics, self.best, self.last, self.report, self.reused, self.state

    @property
    def is_saved(self) -> bool:
        """There is something to lose in it."""
        return self.state.exists() or self.best.exists() or self.last.exists()


def begin(run: RunFolder, config: Config) -> State | None:
    """Start a run, with no state, in a folder that has none. Raises ValueError where something would be overwritten."""
    prepare_output(run.path)
    if run.is_saved:
        raise ValueError(
            f"--out {run.path}: holds a run already; add --resume to go on with it, or name another folder"
        )
    if run.config.exists():
        require_same(run, config, "--out")
    write_atomically(run.config, configs.to_yaml(config))
    run.metrics.unlink(missing_ok=True)
    return None


def resume(run: RunFolder, config: Config) -> State | None:
    """The state to go on from, None where nothing was saved yet. Raises ValueError if the run has another config."""
    if not run.is_saved:
        return begin(run, config)
    prepare_output(run.path)
    for path in (run.config, run.state):
        if not path.exists():
            raise ValueError(f"--resume: {run.path} holds models, but not {path.relative_to(run.path)} to go on from")
    require_same(run, config, "--resume")
    remove_leftovers(run)
    state = read_state(run.state)
    drop_rows_after(run.metrics, state["step"], state["measured"])
    return state


def require_same(run: RunFolder, config: Config, what: str) -> None:
    """Refuse another experiment than the folder's; only its data may have moved."""
    tree = format_1.upgraded_experiment(configs.read_tree(str(run.config)))
    stored = configs.check(tree, source=str(run.config))
    for key, there, here in configs.differences(stored, config):
        if key == "data.root":
            continue
        raise ValueError(f"{what}: {key} is {here} here but {there} in {run.config}; take the run's own config")


def remove_leftovers(run: RunFolder) -> None:
    """Half-written files of a process that was killed while it saved."""
    for path in run.files:
        for leftover in path.parent.glob(f".{path.name}.*"):
            leftover.unlink()


def read_state(path: Path) -> State:
    """On the CPU. Raises ValueError with the path where it isn't whole."""
    try:
        state: State = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, OSError) as error:
        raise ValueError(f"{path}: not a whole training state: {str(error).splitlines()[0]}") from error
    return state


def write_state(path: Path, state: State) -> None:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(path, buffer.getvalue())


def log(path: Path, row: dict[str, Any]) -> None:
    """Add a row to a run's metrics."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    except OSError as error:
        raise OSError(error.errno, f"cannot write {path}: {error.strerror}") from error


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics; a last line that a kill cut off is left out."""
    return list(_whole_rows(path.read_text(encoding="utf-8").splitlines())) if path.exists() else []


def _whole_rows(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return


def drop_rows_after(path: Path, step: int, measured: int) -> None:
    """Forget what was lost with a kill and will be done again: later steps, and validations after `measured`."""
    rows = [row for row in read_rows(path) if row["step"] <= (measured if "miou" in row else step)]
    if path.exists():
        write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows))


def remove(run: RunFolder) -> None:
    """Delete a run's own files, and the folders if nothing else is in them."""
    _remove(run, run.files)


def _remove(run: RunFolder, files: Iterable[Path]) -> None:
    for path in files:
        with contextlib.suppress(OSError):  # it never came to be
            path.unlink()
    for folder in (run.state.parent, run.path):
        with contextlib.suppress(OSError):  # other files are in it, or it isn't there
            folder.rmdir()


@contextlib.contextmanager
def discarded_unless_saved(run: RunFolder) -> Iterator[None]:
    """Leave nothing new behind of a run that breaks before there is anything to go on from."""
    before = [path for path in run.files if path.exists()]
    try:
        yield
    except BaseException:
        if not run.is_saved:
            _remove(run, [path for path in run.files if path not in before])
        raise
