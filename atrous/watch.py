"""`atrous evaluate RUN --watch`: evaluate each new model of a training as it appears, also from another machine.

What was evaluated is known by the weights themselves, never by the time of a file: clocks differ between machines.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from atrous import config as configs
from atrous import distributed, evaluate, model_file, run_folder, run_metrics, scoring, segmenter, terminal
from atrous.config import Config
from atrous.distributed import World
from atrous.errors import AtrousError, ConfigError, ModelFileError, listing
from atrous.files import append_line, user_path
from atrous.interrupt import Interrupted
from atrous.progress import say
from atrous.report import Evaluation
from atrous.resume import MOVED
from atrous.run_folder import RunFolder
from atrous.runtimes.pytorch import checksum
from atrous.segmenter import Segmenter

POLL = 2.0  # seconds between two looks
NUM_LOOKS = 3  # one after the other, before it is believed that a run is complete or gone, or a file can't be read


class Call(NamedTuple):
    """What the user asked for."""

    run: RunFolder
    files: tuple[Path, ...]  # a run's newest and best model, or the one file that was named
    overrides: tuple[str, ...]
    metrics: tuple[str, ...] | None
    world: World
    workers: int
    console: Console


class Look(NamedTuple):
    """What the files are like now."""

    unknown: dict[Path, str]  # files to read, and what their headers hold
    problems: dict[Path, str]  # files that can't be read
    is_over: bool  # the training
    is_there: bool  # its folder


def run(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    timeout: float | None = None,
    metrics: Sequence[str] | None = None,
    device: str | None = None,
    workers: int = 0,
    console: Console | None = None,
) -> bool:
    """Evaluate each model that a training saves, and add a line to the run's watched.jsonl, until it is complete.

    False: no new model came within `timeout` seconds, the run was deleted, or its last file can't be read. Raises
    AtrousError and OSError for what the user can correct.
    """
    path, world = user_path(path), distributed.join(device)
    if world.size > 1:
        raise ConfigError(f"--watch takes one process, but there are {world.size}")
    if path.exists() and scoring.is_stored(path):
        raise ConfigError(f"--watch waits for models, but {path} holds stored predictions")
    is_file = path.suffix == ".safetensors"
    if path.is_file() and not is_file:
        raise ConfigError(f"--watch takes the folder of a run, or a model file (.safetensors); {path} is neither")
    folder = RunFolder(path.parent if is_file else path)
    files = (path,) if is_file else (folder.last, folder.best)
    chosen = None if metrics is None else tuple(metrics)
    call = Call(folder, files, tuple(overrides), chosen, world, workers, console or terminal.console())
    try:
        reason = watch(call, timeout)
    except Interrupted as interruption:
        raise Interrupted(f"stopped watching {path}", interruption.number) from interruption
    say(f"{path}: {reason or 'the training is complete'}", call.console)
    return not reason


def watch(call: Call, timeout: float | None) -> str:
    """Evaluate what comes. Returns why it ended before the training was complete; empty: it is complete."""
    read: set[str] = set()  # headers of files that need no second look
    told: set[str] = set()  # problems
    calm, start = 0, time.monotonic()  # looks in which nothing changed; when something new last came
    was_there, before = say_what_is_there(call), None
    while True:
        look, is_new = looked(call, read), False
        for path, header in look.unknown.items():
            problem = evaluate_once(call, path)
            look.problems.update({path: problem} if problem else {})
            read.update(() if problem else (header,))
            is_new |= not problem
        was_there, state = was_there or look.is_there, (look.is_over, look.is_there)
        calm, before = (calm + 1 if state == before and not is_new else 0), state
        start = time.monotonic() if is_new else start
        reason = ended(look, was_there=was_there) if calm >= NUM_LOOKS else None
        if reason is not None:
            return reason
        if timeout is not None and time.monotonic() - start > timeout:
            return f"no new model for {timeout:g} s"
        for problem in set(look.problems.values() if calm >= NUM_LOOKS else ()) - told:
            say(f"{problem}; waiting for another", call.console)
            told.add(problem)
        time.sleep(0 if is_new else POLL)


def say_what_is_there(call: Call) -> bool:
    """Say what is waited for, or how much is done already. Returns whether the run is there."""
    rows = rows_of(call.run)
    if rows:
        number = "1 evaluation, which is" if len(rows) == 1 else f"{len(rows)} evaluations, which are"
        say(f"{call.run.watched}: {number} not done again", call.console)
    if not any(path.exists() for path in call.files):
        near = [] if call.run.path.exists() else run_folder.nearest_runs(call.run.path)
        runs = f" (the nearest runs: {listing(near)})" if near else ""
        say(f"{call.files[0]}: not there yet{runs}; waiting for it", call.console)
    return call.run.path.exists()


def ended(look: Look, *, was_there: bool) -> str | None:
    """Why nothing more will come; None: something may."""
    if was_there and not look.is_there:
        return "the run was deleted"
    if look.is_over:
        return next(iter(look.problems.values()), "")
    return None


def looked(call: Call, read: set[str]) -> Look:
    """Read the headers of the files."""
    unknown, problems = {}, {}
    for path in call.files:
        try:
            header = json.dumps(dict(model_file.read_metadata(path)), sort_keys=True)
        except FileNotFoundError:
            continue
        except (ModelFileError, OSError) as error:
            problems[path] = str(error)
            continue
        if header not in read:
            unknown[path] = header
    return Look(unknown, problems, is_over(call.run), call.run.path.exists())


def is_over(run: RunFolder) -> bool:
    """Whether the newest model is that of the last step, and its validation is done.

    From what the files hold: the step in the model's header, the run's settings, and its metrics.
    """
    try:
        settings = configs.load(str(run.config)).train
        results = json.loads(model_file.read_metadata(run.last).get("results", "{}"))
        validations = [row for row in run_metrics.read_rows(run.metrics) if "scores" in row]
    except (AtrousError, OSError):  # not there yet, or being replaced
        return False
    last = validations[-1]["step"] if validations else -1
    step = results.get("step", last)  # older versions did not write it
    if last < step:
        return False
    is_early = settings.patience is not None and num_stale(validations) >= settings.patience
    return bool(step >= settings.steps) or is_early


def num_stale(validations: Sequence[dict[str, Any]]) -> int:
    """Validations since the best one."""
    scores = [next(iter(row["scores"].values())) or 0.0 for row in validations]
    return len(scores) - 1 - scores.index(max(scores))


# ---- one model


def evaluate_once(call: Call, path: Path) -> str:
    """Evaluate the model in the file, unless it was. Returns why the file can't be read: it may be half-written."""
    try:
        model = segmenter.load(path, precision="fp32")
    except (ModelFileError, OSError) as error:
        return str(error)
    config = evaluate.settings(model, call.overrides, str(path))
    weights, protocol = checksum(model.model.state_dict()), protocol_of(config, call.metrics)
    rows = [row for row in rows_of(call.run) if row["settings"] == protocol]
    if weights in {row["weights"] for row in rows}:
        return ""
    measured = evaluate.measured(
        model,
        call.overrides,
        path,
        call.world,
        workers=call.workers,
        metrics=call.metrics,
        console=call.console,
        is_known=bool(rows),
    )
    evaluation = measured.evaluation
    own = protocol_of(model.training, call.metrics) if model.training is not None else ""
    if own == protocol and leaves_best_to_watcher(model) and is_best(evaluation, rows):
        keep_best(call, model, evaluation)
    row = row_of(path, model, evaluation, weights, protocol)
    write(call, row)
    figures = evaluation.figures
    scores = "  ".join(figures.describe(name) for name in figures.scores)
    step = "" if row["step"] is None else f"step {row['step']}: "
    say(f"{step}{scores}  ({path.name})", call.console)
    return ""


