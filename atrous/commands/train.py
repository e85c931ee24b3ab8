"""The command line of `atrous train`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atrous.commands.options import DEFAULT_WORKERS, Device, Overrides, Workers, recipe_names
from atrous.errors import ConfigError

if TYPE_CHECKING:
    from atrous.run_opening import Resume


def train(
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="the name of a recipe (see `atrous recipes`), a YAML file, or the folder of a run",
            show_default=False,
            autocompletion=recipe_names,
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
