"""The command line of `atrous evaluate`."""

from pathlib import Path
from typing import Annotated

import typer

from atrous.commands.options import (
    DEFAULT_WORKERS,
    PRECISIONS,
    Compile,
    Device,
    Overrides,
    RuntimeName,
    Workers,
    require_writable,
    speed_of,
    words_of,
)
from atrous.errors import ConfigError


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

    chosen = None if metrics is None else words_of(metrics)
    if watch and runtime is not None:
        raise ConfigError("--watch evaluates the models of a training, by PyTorch; --runtime does not apply")
    if watch:
        _watch(model, overrides or [], timeout, chosen, device, workers, json or report or truth)
        return
    if timeout is not None:
        raise ConfigError("--timeout says how long --watch waits; it needs --watch")
    for path in filter(None, (json, report)):
        require_writable(path)
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
        **speed_of(precision, compile)._asdict(),
        runtime=runtime,
    )
    if evaluation.skipped and (truth is not None or scoring.is_stored(model)):
        raise typer.Exit(1)


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
