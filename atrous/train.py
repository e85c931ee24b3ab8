"""`atrous train`: the whole of training, top to bottom, in one function."""

import contextlib
import copy
import json
import math
import shlex
import signal
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from atrous import data, distributed, evaluate, models, optim, reuse, run_folder, segmenter
from atrous.config import Config, TrainConfig
from atrous.data.label_space import LabelSpace
from atrous.data.loader import Stream, training_batches, whole_samples
from atrous.data.transforms import augment
from atrous.distributed import World
from atrous.files import write_atomically
from atrous.losses import hard_pixel_share, median_frequency_weights, semantic_loss
from atrous.models.contract import Model
from atrous.progress import Interrupted, Progress
from atrous.run_folder import RunFolder, State
from atrous.segmenter import Segmenter
from atrous.types import Batch, Color, Sample


class Standing(NamedTuple):
    """How far a training is."""

    step: int = 0  # updates done
    taken: int = 0  # samples, by all processes
    measured: int = 0  # the step of the last validation
    best: float = -1.0  # mIoU of the best one


def train(
    config: Config,
    out: Path,
    *,
    resume: bool = False,
    device: str | None = None,
    workers: int = 0,
    console: Console | None = None,
) -> RunFolder:
    """Train as `config` says, or go on with the run in `out`; in the end the folder holds the best model and a report.

    Raises ValueError and OSError for what the user can mend, FloatingPointError when the loss is no longer finite, and
    Interrupted, after saving, on Ctrl-C.
    """
    world = distributed.join(device)
    run, settings = RunFolder(out), config.train
    console = console or Console(markup=False, highlight=False)
    console.quiet = console.quiet or world.rank > 0
    label_space = data.label_space(config.data)
    samples = data.samples(config.data, config.data.train)
    val_samples = data.samples(config.data, config.data.val)
    require_trainable(config, label_space, world)
    weights = class_weights(config, samples, label_space, workers)

    torch.manual_seed(settings.seed)
    model = models.build(config.model, label_space.num_classes).to(world.device)
    reused = (
        None
        if settings.init is None or (resume and run.state.exists())
        else (reuse.reuse(model, settings.init, settings.reuse))
    )
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = optim.build(model, config.optim, model.logit_modules)
    averaged = copy.deepcopy(model) if settings.ema else None
    kept = Segmenter(averaged or model, label_space, config.evaluate, config)  # what is measured and saved

    discarded = run_folder.discarded_unless_saved(run) if world.rank == 0 else contextlib.nullcontext()
    with discarded, stop_signals() as stop:
        at = restore(open_run(run, config, resume, world), model, averaged, optimizer)
        parallel = prepare(model, config, world)
        batches = training_batches(
            samples,
            partial(augment, config=config.augment, fill=fill_color(model), ignore=label_space.ignore),
            Stream(settings.seed, settings.batch, at.taken, world.rank, world.size),
            workers=workers,
            skip_errors=config.data.on_error == "skip",
            pin_memory=world.device.type == "cuda",
        )
        console.print(introduction(config, model, samples, val_samples, world, at.step))
        if reused is not None:
            console.print(reused.describe())
            if world.rank == 0:
                write_atomically(run.reused, json.dumps(reused.to_tree(), indent=1))

        with Progress(console, settings.steps, at.step) as progress:
            while at.step < settings.steps or is_due(at, settings):
                if is_due(at, settings):
                    progress.validating()
                    results = validate(kept, val_samples, world, workers, stop)
                    progress.validated(at.step, results["miou"])
                    if world.rank == 0:
                        run_folder.log(run.metrics, {"step": at.step, **summary(results)})
                        if results["miou"] > at.best:
                            kept.with_results({"step": at.step, **results}).save(run.best)
                    at = at._replace(measured=at.step, best=max(at.best, results["miou"]))
                    if world.rank == 0:
                        run_folder.write_state(run.state, snapshot(model, averaged, optimizer, at))
                    continue

                seed_step(settings.seed, at.step, world.rank)
                model.set_progress(at.step / settings.steps)
                rate = optim.learning_rate(config.optim, at.step, settings.steps)
                optim.set_learning_rate(optimizer, rate)
                top_k = hard_pixel_share(config.loss, at.step)
                parts = [next(batches) for _ in range(settings.accumulate)]
                # All pixels of an update count alike, wherever they are computed. The hardest pixels are chosen, and
                # averaged, within each pass. DDP takes the mean over the processes, hence times their number.
                pixels = count_pixels(parts, label_space.ignore, world) if top_k == 1 else None
                factor = world.size if top_k == 1 else 1 / settings.accumulate

                terms: dict[str, float] = {}
                for number, (batch, problems) in enumerate(parts, start=1):
                    progress.skipped(problems)
                    images = batch.images.to(world.device, memory_format=torch.channels_last, non_blocking=True)
                    labels = batch.semantic.to(world.device, non_blocking=True)
                    with gradients_summed(parallel, on=number == settings.accumulate):
                        with torch.autocast(world.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
                            outputs = parallel(images)
                        losses = semantic_loss(
                            outputs,
                            labels,
                            config.loss,
                            ignore=label_space.ignore,
                            class_weights=weights,
                            top_k=top_k,
                            normalizer=pixels,
                            align_corners=model.align_corners,
                        )
                        found = {name: float(loss.detach()) * factor for name, loss in losses.items()}
                        require_finite(found, batch, at.step)
                        (torch.stack(list(losses.values())).sum() * factor).backward()  # type: ignore[no-untyped-call]
                    terms = {name: terms.get(name, 0.0) + value for name, value in found.items()}
                if config.optim.clip_norm is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip_norm)
                optimizer.step()
                optimizer.zero_grad()
                if averaged is not None:
                    average(averaged, model, ema_decay(settings.ema or 0.0, at.step))
                images_taken = settings.batch * settings.accumulate * world.size
                at = at._replace(step=at.step + 1, taken=at.taken + images_taken)

                row = progress.step(at.step, mean_over_processes(terms, world), rate, images_taken)
                if world.rank == 0 and (at.step % settings.log_every == 0 or at.step == settings.steps):
                    run_folder.log(run.metrics, row)
                is_stopped = distributed.any_process(stop.is_set(), world.device)
                if world.rank == 0 and (at.step % settings.save_every == 0 or is_due(at, settings) or is_stopped):
                    run_folder.write_state(run.state, snapshot(model, averaged, optimizer, at))
                    kept.save(run.last)
                if is_stopped:
                    raise Interrupted(f"stopped after step {at.step} of {settings.steps}, saved; {how_to_go_on(run)}")
    report(run, val_samples, world, workers, console)
    return run


