"""The command line of `atrous export`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atrous.commands.numbers import parsed_size
from atrous.commands.options import TARGETS, Overrides, target_names
from atrous.errors import ConfigError

if TYPE_CHECKING:
    from atrous.int8 import Request


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
            autocompletion=target_names,
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
        size=parsed_size(size),
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
