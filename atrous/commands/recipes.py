"""The command line of `atrous recipes`."""

from pathlib import Path
from typing import Annotated

import typer

from atrous.commands.options import recipe_names


def recipes(
    name: Annotated[
        str | None,
        typer.Argument(
            help="print this recipe, ready to edit, or list those of this folder; with --settings: a section",
            show_default=False,
            autocompletion=recipe_names,
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