# ---- before the first step


def require_trainable(config: Config, label_space: LabelSpace, world: World) -> None:
    """Refuse now what would fail, or silently be wrong, after hours."""
    if config.model.num_classes is not None:
        segmenter.require_same_classes(config.model.num_classes, label_space, "model.num_classes")
    weights = config.loss.class_weights
    if isinstance(weights, tuple) and len(weights) != label_space.num_classes:
        raise ValueError(f"loss.class_weights: {len(weights)} values for {label_space.num_classes} classes")
    is_synchronized = world.size > 1 and world.device.type == "cuda"
    if config.train.batch == 1 and config.train.batch_norm == "tuned" and not is_synchronized:
        raise ValueError(
            "train.batch=1 with train.batch_norm=tuned: image pooling leaves one value a channel, which has no "
            "variance; take train.batch=2 or more, or train.batch_norm=frozen"
        )


def open_run(run: RunFolder, config: Config, resume: bool, world: World) -> State | None:
    """The state to go on from, None for a new run. Rank 0 makes the folder and decides; the others follow."""
    state = None
    if world.rank == 0:
        state = run_folder.resume(run, config) if resume else run_folder.begin(run, config)
    is_resumed = distributed.from_first(state is not None, world.device)
    return run_folder.read_state(run.state) if is_resumed and world.rank > 0 else state


