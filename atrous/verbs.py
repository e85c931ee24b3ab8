"""Verbs of the command line as functions: `atrous.train(...)`, and likewise `bench`, `convert`, `evaluate` and others.

They take what the verbs take. A setting is a keyword with its value as Python has it: `**{"train.steps": 300}`, or
`train={"steps": 300}` for a whole section.
"""

import json as json_text
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from atrous import config
from atrous.bench import run as run_bench
from atrous.benching.rows import Bench, Options
from atrous.check import Checkup
from atrous.check.run import check as run_check
from atrous.commands.options import DEFAULT_WORKERS
from atrous.commands.train import default_folder
from atrous.convert import convert as convert_source
from atrous.convert.sources import SourceLike
from atrous.data.packed import Index
from atrous.evaluate import run as run_evaluation
from atrous.files import user_path
from atrous.pack import run as run_packing
from atrous.packing.job import checked_options
from atrous.plan import Plan
from atrous.plan import run as run_plan
from atrous.report import Evaluation
from atrous.run_folder import RunFolder
from atrous.segmenter import Segmenter
from atrous.train import train as run_training
from atrous.types import Size

AnyPath = str | PathLike[str]
Device = str | torch.device | None


def train(
    recipe: AnyPath,
    *,
    out: AnyPath | None = None,
    resume: bool = False,
    device: Device = None,
    workers: int = DEFAULT_WORKERS,
    console: Console | None = None,
    **settings: Any,  # noqa: ANN401 - any value of a setting
) -> RunFolder:
    """Train by a recipe or YAML file, from any thread. `out` is runs/NAME OF THE RECIPE unless it is set.

    Raises AtrousError and OSError for what the user can correct, and FloatingPointError if the loss is not finite.
    """
    source = _expanded(recipe)
    folder = default_folder(source, is_recipe=source in config.recipes(), resume=resume)
    experiment = config.load(source, [*overrides(settings)])
    place = folder if out is None else user_path(out)
    return run_training(experiment, place, resume=resume, device=_name(device), workers=workers, console=console)


def plan(
    recipe: AnyPath,
    *,
    memory: str | None = None,
    tries: Sequence[str] = (),
    json: AnyPath | None = None,
    device: Device = None,
    console: Console | None = None,
    **settings: Any,  # noqa: ANN401 - any value of a setting
) -> Plan:
    """What fits `memory`, such as "8GiB", or what the device has free: its `rows`, the best first. Raises as `train`.

    `tries` are further variations, such as "model.backbone=resnet50"; `json` is a file to write.
    """
    return run_plan(
        _expanded(recipe),
        [*overrides(settings)],
        memory=memory,
        device=_name(device),
        json_path=None if json is None else user_path(json),
        tries=tries,
        console=console,
    )


def evaluate(
    model: AnyPath,
    *,
    json: AnyPath | None = None,
    report: AnyPath | None = None,
    device: Device = None,
    workers: int = DEFAULT_WORKERS,
    metrics: Sequence[str] | None = None,
    truth: AnyPath | None = None,
    console: Console | None = None,
    **settings: Any,  # noqa: ANN401 - any value of a setting
) -> Evaluation:
    """Measure a model file on labelled images; `json` and `report` are files to write. Raises as `train` does.

    `metrics` are names such as `pq` and `ap`, or `all`; None: all but the costly ones. `model` may be predictions in
    COCO's panoptic JSON, which are compared with those in `truth`.
    """
    return run_evaluation(
        user_path(model),
        [*overrides(settings)],
        json_path=None if json is None else user_path(json),
        report_path=None if report is None else user_path(report),
        device=_name(device),
        workers=workers,
        metrics=[metrics] if isinstance(metrics, str) else metrics,
        truth=None if truth is None else user_path(truth),
        console=console,
    )


