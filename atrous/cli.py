"""The verbs of the command line. Each imports its file late. A user's error is one line with exit code 2."""

import contextlib
import io
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO, cast

import typer

from atrous import __version__
from atrous.errors import (
    LESS_MEMORY,
    AtrousError,
    AtrousWarning,
    ConfigError,
    DataError,
    Mismatch,
    OutOfMemory,
    ProcessDied,
    listing,
    out_of_memory,
    text_of,
)
from atrous.interrupt import Interrupted, StopFlag, ignore_signals, stop_signals
from atrous.terminal import printable

if TYPE_CHECKING:
    from atrous.int8 import Request
    from atrous.run_folder import Resume
    from atrous.runtimes.contract import Speed

app = typer.Typer(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"atrous {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def main_options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_print_version, is_eager=True, help="print the version and exit")
    ] = False,
) -> None:
    """From labelled images to a segmentation model.

    \b
    atrous demo                                              everything once, on synthetic scenes
    atrous check MYDATA                                      what is wrong with images and labels
    atrous plan folder/deeplab_v3plus data.root=MYDATA       what fits the memory, and how fast it is
    atrous train folder/deeplab_v3plus data.root=MYDATA --out runs/mine
    atrous evaluate runs/mine                                scores of the best model
    atrous predict runs/mine photos/ --out predicted         masks and overlays

    What belongs to the experiment is a setting, section.field=value: train.steps=1000. What belongs to this call is
    an option: --device cpu.
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _names_of_files(folder: str, *others: str) -> list[str]:
    """The rows of a table with a file, or a folder, for each; `others` are none. Reading the table takes seconds."""
    paths = (Path(__file__).parent / folder).glob("[a-z]*")
    return sorted(path.stem for path in paths if path.stem not in others)


TARGETS = _names_of_files("runtimes", "contract", "pytorch")  # what `export --to` takes


def _target_names(incomplete: str) -> list[str]:
    return [name for name in TARGETS if name.startswith(incomplete)]


RuntimeName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=f"what computes: auto, pytorch, {', '.join(TARGETS)} [default: what the file is for]",
        show_default=False,
    ),
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="SECTION.FIELD=VALUE", help="settings to change", show_default=False)
]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda or cuda:N; by default a GPU if there is one", show_default=False)
]
Compile = Annotated[
    bool,
    typer.Option(
        "--compile", help="by torch.compile: tens of seconds at the first image, pays for many images of one size"
    ),
]
PRECISIONS = "fp32, bf16, or auto: bf16 where it is faster and labels agree"
Workers = Annotated[int, typer.Option(min=0, help="processes that read images; 0: the main process reads them itself")]


def _own_cores() -> int:
    """The number of cores for this process; processes that `torchrun` starts share them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


DEFAULT_WORKERS = min(8, _own_cores())


def _recipe_names(incomplete: str) -> list[str]:
    """For the shell's completion, which must not wait for torch."""
    from atrous.recipes import recipes

    return [name for name in recipes() if name.startswith(incomplete)]


def _engine_names(incomplete: str = "") -> list[str]:
    """A file for each. For the shell's completion and the help."""
    return [name for name in _names_of_files("engines", "contract") if name.startswith(incomplete)]


def _format_names(incomplete: str = "") -> list[str]:
    """Of official formats: a file for each. For the shell's completion and the help."""
    return [name for name in _names_of_files("submissions/formats") if name.startswith(incomplete)]


@app.command(short_help="train, evaluate and predict once, on synthetic scenes")
def demo(
    panoptic: Annotated[
        bool, typer.Option("--panoptic", help="tell the cars and people apart, too; takes about twice as long")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="the run's folder [default: runs/demo or runs/panoptic_demo]", show_default=False),
    ] = None,
    device: Device = None,
) -> None:
    """Train, evaluate, predict and report on synthetic street scenes, in minutes on a laptop."""
    from atrous.demo import run

    run(out, name="panoptic_demo" if panoptic else "demo", device=device)


