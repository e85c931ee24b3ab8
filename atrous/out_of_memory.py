"""A step that does not fit the memory is computed again in smaller passes, and the run says so.

The samples, the seeds and the number of images of the update stay the same. Losses are divided by counts of the whole
update, so that its gradient does, too; only tuned batch norms, which see fewer images at once, make a difference.
"""

import contextlib
import gc
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple, TypeVar

import torch
from rich.console import Console
from torch import Tensor, nn

from atrous import config as configs
from atrous import distributed, run_folder, run_metrics
from atrous.config import Config
from atrous.distributed import World
from atrous.errors import LESS_MEMORY, ConfigError, OutOfMemory, out_of_memory
from atrous.progress import say
from atrous.run_folder import RunFolder
from atrous.train_config import AUTO, TrainConfig

T = TypeVar("T")


class NoMemory(NamedTuple):
    """In place of a result."""

    device: Literal["CPU", "GPU"]  # whose memory it is
    is_own: bool = True  # not only another process's


def attempted(compute: Callable[[], T], model: nn.Module, settings: TrainConfig, world: World) -> T | NoMemory:
    """What `compute`, which adds gradients to the model, returns; the processes then have one another's gradients.

    If the memory of any process does not suffice, each has NoMemory, no gradients, and the buffers as they were.
    """
    buffers = [buffer.clone() for buffer in model.buffers()]
    result: T | NoMemory
    try:
        result = compute()
    except Exception as error:
        device = out_of_memory(error)
        if device is None:
            raise
        result = NoMemory(device)
    if are_gradients_sent_last(settings, world):
        is_complete = gradients_of_all(model, world, is_lost=isinstance(result, NoMemory))
        result = result if is_complete or isinstance(result, NoMemory) else NoMemory("CPU", is_own=False)
    if isinstance(result, NoMemory):
        restore(model, buffers)
    return result


@torch.no_grad()
def restore(model: nn.Module, buffers: list[Tensor]) -> None:
    for buffer, value in zip(model.buffers(), buffers, strict=True):
        buffer.copy_(value)
    model.zero_grad()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def are_gradients_sent_last(settings: TrainConfig, world: World) -> bool:
    """Whether processes first learn that all of them have their gradients.

    On GPUs, and where they share out the weights, they exchange while they compute, and one that runs out of memory
    can't tell the others.
    """
    return world.size > 1 and world.device.type == "cpu" and settings.parallel == "ddp"


