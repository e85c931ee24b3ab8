"""What only the training itself knows: its command, its time over all interruptions, how many images it had."""

import contextlib
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from atrous.files import write_atomically
from atrous.run_folder import RunFolder


class RunFacts(NamedTuple):
    parameters: int
    train_images: int
    val_images: int
    images_per_step: int  # of all processes
    processes: int
    device: str
    command: str = ""  # of the first start, to paste into a shell; empty for a training from Python
    started: str = ""  # ISO date and time
    seconds: float = 0.0  # of training and validating, over all sessions
    sessions: int = 1  # the first start, and each time that it was resumed


@contextlib.contextmanager
def timed(run: RunFolder, facts: RunFacts, step: int, steps: int) -> Iterator[Callable[[], None]]:
    """Write the facts now, at the end, and at each call of the value, with the time that the run has taken so far.

    A session that begins at `step` 0 is the first; one that begins after the last step only writes the report again.
    """
    facts, start = facts_so_far(run, facts, step, steps), time.monotonic()

    def write() -> None:
        seconds = round(facts.seconds + time.monotonic() - start, 3)
        if run.is_writer:
            write_atomically(run.facts, json.dumps(facts._replace(seconds=seconds)._asdict(), indent=1) + "\n")

    write()
    try:
        yield write
    finally:
        with contextlib.suppress(OSError):  # a full disk has stopped the run, and its error is the one to show
            write()


def facts_so_far(run: RunFolder, facts: RunFacts, step: int, steps: int) -> RunFacts:
    """The facts with those of earlier sessions, whose beginning is unknown if the file is missing or damaged."""
    if step == 0:
        return facts._replace(command=command(), started=datetime.now().astimezone().isoformat(timespec="seconds"))
    earlier = read(run.facts)
    if earlier is None:
        return facts
    sessions = earlier.sessions + (step < steps)
    return facts._replace(command=earlier.command, started=earlier.started, seconds=earlier.seconds, sessions=sessions)


def read(path: Path) -> RunFacts | None:
    """The facts of a run; None where the file is missing or damaged: a report does without."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        return checked(tree)
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def checked(tree: dict[str, Any]) -> RunFacts:
    """Raises TypeError for a missing or unknown field, or one of another type."""
    facts = RunFacts(**tree)
    for name, kind in RunFacts.__annotations__.items():
        value = tree.get(name, RunFacts._field_defaults.get(name))
        if isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else kind):
            raise TypeError(f"{name} is {value!r}")
    return facts


def command() -> str:
    """The command that started this process, to paste into a shell; empty where it was not `atrous`."""
    program = Path(sys.argv[0])
    if program.stem != "atrous" and (program.stem, program.parent.name) != ("__main__", "atrous"):
        return ""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    many = ["torchrun", f"--nproc-per-node={processes}", "-m"] if processes > 1 else []
    return shlex.join([*many, "atrous", *sys.argv[1:]])
