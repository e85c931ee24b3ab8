"""`atrous plan`: what fits a memory, and how fast it is, from measured steps and a line through them.

Each setting is measured by `atrous.rehearsal` in a process of its own, which takes real steps on made-up images, with
two numbers of images. Peak memory and time of a pass are lines in its number of images, and in the area of its crop.
"""

import json
import math
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from atrous import config as configs
from atrous import data, distributed, terminal, verb_module
from atrous.config import Config
from atrous.data.label_space import LabelSpace, numbered_names
from atrous.distributed import World
from atrous.environment import environment, free_memory
from atrous.errors import LESS_MEMORY, AtrousError, ConfigError
from atrous.files import prepare_file, write_atomically
from atrous.out_of_memory import images_of_pass, require_variance, smallest_pass, with_micro_batch
from atrous.progress import counting, say

GIB = 2**30
UNITS = {"K": 10, "M": 20, "G": 30, "T": 40}  # powers of two; with a B and no i, powers of a thousand
MARGIN = 1.1  # a row fits if its prediction, which may be a tenth too low, does
ALONE = World(0, 1, torch.device("cpu"))
MAX_SECONDS = 900.0  # of the measurements of one setting
ASSUMED_CLASSES = 21
MOST_MEASURED = 8  # images of a pass
LABEL_BYTES = 8  # of a pixel's labels and targets, which wait beside its three bytes of colour
CROPS = (0.75, 0.5)  # factors on both sides of the recipe's, which are not measured
PROCESS_GROUP = re.compile(r"(LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE|NAME)|MASTER_(ADDR|PORT)|TORCHELASTIC_.*")
Overrides = tuple[str, ...]


class Point(NamedTuple):
    """A pass that was measured."""

    images: int
    bytes: int  # at the peak of the whole process
    seconds: float  # of an update of one pass


class Measured(NamedTuple):
    """What the steps of one setting took. None or one point, and an error, if it could not be measured."""

    points: tuple[Point, ...]
    saving: int = 0  # bytes at the peak of a save, if that is higher than the steps'
    error: str = ""

    def peak(self, images: float) -> float:
        """Bytes for a pass of so many images of the measured crop; infinite where nothing is known."""
        return max(self._at(images, [point.bytes for point in self.points]), self.saving)

    def seconds(self, images: float) -> float:
        return self._at(images, [point.seconds for point in self.points])

    def _at(self, images: float, values: Sequence[float]) -> float:
        """On the line through both points; a single one stands for all that is smaller."""
        if len(values) < 2:
            return values[0] if values and images <= self.points[0].images else math.inf
        (first, *_), (second, *_) = self.points
        slope = max(0.0, (values[1] - values[0]) / (second - first))
        return max(0.0, values[0] + slope * (images - first))


class Row(NamedTuple):
    """A setting, with the largest pass that fits, or the smallest that is possible."""

    overrides: Overrides  # on top of the recipe
    config: Config
    peak: float = math.inf  # bytes
    seconds: float = math.inf  # of an update
    fits: bool = False
    area: float = 1.0  # of the crop, relative to the measured one
    is_same: bool = False  # the recipe's network and crop
    error: str = ""
    measured: Measured = Measured(())

    @property
    def is_measured(self) -> bool:
        return self.area == 1

    @property
    def images_per_second(self) -> float:
        return images_of_update(self.config) / self.seconds if self.seconds else math.inf

    def to_tree(self) -> dict[str, Any]:
        train = self.config.train
        known = {} if self.error else {"peak_bytes": round(self.peak), "seconds_per_step": round(self.seconds, 4)}
        return {
            "settings": list(self.overrides),
            "crop": list(self.config.augment.crop),
            "micro_batch": images_of_pass(train),
            "passes": train.parts * train.accumulate,
            "images_per_step": images_of_update(self.config),
            **known,
            **({} if self.error else {"images_per_second": round(self.images_per_second, 3)}),
            "fits": self.fits,
            "measured": [point._asdict() for point in self.measured.points] if self.is_measured else [],
            "error": self.error,
        }


class Plan(NamedTuple):
    rows: tuple[Row, ...]  # the best first
    memory: int  # bytes
    device: torch.device
    recommended: Row | None
    command: str  # that starts it; empty if nothing fits

    def to_tree(self) -> dict[str, Any]:
        rows = [{**row.to_tree(), "recommended": row is self.recommended} for row in self.rows]
        where = environment(self.device)
        return {"memory_bytes": self.memory, "environment": where, "rows": rows, "command": self.command}


