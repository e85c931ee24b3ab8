"""The command line of `atrous predict`."""

from pathlib import Path
from typing import Annotated

import typer

from atrous.commands.numbers import parsed_bands
from atrous.commands.options import (
    PRECISIONS,
    Compile,
    Device,
    RuntimeName,
    engine_names,
    files_and_settings,
    format_names,
    speed_of,
)
from atrous.errors import ConfigError
from atrous.terminal import answer


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
            help=f"write what a benchmark's server takes, instead of masks: {', '.join(format_names())}",
            show_default=False,
            autocompletion=format_names,
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
            help=f"where to compute: {' or '.join(engine_names())} (many machines)", autocompletion=engine_names
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
    from atrous.predicting.arguments import require_order
    from atrous.predicting.job import Wanted

    speed = speed_of(precision, compile)
    words = images or []
    sources, overrides = files_and_settings(words)
    require_order(model, sources, overrides)
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
            big=big_images.Choice(big, parsed_bands(bands)),
            device=device,
            engine=engine,
            address=address,
            speed=speed,
            runtime=runtime,
            say=lambda text: answer(text, 1),
        )
    else:
        summary = predict.submit(
            model,
            sources,
            out,
            format,
            overrides,
            images_json=images_json,
            wanted=Wanted(bool(overlays), probabilities, legend, results=False),
            device=device,
            engine=engine,
            address=address,
            speed=speed,
            say=lambda text: answer(text, 1),
        )
    if summary.images or summary.earlier:
        typer.echo(summary.describe())
    if summary.failures:
        total = summary.images + summary.earlier + len(summary.failures)
        raise typer.Exit(answer(f"{len(summary.failures)} of {total} failed, each named above", 1) if total > 1 else 1)
