"""The settings that a training begins with, where the data, the memory or the run so far decide them."""

from rich.console import Console

from atrous import config as configs
from atrous import data, distributed, out_of_memory, plan, run_folder
from atrous.config import Config
from atrous.distributed import World
from atrous.errors import ConfigError
from atrous.progress import say
from atrous.resume import fitting, images_of_step
from atrous.run_folder import RunFolder
from atrous.run_opening import Resume
from atrous.train_config import AUTO, TrainConfig
from atrous.training.data import splits_of


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
    if config.train.micro_batch != AUTO or (run.is_saved and not is_resumed):  # which is refused
        return config
    return plan.fitted(config, world, console)
