"""`atrous train`: all of training, top to bottom, in one function."""

import contextlib
import copy
import shlex
from collections.abc import Generator, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from atrous import config as configs
from atrous import (
    data,
    distributed,
    evaluate,
    instruments,
    model_file,
    models,
    optim,
    out_of_memory,
    parallel,
    plan,
    pretrained,
    report,
    run_folder,
    segmenter,
    terminal,
    verb_module,
    visualize,
)
from atrous.config import Config, TrainConfig
from atrous.data import survey
from atrous.data.batch_transforms import vary, vary_sample
from atrous.data.dividing import other_division
from atrous.data.inventory import inventory
from atrous.data.label_space import LabelSpace
from atrous.data.loader import Augment, Augmented, Read, Stream, missing_fields, training_batches
from atrous.data.overlap import shared_images
from atrous.data.survey import Split, Survey
from atrous.data.transforms import augment, require_packages
from atrous.data.workers import require_guarded_script
from atrous.distributed import World
from atrous.environment import environment
from atrous.errors import AtrousError, ConfigError, DataError, ModelFileError, ProcessDied, listing
from atrous.files import prepare_file, user_path, write_atomically
from atrous.instruments import Instruments
from atrous.interrupt import Interrupted, StopFlag, stop_signals
from atrous.layers import quantization
from atrous.layers.recompute import recompute
from atrous.model_file import require_same_classes
from atrous.models import Model, task_of
from atrous.out_of_memory import NoMemory, require_variance, stepped_down
from atrous.progress import Progress, say
from atrous.report import Evaluation
from atrous.report.facts import RunFacts, timed
from atrous.resume import Source, fitting, images_of_step, require_same_data, source_of
from atrous.resume import require_same_classes as require_classes_of_run
from atrous.reuse import Reused
from atrous.run_folder import Opened, Resume, RunFolder, State
from atrous.runtimes.pytorch import require_same_weights
from atrous.segmenter import Segmenter
from atrous.tasks import TASKS
from atrous.tasks.contract import Objective, Targets, TrainingData
from atrous.types import Batch, Color, Sample


class Standing(NamedTuple):
    """How far a training has come."""

    step: int = 0  # updates done
    samples: int = 0  # read by all processes
    validation: int = 0  # the step of the last one
    best: float = -1.0  # the headline score of the best validation
    stale: int = 0  # validations since then


NUM_SHOWN, SHOWN_IN_A_ROW = 12, 6  # samples in the picture of the augmentation, and panels side by side in it
STANDING_KEYS = ("step", "taken", "measured", "best", "stale")  # of a saved state, in the order of the fields


class Learner(NamedTuple):
    """Everything that an update changes, and what it learns from."""

    model: Model
    averaged: Model | None
    optimizer: torch.optim.Optimizer
    parallel: nn.Module  # the model, spread over the processes
    source: Source  # classes and files, as the state keeps them
    whole: Model | None = None  # to validate and save, where the processes share the weights out
    images: int = 1  # of a step, by all processes


class Pass(NamedTuple):
    """A batch on the device, and the targets that its outputs are compared with."""

    batch: Batch
    targets: Targets


class Losses(NamedTuple):
    """The terms of one pass. They stay on the device until they are logged, so that no step waits for it."""

    step: int
    names: tuple[str, ...]  # of the images
    terms: dict[str, Tensor]
    factor: float  # on each term