@torch.no_grad()
def gradients_of_all(model: nn.Module, world: World, *, is_lost: bool) -> bool:
    """Average the gradients over the processes. False if any has lost its own. One message carries both."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    parts = [
        torch.zeros(parameter.numel()) if is_lost or parameter.grad is None else parameter.grad.reshape(-1) / world.size
        for parameter in parameters
    ]
    total = distributed.sum_over_processes(torch.cat([*parts, torch.tensor([float(is_lost)])]))
    *sums, num_lost = torch.split(total, [*(parameter.numel() for parameter in parameters), 1])
    for parameter, part in zip(parameters, sums, strict=True):
        if parameter.grad is not None:
            parameter.grad.copy_(part.view_as(parameter.grad))
    return not num_lost.item()


# ---- smaller passes


def smallest_pass(settings: TrainConfig, world: World) -> int:
    """Images that one pass needs at least: image pooling leaves a tuned batch norm one value for each."""
    is_synchronized = world.size > 1 and world.device.type == "cuda"
    return 2 if settings.batch_norm == "tuned" and not is_synchronized else 1


def require_variance(settings: TrainConfig, world: World) -> None:
    """Raises ConfigError for passes with fewer images than tuned batch norms need."""
    if settings.batch // settings.parts >= smallest_pass(settings, world):
        return
    key = "batch" if settings.batch == 1 else "micro_batch"
    what = "" if key == "batch" else f" and train.batch={settings.batch}, which leaves a pass with one image"
    raise ConfigError(
        f"train.{key}={getattr(settings, key)} with train.batch_norm=tuned{what}: image pooling leaves one "
        f"value per channel, which has no variance; set train.{key} higher, or train.batch_norm=frozen"
    )


def with_micro_batch(config: Config, number: int | Literal["auto"] | None) -> Config:
    return config.model_copy(update={"train": config.train.model_copy(update={"micro_batch": number})})


def images_of_pass(settings: TrainConfig) -> int:
    """Images that go through the network at once, at most."""
    return settings.batch if settings.micro_batch in (None, AUTO) else min(settings.batch, int(settings.micro_batch))


def as_stored(config: Config, run: RunFolder, console: Console) -> Config:
    """With the passes of the run in the folder, unless the config says how large they are."""
    if config.train.micro_batch not in (None, AUTO) or not run.has_begun or not run.config.exists():
        return config
    stored = configs.load(str(run.config)).train
    if stored.micro_batch in (None, AUTO) or stored.batch != config.train.batch:
        return config
    number = stored.micro_batch
    say(f"train.micro_batch={number}, as in {run.config}; another number changes it", console)
    return with_micro_batch(config, number)


def stepped_down(
    config: Config,
    lost: NoMemory,
    step: int,
    run: RunFolder,
    world: World,
    console: Console,
    *,
    is_mean_of_pass: bool,
) -> Config:
    """The config with half as many images in a pass, which the run's folder now holds, after saying so.

    Raises OutOfMemory where a pass can't be smaller.
    """
    settings = config.train
    parts = min(2 * settings.parts, settings.batch // smallest_pass(settings, world))
    if parts <= settings.parts or (world.size > 1 and not are_gradients_sent_last(settings, world)):
        raise OutOfMemory(end(config, lost, step, world, run))
    smaller = with_micro_batch(config, -(-settings.batch // parts))
    say(f"WARNING: {line(config, smaller, lost, step, is_mean_of_pass=is_mean_of_pass)}", console)
    number = images_of_pass(smaller.train)
    reason = f"the {lost.device} ran out of memory"
    run_metrics.log(run, {"step": step, "micro_batch": number, "images": settings.batch, "reason": reason})
    change = f"train.micro_batch is now {number}, not {images_of_pass(settings)}: {reason} at step {step + 1}"
    run_folder.write_changes(run, smaller, [change], step)
    return smaller


def line(before: Config, config: Config, lost: NoMemory, step: int, *, is_mean_of_pass: bool) -> str:
    """What happened, and what it means."""
    old, new = images_of_pass(before.train), images_of_pass(config.train)
    where = f"the {lost.device}" if lost.is_own else "another process"
    text = f"{where} ran out of memory at step {step + 1}; this step is computed again, and the run goes on, with "
    text += f"{new} images in a pass instead of {old} (train.micro_batch={new}); an update still sees as many images"
    if config.train.batch_norm == "tuned":
        text += f"; batch norms see {new} at a time, so that their statistics are noisier"
    if is_mean_of_pass:
        text += "; the hardest pixels are chosen among those of a pass"
    return text


@contextlib.contextmanager
def told_while_validating(advice: str) -> Iterator[None]:
    """Whole images may need more memory than the crops of a training."""
    try:
        yield
    except Exception as error:
        device = out_of_memory(error)
        if device is None:
            raise
        text = f"the {device} is out of memory while validating; windows need less than whole images: set "
        raise OutOfMemory(f"{text}evaluate.mode=sliding {advice}") from error


@contextlib.contextmanager
def told_outside_of_passes(run: RunFolder, advice: str) -> Iterator[None]:
    """Say what is left of a run whose memory runs out where smaller passes don't help: in an update or a save, say."""
    try:
        yield
    except Exception as error:
        device = None if isinstance(error, OutOfMemory) else out_of_memory(error)
        if device is None:
            raise
        rest = f"the last save is kept; {advice}" if run.is_saved else "nothing has been saved yet"
        raise OutOfMemory(f"the {device} is out of memory; {LESS_MEMORY[device]}; {rest}") from error


def end(config: Config, lost: NoMemory, step: int, world: World, run: RunFolder) -> str:
    """Why the run ends, and what would need less memory."""
    number = images_of_pass(config.train)
    where = f"the {lost.device} is" if lost.is_own else "another process is"
    text = f"{where} out of memory at step {step + 1} with {number} image{'s'[: number - 1]} in a pass; "
    smaller = -(-number // 2)
    if number > smallest_pass(config.train, world):  # on several GPUs
        return f"{text}set train.micro_batch={smaller}, or train.batch=auto; {LESS_MEMORY[lost.device]}"
    return text + LESS_MEMORY[lost.device]