@app.command(short_help="train a model")
def train(
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="the name of a recipe (see `atrous recipes`), a YAML file, or the folder of a run",
            show_default=False,
            autocompletion=_recipe_names,
        ),
    ] = None,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(help="the run's folder [default: runs/NAME OF THE RECIPE]", show_default=False)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="resume the run in the folder")] = False,
    resume_or_start: Annotated[
        bool, typer.Option("--resume-or-start", help="resume the run in the folder, or start it if there is none")
    ] = False,
    accept_changed_data: Annotated[
        bool, typer.Option("--accept-changed-data", help="resume although images were added, removed or changed")
    ] = False,
    show_augmentation: Annotated[
        Path | None,
        typer.Option(
            metavar="PICTURE.png",
            help="don't train: write the first augmented crops with their labels to this picture",
            show_default=False,
        ),
    ] = None,
    device: Device = None,
    workers: Workers = DEFAULT_WORKERS,
) -> None:
    """Train a model. The folder then holds the best model, the last one, metrics and a report."""
    from atrous import config, train

    mode: Resume = "or_start" if resume_or_start else resume
    source, folder = _recipe_and_folder(recipe, out, mode)
    experiment = config.load(source, overrides or [])
    if show_augmentation is not None:
        train.show_augmentation(experiment, show_augmentation)
        return
    train.train(
        experiment, folder, resume=mode, accept_changed_data=accept_changed_data, device=device, workers=workers
    )


def _recipe_and_folder(source: str | None, out: Path | None, resume: "Resume") -> tuple[str, Path]:
    """The recipe and the folder of a run. A run, named by its folder or a file in it, is its own recipe."""
    from atrous import run_folder
    from atrous.recipes import matching, recipes

    if source is None and (out is None or not resume):
        raise ConfigError("a recipe is missing, such as `atrous train folder/deeplab_v3plus`; see atrous train --help")
    path, known = Path(source or out or ""), recipes()
    run = None if source in known else run_folder.containing(path)
    if run is not None and path.name != run.config.name:
        return str(run.config), out or run.path
    is_recipe = path.suffix in (".yaml", ".yml") or bool(source and matching(source))
    if resume is True and not (is_recipe or path.is_file() or (source and out)):
        run_folder.require_run(run_folder.RunFolder(path))
    return str(path), out or default_folder(str(path), is_recipe=source in known, resume=bool(resume))


def default_folder(source: str, *, is_recipe: bool, resume: bool) -> Path:
    """The folder of a run without --out; a run resumed from its own config.yaml stays in that folder."""
    path = Path(source)
    if resume and not is_recipe and path.name == "config.yaml":
        return path.parent
    return Path("runs") / (source if is_recipe else path.stem)


@app.command(short_help="what fits the memory, and how fast it is")
def plan(
    recipe: Annotated[
        str,
        typer.Argument(
            help="the name of a recipe (see `atrous recipes`) or a YAML file",
            show_default=False,
            autocompletion=_recipe_names,
        ),
    ],
    overrides: Overrides = None,
    memory: Annotated[
        str | None,
        typer.Option(help="what the training may take, such as 8GiB [default: what is free]", show_default=False),
    ] = None,
    tries: Annotated[
        list[str] | None,
        typer.Option(
            "--try",
            metavar="SETTINGS",
            help='a further variation, such as --try "model.backbone=resnet50 augment.crop=385,385"',
            show_default=False,
        ),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="write all figures to this JSON file", show_default=False)] = None,
    device: Device = None,
) -> None:
    """Measure steps of a recipe and of variations of it: memory, time, what fits. Exit code 1: nothing does."""
    from atrous import plan

    if json is not None:
        _require_writable(json)
    result = plan.run(recipe, overrides or [], memory=memory, device=device, json_path=json, tries=tries or [])
    if result.recommended is None:
        raise typer.Exit(1)


