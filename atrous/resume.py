"""What may change between two parts of one run: settings that nothing is learnt from, and data that the user accepts.

Everything else is refused, because the result would be that of neither experiment.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from itertools import zip_longest
from pathlib import Path

from atrous import config as configs
from atrous import optim
from atrous.config import Config
from atrous.data.inventory import Inventory
from atrous.data.label_space import LabelSpace
from atrous.distributed import World
from atrous.errors import ConfigError, DataError, listing
from atrous.train_config import TrainConfig

MOVED = frozenset(
    {"data.root", "data.names_path", "data.colors_path", "data.color_map", "data.sbd"}
)  # what lies there is compared
ACCEPTED = MOVED | {  # settings that a resumed run may change
    "data.on_error",  # for files that nothing has been learnt from
    "train.steps",  # no fewer than are done; the rest of the learning rates follows, and is said
    "train.save_every",  # how much a kill loses
    "train.eval_every",  # how often the best model is looked for
    "train.patience",  # how soon it ends
    "train.log_every",
    "train.tensorboard",
    "train.profile_steps",
    "train.parallel",  # where the weights lie
    "train.micro_batch",  # the update sees the same images; tuned batch norms see fewer at once, which is said
    "train.activation_checkpointing",  # memory and time, no number
}
BATCH = frozenset({"train.batch", "train.accumulate"})  # how the images of a step are cut; their number is compared
Source = Mapping[str, str]  # what a run learns from, as its state keeps it: JSON of its classes and its files
NUM_NAMED = 3  # files, in an error


def source_of(space: LabelSpace, splits: Mapping[str, Inventory]) -> Source:
    return {"label_space": space.model_dump_json(), "files": json.dumps(splits)}


# ---- settings


def require_accepted(stored: Config, config: Config, accepted: Collection[str], what: str, path: Path) -> list[str]:
    """The accepted differences, a line each. Raises ConfigError for another one; `path` holds the stored settings."""
    changes = list(configs.differences(stored, config))
    refused = [change for change in changes if change[0] not in accepted]
    if refused:
        key, there, here = refused[0]
        more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
        raise ConfigError(f"{what}: {key} is {here} here but {there} in {path}{more}; use the run's own config")
    return [f"{key} is now {here}, not {there}" for key, there, here in changes]


def require_steps(done: int, config: Config, path: Path) -> None:
    if config.train.steps < done:
        raise ConfigError(
            f"--resume: train.steps is {config.train.steps}, but the run in {path} has done {done} steps; "
            f"set train.steps={done} or more"
        )


def changed_learning_rate(stored: Config, config: Config, done: int) -> list[str]:
    """What another number of steps does to the learning rates that are still to come."""
    old, new = stored.train.steps, config.train.steps
    old_rates, new_rates = (
        [optim.learning_rate(config.optim, step, steps) for step in range(new)] for steps in (old, new)
    )
    different = [step for step, (a, b) in enumerate(zip(old_rates, new_rates, strict=True)) if a != b]
    at = next((step for step in different if step >= done), None)
    if at is None:
        return []
    line = f"the learning rate (optim.schedule={config.optim.schedule}) follows train.steps: at step {at + 1} it is "
    line += f"{new_rates[at]:.3g}, not {old_rates[at]:.3g}"
    was_same = different[0] == at  # until now, as in a warm-up
    return [line if was_same else f"{line}, and the result is not that of {new} steps without a break"]


def changed_drop_path(stored: Config, config: Config) -> list[str]:
    """What another number of steps does to the paths that are still to be dropped."""
    share = configs.to_tree(config)["model"]["backbone"].get("drop_path")
    if not share or stored.train.steps == config.train.steps:
        return []
    setting = f"model.backbone.drop_path={share}"
    return [f"the share of dropped paths ({setting}) rises until the last step, and so follows train.steps"]


# ---- processes


def images_of_step(settings: TrainConfig, world: World) -> int:
    return settings.batch * settings.accumulate * world.size


def fitting(config: Config, images: int, world: World) -> Config:
    """The config with as many passes as a step of `images` needs, if a whole number of passes has them; 0: unknown."""
    number, rest = divmod(images, config.train.batch * world.size)
    if rest or not number:
        return config
    return config.model_copy(update={"train": config.train.model_copy(update={"accumulate": number})})


def accepted_changes(stored: Config, config: Config, images: int, world: World) -> frozenset[str]:
    """The settings that may change: how a step of `images` is cut, too, if it keeps that number.

    With other processes it may not be possible to keep it; then the learning rate may follow.
    """
    if not images:
        return ACCEPTED
    if images_of_step(config.train, world) == images:
        return ACCEPTED | BATCH
    is_cut_alike = all(getattr(stored.train, name) == getattr(config.train, name) for name in ("batch", "accumulate"))
    return ACCEPTED | ({"optim.lr"} if is_cut_alike else frozenset())


def changed_images(config: Config, images: int, world: World) -> list[str]:
    """What another number of images in a step means; 0: unknown."""
    now = images_of_step(config.train, world)
    if images in (0, now):
        return []
    learning_rate = config.optim.lr * now / images
    return [
        f"a step has {now} images, not {images} as so far, because {world.size} processes of {config.train.batch} take "
        f"part: the result is not that of a run without a break; by the linear rule optim.lr={learning_rate:.3g} suits "
        f"{now} images as optim.lr={config.optim.lr:.3g} does {images}"
    ]


# ---- classes


def require_same_classes(stored: LabelSpace, space: LabelSpace, path: Path) -> None:
    """Raises DataError with every class that differs: the weights know a class by its number only."""
    changes = list(_class_changes(stored, space))
    if changes:
        raise DataError(
            f"--resume: the classes are not those of the run in {path}: {listing(changes)}; restore them, or start "
            f"another run with train.init={path / 'last.safetensors'} train.reuse=all_but_logits"
        )


def _class_changes(stored: LabelSpace, space: LabelSpace) -> Iterator[str]:
    for index, (there, here) in enumerate(zip_longest(stored.names, space.names)):
        if there != here:
            yield f"class {index} is {_quoted(here)} here but {_quoted(there)} there"
    if stored.ignore != space.ignore:
        yield f"the ignored value is {space.ignore} here but {stored.ignore} there"
    if stored.raw_ids != space.raw_ids:
        yield f"{_values(space)} here but {_values(stored)} there"
    if stored.things != space.things:
        yield f"things are {_names(space)} here but {_names(stored)} there"


def _quoted(name: str | None) -> str:
    return "absent" if name is None else repr(name)


def _values(space: LabelSpace) -> str:
    pairs = listing((f"{value}: {index}" for value, index in space.raw_ids), limit=40)
    return f"label values are {{{pairs}}}" if pairs else "label values are the numbers of the classes"


def _names(space: LabelSpace) -> str:
    return listing((space.names[index] for index in space.things), limit=40) or "none"


# ---- files


def require_same_data(stored: Mapping[str, object], source: Source, path: Path, *, is_accepted: bool) -> list[str]:
    """The accepted changes of the data, a line each. Raises DataError for changes that are not accepted."""
    changes = data_changes(stored, source)
    if changes and not is_accepted:
        raise DataError(
            f"--resume: the data is not that of the run in {path}: {'; '.join(changes)}; "
            "add --accept-changed-data to go on with it, or start another run"
        )
    return changes


def data_changes(stored: Mapping[str, object], source: Source) -> list[str]:
    """What differs in names, sizes, order and colours, a line for each split. States of older versions don't say."""
    before, now = (LabelSpace.model_validate_json(str(one["label_space"])) for one in (stored, source))
    colors = ["the colors of the classes are others"] if before.colors != now.colors else []
    splits, new_splits = (json.loads(str(one["files"])) for one in (stored, source))
    lines = [(role, _split_changes(splits.get(role, {}), files)) for role, files in new_splits.items()]
    return [*colors, *(f"{role}: {', '.join(changes)}" for role, changes in lines if changes)]


