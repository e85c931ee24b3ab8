"""`atrous evaluate`: a model against labelled images; every figure with the protocol by which it was got."""

import json
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from atrous import config as configs
from atrous import data, distributed, report, segmenter, visualize
from atrous.config import Config
from atrous.data.label_space import LabelSpace, numbered_names
from atrous.data.loader import whole_samples
from atrous.distributed import World
from atrous.files import write_atomically
from atrous.inference import as_batch, predict_labels
from atrous.metrics import confusion
from atrous.metrics.confusion import Scores
from atrous.segmenter import Segmenter
from atrous.types import Sample

PICTURES = 3  # best and worst images each, in a report


class ImageScore(NamedTuple):
    sample: int  # its index
    miou: float


class Evaluation(NamedTuple):
    total: Tensor  # [C, C] int64 on the CPU, rows truth, columns prediction
    images: list[ImageScore]
    skipped: list[str]  # a line for each image that could not be read
    protocol: dict[str, str]


def evaluate(
    segmenter: Segmenter,
    samples: Sequence[Sample],
    *,
    world: World,
    workers: int = 0,
    skip_errors: bool = False,
    data_name: str = "",
    advance: Callable[[int], None] | None = None,
) -> Evaluation:
    """Count, at each image's own size, which class was taken for which; the images are shared out over the processes.

    `advance` is told how many images more are done.
    """
    model, label_space = segmenter.model, segmenter.label_space
    modes = {name: module.training for name, module in model.named_modules()}
    model.eval()
    total = torch.zeros(label_space.num_classes, label_space.num_classes, dtype=torch.int64)
    scores: list[ImageScore] = []
    skipped: list[str] = []
    for index, (sample, problems) in whole_samples(
        samples, workers=workers, rank=world.rank, processes=world.size, skip_errors=skip_errors
    ):
        skipped += problems
        if sample is None:
            continue
        labels = predict_labels(model, as_batch(sample.image, world.device), segmenter.inference)
        truth = torch.from_numpy(sample.semantic)[None].to(world.device)  # [1, H, W]
        counts = confusion.statistic(labels, truth, label_space.num_classes, ignore=label_space.ignore).cpu()
        scores.append(ImageScore(index, confusion.report(counts).miou))
        total += counts
        if advance is not None:
            advance(world.size)
    for name, module in model.named_modules():
        module.training = modes[name]
    scores, skipped = distributed.gather(scores), distributed.gather(skipped)
    total = distributed.sum_over_processes(total.to(world.device)).cpu()
    return Evaluation(total, scores, skipped, protocol(segmenter, total, len(scores), len(skipped), data_name))


def protocol(segmenter: Segmenter, total: Tensor, images: int, skipped: int, data_name: str) -> dict[str, str]:
    label_space = segmenter.label_space
    absent = absent_classes(confusion.report(total), label_space)
    left_out = f"; in neither labels nor predictions, so left out: {', '.join(absent)}" if absent else ""
    return {
        "data": data_name,
        "images": f"{images} ({skipped} could not be read)" if skipped else str(images),
        **segmenter.inference.describe(),
        "output stride": str(segmenter.model.config.output_stride),
        "arithmetic": "float32",
        "compared at": "the size of each image's labels",
        "mean over": f"{label_space.num_classes - len(absent)} of {label_space.num_classes} classes{left_out}",
        "pixels": f"one confusion matrix over all pixels whose label isn't {label_space.ignore}",
    }


def absent_classes(scores: Scores, label_space: LabelSpace) -> list[str]:
    return [name for name, iou in zip(label_space.names, scores.iou, strict=True) if iou is None]


def results(evaluation: Evaluation, label_space: LabelSpace, device: torch.device) -> dict[str, Any]:
    """All figures of an evaluation as plain values: what `--json` writes and a model file keeps."""
    scores = confusion.report(evaluation.total)
    return {
        "miou": scores.miou,
        "pixel_accuracy": scores.pixel_accuracy,
        "mean_accuracy": scores.mean_accuracy,
        "per_class": dict(zip(label_space.names, scores.iou, strict=True)),
        "per_class_accuracy": dict(zip(label_space.names, scores.accuracy, strict=True)),
        "per_class_pixels": dict(zip(label_space.names, scores.pixels, strict=True)),
        "absent": absent_classes(scores, label_space),
        "images": len(evaluation.images),
        "skipped": evaluation.skipped,
        "protocol": evaluation.protocol,
        "confusion": evaluation.total.tolist(),
        "environment": environment(device),
    }