@app.command(short_help="find what is wrong with images and labels, and mend it")
def check(
    data: Annotated[
        str,
        typer.Argument(
            help="the folder of a dataset, or a recipe",
            show_default=False,
            metavar="DATA",
            autocompletion=_recipe_names,
        ),
    ],
    overrides: Overrides = None,
    json: Annotated[Path | None, typer.Option(help="write all findings to this JSON file", show_default=False)] = None,
    html: Annotated[
        Path | None, typer.Option(help="write a page with pictures of the findings to this file", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="write both, check.json and check.html, to this folder", show_default=False)
    ] = None,
    fix: Annotated[
        Path | None, typer.Option(help="write a mended copy of the dataset to this new folder", show_default=False)
    ] = None,
    ignore: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="leave out this finding", show_default=False)
    ] = None,
    workers: Workers = DEFAULT_WORKERS,
) -> None:
    """Read every image and label, and say what is wrong. Exit code 0: nothing, or only notes; 1: findings."""
    from atrous.check.run import check, check_each
    from atrous.check.sources import sources_in

    settings, ignored = overrides or [], ignore or []
    pages = (json or (out and out / "check.json"), html or (out and out / "check.html"))
    sources = sources_in(data, settings)
    if len(sources) > 1 and (fix or any(pages)):
        raise ConfigError(
            f"{data} holds {len(sources)} datasets: name one of them for --json, --html, --out or --fix: "
            f"{listing(sources)}"
        )
    for path in filter(None, pages):
        _require_writable(path)
    if fix is None and not any(pages) and sources != [data]:
        checkups = check_each(sources, settings, ignore=ignored, workers=workers)
        code = 2 if None in checkups else int(not all(one and one.is_clean for one in checkups))
    else:
        checkup = check(
            sources[0], settings, json_path=pages[0], page_path=pages[1], fix=fix, ignore=ignored, workers=workers
        )
        code = int(not checkup.is_clean)
    if code:
        raise typer.Exit(code)


@app.command(short_help="measure a model on labelled images")
def evaluate(
    model: Annotated[
        Path, typer.Argument(help="a model file, the folder of a run, or stored predictions", show_default=False)
    ],
    overrides: Overrides = None,
    json: Annotated[Path | None, typer.Option(help="write all figures to this JSON file", show_default=False)] = None,
    report: Annotated[Path | None, typer.Option(help="write an HTML report to this file", show_default=False)] = None,
    report_size: Annotated[float, typer.Option(min=1, help="size of the report in megabytes, at most")] = 15,
    metrics: Annotated[
        str | None, typer.Option(help="what to measure, such as pq,ap; all: costly ones too", show_default=False)
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(help="what stored predictions are compared with: COCO's panoptic JSON", show_default=False),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="evaluate each new model of a training as it appears, until its end")
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option(min=0, help="with --watch: seconds without a new model after which it ends", show_default=False),
    ] = None,
    precision: Annotated[str, typer.Option(help=f"what to compute in: {PRECISIONS}")] = "fp32",
    compile: Compile = False,  # noqa: A002 - the option's name
    runtime: RuntimeName = None,
    device: Device = None,
    workers: Workers = DEFAULT_WORKERS,
) -> None:
    """Measure a model on labelled images, or stored predictions: overall scores and a table by class."""
    from atrous import evaluate, scoring

    chosen = None if metrics is None else _words(metrics)
    if watch and runtime is not None:
        raise ConfigError("--watch evaluates the models of a training, by PyTorch; --runtime does not apply")
    if watch:
        _watch(model, overrides or [], timeout, chosen, device, workers, json or report or truth)
        return
    if timeout is not None:
        raise ConfigError("--timeout says how long --watch waits; it needs --watch")
    for path in filter(None, (json, report)):
        _require_writable(path)
    evaluation = evaluate.run(
        model,
        overrides or [],
        json_path=json,
        report_path=report,
        report_size=report_size,
        device=device,
        workers=workers,
        metrics=chosen,
        truth=truth,
        **_speed(precision, compile)._asdict(),
        runtime=runtime,
    )
    if evaluation.skipped and (truth is not None or scoring.is_stored(model)):
        raise typer.Exit(1)


