"""What a report knows of a training, and what it says was trained."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from atrous import run_metrics
from atrous.config import Config
from atrous.report import facts as run_facts
from atrous.report.balance import Split, splits_of
from atrous.report.facts import RunFacts
from atrous.report.text import count, duration, known, number, plural
from atrous.run_folder import RunFolder
from atrous.types import Sample

BYTES = 4  # of a weight in memory
Row = Mapping[str, Any]  # of metrics.jsonl


class Training(NamedTuple):
    """Empty where a model is only evaluated."""

    history: Sequence[Row] = ()  # step with loss and learning_rate, or step with scores
    facts: RunFacts | None = None
    source: str = ""  # of the initial weights, as in train.init
    num_reused: int = 0  # weights from there
    num_random: int = 0
    splits: Mapping[str, Split] = {}  # how often each class occurs in train and val
    samples: Sequence[Sample] = ()  # the first ones, augmented


NO_TRAINING = Training()


def training_of(run: RunFolder, samples: Sequence[Sample]) -> Training:
    """What the files of a run say. A file that is missing or damaged leaves a gap in the report, no more."""
    reused = read_tree(run.reused)
    return Training(
        history=run_metrics.read_rows(run.metrics),
        facts=run_facts.read(run.facts),
        source=str(reused.get("source", "")),
        num_reused=len(_names(reused, "reused")),
        num_random=len(_names(reused, "fresh")),
        splits=splits_of(read_tree(run.data)),
        samples=samples,
    )


def read_tree(path: Path) -> dict[str, Any]:
    """A JSON object; an empty one where the file is missing or damaged."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return tree if isinstance(tree, dict) else {}


def _names(tree: Mapping[str, Any], key: str) -> list[Any]:
    names = tree.get(key)
    return names if isinstance(names, list) else []


# ---- in words


def what_was_trained(config: Config, training: Training) -> dict[str, str]:
    """The lines of the section, in order; those without a value are left out."""
    facts, train = training.facts, config.train
    lines = {
        "initial weights": initial_weights(config, training),
        "images": images(facts, config) if facts else "",
        "length": length(config, training),
        "time": time(facts) if facts and facts.started else "",
        "speed": speed(training.history),
        "batch": batch(config, facts),
        "out of memory": out_of_memory(training.history),
        "crop": " x ".join(map(str, config.augment.crop)),
        "learning rate": f"{config.optim.lr:g}, {config.optim.name}, {config.optim.schedule}",
        "precision": f"{train.precision}, averaged weights" if train.ema else train.precision,
        "trained on": facts.device if facts else "",
        "started": facts.started.replace("T", " ")[:16] if facts else "",
    }
    return {name: line for name, line in lines.items() if line}


def size(parameters: int) -> str:
    return f"{number(parameters, digits=3)} ({number(BYTES * parameters / 1e6, digits=3)} MB)"


def initial_weights(config: Config, training: Training) -> str:
    source = config.train.init or config.model.pretrained
    if source is None:
        return f"random, seed {config.train.seed}"
    part = "backbone" if config.train.init is None else config.train.reuse.replace("_", " ")
    some = f": {count(training.num_reused)} weights, {count(training.num_random)} random" if training.source else ""
    word = f"{source}, " if source == "imagenet" and training.source else ""
    return f"{word}{training.source or source} ({part}{some})"


def images(facts: RunFacts, config: Config) -> str:
    share = config.data.val_share
    aside = "" if share is None else f", set aside from the split {config.data.train} (data.val_share={share:g})"
    return f"{count(facts.train_images)} for training, {count(facts.val_images)} for validation{aside}"


def length(config: Config, training: Training) -> str:
    """In steps, and in epochs where the number of images is known; the training may have ended early."""
    facts, planned = training.facts, config.train.steps
    done = max((row["step"] for row in training.history), default=planned)
    steps = plural(planned, "step") if done >= planned else f"{count(done)} of {count(planned)} steps"
    if facts is None or facts.train_images < 1:
        return steps
    return f"{steps}, {number(done * facts.images_per_step / facts.train_images, digits=3)} epochs"


def time(facts: RunFacts) -> str:
    return duration(facts.seconds) + (f" in {plural(facts.sessions, 'session')}" if facts.sessions > 1 else "")


def speed(history: Sequence[Row]) -> str:
    speeds = [row["images_per_second"] for row in history if known_number(row.get("images_per_second"))]
    return f"{number(median(speeds), digits=3)} images/s" if speeds else ""


def known_number(value: object) -> bool:
    return isinstance(value, int | float) and known(value) is not None


def batch(config: Config, facts: RunFacts | None) -> str:
    """Images of an update, and what they are made of where that isn't one pass of one process."""
    settings, processes = config.train, facts.processes if facts else 1
    parts = [
        *([plural(processes, "process", "processes")] if processes > 1 else []),
        *([plural(settings.accumulate, "pass", "passes")] if settings.accumulate > 1 else []),
        str(settings.batch),
    ]
    total = plural(settings.batch * settings.accumulate * processes, "image")
    line = f"{total} ({' x '.join(parts)})" if len(parts) > 1 else total
    return f"{line}, {-(-settings.batch // settings.parts)} at a time" if settings.parts > 1 else line


def out_of_memory(history: Sequence[Row]) -> str:
    """Where the run went on with fewer images in a pass."""
    rows = [row for row in history if type(row.get("micro_batch")) is int]
    return "; ".join(f"at step {row['step'] + 1}: from there on passes of {row['micro_batch']}" for row in rows)