def environment(device: torch.device) -> dict[str, str]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "date": date.today().isoformat(),
        "atrous": version("atrous"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": name,
        "threads": str(torch.get_num_threads()),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


# ---- shown to people


def print_table(found: dict[str, Any], console: Console) -> None:
    table = Table(title=f"{found['protocol']['data']}, {found['images']} images", title_justify="left")
    table.add_column("class")
    for column in ("IoU", "accuracy", "pixels"):
        table.add_column(column, justify="right")
    for name, iou in found["per_class"].items():
        accuracy, pixels = found["per_class_accuracy"][name], found["per_class_pixels"][name]
        table.add_row(name, _figure(iou), _figure(accuracy), f"{pixels:,}")
    table.add_section()
    table.add_row(
        "mean", _figure(found["miou"]), _figure(found["mean_accuracy"]), f"{sum(found['per_class_pixels'].values()):,}"
    )
    console.print(table)
    console.print(f"mIoU {found['miou']:.4f}   pixel accuracy {found['pixel_accuracy']:.4f}")
    console.print(
        "; ".join(f"{name}: {value}" for name, value in found["protocol"].items() if name != "data"), highlight=False
    )


def _figure(value: float | None) -> str:
    return "absent" if value is None else f"{value:.4f}"


def write_report(
    path: Path,
    segmenter: Segmenter,
    samples: Sequence[Sample],
    evaluation: Evaluation,
    found: dict[str, Any],
    *,
    title: str,
    history: Sequence[dict[str, Any]] = (),
    device: torch.device,
) -> None:
    """The HTML page of an evaluation and its `results`, with the best and worst images."""
    ordered = sorted(evaluation.images, key=lambda score: score.miou)
    count = min(PICTURES, len(ordered) // 2)
    worst, best = ordered[:count], ordered[::-1][: max(count, 1)]
    report.write(
        path,
        report.Report(
            title=title,
            subtitle=f"{segmenter.model.config.name}, {segmenter.model.config.backbone.name}",
            scores={name: found[name] for name in ("miou", "pixel_accuracy", "mean_accuracy", "images", "absent")},
            classes=_class_scores(found, segmenter.label_space),
            confusion=evaluation.total.numpy(),
            history=list(history),
            best=list(_pictures(segmenter, samples, best, device)),
            worst=list(_pictures(segmenter, samples, worst, device)),
            config_yaml=configs.to_yaml(segmenter.training or segmenter.model.config),
            protocol=found["protocol"],
            environment=found["environment"],
        ),
    )


def _class_scores(found: dict[str, Any], label_space: LabelSpace) -> list[report.ClassScore]:
    palette = label_space.palette()
    return [
        report.ClassScore(
            name,
            (int(palette[index][0]), int(palette[index][1]), int(palette[index][2])),
            found["per_class"][name],
            found["per_class_accuracy"][name],
            found["per_class_pixels"][name],
        )
        for index, name in enumerate(label_space.names)
    ]


def _pictures(
    segmenter: Segmenter, samples: Sequence[Sample], scores: Sequence[ImageScore], device: torch.device
) -> Iterator[report.Picture]:
    palette, ignore = segmenter.label_space.palette(), segmenter.label_space.ignore
    for score in scores:
        sample = samples[score.sample]
        truth = np.asarray(sample.semantic)
        labels = predict_labels(segmenter.model, as_batch(sample.image, device), segmenter.inference)[0].cpu().numpy()
        yield report.Picture(
            sample.name,
            score.miou,
            sample.image,
            visualize.overlay(sample.image, labels, palette),
            visualize.overlay(sample.image, truth, palette, ignore=ignore),
            visualize.error_map(labels, truth, ignore),
        )


# ---- the verb


def settings(model: Segmenter, overrides: Sequence[str], source: str) -> Config:
    """The experiment of a model file with `overrides` on top; a model without one takes all of its data from them."""
    tree = configs.parse_overrides(overrides)
    others = sorted(tree.keys() - {"data", "evaluate"})
    if others:
        raise ValueError(
            f"{others[0]}: an evaluation has only the settings of data and evaluate, such as evaluate.output_stride=8"
        )
    if model.training is not None:
        return configs.override(model.training, overrides, source)
    if "data" not in tree:
        raise ValueError(f"{source}: the file names no data set; give data.format=... data.root=...")
    below = {"model": configs.to_tree(model.model.config), "evaluate": configs.to_tree(model.inference)}
    return configs.check(configs.merge(below, tree), source=source, overrides=overrides)


def run(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    json_path: Path | None = None,
    report_path: Path | None = None,
    device: str | None = None,
    workers: int = 0,
    console: Console | None = None,
) -> dict[str, Any]:
    """Evaluate the model file `path` on the validation split of its data set, or of that which `overrides` name."""
    console = console or Console(markup=False, highlight=False)
    world = distributed.join(device)
    loaded = segmenter.load(path)
    chosen = settings(loaded, overrides, str(path))
    label_space = data.label_space(chosen.data)
    require_same_classes(loaded.label_space, label_space, path)
    samples = data.samples(chosen.data, chosen.data.val)
    measured = replace(loaded.with_inference(chosen.evaluate), label_space=label_space).to(world.device)
    name, done = data_name(chosen), 0
    with console.status("") as status:

        def advance(count: int) -> None:
            nonlocal done
            done += count
            status.update(f"{name}: {done} of {len(samples)} images")

        advance(0)
        evaluation = evaluate(
            measured,
            samples,
            world=world,
            workers=workers,
            skip_errors=chosen.data.on_error == "skip",
            data_name=name,
            advance=advance,
        )
    found = results(evaluation, label_space, world.device)
    if world.rank == 0:
        print_table(found, console)
        if json_path is not None:
            write_atomically(json_path, json.dumps(found, indent=1) + "\n")
        if report_path is not None:
            write_report(
                report_path,
                measured,
                samples,
                evaluation,
                found,
                title=str(Path(path.parent.name) / path.name),
                device=world.device,
            )
    return found


def require_same_classes(ours: LabelSpace, theirs: LabelSpace, path: Path) -> None:
    """A score between classes of other numbers or other names is a wrong one; a model may have no names to compare."""
    segmenter.require_same_classes(ours.num_classes, theirs, f"num_classes of {path}")
    if ours.names == numbered_names(ours.num_classes):
        return
    for index, (name, other) in enumerate(zip(ours.names, theirs.names, strict=True)):
        if name != other:
            raise ValueError(
                f"class {index} is {name!r} in {path} but {other!r} in the data; if they are one, set data.names"
            )


def data_name(config: Config) -> str:
    names = dict.fromkeys((config.data.format, config.data.root.name if config.data.root else config.data.format))
    return f"{' '.join(names)}, split {config.data.val}"
