"""Grouping and panoptic metrics against the obvious ways and other programs; a minute or two on one core.

python benchmarks/panoptic.py measures against those of the peers that are installed. For all of them, first:
pip install torchmetrics pycocotools opencv-python-headless git+https://github.com/cocodataset/panopticapi \\
    git+https://github.com/bowenc0221/boundary-iou-api
"""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import io
import os
import platform
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from datetime import date
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atrous.metrics import average_precision, panoptic_quality
from atrous.metrics.pairs import segment_pairs
from atrous.ops import boundary_width, nearest_center, nearest_center_reference

Map = NDArray[np.int64]


class Timing(NamedTuple):
    milliseconds: float
    figure: float | None


Way = Callable[[Map, Map], Timing]  # of a prediction and a truth

SIZE, NUM_CENTERS = (1024, 2048), 200  # of Cityscapes, and deeplab2's most centres
NOISE = 5.0  # pixels: how far a trained network's offsets miss their centre
REPEATS = 5
PEERS = ("torchmetrics", "pycocotools")  # whose versions are stated
DIVISOR, IGNORE, NUM_CLASSES, FIRST_THING = 1000, 255, 19, 11


def scene() -> tuple[Tensor, Tensor]:
    """[N, 2] where the pixels of an image point to, and [K, 2] centres."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.stack([torch.randint(0, side, (NUM_CENTERS,), generator=generator) for side in SIZE], 1).float()
    pixels = torch.cartesian_prod(*(torch.arange(side) for side in SIZE)).float()
    own = centers[nearest_center(pixels, centers)]
    return own + NOISE * torch.randn(own.shape, generator=generator), centers


def in_chunks(points: Tensor, centers: Tensor) -> Tensor:
    """The other obvious way: centres a few at a time, the nearest so far kept."""
    best = torch.full((len(points),), torch.inf)
    index = torch.zeros(len(points), dtype=torch.long)
    for start in range(0, len(centers), 32):
        distances = torch.linalg.vector_norm(points[:, None] - centers[start : start + 32], dim=-1)
        nearest, place = distances.min(1)
        closer = nearest < best
        best, index = torch.where(closer, nearest, best), torch.where(closer, place + start, index)
    return index


WAYS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "all distances at once": nearest_center_reference,
    "32 centres at a time": in_chunks,
    "cells (`ops.nearest_center`)": nearest_center,
}


def measure_grouping(name: str) -> None:
    """Print the median time of the CPU in milliseconds, and the peak memory of the process in MiB."""
    torch.set_num_threads(1)
    points, centers = scene()
    times = []
    for _ in range(REPEATS if name.startswith("cells") else 2):
        start = time.process_time()
        WAYS[name](points, centers)
        times.append(1000 * (time.process_time() - start))
    print(median(times), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def maps() -> tuple[Map, Map]:
    """A panoptic map of 60 segments, and the same moved by a few pixels."""
    generator = np.random.default_rng(0)
    centers = torch.from_numpy(generator.integers(0, SIZE, (60, 2))).float()
    pixels = torch.cartesian_prod(*(torch.arange(side) for side in SIZE)).float()
    own = nearest_center(pixels, centers).reshape(SIZE).numpy()
    classes = np.where(np.arange(60) < 20, generator.integers(0, 11, 60), generator.integers(11, 19, 60))
    truth = classes[own] * DIVISOR + np.where(classes[own] >= FIRST_THING, own + 1, 0)
    return np.roll(truth, (3, 5), (0, 1)), truth


def sorted_pairs(prediction: Map, truth: Map) -> None:
    """The least that a program does which sorts the pixels of one map, and those of both together."""
    np.unique(prediction, return_counts=True)
    np.unique(truth.astype(np.uint64) * 2**24 + prediction.astype(np.uint64), return_counts=True)


def segments_info(ids: Map) -> list[dict[str, int]]:
    """In the words of COCO's format; its ids are ours and 1."""
    numbers, areas = np.unique(ids, return_counts=True)
    return [
        {"id": number + 1, "category_id": number // DIVISOR, "area": area, "iscrowd": 0}
        for number, area in zip(numbers.tolist(), areas.tolist(), strict=True)
    ]


def coco_way(program: str, **options: object) -> Way:
    """panopticapi's function, or boundary-iou-api's, on decoded PNGs: only opening the files is replaced."""
    evaluation = importlib.import_module(program)
    categories = {index: {"id": index, "isthing": int(index >= FIRST_THING)} for index in range(NUM_CLASSES)}

    def way(prediction: Map, truth: Map) -> Timing:
        pngs = {
            name: ((ids + 1)[..., None] >> (0, 8, 16) & 255).astype(np.uint8)
            for name, ids in (("truth", truth), ("prediction", prediction))
        }
        entries = [
            {"image_id": 0, "file_name": name, "segments_info": segments_info(ids)}
            for name, ids in (("truth", truth), ("prediction", prediction))
        ]

        def work() -> float:
            with (
                patch.object(evaluation, "Image", SimpleNamespace(open=lambda path: pngs[Path(path).name])),
                contextlib.redirect_stdout(io.StringIO()),
            ):
                counts = evaluation.pq_compute_single_core(0, [deepcopy(entries)], "", "", categories, **options)
            value: float = counts.pq_average(categories, None)[0]["pq"]
            return value

        return timed(work)

    return way


def torchmetrics_way(prediction: Map, truth: Map) -> Timing:
    functional = importlib.import_module("torchmetrics.functional.detection")
    predicted, true = (
        torch.from_numpy(np.stack([ids // DIVISOR, ids % DIVISOR], -1))[None] for ids in (prediction, truth)
    )
    things, stuff = set(range(FIRST_THING, NUM_CLASSES)), set(range(FIRST_THING))
    return timed(lambda: float(functional.panoptic_quality(predicted, true, things, stuff)))


def own_way(width: int | None) -> Way:
    things = torch.arange(NUM_CLASSES) >= FIRST_THING

    def way(prediction: Map, truth: Map) -> Timing:
        predicted, true = (torch.from_numpy(one.astype(np.int32)) for one in (prediction, truth))

        def work() -> float:
            pairs = segment_pairs(predicted, true, things, divisor=DIVISOR, ignore=IGNORE, boundary_width=width)
            return panoptic_quality.mean_quality(panoptic_quality.statistic(pairs), [True] * NUM_CLASSES).pq

        return timed(work)

    return way


def pycocotools_way(prediction: Map, truth: Map) -> Timing:
    """Masks are encoded as its users encode a panoptic map, one by one."""
    mask = importlib.import_module("pycocotools.mask")
    coco, evaluation = (importlib.import_module(f"pycocotools.{name}") for name in ("coco", "cocoeval"))

    def rows(ids: Map) -> list[dict[str, object]]:
        things = [number for number in np.unique(ids).tolist() if number // DIVISOR >= FIRST_THING]
        masks = [mask.encode(np.asfortranarray(ids == number).astype(np.uint8)) for number in things]
        return [
            {
                "image_id": 0,
                "category_id": number // DIVISOR,
                "segmentation": one,
                "score": 1 / (1 + number),
                "id": index,
                "area": int(mask.area(one)),
                "iscrowd": 0,
                "bbox": [0, 0, 1, 1],
            }
            for index, (number, one) in enumerate(zip(things, masks, strict=True), 1)
        ]

    def work() -> float:
        with contextlib.redirect_stdout(io.StringIO()):
            true = coco.COCO()
            categories = [{"id": index} for index in range(FIRST_THING, NUM_CLASSES)]
            true.dataset = {
                "images": [{"id": 0, "height": SIZE[0], "width": SIZE[1]}],
                "annotations": rows(truth),
                "categories": categories,
                "info": {},
            }
            true.createIndex()
            run = evaluation.COCOeval(true, true.loadRes(rows(prediction)), "segm")
            for step in (run.evaluate, run.accumulate, run.summarize):
                step()
        return float(run.stats[0])

    return timed(work)


def own_precision(prediction: Map, truth: Map) -> Timing:
    things = torch.arange(NUM_CLASSES) >= FIRST_THING
    predicted, true = (torch.from_numpy(one.astype(np.int32)) for one in (prediction, truth))
    scores = torch.tensor([[number, 1 / (1 + number)] for number in np.unique(prediction).tolist()])

    def work() -> float:
        pairs = segment_pairs(predicted, true, things, divisor=DIVISOR, ignore=IGNORE)
        ranking = average_precision.statistic(pairs, scores, "")
        return average_precision.report([ranking], range(FIRST_THING, NUM_CLASSES)).ap

    return timed(work)


METRICS: dict[str, dict[str, Callable[[], Way]]] = {  # programs are imported when their turn comes
    "Panoptic quality": {
        "sorting the pixels, nothing else": lambda: lambda *maps: timed(lambda: sorted_pairs(*maps)),
        "torchmetrics": lambda: torchmetrics_way,
        "panopticapi": lambda: coco_way("panopticapi.evaluation"),
        "`metrics.panoptic_quality`": lambda: own_way(None),
    },
    "Boundary PQ": {
        "boundary-iou-api": lambda: coco_way(
            "boundary_iou.coco_panoptic_api.evaluation", iou_type="boundary", dilation_ratio=0.02
        ),
        "`metrics.panoptic_quality`, with boundaries": lambda: own_way(boundary_width(SIZE)),
    },
    "Average precision of masks": {
        "pycocotools": lambda: pycocotools_way,
        "`metrics.average_precision`": lambda: own_precision,
    },
}


def timed(work: Callable[[], float | None]) -> Timing:
    """The median time of the CPU in milliseconds, which other work on the machine hardly changes, and the figure."""
    times, figure = [], None
    for _ in range(REPEATS):
        start = time.process_time()
        figure = work()
        times.append(1000 * (time.process_time() - start))
    return Timing(median(times), figure)


def print_metric(title: str, ways: dict[str, Callable[[], Way]], prediction: Map, truth: Map) -> None:
    print(f"\n{title} of a pair of decoded maps of {SIZE[0]} x {SIZE[1]}\n")
    print("| way | time (ms) | figure |\n|---|--:|--:|")
    for name, way in ways.items():
        try:
            milliseconds, figure = way()(prediction, truth)
        except ModuleNotFoundError as error:
            print(f"| {name} | not installed: {error.name} | |")
            continue
        print(f"| {name} | {milliseconds:,.1f} | {'' if figure is None else f'{figure:.6f}'} |", flush=True)


def machine() -> str:
    listing = Path("/proc/cpuinfo")
    name = re.search(r"model name\s*: (.*)", listing.read_text()) if listing.exists() else None
    cpu = name.group(1) if name else platform.machine()
    peers = [f"{peer} {importlib.metadata.version(peer)}" for peer in PEERS if importlib.util.find_spec(peer)]
    versions = ", ".join([f"PyTorch {torch.__version__}", f"NumPy {np.__version__}", *peers])
    return f"{cpu}, {os.cpu_count()} cores (one used); {versions}; {date.today()}"


def main() -> None:
    print(f"Grouping {SIZE[0]} x {SIZE[1]} pixels by {NUM_CENTERS} centres\n")
    print("| way | time (ms) | peak memory of the process (MiB) |\n|---|--:|--:|")
    for name in WAYS:
        call = [sys.executable, __file__, name]
        milliseconds, peak = map(float, subprocess.run(call, capture_output=True, text=True, check=True).stdout.split())
        print(f"| {name} | {milliseconds:,.0f} | {peak:,.0f} |", flush=True)

    torch.set_num_threads(1)
    prediction, truth = maps()
    for title, ways in METRICS.items():
        print_metric(title, ways, prediction, truth)
    print(f"\n{machine()}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure_grouping(sys.argv[1])
    else:
        main()
