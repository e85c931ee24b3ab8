"""The command line of `atrous demo`."""

from pathlib import Path
from typing import Annotated

import typer

from atrous.commands.options import Device


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