def bench(
    *models: AnyPath,
    size: Size | None = None,
    image: AnyPath | None = None,
    runtimes: str | Sequence[str] = (),
    precisions: str | Sequence[str] = (),
    batch: int = Options().batch,
    rounds: int = Options().rounds,
    seconds: float = Options().seconds,
    repeats: int | None = None,
    threads: int | None = None,
    json: AnyPath | None = None,
    html: AnyPath | None = None,
    device: Device = None,
    console: Console | None = None,
    **settings: Any,  # noqa: ANN401 - any value of a setting
) -> Bench:
    """Measure how fast model files predict, by runtime and precision: `rows`, the fastest first. Raises as `train`.

    `size` is the height and width of the images; `json` and `html` are files to write.
    """
    photo = None if image is None else user_path(image)
    return run_bench(
        [user_path(model) for model in models],
        [*overrides(settings)],
        Options(size, photo, batch, rounds, seconds, repeats, threads, _name(device)),
        runtimes=[runtimes] if isinstance(runtimes, str) else runtimes,
        precisions=[precisions] if isinstance(precisions, str) else precisions,
        json_path=None if json is None else user_path(json),
        html_path=None if html is None else user_path(html),
        console=console,
    )


def check(
    data: AnyPath,
    *,
    json: AnyPath | None = None,
    html: AnyPath | None = None,
    fix: AnyPath | None = None,
    ignore: Sequence[str] = (),
    workers: int = DEFAULT_WORKERS,
    console: Console | None = None,
    **settings: Any,  # noqa: ANN401 - any value of a setting
) -> Checkup:
    """Check a folder, or the data of a recipe: its `findings`, each with its `items`. Raises as `train` does.

    `json` and `html` are files to write, `fix` is a new folder for a mended copy.
    """
    return run_check(
        _expanded(data),
        [*overrides(settings)],
        json_path=None if json is None else user_path(json),
        page_path=None if html is None else user_path(html),
        fix=None if fix is None else user_path(fix),
        ignore=ignore,
        workers=workers,
        console=console,
    )


def convert(
    source: SourceLike,
    *,
    out: AnyPath | None = None,
    system: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Segmenter:
    """The model in another program's weights, which is also written to `out`. See `atrous.convert.convert`."""
    segmenter = convert_source(source, system=system, options=options)
    if out is not None:
        segmenter.save(Path(out))
    return segmenter


def pack(
    source: AnyPath,
    *,
    out: AnyPath,
    splits: Sequence[str] = (),
    workers: int = DEFAULT_WORKERS,
    console: Console | None = None,
    to: str = "shards",
    style: str = "deeplab",
    quality: int | None = None,
    max_size: int | None = None,
    for_crops: bool = False,
    shard_size: float = 256,
    num_shards: int = 10,
    **settings: Any,  # noqa: ANN401 - any value of a setting
) -> Index:
    """Pack a dataset into a few large files; returns their index. Raises AtrousError and OSError as `train` does."""
    options = checked_options(
        to=to,
        style=style,
        quality=quality,
        max_size=max_size,
        for_crops=for_crops,
        shard_size=shard_size,
        num_shards=num_shards,
    )
    place, changes = _expanded(source), [*overrides(settings)]
    summary = run_packing(place, user_path(out), changes, options, splits=splits, workers=workers, console=console)
    return summary.packed


def overrides(settings: Mapping[str, Any]) -> Iterator[str]:
    """`section.field=value` for each setting."""
    for name, value in settings.items():
        fields = {f"{name}.{field}": one for field, one in value.items()} if _is_section(name, value) else {name: value}
        yield from (f"{key}={_text(one)}" for key, one in fields.items())


def _is_section(name: str, value: object) -> bool:
    return "." not in name and isinstance(value, Mapping)


def _text(value: object) -> str:
    return str(value) if isinstance(value, str | PathLike) else json_text.dumps(value, default=str)


def _expanded(path: AnyPath) -> str:
    text = str(path)
    return str(user_path(text)) if text.startswith("~") else text


def _name(device: Device) -> str | None:
    return None if device is None else str(device)
