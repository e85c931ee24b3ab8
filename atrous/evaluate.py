"""`atrous evaluate`: a model against labelled images; every figure with the protocol that it was measured with."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from atrous import config as configs
from atrous import data, distributed, model_file, report, segmenter
from atrous.config import Config
from atrous.data.label_space import LabelSpace, numbered_names
from atrous.data.loader import missing_fields, whole_samples
from atrous.distributed import World
from atrous.environment import environment
from atrous.errors import ConfigError, DataError
from atrous.files import write_atomically
from atrous.report import ImageScore
from atrous.segmenter import Segmenter
from atrous.tasks import Task
from atrous.tasks.contract import Figures, summed
from atrous.types import Sample


class Evaluation(NamedTuple):
    figures: Figures
    images: list[ImageScore]
    skipped: list[str]  # a line for each image that could not be read
    protocol: dict[str, str]
    environment: dict[str, str]

    def to_tree(self) -> dict[str, Any]:
        """Everything as plain values: what `--json` writes and a model file stores."""
        return {
            **self.figures.to_tree(),
            "images": len(self.images),
            "skipped": self.skipped,
            "protocol": self.protocol,
            "environment": self.environment,
        }


def evaluate(
    segmenter: Segmenter,
    samples: Sequence[Sample],
    *,
    world: World,
    workers: int = 0,
    skip_errors: bool = False,
    data_name: str = "",
    advance: Callable[[int], None] | None = None,
) -> Evaluation:
    """Compare predictions with labels at each image's own size; the images are shared out over the processes.

    `advance` is called with the number of images that were finished since its last call.
    """
    task, space = segmenter.task, segmenter.label_space
    total: dict[str, Any] = {}
    images: list[ImageScore] = []
    skipped: list[str] = []
    for index, read in whole_samples(
        samples, workers=workers, rank=world.rank, processes=world.size, skip_errors=skip_errors
    ):
        skipped += read.problems
        if read.sample is None:
            continue
        statistics = task.statistics(segmenter.decode(read.sample.image), read.sample, space)
        total = summed([total, statistics])
        figures = task.report(statistics, space)
        images.append(ImageScore(index, figures.scores[figures.headline]))
        if advance is not None:
            advance(world.size)
    totals = [part for part in distributed.gather([total]) if part]
    images, skipped = distributed.gather(images), distributed.gather(skipped)
    if not totals:
        raise DataError(f"{data_name}: none of {len(samples)} images could be read, so there is nothing to measure")
    figures = task.report(summed(totals), space)
    lines = protocol(segmenter, figures, len(images), len(skipped), data_name)
    return Evaluation(figures, images, skipped, lines, environment(world.device))


def protocol(segmenter: Segmenter, figures: Figures, images: int, skipped: int, data_name: str) -> dict[str, str]:
    return {
        "data": data_name,
        "images": f"{images} ({skipped} could not be read)" if skipped else str(images),
        **segmenter.inference.describe(),
        "output stride": str(segmenter.network.facts.output_stride),
        "arithmetic": "float32",
        **figures.notes,
    }


def print_evaluation(evaluation: Evaluation, console: Console) -> None:
    figures = evaluation.figures
    title = f"{evaluation.protocol['data']}, {len(evaluation.images)} images"
    table = Table("class", title=title, title_justify="left")
    for column in figures.table.columns:
        table.add_column(column, justify="right")
    for name, row in figures.table.rows.items():
        table.add_row(name, *map(_cell, row))
    table.add_section()
    table.add_row("all", *map(_cell, figures.table.totals))
    console.print(table)
    console.print("   ".join(figures.describe(name) for name in figures.scores))
    lines = [f"{name}: {value}" for name, value in evaluation.protocol.items() if name != "data"]
    console.print("; ".join(lines), highlight=False)


def _cell(value: float | int | None) -> str:
    if value is None:
        return "absent"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


# ---- the verb


def run(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    json_path: Path | None = None,
    report_path: Path | None = None,
    device: str | None = None,
    workers: int = 0,
    console: Console | None = None,
) -> Evaluation:
    """Evaluate the model file `path` on the validation split of its dataset, or of the one that `overrides` name."""
    console = console or Console(markup=False, highlight=False)
    world = distributed.join(device)
    loaded = segmenter.load(path)
    config = settings(loaded, overrides, str(path))
    space = data.label_space(config.data)
    require_same_classes(loaded.label_space, space, path)
    samples = data.samples(config.data, config.data.val)
    require_fields(samples, loaded.task, config)
    model = loaded.with_inference(config.evaluate).with_header(label_space=space, decode=config.decode)
    model = model.to(world.device)
    evaluation = measure(model, samples, config, world, workers, console)
    if world.rank > 0:
        return evaluation
    if json_path is not None:
        write_atomically(json_path, json.dumps(evaluation.to_tree(), indent=1) + "\n")
    if report_path is not None:
        write_report(report_path, model, samples, evaluation, title=str(Path(path.parent.name) / path.name))
    print_evaluation(evaluation, console)
    return evaluation


def measure(
    model: Segmenter, samples: Sequence[Sample], config: Config, world: World, workers: int, console: Console
) -> Evaluation:
    """`evaluate` with the number of finished images on the terminal."""
    name, done = data_name(config), 0
    with console.status("") as status:

        def advance(count: int) -> None:
            nonlocal done
            done += count
            status.update(f"{name}: {done} of {len(samples)} images")

        advance(0)
        skip_errors = config.data.on_error == "skip"
        return evaluate(
            model, samples, world=world, workers=workers, skip_errors=skip_errors, data_name=name, advance=advance
        )


def write_report(
    path: Path,
    model: Segmenter,
    samples: Sequence[Sample],
    evaluation: Evaluation,
    *,
    title: str,
    history: Sequence[dict[str, Any]] = (),
) -> None:
    """The HTML page of an evaluation, with its best and worst images."""
    header, space = model.header, model.label_space
    colors = zip(space.names, space.palette().tolist(), strict=False)  # a palette has 256
    page = report.Report(
        title=title,
        subtitle=f"{header.model.name}, {header.model.backbone.name}",
        figures=evaluation.figures,
        colors={name: (red, green, blue) for name, (red, green, blue) in colors},
        num_images=len(evaluation.images),
        history=list(history),
        galleries=report.galleries(model, samples, evaluation.images),
        legend=model.task.legend,
        config_yaml=configs.to_yaml(header.training or header.model),
        protocol=evaluation.protocol,
        environment=evaluation.environment,
    )
    report.write(path, page)


def settings(model: Segmenter, overrides: Sequence[str], source: str) -> Config:
    """The experiment of a model file with `overrides` on top; a model without one takes all of its data from them."""
    tree = configs.parse_overrides(overrides)
    others = sorted(tree.keys() - {"data", "evaluate", "decode"})
    if others:
        raise ConfigError(
            f"{others[0]}: an evaluation has only the settings of data, evaluate and decode, such as evaluate.flip=true"
        )
    if model.training is not None:
        return configs.override(model.training, overrides, source)
    if "data" not in tree:
        raise ConfigError(f"{source}: the file names no dataset; add data.format=... data.root=...")
    header = model.header
    below = {"model": configs.to_tree(header.model), "evaluate": configs.to_tree(header.inference)}
    return configs.check(configs.merge(below, tree), source=source, overrides=overrides)


def require_same_classes(ours: LabelSpace, theirs: LabelSpace, path: Path) -> None:
    """Classes of other numbers or names can't be compared. A model may have no names of its own."""
    model_file.require_same_classes(ours.num_classes, theirs, f"num_classes of {path}")
    if ours.names == numbered_names(ours.num_classes):
        return
    for index, (name, other) in enumerate(zip(ours.names, theirs.names, strict=True)):
        if name != other:
            raise ConfigError(
                f"class {index} is {name!r} in {path} but {other!r} in the data; if they are the same, set data.names"
            )


def require_fields(samples: Sequence[Sample], task: Task, config: Config) -> None:
    """Refuse a dataset that lacks the labels which the task needs."""
    missing = missing_fields(samples, task.needs, skip_errors=config.data.on_error == "skip")
    if missing:
        raise DataError(
            f"data.format={config.data.format}: its samples lack {', '.join(missing)}, which the model needs"
        )


def data_name(config: Config) -> str:
    names = dict.fromkeys((config.data.format, config.data.root.name if config.data.root else config.data.format))
    return f"{' '.join(names)}, split {config.data.val}"