def train(
    config: Config,
    out: Path,
    *,
    resume: Resume = False,
    accept_changed_data: bool = False,
    device: str | None = None,
    workers: int = 0,
    console: Console | None = None,
    stop: StopFlag | None = None,
) -> RunFolder:
    """Train as `config` says, or resume the run in `out`. At the end the folder holds the best model and a report.

    `resume="or_start"` starts a run if there is none. With `accept_changed_data`, files may have been added or removed.
    Raises AtrousError and OSError for what the user can correct, FloatingPointError when the loss is not finite,
    ProcessDied when another process that it needs ended, and Interrupted, after saving, on Ctrl-C and signals like it,
    and when another thread sets `stop`.
    """
    # One process, or one of many: only the first writes and prints.
    require_guarded_script()
    world = distributed.join(device)
    run, console = RunFolder(user_path(out), world.rank == 0), console_of(world, console)
    config, settings = fitted(settled(config, console), run, world, resume, console)

    with stop_signals(stop) as stop, run_folder.opened(run, config, world, resume=resume) as opening:
        # The data, and what its labels mean.
        space, splits = trainable(config, world)
        opening, source = compared(opening, run, space, splits, is_accepted=accept_changed_data)
        # The network, new or as it was saved; the model to validate and save; the objective to minimise.
        learner, reused = build(config, space, splits[0], source, world, console, is_new=opening.state is None)
        surveys = surveys_of(
            run,
            config,
            space,
            splits,
            world,
            workers,
            console,
            stop,
            is_old=opening.state is not None and not accept_changed_data,
        )
        at = restore(opening.state, learner, run)
        candidate = segmenter_of(learner, config, space)
        objective = objective_of(learner.model, config, space, surveys.get("train"), world)
        introduce(run, learner.model, config, splits, world, at, reused, console)
        bring_up_to_date(run, opening, config, learner, candidate, at, console)

        # Steps, with a validation now and then, until neither is due.
        batches = training_batches_from(at, splits[0], learner.model, config, space, world, workers)
        losses: list[Losses] = []
        with (
            out_of_memory.told_outside_of_passes(run, how_to_resume(run)),
            stop.deferred(),
            contextlib.closing(batches),
            Progress(console, settings.steps, at.step) as progress,
            timed(run, facts_of(learner.model, config, splits, world), at.step, settings.steps) as note,
            instruments.opened(run, settings, world, console, done=at.step, is_due=is_due(at, settings)) as tools,
        ):
            while is_due(at, settings) or not is_over(at, settings):
                if is_due(at, settings):
                    at = validate(run, learner, candidate, splits[1], at, world, workers, progress, tools, stop)
                    continue
                with saved_if_others_die(run, learner, candidate, at, losses, settings, stop):
                    passes = load(batches, objective, config, world, progress, stop)
                    counts, is_stopped = agree(objective, passes, at.step, settings, stop, world)
                if is_stopped:
                    save(run, learner, candidate, at, losses, world)
                    raise stopped(run, at, settings, stop)

                learning_rate = set_schedules(learner, config, at.step, world)
                config, candidate = learn(
                    learner, objective, passes, counts, losses, at, config, candidate, run, world, progress
                )
                at = advanced(at, settings, world)

                tools.advance(progress.step(at.step, images_of_step(settings, world)))
                if at.step % settings.log_every == 0 or at.step == settings.steps:
                    tools.log(run_folder.log(run, progress.log(at.step, mean_terms(losses, world), learning_rate)))
                    losses.clear()
                if at.step % settings.save_every == 0 or is_due(at, settings):
                    save(run, learner, candidate, at, losses, world)
                    note()
        finish(run, splits, at, settings, world, workers, console, stop)
    return run


# ---- before the first step


def console_of(world: World, console: Console | None) -> Console:
    """The first process prints; the others are quiet."""
    console = console or terminal.console()
    console.quiet = console.quiet or world.rank > 0
    return console


def settled(config: Config, console: Console) -> Config:
    """With a share to validate on where there is no split for it."""
    data_config = data.with_validation(config.data)
    if data_config.val_share is not None:
        say(f"no images of a split {data_config.val!r}: {data.share_of(data_config)}", console)
    elif config.data.val_share is not None:
        say(f"data.val_share is not used: there is a split {data_config.val!r}", console)
    return config.model_copy(update={"data": data_config})


