"""Decoding and augmenting of one core, against Albumentations: from files, from shards, and the transforms alone.

pip install albumentations==2.0.8 into a virtual environment of its own, and 'atrous[opencv]' into this one, then:
python benchmarks/loader.py CITYSCAPES VOCDEVKIT OTHER_PYTHON [ROUNDS]. It takes about two minutes a round.
"""

import itertools
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

WARM_UP, IMAGES = 4, 24  # of each measurement; of VOC five times as many
MEAN, IGNORE = (124, 116, 104), 255
SCALES = (0.5, 2.0)
NEEDS = ("semantic",)  # instance maps, which Cityscapes and VOC have too, are not read


class Data(NamedTuple):
    crop: int
    suffix: str
    repeats: int


DATA = {"cityscapes": Data(769, "PNG", 1), "voc": Data(513, "JPEG", 5)}
PEER = "albumentations"
RESAMPLINGS = {"atrous": "exact", "atrous fast": "fast", "atrous opencv": "opencv"}
ROWS = (  # what is read; by whom
    *(("transforms", who) for who in (PEER, *RESAMPLINGS)),
    *(("files", who) for who in (PEER, *RESAMPLINGS)),
    *(("shards", who) for who in RESAMPLINGS),
    *(("shards for crops", who) for who in RESAMPLINGS),
)
Job = Callable[[int], object]  # the number of an image -> its crop


# ---- the peer, as its documentation shows; it runs without Atrous


def albumentations_job(dataset: str, reading: str, files: Sequence[tuple[str, str]]) -> Job:
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    import albumentations as A  # type: ignore[import-not-found]
    import cv2

    cv2.setNumThreads(0)
    crop = DATA[dataset].crop
    limits = (SCALES[0] - 1, SCALES[1] - 1)
    padding = {"border_mode": 0, "fill": MEAN, "fill_mask": IGNORE, "position": "top_left"}
    pipeline = A.Compose(
        [
            A.RandomScale(limits, p=1),
            A.PadIfNeeded(crop, crop, **padding),
            A.RandomCrop(crop, crop),
            A.HorizontalFlip(p=0.5),
        ],
        seed=0,
    )
    table = np.arange(256, dtype=np.uint8)  # Cityscapes' ids become train ids: the same work, whatever the values

    def read(number: int) -> tuple[Any, Any]:
        image, label = files[number % len(files)]
        pixels: Any = cv2.imread(image)
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
        return pixels, cv2.LUT(_indices(label), table)

    decoded = [read(number) for number in range(4)] if reading == "transforms" else []

    def job(number: int) -> object:
        image, mask = decoded[number % 4] if decoded else read(number)
        return pipeline(image=image, mask=mask)

    return job


def _indices(label: str) -> Any:  # noqa: ANN401
    """Of a palette, which OpenCV would turn into colours."""
    import PIL.Image

    with PIL.Image.open(label) as image:
        return np.array(image)


# ---- Atrous


def atrous_job(dataset: str, reading: str, place: str, resampling: str) -> Job:
    import torch

    from atrous.data.augment_config import AugmentConfig
    from atrous.data.transforms import augment

    torch.set_num_threads(1)
    crop = DATA[dataset].crop
    settings = {"crop": (crop, crop), "min_scale": SCALES[0], "max_scale": SCALES[1], "scale_step": 0}
    config = AugmentConfig.model_validate(settings | {"resampling": resampling})
    samples: Any = samples_of(dataset, reading, place)
    read = getattr(samples, "late", samples.__getitem__)
    decoded = [samples[number] for number in range(4)] if reading == "transforms" else []

    def job(number: int) -> object:
        sample = decoded[number % 4] if decoded else read(number % len(samples))
        return augment(sample, config, np.random.default_rng([0, number]), fill=MEAN, ignore=IGNORE)

    return job


def samples_of(dataset: str, reading: str, place: str) -> Any:  # noqa: ANN401
    from atrous import data
    from atrous.data import shards

    if reading.startswith("shards"):
        return data.samples(shards.Config(root=Path(place)), "train", NEEDS)
    return data.samples(data.FORMATS[dataset].config(format=dataset, root=Path(place)), "train", NEEDS)


# ---- a process that measures


def measure(dataset: str, reading: str, who: str, place: str, files: list[tuple[str, str]]) -> tuple[float, float]:
    """Milliseconds of processor and of wall time for an image."""
    job = (
        albumentations_job(dataset, reading, files)
        if who == PEER
        else atrous_job(dataset, reading, place, RESAMPLINGS[who])
    )
    count = IMAGES * DATA[dataset].repeats
    for number in range(WARM_UP):
        job(number)
    start, wall = time.process_time(), time.perf_counter()
    for number in range(WARM_UP, WARM_UP + count):
        job(number)
    return 1000 * (time.process_time() - start) / count, 1000 * (time.perf_counter() - wall) / count


