"""Takes a few steps of a training on made-up images and prints what they took: `atrous.plan` starts it.

The steps are those of `atrous train`, with weights, gradients, optimizer, averaged weights and a save. One process
measures one setting, so that none finds memory that another has left. Reads its order from the standard input, and
prints a line of JSON for each number of images, one for a save, and one for an error.
"""

import contextlib
import json
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from atrous import config as configs
from atrous import distributed, run_state, terminal
from atrous.config import Config
from atrous.data.label_space import LabelSpace
from atrous.data.survey import Survey
from atrous.distributed import World
from atrous.errors import AtrousError, out_of_memory
from atrous.interrupt import StopFlag
from atrous.peak_memory import peak, release_memory, reset_peak, status
from atrous.tasks.contract import Objective
from atrous.training import learner as learners
from atrous.training.learner import Learner, Standing
from atrous.training.passes import Pass, add_gradients, agree
from atrous.types import Batch

POINTS = 2  # make a line
STEPS = 2  # the first one makes the optimizer's memory
BLOCK = 64  # pixels of a side of the made-up regions


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a word
    order = json.load(sys.stdin)
    try:
        rehearse(order)
    except Exception as error:
        if out_of_memory(error) is None and not isinstance(error, AtrousError | OSError):
            raise
        tell(error=told(error))


def told(error: Exception) -> str:
    if out_of_memory(error) is None:
        return str(error)
    return "it needs more memory than there is"


def tell(**values: Any) -> None:  # noqa: ANN401 - numbers and texts
    print(json.dumps(values), flush=True)


def rehearse(order: Mapping[str, Any]) -> None:
    torch.set_num_threads(order["threads"])
    config = configs.check(order["config"], source="atrous plan")
    space = LabelSpace.model_validate_json(order["space"])
    world = World(0, 1, distributed.choose_device(order["device"]))
    limit_memory(order["memory"], world)
    learner, _ = learners.build(config, space, (), {}, world, terminal.console(), is_new=False)
    objective = learners.objective_of(learner.model, config, space, made_up_survey(space), world)
    tell_points(order["images"], partial(point, learner, objective, config, space, world))
    release_memory()
    reset_peak(world.device)
    run_state.serialized(learners.snapshot(learner, Standing()))
    tell(saving=peak(world.device))


def tell_points(numbers: Sequence[int], measure: Callable[[int], dict[str, float]]) -> None:
    """Tell the first two numbers of images that fit; none if the first one, the smallest, does not."""
    missing, error = POINTS, ""
    for images in numbers:
        try:
            tell(**measure(images))
            missing -= 1
        except Exception as problem:
            if out_of_memory(problem) is None:
                raise
            error = told(problem)
        if missing in (0, POINTS):
            break
    if missing and error:
        tell(error=error)


def point(
    learner: Learner, objective: Objective, config: Config, space: LabelSpace, world: World, images: int
) -> dict[str, float]:
    """What steps of so many images take, in a memory without what others have left."""
    learner.optimizer.zero_grad()
    release_memory()
    reset_peak(world.device)
    seconds = [step(learner, objective, config, made_up_batch(config, space, images), world) for _ in range(STEPS)]
    return {"images": images, "bytes": peak(world.device), "seconds": seconds[-1]}


def step(learner: Learner, objective: Objective, config: Config, batch: Batch, world: World) -> float:
    """One update of one pass; returns its seconds."""
    start, settings = time.perf_counter(), config.train.model_copy(update={"micro_batch": None, "accumulate": 1})
    on_device = batch.to(world.device)
    passes = [Pass(on_device, objective.targets(on_device))]
    counts, _ = agree(objective, passes, 0, settings, StopFlag(), world)
    learners.set_schedules(learner, config, 0, world)
    losses = add_gradients(learner.parallel, objective, passes, counts, settings, 0, world)
    learners.update(learner, config, 0)
    [float(term) for term in losses[-1].terms.values()]  # a GPU has then done it
    return time.perf_counter() - start


# ---- made-up data


def made_up_batch(config: Config, space: LabelSpace, images: int) -> Batch:
    """Noise, in blocks of random classes and things."""
    height, width = config.augment.crop
    rows, columns = -(-height // BLOCK), -(-width // BLOCK)
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(space.num_classes, (images, rows, columns), generator=generator)
    things = torch.isin(blocks, torch.tensor(space.things, dtype=torch.int64))
    numbers = torch.arange(1, rows * columns + 1).view(rows, columns) * things
    return Batch(
        names=tuple(map(str, range(images))),
        images=torch.randint(256, (images, 3, height, width), dtype=torch.uint8, generator=generator),
        semantic=spread(blocks, height, width).to(torch.uint8),
        instance=spread(numbers, height, width).to(torch.int32),
        category=torch.arange(images) % space.num_classes,
    )


def spread(blocks: torch.Tensor, height: int, width: int) -> torch.Tensor:
    whole = blocks.repeat_interleave(BLOCK, 1).repeat_interleave(BLOCK, 2)
    return whole[:, :height, :width].contiguous()


def made_up_survey(space: LabelSpace) -> Survey:
    """All classes as often, for weights of classes."""
    ones = (1,) * space.num_classes
    return Survey(masks=1, pixels=ones, images=ones, pixels_of_images=ones, ignored=0, things=ones)


# ---- memory


def limit_memory(size: int, world: World) -> None:
    """Let an allocation beyond `size` bytes fail, instead of the system ending this process, or another one."""
    if world.device.type == "cuda":
        total = torch.cuda.mem_get_info(world.device)[1]
        torch.cuda.set_per_process_memory_fraction(min(1.0, size / total), world.device)
        return
    with contextlib.suppress(ImportError, ValueError, OSError):  # Windows; a limit that is lower already
        import resource

        own = status("VmData") - status("VmRSS")
        resource.setrlimit(resource.RLIMIT_DATA, (size + own, resource.getrlimit(resource.RLIMIT_DATA)[1]))


if __name__ == "__main__":
    main()