def fitted(
    config: Config, run: RunFolder, world: World, resume: Resume, console: Console
) -> tuple[Config, TrainConfig]:
    """The config with its length in steps, and its section `train`. A step has as many images as in the run so far, if
    this number of processes can have them.

    Raises ConfigError if `torchrun` would start the run again, but may not resume it.
    """
    restarts = distributed.restarts()
    if restarts.most and not resume:
        raise ConfigError(
            f"torchrun --max-restarts={restarts.most} runs this command again when a process dies: add "
            "--resume-or-start, so that it goes on from the last save"
        )
    if distributed.is_store_old():
        say(
            "a restart of several machines may wait for dead processes; set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 for "
            "torchrun on each of them",
            console,
        )
    images, processes = distributed.tree_from_first(
        list(run_folder.step_so_far(run) if resume else (0, 0)), world.device
    )
    is_many = world.size > 1 or processes > 1
    fit = fitting(config, images, world) if is_many else config
    if fit != config:
        cut = f"{world.size} x train.batch={fit.train.batch} x train.accumulate={fit.train.accumulate}"
        say(f"a step keeps its {images} images: {cut}, not train.accumulate={config.train.accumulate}", console)
    fit = in_memory(in_steps(fit, world), run, world, console, is_resumed=bool(resume))
    return fit, fit.train


def in_steps(config: Config, world: World) -> Config:
    """The config with its length in steps; the images are counted only where it is given in epochs."""
    if config.train.epochs is None:
        return config
    num_images = len(splits_of(config)[0])
    return configs.in_steps(config, num_images, images_of_step(config.train, world))


def in_memory(config: Config, run: RunFolder, world: World, console: Console, *, is_resumed: bool) -> Config:
    """The config with the number of images that go through the network at once, where the memory or the run says it."""
    if is_resumed:
        config = out_of_memory.as_stored(config, run, console)
    if config.train.micro_batch != configs.AUTO or (run.is_saved and not is_resumed):  # which is refused
        return config
    return plan.fitted(config, world, console)


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


def say_missing_landmarks(config: Config, samples: Sequence[Sample], console: Console) -> None:
    """Say that a step can't be done, where the first image lacks what it needs; later ones may have it."""
    skip_errors = config.data.on_error == "skip"
    if config.augment.leg_crop and missing_fields(samples, ("landmarks",), skip_errors=skip_errors):
        say("augment.leg_crop: the first image has no landmarks; legs stay where there are none", console)


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


def build(
    config: Config,
    space: LabelSpace,
    samples: Sequence[Sample],
    source: Source,
    world: World,
    console: Console,
    *,
    is_new: bool,
) -> tuple[Learner, Reused | None]:
    """The network with its initial weights; a resumed run does not read those that it began with again."""
    settings = config.train
    torch.manual_seed(settings.seed)
    model = models.build(config.model, space.num_classes).to(world.device)
    reused = pretrained.begin(model, config, samples, console) if is_new else None
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if settings.quantize_after is not None:
        quantization.add_ranges(model)
    averaged = copy.deepcopy(model) if settings.ema else None
    is_shared_out = settings.parallel == "fsdp" and world.size > 1
    whole = copy.deepcopy(model).cpu() if is_shared_out else None
    set_batch_norm(model, config)
    recompute(model.backbone.parts() if settings.activation_checkpointing else ())
    spread = parallel.spread(model, averaged, settings.parallel, world)
    optimizer = optim.build(model, config.optim, model.logit_modules)
    return Learner(model, averaged, optimizer, spread, source, whole, images_of_step(settings, world)), reused