def _split_changes(before: Inventory, now: Inventory) -> list[str]:
    renamed = _renamed(before, now)
    new_names = set(renamed.values())
    changes = {
        "renamed": [f"{old} to {new}" for old, new in renamed.items()],
        "added": [name for name in now if name not in before and name not in new_names],
        "removed": [name for name in before if name not in now and name not in renamed],
        "of another size": [name for name in now if name in before and now[name] != before[name]],
    }
    lines = [f"{len(names)} {what} ({listing(names, NUM_NAMED)})" for what, names in changes.items() if names]
    return lines or ([] if list(before) == list(now) else ["in another order"])


def _renamed(before: Inventory, now: Inventory) -> dict[str, str]:
    """Old names and new ones, where just one file that is gone and one that is new have the same sizes."""
    gone, new = _by_sizes(before, now), _by_sizes(now, before)
    return {names[0]: new[sizes][0] for sizes, names in gone.items() if len(names) == len(new.get(sizes, ())) == 1}


def _by_sizes(files: Inventory, others: Inventory) -> dict[tuple[int, ...], list[str]]:
    """The names that are not among the others, by the sizes of their files."""
    names: dict[tuple[int, ...], list[str]] = {}
    for name in files.keys() - others.keys():
        names.setdefault(tuple(files[name]), []).append(name)
    return names
