"""`atrous evaluate`: a model against labelled images; every figure with the protocol that it was measured with."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from torch import Tensor

from atrous import config as configs
from atrous import data, distributed, model_file, report, scoring, segmenter, terminal, verb_module
from atrous.config import Config
from atrous.data import survey
from atrous.data.label_space import LabelSpace, numbered_names
from atrous.data.loader import missing_fields, whole_samples
from atrous.data.survey import Split, Survey
from atrous.distributed import World
from atrous.environment import environment
from atrous.errors import ConfigError, DataError
from atrous.files import user_path, write_atomically
from atrous.layers import quantization
from atrous.models import MODELS, Model
from atrous.progress import counting, say
from atrous.report import Evaluation, ImageScore
from atrous.runtimes.contract import ARITHMETIC, Precision, Speed
from atrous.segmenter import NUM_TRIED, Segmenter
from atrous.tasks import Task
from atrous.tasks.contract import Figures, summed
from atrous.types import Image, Sample

EXACT = Speed("fp32")  # a figure is to be trusted
BASE = "folder/deeplab_v3plus"  # whose section `data` is replaced


def evaluate(
    model: Segmenter,
    samples: Sequence[Sample],
    *,
    world: World,
    workers: int = 0,
    skip_errors: bool = False,
    data_name: str = "",
    metrics: Sequence[str] | None = None,
    advance: Callable[[int], None] | None = None,
) -> Evaluation:
    """Compare predictions with labels at each image's own size; the images are divided among the processes.

    `metrics` are those of the task, None: all but the costly ones. `advance` is called with the number of images
    finished since its last call.
    """
    task, space = model.task.measuring(metrics), model.label_space
    total: dict[str, Any] = {}
    seen: list[Seen] = []
    for index, read in whole_samples(
        samples, workers=workers, rank=world.rank, processes=world.size, skip_errors=skip_errors
    ):
        if read.sample is None:
            seen.append(Seen(index, read.problems))
            continue
        statistics = task.statistics(model.decode(read.sample.image), read.sample, space)
        counts, others = divided(statistics)
        total = summed([part for part in (total, counts) if part])
        score = report.image_score(index, read.sample.name, task.report(statistics, space))
        seen.append(Seen(index, read.problems, score, others))
        if advance is not None:
            advance(world.size)
    totals = [part for part in distributed.gather([total]) if part]
    seen = sorted(distributed.gather(seen), key=lambda one: one.number)
    images, skipped = [one.score for one in seen if one.score], [line for one in seen for line in one.problems]
    if not images:
        raise DataError(f"{data_name}: none of {len(samples)} images could be read, so there is nothing to measure")
    figures = task.report({**summed(totals), **summed([one.others for one in seen if one.others])}, space)
    lines = protocol(model, figures, len(images), len(skipped), data_name)
    return Evaluation(figures, images, skipped, lines, environment(world.device))


class Seen(NamedTuple):
    """What an image adds."""

    number: int
    problems: tuple[str, ...]
    score: ImageScore | None = None
    others: Mapping[str, Any] = {}  # statistics that aren't whole numbers


def divided(statistics: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Counts, whose sum is exact, and the rest, which is added in the order of the images: so the figures are the same
    however many processes share the images.
    """
    counts, others = dict[str, Any](), dict[str, Any]()
    for name, value in statistics.items():
        is_count = isinstance(value, Tensor) and not value.is_floating_point()
        (counts if is_count else others)[name] = value
    return counts, others


def protocol(model: Segmenter, figures: Figures, images: int, skipped: int, data_name: str) -> dict[str, str]:
    return {
        "data": data_name,
        "images": f"{images} ({skipped} could not be read)" if skipped else str(images),
        **model.inference.describe(),
        "output stride": str(model.network.facts.output_stride),
        "arithmetic": ARITHMETIC[model.precision],
        **runtime_of(model),
        **figures.notes,
    }


def runtime_of(model: Segmenter) -> dict[str, str]:
    """What differs from PyTorch, which is the rule."""
    runtime = {} if model.runtime == "pytorch" else {"runtime": model.runtime}
    integers = {"convolutions": "8-bit integers"} if is_int8(model) else {}
    is_rounded = model.network.facts.on_grid and model.inference.scales != (1.0,)
    sizes = {"sizes at other scales": f"k * {model.network.facts.output_stride} + 1"} if is_rounded else {}
    return {**runtime, **integers, **sizes}