def set_batch_norm(model: nn.Module, config: Config) -> None:
    """Training mode. Frozen batch norms keep their statistics while scales and shifts still learn, as in TF DeepLab."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = config.train.batch_norm_momentum or module.momentum
            module.train(config.train.batch_norm == "tuned")


def segmenter_of(learner: Learner, config: Config, space: LabelSpace) -> Segmenter:
    """The model to validate and save: the averaged weights if there are any."""
    model = learner.whole or learner.averaged or learner.model
    return segmenter.of_model(model, space, inference=config.evaluate, decode=config.decode, training=config)


def objective_of(model: Model, config: Config, space: LabelSpace, counts: Survey | None, world: World) -> Objective:
    training_data = TrainingData(space, counts, world.device)
    return TASKS[model.task].objective(config.loss, model.facts, model.heads, training_data)


def class_weights(config: Config, samples: Sequence[Sample], space: LabelSpace, workers: int = 0) -> Tensor | None:
    """The weight of each class, [C], in the loss of a training on `samples`; None: the loss has no class weights."""
    task, world = TASKS[task_of(config.model)], World(0, 1, torch.device("cpu"))
    if task.class_weights is None:
        return None
    counts = None if task.survey is None else task.survey(samples, space, world, workers=workers)
    return task.class_weights(config.loss, TrainingData(space, counts, world.device))


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


def augmentation(model: Model, config: Config, space: LabelSpace) -> Augment:
    return partial(augment, config=config.augment, fill=fill_color(model), ignore=space.ignore)


def fill_color(model: Model) -> Color:
    red, green, blue = (round(value) for value in model.facts.mean)
    return red, green, blue


def introduce(
    run: RunFolder,
    model: Model,
    config: Config,
    splits: tuple[Sequence[Sample], Sequence[Sample]],
    world: World,
    at: Standing,
    reused: Reused | None,
    console: Console,
) -> None:
    """Print the model, the data, and the weights that the training starts from; store which were reused."""
    samples, val_samples = splits
    parameters = sum(parameter.numel() for parameter in model.parameters())
    images = images_of_step(config.train, world)
    start = f"resuming after step {at.step}" if at.step else "starting"
    restarts = distributed.restarts()
    start = f"restarted by torchrun ({restarts.number} of {restarts.most}), {start}" if restarts.number else start
    epochs = config.train.steps * images / len(samples)
    where = f"{world.device}" if world.size == 1 else f"{world.size} x {world.device.type}"
    console.print(f"{config.model.name}, {config.model.backbone.name}: {parameters / 1e6:.2f} M parameters, {where}")
    console.print(f"{config.data.format}: {len(samples)} images to learn from, {len(val_samples)} to validate on")
    console.print(f"{start}: {config.train.steps} steps of {images} images, {epochs:.1f} epochs")
    if world.size > len(samples):
        say(f"{world.size} processes, but only {len(samples)} images: a step has the same ones several times", console)
    if reused is not None:
        pretrained.say_beginning(reused, config, samples, console)
        run_folder.write_reused(run, reused.to_tree())


def facts_of(model: Model, config: Config, splits: tuple[Sequence[Sample], Sequence[Sample]], world: World) -> RunFacts:
    return RunFacts(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        train_images=len(splits[0]),
        val_images=len(splits[1]),
        images_per_step=images_of_step(config.train, world),
        processes=world.size,
        device=environment(world.device)["device"],
    )


# ---- inside the loop


def is_due(at: Standing, settings: TrainConfig) -> bool:
    """Whether a validation is due at this step and has not been done."""
    is_whole = settings.eval_every is not None and at.step % settings.eval_every == 0
    return at.step > at.validation and (is_whole or at.step == settings.steps)


def is_over(at: Standing, settings: TrainConfig) -> bool:
    """Whether all steps are done, or the score has not improved for too long."""
    is_stale = settings.patience is not None and at.stale >= settings.patience
    return at.step >= settings.steps or (is_stale and at.step > (settings.quantize_after or 0))


def advanced(at: Standing, settings: TrainConfig, world: World) -> Standing:
    return at._replace(step=at.step + 1, samples=at.samples + images_of_step(settings, world))


def load(
    batches: Iterator[tuple[Batch, tuple[str, ...]]],
    objective: Objective,
    config: Config,
    world: World,
    progress: Progress,
    stop: StopFlag,
) -> list[Pass]:
    """The passes of one update, on the device. If it is stopped, the only process doesn't wait for the rest of them."""
    passes = []
    with contextlib.suppress(Interrupted), stop.at_once(world.size == 1):
        for _ in range(config.train.accumulate):
            batch, problems = next(batches)
            progress.skipped(problems)
            batch = vary(batch.to(world.device), config.augment)
            passes.append(Pass(batch, objective.targets(batch)))
    return passes


