"""What a training saves, and what it says when something ends it."""

import contextlib
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from rich.console import Console

from atrous import distributed, model_file, out_of_memory, run_folder, run_state, segmenter
from atrous.config import Config
from atrous.distributed import World
from atrous.errors import AtrousError, ModelFileError, ProcessDied
from atrous.interrupt import Interrupted, StopFlag
from atrous.models import Model
from atrous.run_folder import RunFolder
from atrous.run_opening import Opened
from atrous.segmenter import Segmenter
from atrous.train_config import TrainConfig
from atrous.training.learner import Learner, Standing, gather_weights, snapshot
from atrous.training.passes import Losses, first_broken, require_finite


def save(
    run: RunFolder, learner: Learner, candidate: Segmenter, at: Standing, losses: Sequence[Losses], world: World
) -> None:
    """Write the files to resume from. Weights after a loss that was not finite are not worth saving."""
    require_finite(losses, world)
    write(run, learner, candidate, at)


def write(run: RunFolder, learner: Learner, candidate: Segmenter, at: Standing) -> None:
    run_state.write_state(run, snapshot(learner, at))
    gather_weights(learner)
    if run.is_writer:
        newest(candidate, at).save(run.last)


def newest(candidate: Segmenter, at: Standing) -> Segmenter:
    """The model with the step that it is of, which tells one save from another on any machine."""
    return candidate.with_header(results={"step": at.step})


def bring_up_to_date(
    run: RunFolder,
    opening: Opened,
    config: Config,
    learner: Learner,
    candidate: Segmenter,
    at: Standing,
    console: Console,
) -> None:
    """Let the files of a resumed run agree with its state: a kill may have come between them, or settings changed."""
    for line in (*opening.remarks, *opening.changes):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if opening.state is not None and run.is_writer:
        require_readable(run.best)  # before anything is written
    run_folder.write_changes(run, config, opening.changes, at.step)
    if opening.state is not None:
        gather_weights(learner)
    if opening.state is None or not run.is_writer:
        return
    if any(opening.state.get(key) != text for key, text in learner.source.items()):
        run_state.write_state(run, {**opening.state, **learner.source})
    if not is_saved_as(newest(candidate, at), run.last):
        newest(candidate, at).save(run.last)


def is_saved_as(model: Segmenter, path: Path) -> bool:
    """Whether the file holds just this model."""
    try:
        network, header = model_file.load(path, torch.device("cpu"))
    except (AtrousError, OSError):
        return False
    weights = network.state_dict() if isinstance(network, Model) else {}
    own = model.model.state_dict()
    is_same_header = header.to_metadata() == model.header.to_metadata()
    return is_same_header and all(torch.equal(own[name].cpu(), weights[name]) for name in own)


def require_readable(path: Path) -> None:
    """Say now, not after the last step, that the best model can't be read."""
    if path.exists():
        try:
            segmenter.load(path)
        except ModelFileError as error:
            raise ModelFileError(f"{error}; delete it, and the best validation to come takes its place") from error


@contextlib.contextmanager
def saved_if_others_die(
    run: RunFolder,
    learner: Learner,
    candidate: Segmenter,
    at: Standing,
    losses: Sequence[Losses],
    settings: TrainConfig,
    stop: StopFlag,
) -> Iterator[None]:
    """Before an update, while the weights are those of `at`: save them if another process dies, and say so."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, ProcessDied) and not distributed.is_lost_peer(error):
            raise
        told = str(error) if isinstance(error, ProcessDied) else distributed.LOST_PEER
        is_complete = run.is_writer and learner.whole is None  # else it holds a part of the weights
        if not is_complete or first_broken(losses) is not None or not (at.step or stop.is_set()):
            raise ProcessDied(told) from error
        write(run, learner, candidate, at)
        if stop.is_set():  # the others ended by the same signal
            raise stopped(run, at, settings, stop) from error
        raise ProcessDied(f"{told}; saved after step {at.step}; {how_to_resume(run)}") from error


@contextlib.contextmanager
def resumable(run: RunFolder, when: str, stop: StopFlag) -> Iterator[None]:
    """Where everything is saved, say so if a signal or the death of another process ends it."""
    advice = f"the training is saved; {how_to_resume(run)}"
    with ends_told(when, advice, stop), out_of_memory.told_while_validating(f"in {run.config}; {advice}"):
        yield


@contextlib.contextmanager
def ends_told(when: str, advice: str, stop: StopFlag) -> Iterator[None]:
    """Say more if a signal or the death of another process ends it."""
    try:
        yield
    except Interrupted as interruption:
        raise Interrupted(f"stopped {when}; {advice}", interruption.number) from interruption
    except Exception as error:
        if stop.number is not None and distributed.is_lost_peer(error):  # it ended by the same signal
            raise Interrupted(f"stopped {when}; {advice}", stop.number) from error
        if isinstance(error, ProcessDied):
            raise ProcessDied(f"{error}; {advice}") from error
        raise


def stopped(run: RunFolder, at: Standing, settings: TrainConfig, stop: StopFlag) -> Interrupted:
    text = f"stopped and saved after step {at.step} of {settings.steps}; {how_to_resume(run)}"
    return Interrupted(text) if stop.number is None else Interrupted(text, stop.number)


def how_to_resume(run: RunFolder) -> str:
    return f"resume with: atrous train {shlex.quote(str(run.config))} --out {shlex.quote(str(run.path))} --resume"
