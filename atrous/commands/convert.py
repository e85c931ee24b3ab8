"""The command line of `atrous convert`."""

from pathlib import Path
from typing import Annotated

import typer

from atrous.errors import DataError


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
            metavar="FLAG=VALUE",
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
    labels: Annotated[
        Path | None, typer.Option(help="a text file with the name of each class on a line", show_default=False)
    ] = None,
    ema: Annotated[
        bool, typer.Option("--ema", help="take the moving average of the weights, where the file has both")
    ] = False,
    check: Annotated[
        list[str] | None,
        typer.Option(
            metavar="IMAGE|FOLDER|PATTERN",
            help="also run the original on these images, and print how many labels are equal",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Convert a model of TensorFlow DeepLab (without TensorFlow), semseg, torchvision or mmsegmentation."""
    from atrous.convert import run
    from atrous.predicting.images import find_images

    def images(patterns: list[str] | None) -> list[Path]:
        searched = find_images(patterns or [])
        if searched.problems:
            raise DataError(searched.problems[0])
        return [image.path for image in searched.images]

    run.run(
        source,
        out,
        options or [],
        system=system,
        images=images(recalibrate),
        labels=labels,
        checked=images(check),
        ema=ema,
    )