def protocol_of(config: Config, metrics: Sequence[str] | None) -> str:
    """A digest of what the figures depend on beside the weights. Where the data lies doesn't count."""
    tree = configs.to_tree(config)
    moved = {key.partition(".")[2] for key in MOVED}
    tree["data"] = {key: value for key, value in tree["data"].items() if key not in moved}
    content = [tree["data"], tree["evaluate"], tree["decode"], None if metrics is None else sorted(metrics)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def row_of(path: Path, model: Segmenter, evaluation: Evaluation, weights: str, protocol: str) -> dict[str, Any]:
    return {
        "step": model.results.get("step"),
        "scores": evaluation.figures.to_tree()["scores"],
        "classes": evaluation.figures.table.first_column(),
        "images": len(evaluation.images),
        "skipped": evaluation.skipped,
        "protocol": evaluation.protocol,
        "file": path.name,
        "weights": weights,
        "settings": protocol,
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def leaves_best_to_watcher(model: Segmenter) -> bool:
    """Whether the training doesn't look for its best model itself."""
    return model.training is not None and model.training.train.eval_every is None


def is_best(evaluation: Evaluation, rows: Sequence[dict[str, Any]]) -> bool:
    name = evaluation.figures.headline
    return all(evaluation.figures.scores[name] > (row["scores"].get(name) or 0.0) for row in rows)


def keep_best(call: Call, model: Segmenter, evaluation: Evaluation) -> None:
    results = {"step": model.results.get("step"), **evaluation.to_tree()}
    try:
        model.with_header(results=results).save(call.run.best_watched)
    except OSError as error:
        say(str(error), call.console)


# ---- the log


def write(call: Call, row: dict[str, Any]) -> None:
    """Add the row to the log. Where that fails, as in a folder of another user, it is only printed."""
    try:
        append_line(call.run.watched, json.dumps(row))
    except OSError as error:
        say(f"cannot write {call.run.watched}: {error.strerror}; this evaluation is only printed", call.console)


def rows_of(run: RunFolder) -> list[dict[str, Any]]:
    """The rows of the log. A damaged line costs only itself."""
    try:
        lines = run.watched.read_bytes().splitlines()
    except OSError:
        return []
    return [row for line in lines if (row := row_in(line)) is not None]


def row_in(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    kinds = {"scores": dict, "weights": str, "settings": str}
    is_whole = isinstance(row, dict) and all(isinstance(row.get(key), kind) for key, kind in kinds.items())
    return row if is_whole else None
