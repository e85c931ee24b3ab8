"""What a training changes: the network and its average, the optimizer, and how far it has come."""

import copy
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from atrous import distributed, models, optim, parallel, pretrained, segmenter
from atrous.config import Config
from atrous.data.label_space import LabelSpace
from atrous.data.survey import Survey
from atrous.distributed import World
from atrous.errors import ModelFileError
from atrous.layers import quantization
from atrous.layers.recompute import recompute
from atrous.models import Model, task_of
from atrous.resume import Source, images_of_step
from atrous.reuse import Reused
from atrous.run_folder import RunFolder
from atrous.run_state import State
from atrous.runtimes.pytorch import require_same_weights
from atrous.segmenter import Segmenter
from atrous.tasks import TASKS
from atrous.tasks.contract import Objective, TrainingData
from atrous.train_config import TrainConfig
from atrous.types import Sample


class Standing(NamedTuple):
    """How far a training has come."""

    step: int = 0  # updates done
    samples: int = 0  # read by all processes
    validation: int = 0  # the step of the last one
    best: float = -1.0  # the headline score of the best validation
    stale: int = 0  # validations since then


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