def class_weights(config: Config, samples: Sequence[Sample], label_space: LabelSpace, workers: int) -> Tensor | None:
    """As given, or from the pixels of each class in all of the training labels."""
    given = config.loss.class_weights
    if given is None:
        return None
    if given != "counts":
        return torch.tensor(given, dtype=torch.float32)
    counts = torch.zeros(256, dtype=torch.int64)
    for _, read in whole_samples(samples, workers=workers, skip_errors=config.data.on_error == "skip"):
        if read.sample is not None:
            counts += torch.bincount(torch.from_numpy(read.sample.semantic).flatten(), minlength=256)
    if label_space.ignore < 256:
        counts[label_space.ignore] = 0
    return median_frequency_weights(counts[: label_space.num_classes])


def prepare(model: Model, config: Config, world: World) -> nn.Module:
    """Set the batch norms, and spread the model over the processes; the parameters stay those of `model`."""
    set_batch_norm(model, config)
    if world.size == 1:
        return model
    if world.device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return DistributedDataParallel(model, device_ids=[world.device.index])
    return DistributedDataParallel(model)


def set_batch_norm(model: nn.Module, config: Config) -> None:
    """Training mode; frozen batch norms keep their statistics while their scales and shifts learn, as in TF DeepLab."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = config.train.batch_norm_momentum or module.momentum
            module.train(config.train.batch_norm == "tuned")


def fill_color(model: Model) -> Color:
    red, green, blue = (round(value) for value in model.mean)
    return red, green, blue


def introduction(
    config: Config, model: Model, samples: Sequence[Sample], val_samples: Sequence[Sample], world: World, step: int
) -> str:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    images = config.train.batch * config.train.accumulate * world.size
    begin = f"going on after step {step}" if step else "starting"
    passes = config.train.steps * images / len(samples)
    where = f"{world.device}" if world.size == 1 else f"{world.size} x {world.device.type}"
    lines = (
        f"{config.model.name}, {config.model.backbone}: {parameters / 1e6:.2f} M parameters, {where}",
        f"{config.data.format}: {len(samples)} images to learn from, {len(val_samples)} to measure on",
        f"{begin}: {config.train.steps} steps of {images} images, {passes:.1f} passes over the data",
    )
    return "\n".join(lines)


# ---- inside the loop


def is_due(at: Standing, settings: TrainConfig) -> bool:
    """Whether a validation is to be made here that has not been made."""
    return at.step > at.measured and (at.step % settings.eval_every == 0 or at.step == settings.steps)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Dropout depends on these three alone: a resumed run needs no random state, and processes differ."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0]))


def count_pixels(parts: Sequence[tuple[Batch, object]], ignore: int, world: World) -> Tensor:
    """How many labelled pixels this update has, over all of its passes and processes; at least 1."""
    count = sum(int((batch.semantic != ignore).sum()) for batch, _ in parts)
    total = torch.tensor(float(count), dtype=torch.float64)
    return distributed.sum_over_processes(total.to(world.device)).clamp_min(1).float()


def gradients_summed(parallel: nn.Module, *, on: bool) -> contextlib.AbstractContextManager[Any]:
    """Let the processes exchange gradients only in the last pass of an update."""
    if isinstance(parallel, DistributedDataParallel) and not on:
        return parallel.no_sync()
    return contextlib.nullcontext()


def require_finite(terms: dict[str, float], batch: Batch, step: int) -> None:
    if all(math.isfinite(value) for value in terms.values()):
        return
    values = ", ".join(f"{name} {value:g}" for name, value in terms.items())
    raise FloatingPointError(
        f"the loss is not finite at step {step + 1} ({values}) for {', '.join(batch.names)}; "
        "try a lower optim.lr, optim.warmup_steps, optim.clip_norm or train.precision=fp32"
    )


def ema_decay(decay: float, step: int) -> float:
    """The decay at `step`: less at first, so that the random weights of the start are soon forgotten."""
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def average(averaged: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the averaged weights a little towards the model's; counters are copied."""
    for kept, new in zip(averaged.state_dict().values(), model.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(new, 1 - decay)
        else:
            kept.copy_(new)


def mean_over_processes(terms: dict[str, float], world: World) -> dict[str, float]:
    values = torch.tensor(list(terms.values()), dtype=torch.float32, device=world.device)
    total = distributed.sum_over_processes(values) / world.size
    return dict(zip(terms, total.tolist(), strict=True))


def validate(
    kept: Segmenter, samples: Sequence[Sample], world: World, workers: int, stop: "StopFlag"
) -> dict[str, Any]:
    """Measure on the validation split. Ctrl-C ends it at once: the state was saved just before."""

    def advance(_: int) -> None:
        if stop.is_set():
            raise Interrupted("stopped while validating; the training is saved, --resume validates again")

    evaluation = measure(kept, samples, world, workers, advance)
    return evaluate.results(evaluation, kept.label_space, world.device)


def measure(
    kept: Segmenter,
    samples: Sequence[Sample],
    world: World,
    workers: int,
    advance: Callable[[int], None] | None = None,
) -> evaluate.Evaluation:
    assert kept.training is not None
    distributed.copy_buffers_from_first(kept.model)
    return evaluate.evaluate(
        kept.with_inference(kept.inference),
        samples,
        world=world,
        workers=workers,
        skip_errors=kept.training.data.on_error == "skip",
        data_name=evaluate.data_name(kept.training),
        advance=advance,
    )


def summary(results: dict[str, Any]) -> dict[str, Any]:
    """What of a validation goes into metrics.jsonl."""
    return {name: results[name] for name in ("miou", "pixel_accuracy", "mean_accuracy", "per_class")}


class StopFlag:
    """Set by Ctrl-C or SIGTERM; the second Ctrl-C ends the program at once."""

    def __init__(self) -> None:
        self._set = False

    def is_set(self) -> bool:
        return self._set

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self._set:
            raise KeyboardInterrupt
        self._set = True


@contextlib.contextmanager
def stop_signals() -> Iterator[StopFlag]:
    """Let a signal end the step that is being done, not break it."""
    flag = StopFlag()
    old = {number: signal.signal(number, flag) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield flag
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


# ---- saved, and restored bit for bit


def snapshot(model: nn.Module, averaged: nn.Module | None, optimizer: torch.optim.Optimizer, at: Standing) -> State:
    return {
        **at._asdict(),
        "model": model.state_dict(),
        "averaged": None if averaged is None else averaged.state_dict(),
        "optimizer": optimizer.state_dict(),
    }


def restore(
    state: State | None, model: nn.Module, averaged: nn.Module | None, optimizer: torch.optim.Optimizer
) -> Standing:
    """Put the weights and the optimiser back to where `state` was taken; with none, they are at the start."""
    if state is None:
        return Standing()
    model.load_state_dict(state["model"])
    if averaged is not None:
        averaged.load_state_dict(state["averaged"])
    optimizer.load_state_dict(state["optimizer"])
    return Standing(*(state[name] for name in Standing._fields))


def how_to_go_on(run: RunFolder) -> str:
    return f"go on with: atrous train {shlex.quote(str(run.config))} --out {shlex.quote(str(run.path))} --resume"


# ---- after the last step


def report(run: RunFolder, samples: Sequence[Sample], world: World, workers: int, console: Console) -> None:
    """Measure the best model once more, image by image, and write the page of the run."""
    distributed.wait()
    best = segmenter.load(run.best).to(world.device)
    evaluation = measure(best, samples, world, workers)
    if world.rank > 0:
        return
    found = evaluate.results(evaluation, best.label_space, world.device)
    evaluate.print_table(found, console)
    evaluate.write_report(
        run.report,
        best,
        samples,
        evaluation,
        found,
        title=run.path.name,
        history=run_folder.read_rows(run.metrics),
        device=world.device,
    )
    console.print(f"best model: {run.best} (step {best.results['step']})\nreport: {run.report}")