def memory(place: str) -> list[float]:
    """Resident MiB of a process before the first batch, and after each of three epochs."""
    from atrous.data.augment_config import AugmentConfig
    from atrous.data.loader import Stream, training_batches
    from atrous.data.transforms import augment

    samples = samples_of("voc", "shards", place)
    config = AugmentConfig(crop=(513, 513), scale_step=0)
    batches = training_batches(
        samples,
        lambda sample, *, rng: augment(sample, config, rng, fill=MEAN, ignore=IGNORE),
        Stream(0, 1),
        workers=0,
        skip_errors=False,
    )
    sizes = []
    for number, _ in enumerate(itertools.islice(batches, 3 * len(samples) + 1)):
        if number % len(samples) == 0:
            sizes.append(resident())
    return sizes


def resident() -> float:
    text = Path("/proc/self/status").read_text()
    match = re.search(r"VmRSS:\s*(\d+)", text)
    assert match is not None
    return int(match.group(1)) / 1024


# ---- all of them in turn


def files_of(dataset: str, root: str) -> list[tuple[str, str]]:
    return [(str(pair.image), str(pair.label)) for pair in samples_of(dataset, "files", root).pairs]


def pack(dataset: str, root: str, out: Path) -> dict[str, str]:
    """Where each kind of reading finds the data."""
    from atrous import pack as packing
    from atrous.packing.job import checked_options

    places = {"transforms": root, "files": root}
    for name, is_raw in (("shards", False), ("shards for crops", True)):
        options = checked_options(for_crops=is_raw)
        packing.run(root, out / dataset / name, [f"data.format={dataset}"], options, splits=["train"])
        places[name] = str(out / dataset / name)
    return places


def run(python: str, *arguments: object) -> Any:  # noqa: ANN401
    """What this program prints in a process of its own, as JSON."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [python, __file__, "--child", json.dumps(arguments)]
    output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])


def child(arguments: list[Any]) -> None:
    name, *rest = arguments
    jobs: dict[str, Callable[..., object]] = {"measure": measure, "memory": memory}
    sys.stdout.write(json.dumps(jobs[name](*rest)) + "\n")


def table(dataset: str, times: dict[tuple[str, str], list[tuple[float, float]]]) -> list[str]:
    """Medians over the rounds, and their ratio to the peer: transforms to transforms, all else to its files."""
    crop, suffix, _ = DATA[dataset]
    head = f"| {dataset}, {suffix}, {crop} x {crop} | by | ms of a core | ms of the clock | images/s | peer / this |"
    lines = [head, "|---|---|---|---|---|---|"]
    for reading, who in ROWS:
        core, wall = (median(values) for values in zip(*times[reading, who], strict=True))
        peer = times["transforms" if reading == "transforms" else "files", PEER]
        ratios = [other[0] / one[0] for other, one in zip(peer, times[reading, who], strict=True)]
        lines.append(
            f"| {reading} | {who} | {core:.1f} | {wall:.1f} | {1000 / core:.0f} | {median(ratios):.1f} "
            f"({min(ratios):.1f} to {max(ratios):.1f}) |"
        )
    return lines


def machine() -> str:
    listing = Path("/proc/cpuinfo")
    name = re.search(r"model name\s*: (.*)", listing.read_text()) if listing.exists() else None
    cpu = name.group(1) if name else platform.machine()
    return f"{cpu}, {os.cpu_count()} cores, one used; Python {platform.python_version()}; {date.today()}"


def main() -> None:
    roots = dict(zip(DATA, sys.argv[1:3], strict=True))
    python, rounds = sys.argv[3], int(sys.argv[4]) if len(sys.argv) > 4 else 3
    with tempfile.TemporaryDirectory() as folder:
        for dataset, root in roots.items():
            places, files = pack(dataset, root, Path(folder)), files_of(dataset, root)
            times: dict[tuple[str, str], list[tuple[float, float]]] = {row: [] for row in ROWS}
            for _, (reading, who) in itertools.product(range(rounds), ROWS):
                interpreter = python if who == PEER else sys.executable
                given = ("measure", dataset, reading, who, places[reading], files)
                times[reading, who].append(tuple(run(interpreter, *given)))
            sys.stdout.write("\n".join([*table(dataset, times), "", ""]))
            sys.stdout.flush()
        sizes = run(sys.executable, "memory", places["shards"])
    sys.stdout.write(f"memory before and after each of three epochs of VOC: {[round(size) for size in sizes]} MiB\n")
    sys.stdout.write(f"{machine()}\n")


if __name__ == "__main__":
    if sys.argv[1] == "--child":
        child(json.loads(sys.argv[2]))
    else:
        main()
