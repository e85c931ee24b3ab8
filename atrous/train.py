"""`atrous train`: all of training, top to bottom, in one function."""

import contextlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from torch import Tensor

from atrous import (
    distributed,
    evaluate,
    instruments,
    out_of_memory,
    pretrained,
    report,
    run_folder,
    run_metrics,
    run_opening,
    run_state,
    segmenter,
    terminal,
    verb_module,
)
from atrous.config import Config
from atrous.data.workers import require_guarded_script
from atrous.distributed import World
from atrous.environment import environment
from atrous.files import user_path
from atrous.instruments import Instruments
from atrous.interrupt import StopFlag, stop_signals
from atrous.models import Model
from atrous.out_of_memory import NoMemory, stepped_down
from atrous.progress import Progress, say
from atrous.report import Evaluation
from atrous.report.facts import RunFacts, timed
from atrous.resume import images_of_step
from atrous.reuse import Reused
from atrous.run_folder import RunFolder
from atrous.run_opening import Resume
from atrous.segmenter import Segmenter
from atrous.tasks.contract import Objective
from atrous.train_config import TrainConfig
from atrous.training.augmentation import first_reads
from atrous.training.augmentation import show_augmentation as show_augmentation
from atrous.training.data import compared, surveys_of, trainable, training_batches_from
from atrous.training.learner import (
    Learner,
    Standing,
    build,
    gather_weights,
    objective_of,
    restore,
    seed_step,
    segmenter_of,
    set_schedules,
    snapshot,
    update,
)
from atrous.training.learner import class_weights as class_weights
from atrous.training.passes import Losses, Pass, add_gradients, agree, load, mean_terms
from atrous.training.saves import bring_up_to_date, how_to_resume, resumable, save, saved_if_others_die, stopped
from atrous.training.settings import fitted, settled
from atrous.types import Sample


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

    with stop_signals(stop) as stop, run_opening.opened(run, config, world, resume=resume) as opening:
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
                    tools.log(run_metrics.log(run, progress.log(at.step, mean_terms(losses, world), learning_rate)))
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
    tools.log(run_metrics.log(run, row))
    tools.show(at.step, candidate, samples, evaluation)
    is_better = score > at.best or is_first_of_integers(at, candidate.training)
    if is_better and run.is_writer:
        candidate.with_header(results={"step": at.step, **evaluation.to_tree()}).save(run.best)
    best = score if is_better else at.best
    at = at._replace(validation=at.step, best=best, stale=0 if is_better else at.stale + 1)
    run_state.write_state(run, snapshot(learner, at))
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


verb_module.make_callable(__name__)  # `atrous.train(...)`