def _speed(precision: str, compile: bool) -> "Speed":  # noqa: A002
    from atrous.runtimes.contract import PRECISIONS, Speed

    if precision not in PRECISIONS:
        raise ConfigError(f"--precision {precision}: expected {', '.join(PRECISIONS)}")
    return Speed(cast(Any, precision), compile)


def _watch(
    path: Path,
    overrides: list[str],
    timeout: float | None,
    metrics: list[str] | None,
    device: str | None,
    workers: int,
    other: Path | None,
) -> None:
    from atrous import watch

    if other is not None:
        raise ConfigError(
            "--watch adds a line for each model to the run's watched.jsonl; --json, --report and --truth are of a "
            "single evaluation"
        )
    if not watch.run(path, overrides, timeout=timeout, metrics=metrics, device=device, workers=workers):
        raise typer.Exit(1)


def _require_writable(path: Path) -> None:
    """Check before the work that its results can be written."""
    from atrous.files import prepare_file

    prepare_file(path)


@app.command(short_help="segment images: masks and overlays")
def predict(
    model: Annotated[Path, typer.Argument(help="a model file, or the folder of a run", show_default=False)],
    images: Annotated[
        list[str] | None,
        typer.Argument(metavar="IMAGE|FOLDER|PATTERN... [evaluate.FIELD=VALUE]...", show_default=False),
    ] = None,
    out: Annotated[Path, typer.Option(help="the folder for masks/ and overlays/")] = Path("predictions"),
    format: Annotated[  # noqa: A002 - the option's name
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"write what a benchmark's server takes, instead of masks: {', '.join(_format_names())}",
            show_default=False,
            autocompletion=_format_names,
        ),
    ] = None,
    images_json: Annotated[
        Path | None,
        typer.Option(
            help="with --format: the benchmark's list of images, if the names of files don't say which these are",
            show_default=False,
        ),
    ] = None,
    overlays: Annotated[
        bool | None,
        typer.Option(
            help="also write the images overlaid with class colours [default: yes, but not with --format]",
            show_default=False,
        ),
    ] = None,
    legend: Annotated[
        bool, typer.Option("--legend", help="write the names and colours of the classes beneath each overlay")
    ] = False,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="also write class probabilities (.npz)")
    ] = False,
    big: Annotated[
        bool | None,
        typer.Option(
            help="predict images a few rows at a time, in blended windows, keeping georeferences "
            "[default: those of more than 67 million pixels]",
            show_default=False,
        ),
    ] = None,
    bands: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,N", help="of a TIFF: the bands to take for red, green and blue, or one", show_default=False
        ),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            help=f"where to compute: {' or '.join(_engine_names())} (many machines)", autocompletion=_engine_names
        ),
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            help="with --engine ray: of the cluster, such as auto [default: RAY_ADDRESS, or this machine alone]",
            show_default=False,
        ),
    ] = None,
    precision: Annotated[str, typer.Option(help=f"what to compute in: {PRECISIONS}")] = "auto",
    compile: Compile = False,  # noqa: A002 - the option's name
    runtime: RuntimeName = None,
    device: Device = None,
) -> None:
    """Segment images of any size: writes palette masks and overlays."""
    from atrous import big_images, predict

    speed = _speed(precision, compile)
    words = images or []
    sources, overrides = _apart(words)
    predict.require_order(model, sources, overrides)
    if images_json is not None and format is None:
        raise ConfigError("--images-json lists the images of a benchmark; it needs --format")
    if format is not None and (big or bands):
        raise ConfigError(f"{'--big' if big else '--bands'} writes masks; it can't be combined with --format")
    if runtime is not None and format is not None:
        raise ConfigError("--runtime: with --format, name an exported file instead")
    if format is None:
        summary = predict.run(
            model,
            sources,
            out,
            overrides,
            overlays=overlays is not False,
            probabilities=probabilities,
            legend=legend,
            big=big_images.Choice(big, big_images.bands_of(bands)),
            device=device,
            engine=engine,
            address=address,
            speed=speed,
            runtime=runtime,
            say=lambda text: _say(text, 1),
        )
    else:
        summary = predict.submit(
            model,
            sources,
            out,
            format,
            overrides,
            images_json=images_json,
            wanted=predict.Wanted(bool(overlays), probabilities, legend, results=False),
            device=device,
            engine=engine,
            address=address,
            speed=speed,
            say=lambda text: _say(text, 1),
        )
    if summary.images or summary.earlier:
        typer.echo(summary.describe())
    if summary.failures:
        total = summary.images + summary.earlier + len(summary.failures)
        raise typer.Exit(_say(f"{len(summary.failures)} of {total} failed, each named above", 1) if total > 1 else 1)