def run(
    source: str,
    overrides: Sequence[str] = (),
    *,
    memory: str | None = None,
    device: str | None = None,
    json_path: Path | None = None,
    tries: Sequence[str] = (),
    console: Console | None = None,
) -> Plan:
    """What fits `memory`, such as "8GiB", or what the device has free, of a recipe and of variations of it.

    `tries` are further variations, each one or more overrides with spaces between them. Raises AtrousError and OSError.
    """
    console, config = console or terminal.console(), configs.load(source, overrides)
    place = distributed.choose_device(device)
    budget = free_memory(place) if memory is None else parsed_memory(memory)
    if json_path is not None:
        prepare_file(json_path)  # before minutes of measuring
    variations = [*standard(config, source), *asked_for(config, tries, source)]
    for _, changed in variations:
        require_variance(changed.train, ALONE)
    space, remark = space_of(config)
    if remark:
        say(remark, console)
    rows = []
    with counting("measuring", len(variations), console) as advance:
        for one, changed in variations:
            rows += rows_of(one, changed, measure(changed, space, place, sizes(changed), budget), budget, config)
            advance(1)
    result = ranked(rows, budget, place, source, overrides)
    if json_path is not None:
        write_atomically(json_path, json.dumps(result.to_tree(), indent=1) + "\n")
    show(result, console)
    return result


