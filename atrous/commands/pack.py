"""The command line of `atrous pack`."""

from pathlib import Path
from typing import Annotated

import typer

from atrous.commands.options import DEFAULT_WORKERS, Workers
from atrous.terminal import answer


def pack(
    source: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="the folder of a dataset; or a recipe or YAML file, whose section `data` counts",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="the folder for the shards", show_default=False)],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="DATA.FIELD=VALUE", help="settings of data", show_default=False)
    ] = None,
    to: Annotated[str, typer.Option(help="shards (tar files) or tfrecord (of the TensorFlow systems)")] = "shards",
    style: Annotated[
        str, typer.Option(help="of tfrecord: deeplab (labels as PNG) or deeplab2 (raw panoptic maps)")
    ] = "deeplab",
    quality: Annotated[
        int | None, typer.Option(help="write the images as JPEG of this quality, 1 to 100", show_default=False)
    ] = None,
    max_size: Annotated[
        int | None, typer.Option(help="shrink images whose longer side has more pixels", show_default=False)
    ] = None,
    for_crops: Annotated[
        bool, typer.Option("--for-crops", help="store pixels uncompressed: a crop then reads its own rows only")
    ] = False,
    shard_size: Annotated[float, typer.Option(help="megabytes after which a tar file ends")] = 256,
    num_shards: Annotated[int, typer.Option(help="of tfrecord: files of a split")] = 10,
    split: Annotated[
        list[str] | None, typer.Option(help="a split to pack [default: data.train and data.val]", show_default=False)
    ] = None,
    workers: Workers = DEFAULT_WORKERS,
) -> None:
    """Pack a dataset into a few large files, for data.format=shards or for TensorFlow. A rerun goes on."""
    from atrous import pack
    from atrous.packing.job import checked_options

    options = checked_options(
        to=to,
        style=style,
        quality=quality,
        max_size=max_size,
        for_crops=for_crops,
        shard_size=shard_size,
        num_shards=num_shards,
    )
    summary = pack.run(source, out, overrides or [], options, splits=split or [], workers=workers)
    typer.echo(summary.describe())
    if summary.num_skipped:
        raise typer.Exit(answer(f"{summary.num_skipped} samples could not be read, each named above", 1))