@app.command(short_help="measure how fast a model predicts, and what memory that takes")
def bench(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL... [data.FIELD=VALUE]...",
            help="model files, exported ones too; with settings of data each row is evaluated as well",
            show_default=False,
        ),
    ],
    size: Annotated[
        str | None,
        typer.Option(metavar="H,W", help="pixels of the images [default: the recipe's crop]", show_default=False),
    ] = None,
    image: Annotated[
        Path | None, typer.Option(help="a photo to predict [default: a painted street]", show_default=False)
    ] = None,
    runtimes: Annotated[
        str | None, typer.Option(help="only these, such as pytorch,openvino [default: all]", show_default=False)
    ] = None,
    precisions: Annotated[
        str | None, typer.Option(help="only these, such as fp32,bf16 [default: all]", show_default=False)
    ] = None,
    batch: Annotated[int, typer.Option(help="images of a call, for the throughput")] = 4,
    rounds: Annotated[int, typer.Option(help="turns that each row takes")] = 5,
    seconds: Annotated[float, typer.Option(help="of predicting for each row, over all rounds")] = 10,
    repeats: Annotated[
        int | None, typer.Option(help="predictions in a round, in place of --seconds", show_default=False)
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="threads of a prediction [default: as many as cores]", show_default=False)
    ] = None,
    json: Annotated[Path | None, typer.Option(help="write all figures to this JSON file", show_default=False)] = None,
    html: Annotated[
        Path | None, typer.Option(help="write a page with a plot of score against latency", show_default=False)
    ] = None,
    device: Device = None,
) -> None:
    """Measure latency, throughput and memory by runtime and precision, and with data the score, too.

    Exit code 1: a row failed.
    """
    from atrous import bench

    files, overrides = _apart(models)
    options = bench.Options(
        size=None if size is None else bench.parsed_size(size),
        image=image,
        batch=batch,
        rounds=rounds,
        seconds=seconds,
        repeats=repeats,
        threads=threads,
        device=device,
    )
    result = bench.run(
        [Path(text) for text in files],
        overrides,
        options,
        runtimes=_words(runtimes),
        precisions=_words(precisions),
        json_path=json,
        html_path=html,
    )
    if not result.is_complete:
        raise typer.Exit(1)


