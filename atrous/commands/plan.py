"""The command line of `atrous plan`."""

from pathlib import Path
from typing import Annotated

import typer

from atrous.commands.options import Device, Overrides, recipe_names, require_writable


def plan(
    recipe: Annotated[
        str,
        typer.Argument(
            help="the name of a recipe (see `atrous recipes`) or a YAML file",
            show_default=False,
            autocompletion=recipe_names,
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
        require_writable(json)
    result = plan.run(recipe, overrides or [], memory=memory, device=device, json_path=json, tries=tries or [])
    if result.recommended is None:
        raise typer.Exit(1)
