"""The command line of `atrous check`."""

from pathlib import Path
from typing import Annotated

import typer

from atrous.commands.options import DEFAULT_WORKERS, Overrides, Workers, recipe_names, require_writable
from atrous.errors import (
    ConfigError,
    listing,
)


def check(
    data: Annotated[
        str,
        typer.Argument(
            help="the folder of a dataset, or a recipe",
            show_default=False,
            metavar="DATA",
            autocompletion=recipe_names,
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
        require_writable(path)
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
