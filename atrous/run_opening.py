"""Starts or resumes a run, for one process at a time."""

import contextlib
from collections.abc import Iterator
from typing import Literal, NamedTuple, TypeAlias

from atrous import config as configs
from atrous import distributed
from atrous.config import Config
from atrous.distributed import World
from atrous.errors import ConfigError, ModelFileError
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
from atrous.run_folder import RunFolder, locked, require_run, step_so_far, write_config
from atrous.run_metrics import drop_rows_after
from atrous.run_state import State, lost_best, recovered_state, way_out, without_lost_best

Resume: TypeAlias = bool | Literal["or_start"]


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
            raise ModelFileError(f"--resume: {run.path} holds models, but {missing} is missing{way_out(run)}")
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
    remarks += lost_best(run, state)
    state = without_lost_best(run, state)
    remarks += drop_rows_after(run.metrics, state["step"], state["measured"])
    return Opened(state, tuple(changes), tuple(remarks))


def require_same(run: RunFolder, config: Config, what: str) -> None:
    """Refuse an experiment that differs from the folder's, except that its data or the machine may be another."""
    accepted = MOVED | {"train.micro_batch", "train.activation_checkpointing"}
    require_accepted(configs.load(str(run.config)), config, accepted, what, run.config)