def agree(
    objective: Objective, passes: Sequence[Pass], step: int, settings: TrainConfig, stop: StopFlag, world: World
) -> tuple[Tensor | None, bool]:
    """The objective's counts over all passes and processes, and whether any process was asked to stop.

    One message carries both. On a GPU the second is read only at steps that are logged, because reading it waits.
    """
    counts = [count for one in passes if (count := objective.counts(one.targets, step)) is not None]
    if world.size == 1:
        return (torch.stack(counts).sum(0) if counts else None), stop.is_set()
    flag = torch.full([1], float(stop.is_set()), dtype=torch.float64, device=world.device)  # a copy would wait
    total = distributed.sum_over_processes(torch.cat([*([torch.stack(counts).sum(0)] if counts else []), flag]))
    is_read = world.device.type == "cpu" or step % settings.log_every == 0
    return (total[:-1] if counts else None), is_read and bool(total[-1])


def set_schedules(learner: Learner, config: Config, step: int, world: World) -> float:
    """Set everything that depends on `step`; returns the learning rate."""
    seed_step(config.train.seed, step, world.rank)
    learner.model.set_progress(step / config.train.steps)
    set_quantization(learner, config.train, step)
    learning_rate = optim.learning_rate(config.optim, step, config.train.steps)
    optim.set_learning_rate(learner.optimizer, learning_rate)
    return learning_rate


def set_quantization(learner: Learner, settings: TrainConfig, step: int) -> None:
    """From a step on, the network rounds as 8-bit integers do; before, it only observes the ranges of its values."""
    if settings.quantize_after is not None:
        for model in filter(None, (learner.model, learner.averaged)):
            quantization.activate(model, is_active=step >= settings.quantize_after)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Dropout depends on these three alone: a resumed run needs no random state, and processes differ."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0]))


def learn(
    learner: Learner,
    objective: Objective,
    passes: Sequence[Pass],
    counts: Tensor | None,
    losses: list[Losses],
    at: Standing,
    config: Config,
    candidate: Segmenter,
    run: RunFolder,
    world: World,
    progress: Progress,
) -> tuple[Config, Segmenter]:
    """Do one update and add its losses. What holds from now on has smaller passes if the memory ran out."""
    while True:
        compute = partial(add_gradients, learner.parallel, objective, passes, counts, config.train, at.step, world)
        result = out_of_memory.attempted(compute, learner.model, config.train, world)
        if not isinstance(result, NoMemory):
            break
        is_mean = counts is None
        config = stepped_down(config, result, at.step, run, world, progress.console, is_mean_of_pass=is_mean)
        candidate = candidate.with_header(training=config)
        seed_step(config.train.seed, at.step, world.rank)
    losses += result
    update(learner, config, at.step)
    return config, candidate


