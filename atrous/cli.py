"""The verbs of the command line. Each imports its file late. A user's error is one line with exit code 2."""

import os
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atrous import __version__
from atrous.errors import AtrousError, ConfigError, DataError, ProcessDied, text_of
from atrous.interrupt import Interrupted, StopFlag, ignore_signals, stop_signals

if TYPE_CHECKING:
    from atrous.run_folder import Resume

app = typer.Typer(
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"atrous {__version__}")
        raise typer.Exit


@app.callback()
def main_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print the version and exit")
    ] = False,
) -> None:
    """From labelled images to a segmentation model. Settings have the form section.field=value."""


Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[SECTION.FIELD=VALUE]...", help="settings to change", show_default=False)
]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda or cuda:N; by default a GPU if there is one", show_default=False)
]
Workers = Annotated[int, typer.Option(min=0, help="processes that read images; 0: the main process reads them itself")]


def _own_cores() -> int:
    """The number of cores for this process; processes that `torchrun` starts share them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


DEFAULT_WORKERS = min(8, _own_cores())


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="the run's folder")] = Path("runs/demo"),
    device: Device = None,
) -> None:
    """Train, evaluate, predict and report on synthetic street scenes, in minutes on a laptop."""
    from atrous.demo import run

    run(out, device=device)


@app.command()
def train(
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="the name of a recipe (see `atrous recipes`), a YAML file, or the folder of a run", show_default=False
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
    device: Device = None,
    workers: Workers = DEFAULT_WORKERS,
) -> None:
    """Train a model. The folder then holds the best model, the last one, metrics and a report."""
    from atrous import config, train

    mode: Resume = "or_start" if resume_or_start else resume
    source, folder = _recipe_and_folder(recipe, out, mode)
    experiment = config.load(source, overrides or [])
    train.train(
        experiment, folder, resume=mode, accept_changed_data=accept_changed_data, device=device, workers=workers
    )


def _recipe_and_folder(source: str | None, out: Path | None, resume: "Resume") -> tuple[str, Path]:
    """The recipe and the folder of a run. A run, named by its folder or a file in it, is its own recipe."""
    from atrous import config, run_folder

    if source is None and (out is None or not resume):
        raise ConfigError("Missing argument 'recipe'; see atrous train --help")
    path, known = Path(source or out or ""), config.recipes()
    run = None if source in known else run_folder.containing(path)
    if run is not None and path.name != run.config.name:
        return str(run.config), out or run.path
    is_recipe_like = path.is_file() or path.suffix in (".yaml", ".yml") or bool(config.nearest(str(path), known))
    if resume is True and (source is None or not (out or is_recipe_like)):
        run_folder.require_run(run_folder.RunFolder(path))
    return str(path), out or _run_folder(str(path), is_recipe=source in known, resume=bool(resume))


def _run_folder(source: str, *, is_recipe: bool, resume: bool) -> Path:
    """The folder of a run without --out; a run resumed from its own config.yaml stays in that folder."""
    path = Path(source)
    if resume and not is_recipe and path.name == "config.yaml":
        return path.parent
    return Path("runs") / (source if is_recipe else path.stem)


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="a model file", show_default=False)],
    overrides: Overrides = None,
    json: Annotated[Path | None, typer.Option(help="write all figures to this JSON file", show_default=False)] = None,
    report: Annotated[Path | None, typer.Option(help="write an HTML report to this file", show_default=False)] = None,
    device: Device = None,
    workers: Workers = DEFAULT_WORKERS,
) -> None:
    """Measure a model on labelled images: overall scores and a table by class."""
    from atrous import evaluate

    for path in filter(None, (json, report)):
        _require_writable(path)
    evaluate.run(model, overrides or [], json_path=json, report_path=report, device=device, workers=workers)


def _require_writable(path: Path) -> None:
    """Check before the work that its results can be written."""
    from atrous.files import prepare_output

    if path.is_dir():
        raise IsADirectoryError(f"cannot write {path}: it is a folder")
    prepare_output(path.parent)


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="a model file", show_default=False)],
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE|FOLDER|PATTERN... [evaluate.FIELD=VALUE]...", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="the folder for masks/ and overlays/", show_default=False)],
    overlays: Annotated[bool, typer.Option(help="also write the images overlaid with class colours")] = True,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="also write class probabilities (.npz)")
    ] = False,
    device: Device = None,
) -> None:
    """Segment images of any size: writes palette masks and overlays."""
    from atrous import predict

    overrides = [text for text in images if re.match(r"[a-z_]+\.[a-z_.]+=", text) and not Path(text).exists()]
    sources = [text for text in images if text not in overrides]
    if not sources:
        raise ConfigError(f"expected an image, folder or pattern, got only the setting {overrides[0]}")
    summary = predict.run(model, sources, out, overrides, overlays=overlays, probabilities=probabilities, device=device)
    if summary.images:
        count = "1 image" if summary.images == 1 else f"{summary.images} images"
        typer.echo(f"{count}: {', '.join(map(str, summary.folders))}")
    if summary.failures:
        raise DataError("; ".join(summary.failures))


@app.command(context_settings={"ignore_unknown_options": True})  # --output_stride=8, as the original programs write it
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
            metavar="[FLAG=VALUE]...",
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
) -> None:
    """Convert a model of TensorFlow DeepLab (without TensorFlow), semseg, torchvision or mmsegmentation."""
    from atrous.convert import run
    from atrous.predict import find_images

    images = [job.image for job in find_images(recalibrate or [], out.parent)]
    run.run(source, out, options or [], system=system, images=images)


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(help="print this recipe, ready to edit", show_default=False)] = None,
    schema: Annotated[
        Path | None, typer.Option(help="write the JSON schema of recipes to this file", show_default=False)
    ] = None,
) -> None:
    """List the recipes, print one, or write the schema with which an editor checks them."""
    import json

    from atrous import config
    from atrous.files import write_atomically

    if schema is not None:
        write_atomically(schema, json.dumps(config.schema(), indent=2) + "\n")
    elif name is not None:
        typer.echo(config.find(name).read_text(encoding="utf-8"), nl=False)
    else:
        known = config.recipes()
        width = max(map(len, known))
        for recipe, path in known.items():
            typer.echo(f"{recipe:{width}} {path.read_text(encoding='utf-8').splitlines()[0].lstrip('# ')}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a verb and exit: 0 done, 1 a run that failed, 2 an error that the user can correct, 128 + N signal N."""
    code = run(arguments)
    ignore_signals()
    sys.exit(code)


