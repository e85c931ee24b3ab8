"""One update, pass by pass: batches, gradients and losses."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from atrous import distributed, out_of_memory, parallel
from atrous.config import Config
from atrous.data.batch_transforms import vary
from atrous.distributed import World
from atrous.interrupt import Interrupted, StopFlag
from atrous.progress import Progress
from atrous.tasks.contract import Objective, Targets
from atrous.train_config import TrainConfig
from atrous.types import Batch


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