def is_int8(model: Segmenter) -> bool:
    """Whether convolutions compute in integers, or as integers would (`train.quantize_after`)."""
    network = model.network
    return network.facts.int8 or (isinstance(network, Model) and quantization.rounds(network))


# ---- the verb


def run(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    json_path: Path | None = None,
    report_path: Path | None = None,
    report_size: float = report.MAX_BYTES / 1e6,
    device: str | None = None,
    workers: int = 0,
    metrics: Sequence[str] | None = None,
    truth: Path | None = None,
    precision: Precision = "fp32",
    compile: bool = False,  # noqa: A002
    runtime: str | None = None,
    console: Console | None = None,
) -> Evaluation:
    """Evaluate the model file `path` on the validation split of its own dataset, or of the one in `overrides`.

    The report has as many images as fit into `report_size` megabytes. `path` may also be stored predictions: then
    `truth` is a JSON file in the same format. `runtime` is as in `load`.
    """
    console = console or terminal.console()
    if truth is not None or scoring.is_stored(user_path(path)):
        return score(path, truth, overrides, json_path, report_path, metrics=metrics, workers=workers, console=console)
    world = distributed.join(device)
    path = user_path(path)
    original = segmenter.load(path, device=world.device if runtime else "cpu", runtime=runtime)
    original.task.measuring(metrics)  # refuses others
    model, samples, evaluation = measured(
        original,
        overrides,
        path,
        world,
        workers=workers,
        metrics=metrics,
        speed=Speed(precision, compile),
        console=console,
    )
    if world.rank == 0:
        if json_path is not None:
            write_atomically(user_path(json_path), json.dumps(evaluation.to_tree(), indent=1) + "\n")
        if report_path is not None:
            title, max_bytes = f"{path.parent.name}/{path.name}", round(1e6 * report_size)
            report.write_page(
                user_path(report_path), model, samples, evaluation, title=title, max_bytes=max_bytes, console=console
            )
        report.print_evaluation(evaluation, console)
    return evaluation


class Measured(NamedTuple):
    model: Segmenter
    samples: Sequence[Sample]
    evaluation: Evaluation


def measured(
    original: Segmenter,
    overrides: Sequence[str],
    path: Path,
    world: World,
    *,
    workers: int,
    metrics: Sequence[str] | None,
    console: Console,
    speed: Speed = EXACT,
    is_known: bool = False,
) -> Measured:
    """Evaluate the model in the file `path`. Its data's labels are looked at first, unless they are known."""
    config, space, samples = prepared(
        original, overrides, path, world, workers=workers, console=console, is_known=is_known
    )
    model = original.with_inference(config.evaluate).with_header(label_space=space, decode=config.decode)
    model = model.to(world.device).with_speed(speed.precision, compile=speed.compile)
    model, _ = model.settled(first_images(samples))
    return Measured(model, samples, measure(model, samples, config, world, workers, metrics, console))


def prepared(
    model: Segmenter,
    overrides: Sequence[str],
    path: Path,
    world: World,
    *,
    workers: int,
    console: Console,
    is_known: bool = False,
) -> tuple[Config, LabelSpace, Sequence[Sample]]:
    """The settings, classes and samples to measure the model with; they are looked at unless they are known."""
    config = settings(model, overrides, str(path))
    space = data.label_space(config.data)
    require_same_classes(model.label_space, space, path)
    samples = data.samples(config.data, config.data.val, model.task.needs)
    skip_errors, split = config.data.on_error == "skip", Split(config.data.val, samples)
    if not is_known:
        survey_of(model.task, split, space, world, workers=workers, skip_errors=skip_errors, console=console)
    require_fields(samples, model.task, config)
    return config, space, samples


def first_images(samples: Sequence[Sample]) -> Iterator[Image]:
    """Some that can be read."""
    for index in range(min(NUM_TRIED, len(samples))):
        with contextlib.suppress(DataError, OSError):
            yield samples[index].image


def score(
    path: Path,
    truth: Path | None,
    overrides: Sequence[str],
    json_path: Path | None,
    report_path: Path | None,
    *,
    metrics: Sequence[str] | None,
    workers: int,
    console: Console,
) -> Evaluation:
    """Measure stored predictions. Raises ConfigError for what only a model can be asked."""
    path = user_path(path)
    if not path.exists():
        raise ConfigError(f"no such file of predictions: {path}")
    if not scoring.is_stored(path):
        raise ConfigError(f"--truth is what predictions in COCO's panoptic JSON are compared with; {path} is none")
    if report_path is not None:
        raise ConfigError("--report shows images, and stored predictions have none; --json writes all figures")
    true = truth_of(path, truth, overrides)
    evaluation = scoring.run(path, true, metrics=metrics, workers=workers, console=console)
    if json_path is not None:
        write_atomically(user_path(json_path), json.dumps(evaluation.to_tree(), indent=1) + "\n")
    report.print_evaluation(evaluation, console)
    return evaluation