def parsed_memory(text: str) -> int:
    """Bytes of "8GiB", "12 GB" or "500M". Raises ConfigError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT])(i?)(B?)", text.strip(), re.IGNORECASE)
    if match is None or not float(match[1]):
        raise ConfigError(f"--memory {text}: must be a number above 0 with its unit, such as 8GiB, 12GB or 500MiB")
    power = UNITS[match[2].upper()]
    unit = 1000 ** (power // 10) if match[4] and not match[3] else 1 << power
    return int(float(match[1]) * unit)


# ---- what is tried


def standard(config: Config, source: str) -> list[tuple[Overrides, Config]]:
    """The recipe, and what makes it smaller or faster: those settings that its network has."""
    precision = "fp32" if config.train.precision == "bf16" else "bf16"
    is_on = str(not config.train.activation_checkpointing).lower()
    both = (f"train.precision={precision}", f"train.activation_checkpointing={is_on}")
    coarser = f"model.output_stride={2 * config.model.output_stride}"
    tried = [(), both[:1], both[1:], both, (coarser,), ("model.backbone=mobilenet_v2",)]
    plain = with_micro_batch(config, None)
    return [
        (one, changed) for one in tried if (changed := possible(plain, one, source)) and (changed != plain or not one)
    ]


def possible(config: Config, overrides: Overrides, source: str) -> Config | None:
    try:
        return configs.override(config, overrides, source)
    except ConfigError:
        return None


def asked_for(config: Config, tries: Sequence[str], source: str) -> list[tuple[Overrides, Config]]:
    """Raises ConfigError for settings that are wrong."""
    plain = with_micro_batch(config, None)
    try:
        lists = [tuple(shlex.split(text)) for text in tries]
    except ValueError as error:
        raise ConfigError(f"--try {' '.join(tries)}: {error}; overrides with spaces between them are right") from None
    if () in lists:
        raise ConfigError("--try '': must be one or more overrides, such as train.batch=16")
    return [(one, configs.override(plain, one, source)) for one in lists]


def space_of(config: Config) -> tuple[LabelSpace, str]:
    """The classes of the data, or as many as are assumed where it isn't here, and a line that says so."""
    try:
        return data.label_space(config.data), ""
    except (AtrousError, OSError) as error:
        number = config.model.num_classes or ASSUMED_CLASSES
        space = LabelSpace(names=numbered_names(number), things=tuple(range(number // 2, number)))
        return space, f"{number} classes are assumed: {error}"


# ---- measuring


def sizes(config: Config) -> tuple[int, ...]:
    """The numbers of images to measure: the smallest, and the first of the others that fits.

    The C library gives freed memory back or not, by chance of some per cent. The line beyond both points multiplies
    that by its length, so the points lie as far apart as the time allows.
    """
    smallest, batch = smallest_pass(config.train, ALONE), config.train.batch
    double = 2 * smallest
    largest = max(double, min(batch, MOST_MEASURED, max(3 * smallest, batch // 2)))
    return tuple(dict.fromkeys((smallest, largest, max(double, largest // 2))))


def measure(config: Config, space: LabelSpace, device: torch.device, images: Sequence[int], memory: int) -> Measured:
    """Let another process take steps. It is given no more than `memory`, and never outlives this call."""
    order = {
        "config": configs.to_tree(config),
        "space": space.model_dump_json(),
        "device": str(device),
        "images": list(images),
        "memory": min(memory, free_memory(device)),
        "threads": torch.get_num_threads(),
    }
    command = [sys.executable, "-m", "atrous.rehearsal"]
    text = json.dumps(order, default=str)
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=MAX_SECONDS, env=surroundings()
        )
    except subprocess.TimeoutExpired:
        return Measured((), error=f"no result within {MAX_SECONDS:.0f} s")
    return told(done)


def surroundings() -> dict[str, str]:
    """The environment of a process that belongs to no group, and imports this package."""
    own = {name: value for name, value in os.environ.items() if not PROCESS_GROUP.fullmatch(name)}
    folder = str(Path(__file__).parents[1])
    return {**own, "PYTHONPATH": os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH"))))}


def told(done: "subprocess.CompletedProcess[str]") -> Measured:
    """What the process printed: a line for each number of images, then one for a save, or for an error."""
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    points = tuple(Point(one["images"], one["bytes"], one["seconds"]) for one in lines if "images" in one)
    saving = max((one["saving"] for one in lines if "saving" in one), default=0)
    error = next((one["error"] for one in lines if "error" in one), "")
    if done.returncode and not error:
        error = last_words(done.returncode, done.stderr)
    return Measured(points, saving, error)


def last_words(code: int, faults: str) -> str:
    """Of a process that ended by itself, from what it wrote to standard error."""
    last = faults.strip().splitlines()[-1:] or ["no message"]
    return f"its process ended with exit code {code}: {last[0]}"


# ---- what fits


def images_of_update(config: Config) -> int:
    return config.train.batch * config.train.accumulate


def passes_to_try(config: Config) -> Iterator[int]:
    """Images in a pass, from the whole batch to the smallest, for each number of passes."""
    batch, last = config.train.batch, 0
    for parts in range(1, max(1, batch // smallest_pass(config.train, ALONE)) + 1):
        number = -(-batch // parts)
        if number != last:
            yield number
        last = number


def rows_of(overrides: Overrides, config: Config, measured: Measured, memory: int, recipe: Config) -> list[Row]:
    """A setting as it was measured, and with smaller crops."""
    is_same = (config.model, config.augment) == (recipe.model, recipe.augment)
    row = Row(overrides, config, is_same=is_same, error=measured.error, measured=measured)
    if not measured.points:
        return [row]
    whole = row._replace(error="")
    crops = [cropped(whole, factor) for factor in CROPS] if is_same and len(measured.points) > 1 else []
    return [with_largest_pass(one, memory) for one in (whole, *crops)]


def cropped(row: Row, factor: float) -> Row:
    height, width = (max(1, round((side - 1) * factor) + 1) for side in row.config.augment.crop)
    area = height * width / math.prod(row.config.augment.crop)
    augment = row.config.augment.model_copy(update={"crop": (height, width)})
    config = row.config.model_copy(update={"augment": augment})
    overrides = (*row.overrides, f"augment.crop={height},{width}")
    return row._replace(overrides=overrides, config=config, area=area, is_same=False)


def with_largest_pass(row: Row, memory: int) -> Row:
    """With the largest pass that fits, or the smallest that is possible."""
    numbers = list(passes_to_try(row.config))
    number = next((one for one in numbers if MARGIN * peak(row, one) <= memory), numbers[-1])
    config = row.config if number == row.config.train.batch else with_micro_batch(row.config, number)
    passes = config.train.parts * config.train.accumulate
    row = row._replace(config=config, peak=peak(row, number))
    return row._replace(fits=MARGIN * row.peak <= memory, seconds=passes * row.measured.seconds(number * row.area))


def peak(row: Row, images: int) -> float:
    """Bytes for passes of so many images; those of the other passes of an update wait beside them."""
    waiting = (images_of_update(row.config) - images) * math.prod(row.config.augment.crop) * (3 + LABEL_BYTES)
    return row.measured.peak(images * row.area) + waiting


def ranked(rows: Sequence[Row], memory: int, device: torch.device, source: str, overrides: Sequence[str]) -> Plan:
    """What fits comes first, then what keeps the recipe's network and crop, then what is fast."""
    best = sorted(rows, key=lambda row: (bool(row.error), not row.fits, not row.is_same, -row.images_per_second))
    recommended = best[0] if best and best[0].fits else None
    return Plan(
        tuple(best), memory, device, recommended, "" if recommended is None else command(recommended, source, overrides)
    )


def command(row: Row, source: str, overrides: Sequence[str]) -> str:
    """What starts the row's training."""
    number = row.config.train.micro_batch
    micro_batch = [] if number is None else [f"train.micro_batch={number}"]
    words = [text for text in overrides if text not in ("train.batch=auto", "train.micro_batch=auto")]
    return shlex.join(["atrous", "train", source, *words, *row.overrides, *micro_batch])


def show(plan: Plan, console: Console) -> None:
    table = Table("setting", "images in a pass", "passes", "peak", "s/step", "images/s", "", box=None, pad_edge=False)
    for row in plan.rows:
        table.add_row(*cells(row, plan))
    console.print(f"{plan.memory / GIB:.2f} GiB on {environment(plan.device)['device']}")
    console.print(table)
    say("~: from the larger crop; a row fits if its peak, plus a tenth, does", console)
    if plan.recommended is None:
        say(f"nothing fits; {LESS_MEMORY['GPU' if plan.device.type == 'cuda' else 'CPU']}", console)
    else:
        say(f"recommended: {plan.command}", console)


def cells(row: Row, plan: Plan) -> tuple[str, ...]:
    name = " ".join(row.overrides) or "the recipe"
    if row.error:
        return name, "", "", "", "", "", f"not measured: {row.error}"
    train, sign = row.config.train, "" if row.is_measured else "~"
    mark = "recommended" if row is plan.recommended else "" if row.fits else "does not fit"
    numbers = f"{sign}{row.peak / GIB:.2f} GiB", f"{sign}{row.seconds:.2f}", f"{sign}{row.images_per_second:.2f}"
    return name, str(images_of_pass(train)), str(train.parts * train.accumulate), *numbers, mark


# ---- train.batch=auto


def fitted(config: Config, world: World, console: Console) -> Config:
    """The config with the largest passes that fit what the device has free; every process of a run gets the same.

    Raises ConfigError if not even the smallest do, or if they could not be measured.
    """
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if world.device.type == "cpu" else 1
    memory = min(distributed.gather([free_memory(world.device) // processes]))
    plain = with_micro_batch(config, None)
    require_variance(plain.train, world)
    row = largest(plain, world, memory) if world.rank == 0 else Row((), plain)
    number, error = distributed.gather([(images_of_pass(row.config.train), row.error)])[0]
    if error:
        raise ConfigError(f"train.batch=auto: {error}")
    chosen = with_micro_batch(config, number)
    passes = f"{chosen.train.parts} passes of {number}" if chosen.train.parts > 1 else "one pass"
    need = f"about {row.peak / GIB:.2f} of {memory / GIB:.2f} GiB that are free"
    say(f"train.batch=auto: {passes} for a batch of {config.train.batch} ({need}); train.micro_batch={number}", console)
    return chosen


def largest(config: Config, world: World, memory: int) -> Row:
    """The row of the config; its error says why nothing fits."""
    space, _ = space_of(config)
    measured = measure(config, space, world.device, sizes(config), memory)
    row = Row((), config, measured=measured, error=measured.error)
    if not measured.points:
        return row
    row = with_largest_pass(row, memory)
    need = (
        f"{images_of_pass(row.config.train)} images need about {row.peak / GIB:.2f} GiB of {memory / GIB:.2f} GiB free"
    )
    advice = LESS_MEMORY["GPU" if world.device.type == "cuda" else "CPU"]
    return row._replace(error="" if row.fits else f"{need}; {advice}")


verb_module.make_callable(__name__)  # `atrous.plan(...)`