def _apart(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Files, and settings."""
    overrides = [text for text in words if re.match(r"[a-z_]+\.[a-z_.]+=", text) and not Path(text).exists()]
    return [text for text in words if text not in overrides], overrides


def _words(text: str | None) -> list[str]:
    return [] if text is None else text.replace(",", " ").split()


@app.command(  # --output_stride=8, as the original programs write it
    context_settings={"ignore_unknown_options": True}, short_help="convert a model of another program"
)
def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="a TensorFlow checkpoint, frozen graph, .tflite, .pth, archive, or zoo:NAME",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="the model file to write (.safetensors)", show_default=False)],
    options: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FLAG=VALUE",
            help="what the weights do not show, as the original program's flags: output_stride=8 atrous_rates=12,24,36",
            show_default=False,
        ),
    ] = None,
    system: Annotated[
        str | None,
        typer.Option(help="the original program, if the names of the weights do not show it", show_default=False),
    ] = None,
    recalibrate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="IMAGE|FOLDER|PATTERN",
            help="measure folded batch norms on these images, so that training can continue",
            show_default=False,
        ),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="a text file with the name of each class on a line", show_default=False)
    ] = None,
    ema: Annotated[
        bool, typer.Option("--ema", help="take the moving average of the weights, where the file has both")
    ] = False,
    check: Annotated[
        list[str] | None,
        typer.Option(
            metavar="IMAGE|FOLDER|PATTERN",
            help="also run the original on these images, and print how many labels are equal",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Convert a model of TensorFlow DeepLab (without TensorFlow), semseg, torchvision or mmsegmentation."""
    from atrous.convert import run
    from atrous.predict import find_images

    def images(patterns: list[str] | None) -> list[Path]:
        searched = find_images(patterns or [])
        if searched.problems:
            raise DataError(searched.problems[0])
        return [image.path for image in searched.images]

    run.run(
        source,
        out,
        options or [],
        system=system,
        images=images(recalibrate),
        labels=labels,
        checked=images(check),
        ema=ema,
    )


@app.command(short_help="write a model as a file for other programs")
def export(
    model: Annotated[Path, typer.Argument(help="a model file, or the folder of a run", show_default=False)],
    overrides: Overrides = None,
    *,
    to: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help=f"{', '.join(TARGETS[:-1])} or {TARGETS[-1]}",
            show_default=False,
            autocompletion=_target_names,
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="the file to write [default: beside the model]", show_default=False)
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="H,W", help="the only size of images that the file takes [default: any]", show_default=False
        ),
    ] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="let it also give the class probabilities of each pixel")
    ] = False,
    grouping: Annotated[
        bool, typer.Option("--grouping/--no-grouping", help="of a panoptic model: let it also give the panoptic map")
    ] = True,
    images: Annotated[
        list[str] | None,
        typer.Option(
            metavar="IMAGE|FOLDER|PATTERN", help="also compare the file with the model on these", show_default=False
        ),
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="let convolutions compute in 8-bit integers")] = False,
    calibrate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="IMAGE|FOLDER|PATTERN",
            help="with --int8: the images that ranges are measured on [default: the data's for training]",
            show_default=False,
        ),
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(help="with --int8: minmax, percentile or entropy [default: minmax]", show_default=False),
    ] = None,
) -> None:
    """Write a model as a file that takes images of bytes and gives labels. Exit code 1: it differs from the model.

    With --int8 and data.root=..., also measure what the integers cost.
    """
    from atrous import export

    export.run(
        model,
        to,
        out=out,
        size=export.parse_size(size),
        probabilities=probabilities,
        grouping=grouping,
        images=images or [],
        integers=_integers(int8, calibrate, calibration, overrides),
    )


def _integers(
    is_asked: bool, calibrate: list[str] | None, calibration: str | None, overrides: list[str] | None
) -> "Request | None":
    """Raises ConfigError for options without --int8, which would do nothing."""
    from atrous.int8 import Request

    if is_asked:
        return Request(calibrate or [], calibration or "minmax", overrides or [])
    alone = "--calibrate" if calibrate else "--calibration" if calibration else next(iter(overrides or []), None)
    if alone is not None:
        raise ConfigError(f"{alone}: an export needs it with --int8 only")
    return None