def add_gradients(
    network: nn.Module,
    objective: Objective,
    passes: Sequence[Pass],
    counts: Tensor | None,
    settings: TrainConfig,
    step: int,
    world: World,
) -> list[Losses]:
    """Add the gradients of all passes of one update; returns their losses.

    With `counts`, each loss is divided by a count of the whole update, so that every item weighs the same wherever it
    is computed. Without them (the hardest pixels), each pass has its own mean.
    """
    passes, losses = [part for one in passes for part in smaller(one, objective, settings.parts)], []
    num_images = sum(len(batch.names) for batch, _ in passes)
    for number, (batch, targets) in enumerate(passes, start=1):
        # The gradients of the processes are averaged, hence the factor.
        factor = len(batch.names) / num_images if counts is None else world.size
        is_sent = number == len(passes) and not out_of_memory.are_gradients_sent_last(settings, world)
        with parallel.gradients_summed(network, is_last=is_sent):
            with torch.autocast(world.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
                outputs = network(batch.images)
            terms = objective.terms(outputs, targets, counts, step)
            (torch.stack(list(terms.values())).sum() * factor).backward()  # type: ignore[no-untyped-call]
        details = {name: term.detach() for name, term in terms.items()}
        losses.append(Losses(step + 1, batch.names, details, factor))
    return losses


def smaller(one: Pass, objective: Objective, parts: int) -> list[Pass]:
    """The pass in parts, which need less memory."""
    if parts == 1:
        return [one]
    return [Pass(batch, objective.targets(batch)) for batch in one.batch.split(parts)]


def update(learner: Learner, config: Config, step: int) -> None:
    if config.optim.clip_norm is not None:
        nn.utils.clip_grad_norm_(learner.model.parameters(), config.optim.clip_norm)
    learner.optimizer.step()
    learner.optimizer.zero_grad()
    if learner.averaged is not None:
        average(learner.averaged, learner.model, ema_decay(config.train.ema or 0.0, step))


def ema_decay(decay: float, step: int) -> float:
    """The decay at `step`: smaller at first, so that the random weights of the start are soon forgotten."""
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def average(averaged: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the averaged weights a little towards the model's; counters are copied."""
    for old, new in zip(averaged.state_dict().values(), model.state_dict().values(), strict=True):
        if old.is_floating_point():
            old.lerp_(new, 1 - decay)
        else:
            old.copy_(new)


def mean_terms(losses: Sequence[Losses], world: World) -> dict[str, float]:
    """The terms of the last step, averaged over the processes. Raises FloatingPointError like `require_finite`."""
    require_finite(losses, world)
    last = [one for one in losses if one.step == losses[-1].step]
    terms = {name: sum(float(one.terms[name]) * one.factor for one in last) for name in last[0].terms}
    values = torch.tensor(list(terms.values()), dtype=torch.float32, device=world.device)
    total = distributed.sum_over_processes(values) / world.size
    return dict(zip(terms, total.tolist(), strict=True))


def require_finite(losses: Sequence[Losses], world: World) -> None:
    """Raises FloatingPointError, on every process, if any loss since the last log is not finite on any of them."""
    broken = first_broken(losses)
    count = torch.tensor(float(broken is not None), device=world.device)
    if distributed.sum_over_processes(count) == 0:
        return
    if broken is None:
        raise FloatingPointError("the loss is not finite in another process, whose message names the images")
    values = ", ".join(f"{name} {float(term) * broken.factor:g}" for name, term in broken.terms.items())
    raise FloatingPointError(
        f"the loss is not finite at step {broken.step} ({values}) for {', '.join(broken.names)}; "
        "try a lower optim.lr, optim.warmup_steps, optim.clip_norm or train.precision=fp32"
    )


def first_broken(losses: Sequence[Losses]) -> Losses | None:
    """The first losses that are not finite."""
    if not losses or all(torch.stack([term.isfinite() for one in losses for term in one.terms.values()]).tolist()):
        return None
    return next(one for one in losses if not all(term.isfinite() for term in one.terms.values()))


def validate(
    run: RunFolder,
    learner: Learner,
    candidate: Segmenter,
    samples: Sequence[Sample],
    at: Standing,
    world: World,
    workers: int,
    progress: Progress,
    tools: Instruments,
    stop: StopFlag,
) -> Standing:
    """Measure on the validation split, and save how far the training has come, and the model if it is the best."""
    progress.validating()
    gather_weights(learner)
    with resumable(run, "while validating", stop), stop.at_once():
        evaluation = measure(candidate, samples, world, workers, stop)
    figures, headline = evaluation.figures, evaluation.figures.headline
    score = figures.scores[headline]
    progress.validated(at.step, figures.titles[headline], score)
    row = {"step": at.step, "scores": figures.to_tree()["scores"], "classes": figures.table.first_column()}
    tools.log(run_folder.log(run, row))
    tools.show(at.step, candidate, samples, evaluation)
    is_better = score > at.best or is_first_of_integers(at, candidate.training)
    if is_better and run.is_writer:
        candidate.with_header(results={"step": at.step, **evaluation.to_tree()}).save(run.best)
    best = score if is_better else at.best
    at = at._replace(validation=at.step, best=best, stale=0 if is_better else at.stale + 1)
    run_folder.write_state(run, snapshot(learner, at))
    return at


def is_first_of_integers(at: Standing, config: Config | None) -> bool:
    """Whether this validation is the first since values are rounded: the scores before it are of another network."""
    after = None if config is None else config.train.quantize_after
    return after is not None and at.validation <= after < at.step


def measure(
    candidate: Segmenter,
    samples: Sequence[Sample],
    world: World,
    workers: int,
    stop: StopFlag,
) -> Evaluation:
    """On the validation split. Raises Interrupted if `stop` is set meanwhile, also by another thread."""
    candidate = candidate.to(world.device)
    assert candidate.training is not None
    distributed.copy_buffers_from_first(candidate.model)
    return evaluate.evaluate(
        candidate.with_inference(candidate.inference),
        samples,
        world=world,
        workers=workers,
        skip_errors=candidate.training.data.on_error == "skip",
        data_name=evaluate.data_name(candidate.training),
        advance=lambda _: stop.check(),
    )


# ---- saving, and restoring bit for bit


def save(
    run: RunFolder, learner: Learner, candidate: Segmenter, at: Standing, losses: Sequence[Losses], world: World
) -> None:
    """Write the files to resume from. Weights after a loss that was not finite are not worth saving."""
    require_finite(losses, world)
    write(run, learner, candidate, at)


def write(run: RunFolder, learner: Learner, candidate: Segmenter, at: Standing) -> None:
    run_folder.write_state(run, snapshot(learner, at))
    gather_weights(learner)
    if run.is_writer:
        newest(candidate, at).save(run.last)


def newest(candidate: Segmenter, at: Standing) -> Segmenter:
    """The model with the step that it is of, which tells one save from another on any machine."""
    return candidate.with_header(results={"step": at.step})


def gather_weights(learner: Learner) -> None:
    """Let each process have all weights that are validated and saved."""
    if learner.whole is not None:
        parallel.copy_whole(learner.averaged or learner.model, learner.whole)


def snapshot(learner: Learner, at: Standing) -> State:
    """Whole, whoever holds the weights: any number of processes can go on from it. Rank 0 writes it."""
    state = {
        **learner.source,
        **dict(zip(STANDING_KEYS, at, strict=True)),
        "images": learner.images,
        "model": learner.model.state_dict(),
        "averaged": None if learner.averaged is None else learner.averaged.state_dict(),
        "optimizer": learner.optimizer.state_dict(),
    }
    return state if learner.whole is None else parallel.whole(state, is_wanted=distributed.is_first())


def restore(state: State | None, learner: Learner, run: RunFolder) -> Standing:
    """Restore weights and optimizer from `state`; without one, the training is at its start."""
    if state is None:
        return Standing()
    for model, weights in ((learner.model, state["model"]), (learner.averaged, state.get("averaged") or {})):
        if model is not None:
            require_same_weights(model.state_dict(), weights, run.state)
            parallel.load_whole(model, weights)
    if not optim.is_state_of(learner.optimizer, state["optimizer"]):
        raise ModelFileError(f"{run.state}: the optimizer is not that of the run: the state is of another training")
    learner.optimizer.load_state_dict(parallel.parts_of_optimizer(state["optimizer"], learner.optimizer))
    return Standing(*(state.get(key, default) for key, default in zip(STANDING_KEYS, Standing(), strict=True)))


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
        run_folder.write_state(run, {**opening.state, **learner.source})
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


# ---- after the last step


def finish(
    run: RunFolder,
    splits: tuple[Sequence[Sample], Sequence[Sample]],
    at: Standing,
    settings: TrainConfig,
    world: World,
    workers: int,
    console: Console,
    stop: StopFlag,
) -> None:
    """Measure the best model once more, image by image, and write the report of the run."""
    with resumable(run, "before the report was written", stop):
        distributed.wait()
        best = segmenter.load(run.best, precision="fp32").to(world.device)
        evaluation = measure(best, splits[1], world, workers, stop)
        if not run.is_writer:
            return
        training = report.training_of(run, first_samples(best, splits[0]))
        title = run.path.name
        report.write_page(run.report, best, splits[1], evaluation, title=title, training=training, console=console)
    report.print_evaluation(evaluation, console)
    if at.step < settings.steps:
        reason = f"train.patience: {at.stale} validations without a better score"
        more = "train.patience=none with --resume does the rest"
        say(f"ended early, after step {at.step} of {settings.steps} ({reason}); {more}", console)
    console.print(f"best model: {run.best} (step {best.results['step']})\nreport: {run.report}")


def first_samples(best: Segmenter, samples: Sequence[Sample]) -> list[Sample]:
    """The run's first samples as the network saw them, for the report; those that can't be read are left out."""
    assert best.training is not None
    number = min(report.NUM_SAMPLES, len(samples))
    reads = first_reads(samples, best.model, best.training, best.label_space, number)
    return [read.sample for read in reads if read.sample is not None]


def first_reads(
    samples: Sequence[Sample], model: Model, config: Config, space: LabelSpace, number: int
) -> Iterator[Read]:
    """Sample numbers 0, 1, ... of a training, as the network sees them."""
    skip_errors = config.data.on_error == "skip"
    stream = Augmented(samples, augmentation(model, config, space), config.train.seed, skip_errors=skip_errors)
    for place in range(number):
        read = stream[place]
        yield read if read.sample is None else read._replace(sample=vary_sample(read.sample, config.augment))


# ---- instead of a training


def show_augmentation(config: Config, path: Path, *, number: int = NUM_SHOWN, console: Console | None = None) -> None:
    """Write a picture of the first samples that a training would learn from: each crop, and under its true labels.

    Raises DataError for an image that can't be read, unless data.on_error=skip, and OSError.
    """
    path = user_path(path)
    require_picture(path)
    require_packages(config.augment)
    console, task = console or terminal.console(), TASKS[task_of(config.model)]
    space, samples = data.label_space(config.data), data.samples(config.data, config.data.train)
    evaluate.require_fields(samples, task, config)
    say_missing_landmarks(config, samples, console)
    with torch.device("meta"):  # all that is needed is its mean colour
        model = models.build(config.model, space.num_classes)
    panels = []
    for read in first_reads(samples, model, config, space, number):
        for problem in read.problems:
            say(f"skipped: {problem}", console)
        if read.sample is None:
            raise DataError(read.problems[-1])
        panels += [(read.sample.name, read.sample.image), ("labels", task.paint_truth(read.sample, space))]
    picture = visualize.contact_sheet(panels, columns=SHOWN_IN_A_ROW)
    write_atomically(path, visualize.encoded(picture, path.suffix))
    console.print(f"{path}: {number} crops as step 1 on sees them, each with its labels", markup=False, soft_wrap=True)


def require_picture(path: Path) -> None:
    """Raises ConfigError or OSError for a path that no picture can be written to."""
    if path.suffix.lower() not in visualize.PICTURE_FORMATS:
        known = ", ".join(visualize.PICTURE_FORMATS)
        raise ConfigError(f"--show-augmentation {path}: the name of a picture ends in {known}")
    prepare_file(path)


verb_module.make_callable(__name__)  # `atrous.train(...)`
