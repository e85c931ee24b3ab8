"""What a training keeps on disk, and how it is found again. All files are whole, so that a kill loses little."""

import contextlib
import io
import json
import pickle
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

from atrous import config as configs
from atrous.config import Config
from atrous.files import prepare_output, write_atomically

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
    def is_saved(self) -> bool:
        """There is something to lose in it."""
        return self.state.exists() or self.best.exists() or self.last.exists()


def begin(run: RunFolder, config: Config) -> None:
    """Start a run in a folder that has none. Raises ValueError where one would be overwritten."""
    prepare_output(run.path)
    if run.is_saved:
        raise ValueError(
            f"--out {run.path}: holds a run already; add --resume to go on with it, or name another folder"
        )
    write_atomically(run.config, configs.to_yaml(config))
    run.metrics.unlink(missing_ok=True)


def resume(run: RunFolder, config: Config, device: torch.device) -> State | None:
    """The state to go on from, None where nothing was saved yet. Raises ValueError if the run has another config."""
    prepare_output(run.path)
    if not (run.is_saved and run.config.exists()):
        write_atomically(run.config, configs.to_yaml(config))
        run.metrics.unlink(missing_ok=True)
        return None
    stored = configs.check(read_yaml(run.config), source=str(run.config))
    for key, there, here in configs.differences(stored, config):
        raise ValueError(
            f"--resume: {key} is {here} here but {there} in {run.config}; resume with the run's own config"
        )
    state = read_state(run.state, device) if run.state.exists() else None
    drop_rows_after(run.metrics, 0 if state is None else state["step"])
    return state


def read_yaml(path: Path) -> dict[str, Any]:
    tree: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return tree


def read_state(path: Path, device: torch.device) -> State:
    try:
        state: State = torch.load(path, map_location=device, weights_only=True)
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


def drop_rows_after(path: Path, step: int) -> None:
    """Forget the rows of steps that were lost with a kill and will be done again."""
    rows = [row for row in read_rows(path) if row["step"] <= step]
    if path.exists():
        write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows))


def remove(run: RunFolder) -> None:
    """Delete a run's own files, and the folder if nothing else is in it."""
    for path in (run.config, run.metrics, run.best, run.last, run.report):
        path.unlink(missing_ok=True)
    shutil.rmtree(run.state.parent, ignore_errors=True)
    with contextlib.suppress(OSError):  # other files are in it
        run.path.rmdir()


@contextlib.contextmanager
def discarded_unless_saved(run: RunFolder) -> Iterator[None]:
    """Leave nothing behind of a run that breaks before there is anything to go on from."""
    try:
        yield
    except BaseException:
        if not run.is_saved:
            remove(run)
        raise