@app.command(short_help="pack a dataset into a few large files")
def pack(
    source: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="the folder of a dataset; or a recipe or YAML file, whose section `data` counts",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="the folder for the shards", show_default=False)],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="DATA.FIELD=VALUE", help="settings of data", show_default=False)
    ] = None,
    to: Annotated[str, typer.Option(help="shards (tar files) or tfrecord (of the TensorFlow systems)")] = "shards",
    style: Annotated[
        str, typer.Option(help="of tfrecord: deeplab (labels as PNG) or deeplab2 (raw panoptic maps)")
    ] = "deeplab",
    quality: Annotated[
        int | None, typer.Option(help="write the images as JPEG of this quality, 1 to 100", show_default=False)
    ] = None,
    max_size: Annotated[
        int | None, typer.Option(help="shrink images whose longer side has more pixels", show_default=False)
    ] = None,
    for_crops: Annotated[
        bool, typer.Option("--for-crops", help="store pixels uncompressed: a crop then reads its own rows only")
    ] = False,
    shard_size: Annotated[float, typer.Option(help="megabytes after which a tar file ends")] = 256,
    num_shards: Annotated[int, typer.Option(help="of tfrecord: files of a split")] = 10,
    split: Annotated[
        list[str] | None, typer.Option(help="a split to pack [default: data.train and data.val]", show_default=False)
    ] = None,
    workers: Workers = DEFAULT_WORKERS,
) -> None:
    """Pack a dataset into a few large files, for data.format=shards or for TensorFlow. A rerun goes on."""
    from atrous import pack

    options = pack.checked_options(
        to=to,
        style=style,
        quality=quality,
        max_size=max_size,
        for_crops=for_crops,
        shard_size=shard_size,
        num_shards=num_shards,
    )
    summary = pack.run(source, out, overrides or [], options, splits=split or [], workers=workers)
    typer.echo(summary.describe())
    if summary.num_skipped:
        raise typer.Exit(_say(f"{summary.num_skipped} samples could not be read, each named above", 1))


@app.command(short_help="list the recipes, or print one")
def recipes(
    name: Annotated[
        str | None,
        typer.Argument(
            help="print this recipe, ready to edit, or list those of this folder; with --settings: a section",
            show_default=False,
            autocompletion=_recipe_names,
        ),
    ] = None,
    settings: Annotated[
        bool, typer.Option("--settings", help="print what every setting does, or those of NAME")
    ] = False,
    schema: Annotated[
        Path | None, typer.Option(help="write the JSON schema of recipes to this file", show_default=False)
    ] = None,
) -> None:
    """List the recipes, print one, explain settings, or write the schema with which an editor checks recipes."""
    import json

    from atrous import config, reference
    from atrous.files import write_atomically
    from atrous.recipes import in_folder, lines
    from atrous.trees import decoded

    if schema is not None:
        write_atomically(schema, json.dumps(config.schema(), indent=2) + "\n")
    elif settings:
        typer.echo("\n".join(reference.lines(name)), nl=False)
    elif name is None or in_folder(name):
        typer.echo("\n".join(lines(in_folder(name or ""))))
    else:
        typer.echo(decoded(config.find(name).read_bytes()), nl=False)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a verb and exit: 0 done, 1 a run that failed, 2 an error that the user can correct, 128 + N signal N."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that it can't encode must not stop a verb
            stream.reconfigure(errors="backslashreplace")
    code = run(arguments)
    ignore_signals()
    sys.exit(code)


REPHRASED = {"help": "--help", "version": "--version"}  # verbs of other programs


def _rephrased(arguments: Sequence[str]) -> list[str]:
    """`help train` as `train --help`, and a `~` after an equals sign as the home folder, which a shell leaves alone."""
    words = [_with_home(text) for text in arguments]
    return [*words[1:], REPHRASED[words[0]]] if words and words[0] in REPHRASED else words