def truth_of(path: Path, truth: Path | None, overrides: Sequence[str]) -> scoring.Truth:
    """What the predictions in `path` are compared with: a JSON file, or the dataset in `overrides`."""
    other = next((text for text in overrides if truth is not None or not text.startswith("data.")), None)
    if other is not None:
        raise ConfigError(f"{other}: predictions are compared with --truth, or with data.format=... data.root=...")
    if truth is not None:
        return scoring.read_truth(user_path(truth))
    if not overrides:
        raise ConfigError(
            f"{path} holds predictions; name what they are compared with: --truth TRUTH.json, or data.format=... "
            "data.root=..."
        )
    return scoring.truth_of_data(configs.load(BASE, overrides).data)


def measure(
    model: Segmenter,
    samples: Sequence[Sample],
    config: Config,
    world: World,
    workers: int,
    metrics: Sequence[str] | None,
    console: Console,
) -> Evaluation:
    """`evaluate` with the number of finished images on the terminal."""
    name, done = data_name(config), 0
    with console.status("") as status:

        def advance(count: int) -> None:
            nonlocal done
            done += count
            status.update(terminal.printable(f"{name}: {done} of {len(samples)} images", console.encoding))

        advance(0)
        skip_errors = config.data.on_error == "skip"
        return evaluate(
            model,
            samples,
            world=world,
            workers=workers,
            skip_errors=skip_errors,
            data_name=name,
            metrics=metrics,
            advance=advance,
        )


def settings(model: Segmenter, overrides: Sequence[str], source: str) -> Config:
    """The experiment of a model file with `overrides` on top. They must name the data if the file has no experiment."""
    tree = configs.parse_overrides(overrides)
    others = sorted(tree.keys() - {"data", "evaluate", "decode"})
    if others:
        raise ConfigError(
            f"{others[0]}: only settings of data, evaluate and decode apply here, such as evaluate.flip=true"
        )
    if model.training is not None:
        return configs.override(model.training, overrides, source)
    if "data" not in tree:
        raise ConfigError(f"{source}: the file names no dataset; add data.format=... data.root=...")
    header = model.header
    below = {"model": architecture_of(model), "evaluate": configs.to_tree(header.inference)}
    below["decode"] = configs.to_tree(header.decode)
    return configs.check(configs.merge(below, tree), source=source, overrides=overrides)


def architecture_of(model: Segmenter) -> dict[str, Any]:
    """For an exported file whose metadata was stripped, any of its task: an evaluation reads only which task it is."""
    if model.header.model is not model_file.UNKNOWN:
        return configs.to_tree(model.header.model)
    return {"name": next(name for name, kind in MODELS.items() if kind.task == model.network.facts.task)}


def require_same_classes(ours: LabelSpace, theirs: LabelSpace, path: Path) -> None:
    """Classes that differ in number or name can't be compared. A model may lack class names."""
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


def survey_of(
    task: Task,
    split: Split,
    space: LabelSpace,
    world: World,
    *,
    workers: int,
    skip_errors: bool,
    console: Console,
    advance: Callable[[int], None] = lambda count: None,
) -> Survey | None:
    """What the labels of a split hold, None if the task has no label maps; what is odd about them is printed.

    Raises DataError, on every process, for labels that can't be used. `advance` is called as in `evaluate`.
    """
    if task.survey is None:
        return None
    console = console if world.rank == 0 else Console(quiet=True)
    with counting(f"reading the labels of {split.name}", len(split.samples), console) as count_up:

        def count_on(number: int) -> None:
            count_up(number)
            advance(number)

        total = task.survey(split.samples, space, world, workers=workers, advance=count_on)
    survey.require_usable(total, space, split, skip_errors=skip_errors)
    for line in survey.remarks(total, space, split):
        say(line, console)
    return total


def data_name(config: Config) -> str:
    names = dict.fromkeys((config.data.format, config.data.root.name if config.data.root else config.data.format))
    return f"{' '.join(names)}, split {config.data.val}"


verb_module.make_callable(__name__)  # `atrous.evaluate(...)`
