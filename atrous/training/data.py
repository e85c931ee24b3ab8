"""The data of a training: classes, splits, what their labels hold, and whether they are still those of the run."""

from collections.abc import Generator, Mapping, Sequence
from functools import partial
from typing import Any

from rich.console import Console

from atrous import config as configs
from atrous import data, distributed, evaluate, instruments, run_folder, segmenter
from atrous.config import Config
from atrous.data import survey
from atrous.data.dividing import other_division
from atrous.data.inventory import inventory
from atrous.data.label_space import LabelSpace
from atrous.data.loader import Stream, training_batches
from atrous.data.overlap import shared_images
from atrous.data.survey import Split, Survey
from atrous.data.transforms import require_packages
from atrous.distributed import World
from atrous.errors import listing
from atrous.interrupt import StopFlag
from atrous.model_file import require_same_classes
from atrous.models import Model, task_of
from atrous.out_of_memory import require_variance
from atrous.progress import say
from atrous.resume import Source, require_same_data, source_of
from atrous.resume import require_same_classes as require_classes_of_run
from atrous.run_folder import RunFolder
from atrous.run_opening import Opened
from atrous.run_state import State
from atrous.tasks import TASKS
from atrous.training.augmentation import augmentation, say_missing_landmarks
from atrous.training.learner import Standing
from atrous.training.saves import ends_told
from atrous.types import Batch, Sample


def splits_of(config: Config) -> tuple[Sequence[Sample], Sequence[Sample]]:
    """The samples to learn from, and those to validate on."""
    needs = TASKS[task_of(config.model)].needs
    return data.samples(config.data, config.data.train, needs), data.samples(config.data, config.data.val, needs)


def trainable(config: Config, world: World) -> tuple[LabelSpace, tuple[Sequence[Sample], Sequence[Sample]]]:
    """The classes and the splits of the data. What would fail, or be silently wrong, after hours is refused now."""
    require_packages(config.augment)
    instruments.require(config.train)
    space, splits = data.label_space(config.data), splits_of(config)
    distributed.require_same(repr(settings_of_all(config)), "the settings")
    distributed.require_same(" and ".join(str(len(samples)) for samples in splits), "the numbers of images")
    if config.model.num_classes is not None:
        require_same_classes(config.model.num_classes, space, "model.num_classes")
    require_variance(config.train, world)
    return space, splits


def surveys_of(
    run: RunFolder,
    config: Config,
    space: LabelSpace,
    splits: tuple[Sequence[Sample], Sequence[Sample]],
    world: World,
    workers: int,
    console: Console,
    stop: StopFlag,
    *,
    is_old: bool,
) -> dict[str, Survey]:
    """What the labels of "train" and "val" hold, which the run keeps as data.json; {} for a task without label maps.

    They are read before the first step, and not again (`is_old`) when the run is resumed with the same data. Raises
    DataError for labels that can't be used, and for data without those that the task needs.
    """
    parts = {
        "train": Split(config.data.train, splits[0], "to learn from", advice=other_division(config.data)),
        "val": Split(config.data.val, splits[1], "to validate on", advice=other_division(config.data)),
    }
    surveys = stored_surveys(run, parts, space) if is_old else {}
    if surveys:
        return surveys
    say_shared(splits, console)
    say_missing_landmarks(config, splits[0], console)
    read = partial(
        evaluate.survey_of,
        TASKS[task_of(config.model)],
        space=space,
        world=world,
        workers=workers,
        skip_errors=config.data.on_error == "skip",
        console=console,
        advance=lambda _: stop.check(),
    )
    with ends_told("while the labels were read", "nothing has been trained yet", stop):
        for kind, part in parts.items():
            one = read(part._replace(like=surveys.get("train")))
            surveys |= {} if one is None else {kind: one}
    if surveys:
        run_folder.write_data(run, {kind: survey.to_tree(one, space) for kind, one in surveys.items()})
    for samples in splits:
        evaluate.require_fields(samples, TASKS[task_of(config.model)], config)
    return surveys


def say_shared(splits: tuple[Sequence[Sample], Sequence[Sample]], console: Console) -> None:
    """Say which images are in both splits."""
    shared = [] if console.quiet else shared_images(*splits)  # one process looks for all
    if shared:
        number = f"{len(shared)} of {len(splits[1])} images to validate on"
        say(f"{number} are also in the training split, so scores are too good: {listing(shared)}", console)


def stored_surveys(run: RunFolder, parts: Mapping[str, Split], space: LabelSpace) -> dict[str, Survey]:
    """Those that the run keeps; {} if they are missing, damaged, or of other data."""
    trees = run_folder.read_data(run)
    surveys = {kind: survey.from_tree(trees.get(kind), space, len(part.samples)) for kind, part in parts.items()}
    known = {kind: one for kind, one in surveys.items() if one is not None}
    return known if len(known) == len(parts) else {}


def settings_of_all(config: Config) -> dict[str, Any]:
    """The settings that the processes of a run share: each machine may have the data elsewhere."""
    tree = configs.to_tree(config)
    return {**tree, "data": {key: value for key, value in tree["data"].items() if key != "root"}}


def compared(
    opening: Opened, run: RunFolder, space: LabelSpace, splits: Sequence[Sequence[Sample]], *, is_accepted: bool
) -> tuple[Opened, Source]:
    """The opening with what has changed in the data, and what the run learns from. Rank 0 compares.

    Raises DataError for other classes than those of the run so far, and for other files unless they are accepted.
    """
    if not run.is_writer:
        return opening, {}
    source = source_of(space, dict(zip(("train", "val"), map(inventory, splits), strict=True)))
    state = opening.state
    if state is None:
        return opening, source
    require_classes_of_run(stored_space(state, run) or space, space, run.path)
    if "files" not in state:
        remark = f"{run.state} is of an older version, which did not store the names and sizes of its images: "
        remark += "whether the data has changed is not known"
        return opening._replace(remarks=(*opening.remarks, remark)), source
    changes = require_same_data(state, source, run.path, is_accepted=is_accepted)
    return opening._replace(changes=(*opening.changes, *changes)), source


def stored_space(state: State, run: RunFolder) -> LabelSpace | None:
    """The classes of the run so far; older states leave them to the model file beside them."""
    if "label_space" in state:
        return LabelSpace.model_validate_json(state["label_space"])
    return segmenter.load(run.last).label_space if run.last.exists() else None


def training_batches_from(
    at: Standing,
    samples: Sequence[Sample],
    model: Model,
    config: Config,
    space: LabelSpace,
    world: World,
    workers: int,
) -> Generator[tuple[Batch, tuple[str, ...]], None, None]:
    """The run's stream of augmented batches, from the current position of the training."""
    return training_batches(
        samples,
        augmentation(model, config, space),
        Stream(config.train.seed, config.train.batch, at.samples, world.rank, world.size),
        workers=workers,
        skip_errors=config.data.on_error == "skip",
        pin_memory=world.device.type == "cuda",
    )