def _with_home(text: str) -> str:
    from atrous.files import user_path

    name, equals, value = text.partition("=")
    if equals and value.startswith("~"):
        return f"{name}={user_path(value)}"
    return str(user_path(text)) if text.startswith("~") else text


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; returns the exit code. A signal ends it in one line, whatever a library made of it on the way."""
    words = _rephrased(sys.argv[1:] if arguments is None else arguments)
    stop = StopFlag()
    try:
        with stop_signals(stop), stop.watched(), _warnings_in_one_line():
            try:
                return _run(words)
            except Exception as error:
                with stop.deferred():  # an explanation is not interrupted
                    return _explain(error, words, stop)
            finally:
                _leave_process_group()
    except Interrupted as interruption:
        return _say_interrupted(interruption, stop)
    except (KeyboardInterrupt, typer.Abort):
        return _say_interrupted(Interrupted(), stop)


def _run(words: Sequence[str]) -> int:
    code = typer.main.get_command(app).main(list(words), prog_name="atrous", standalone_mode=False)
    if code == 130:  # typer's own answer to Ctrl-C
        raise Interrupted
    return code if isinstance(code, int) else 0


def _explain(error: Exception, words: Sequence[str], stop: StopFlag) -> int:
    """Print what went wrong, in one line if the user or the machine is the cause; returns the exit code."""
    if os.environ.get("ATROUS_DEBUG"):
        raise error
    if isinstance(error, FloatingPointError | Mismatch | ProcessDied | OutOfMemory):
        return _say(str(error), 1)
    if isinstance(error, BrokenPipeError):  # `atrous recipes | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    if isinstance(error, AtrousError | OSError):
        return _say(text_of(error), 2)
    if hasattr(error, "format_message"):  # what click raises for a wrong option
        return _say(_misuse(error, words), 2)
    if device := out_of_memory(error):
        return _say(f"the {device} is out of memory; {LESS_MEMORY[device]}", 1)
    if _is_lost_peer(error):
        return _say(sys.modules["atrous.distributed"].LOST_PEER, 1)
    if stop.number is not None:  # imports of numpy and torch turn an interruption into errors of their own
        return _say_interrupted(Interrupted(number=stop.number), stop)
    traceback.print_exception(error)
    return _say(f"this is a fault of Atrous {__version__}, not yours; please report it with the lines above", 1)


def _misuse(error: Any, words: Sequence[str]) -> str:  # noqa: ANN401 - a UsageError of click, which typer hides
    """A wrong call in one line: what was wrong, what was probably meant, where to read more."""
    context = error.ctx
    path = context.command_path if context is not None else "atrous"
    where = f"see {path} --help"
    if not hasattr(error, "option_name") or not hasattr(error, "possibilities"):
        return f"{error.format_message().rstrip('.')}; {where}"
    from atrous import advice

    options = [name for parameter in context.command.params for name in parameter.opts if name.startswith("--")]
    meaning = advice.for_option(error.option_name, words, context.info_name, options)
    return f"{context.info_name} has no option {error.option_name}; {f'{meaning}; ' if meaning else ''}{where}"


@contextlib.contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Our own warnings as one line on stderr, in the processes that read images too."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def say(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, AtrousWarning):
                _say(f"warning: {message}", 0)
            else:
                show(message, category, filename, lineno, file, line)

        warnings.showwarning = say
        warnings.simplefilter("always", AtrousWarning)  # each comes once
        warnings.filterwarnings("ignore", r"Image size \(\d+ pixels\) exceeds limit")  # Pillow's; half of our limit
        yield


def _is_lost_peer(error: Exception) -> bool:
    return "atrous.distributed" in sys.modules and sys.modules["atrous.distributed"].is_lost_peer(error)


def _say(message: str, code: int) -> int:
    print(f"atrous: {printable(' '.join(message.split()))}", file=sys.stderr)
    return code


def _say_interrupted(interruption: Interrupted, stop: StopFlag) -> int:
    return interruption.exit_code if stop.is_quiet else _say(str(interruption), interruption.exit_code)


def _leave_process_group() -> None:
    if "atrous.distributed" in sys.modules:
        sys.modules["atrous.distributed"].leave()
