"""The command line of `atrous bench`."""

from pathlib import Path
from typing import Annotated

import typer

from atrous.commands.numbers import parsed_size
from atrous.commands.options import Device, files_and_settings, words_of


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
    from atrous.benching.rows import Options

    files, overrides = files_and_settings(models)
    options = Options(
        size=parsed_size(size),
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
        runtimes=words_of(runtimes),
        precisions=words_of(precisions),
        json_path=json,
        html_path=html,
    )
    if not result.is_complete:
        raise typer.Exit(1)