OUT_OF_MEMORY = (
    "the GPU is out of memory; a training needs less with a smaller train.batch or augment.crop, "
    "a prediction with evaluate.mode=sliding"
)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; returns the exit code. A signal ends it in one line, whatever a library made of it on the way."""
    stop = StopFlag()
    try:
        with stop_signals(stop), stop.watched():
            try:
                return _run(arguments)
            except Exception as error:
                with stop.deferred():  # an explanation is not interrupted
                    return _explain(error, stop)
            finally:
                _leave_process_group()
    except Interrupted as interruption:
        return _say_interrupted(interruption, stop)
    except (KeyboardInterrupt, typer.Abort):
        return _say_interrupted(Interrupted(), stop)


def _run(arguments: Sequence[str] | None) -> int:
    command = typer.main.get_command(app)
    code = command.main(list(arguments) if arguments is not None else None, prog_name="atrous", standalone_mode=False)
    if code == 130:  # typer's own answer to Ctrl-C
        raise Interrupted
    return code if isinstance(code, int) else 0


def _explain(error: Exception, stop: StopFlag) -> int:
    """Print what went wrong, in one line if the user or the machine is the cause; returns the exit code."""
    if os.environ.get("ATROUS_DEBUG"):
        raise error
    if isinstance(error, FloatingPointError | ProcessDied):
        return _say(str(error), 1)
    if isinstance(error, AtrousError | OSError):
        return _say(text_of(error), 2)
    if hasattr(error, "format_message"):  # what click raises for a wrong option
        return _say(f"{error.format_message().rstrip('.')}; see atrous --help", 2) if error.format_message() else 2
    if _is_out_of_memory(error):
        return _say(OUT_OF_MEMORY, 1)
    if _is_lost_peer(error):
        return _say(sys.modules["atrous.distributed"].LOST_PEER, 1)
    if stop.number is not None:  # imports of numpy and torch turn an interruption into errors of their own
        return _say_interrupted(Interrupted(number=stop.number), stop)
    traceback.print_exception(error)
    return _say(f"this is a fault of Atrous {__version__}, not yours; please report it with the lines above", 1)


def _is_out_of_memory(error: Exception) -> bool:
    return "torch" in sys.modules and isinstance(error, sys.modules["torch"].OutOfMemoryError)


def _is_lost_peer(error: Exception) -> bool:
    return "atrous.distributed" in sys.modules and sys.modules["atrous.distributed"].is_lost_peer(error)


def _say(message: str, code: int) -> int:
    print(f"atrous: {' '.join(message.split())}", file=sys.stderr)
    return code


def _say_interrupted(interruption: Interrupted, stop: StopFlag) -> int:
    return interruption.exit_code if stop.is_quiet else _say(str(interruption), interruption.exit_code)


def _leave_process_group() -> None:
    if "atrous.distributed" in sys.modules:
        sys.modules["atrous.distributed"].leave()
