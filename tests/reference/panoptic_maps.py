"""Panoptic maps that are the same everywhere and always: the reference programs' figures for them are stored."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIZE = (48, 64)
NUM_CLASSES, THINGS, DIVISOR = 5, (2, 3, 4), 1000
VOID = 255 * DIVISOR
MULTIPLIER, INCREMENT = 6364136223846793005, 1442695040888963407  # Knuth's MMIX

Map = NDArray[np.int64]


class Scene(NamedTuple):
    truth: Map  # class * DIVISOR + number; number 0 in a class of things: a crowd
    prediction: Map
    scores: dict[int, float]  # of the things in the prediction; some are equal


class Numbers:
    """A congruential generator, so that no library's change of its own changes the maps."""

    def __init__(self, seed: int) -> None:
        self.state = seed

    def below(self, limit: int) -> int:
        self.state = (MULTIPLIER * self.state + INCREMENT) % 2**64
        return (self.state >> 33) % limit


def scene(seed: int) -> Scene:
    """Up to 16 cells around random points; the prediction is moved, and some of its cells are void or another class."""
    numbers = Numbers(seed)
    points = [(numbers.below(SIZE[0]), numbers.below(SIZE[1])) for _ in range(2 + numbers.below(15))]
    ys, xs = np.mgrid[: SIZE[0], : SIZE[1]]
    own = np.stack([(ys - y) ** 2 + (xs - x) ** 2 for y, x in points]).argmin(0)
    classes = [numbers.below(NUM_CLASSES) for _ in points]
    ids = [category * DIVISOR + (index + 1) * (category in THINGS) for index, category in enumerate(classes)]
    true = [
        (VOID, category * DIVISOR, number)[min(2, numbers.below(8))]
        for category, number in zip(classes, ids, strict=True)
    ]
    moved = np.roll(own, (numbers.below(7) - 3, numbers.below(7) - 3), (0, 1))
    others = [numbers.below(NUM_CLASSES) for _ in points]
    wrong = [category * DIVISOR + (index + 51) * (category in THINGS) for index, category in enumerate(others)]
    predicted = [(VOID, other, number)[min(2, numbers.below(7))] for other, number in zip(wrong, ids, strict=True)]
    prediction = np.array(predicted)[moved]
    things = [number for number in np.unique(prediction).tolist() if number // DIVISOR in THINGS]
    return Scene(np.array(true)[own], prediction, {number: (1 + numbers.below(9)) / 10 for number in things})


def moved_samples(truth: Path, prediction: Path) -> None:
    """Write predictions, moved by some pixels, for a truth in COCO's panoptic format; what rolls in is void."""
    tree = json.loads(truth.read_text())
    folder = prediction.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for entry in tree["annotations"]:
        with Image.open(truth.with_suffix("") / entry["file_name"]) as png:
            ids = np.asarray(png.convert("RGB")).astype(np.int64) @ (1, 256, 65536)
        moved = np.zeros_like(ids)
        moved[3:, 5:] = ids[:-3, :-5]
        Image.fromarray((moved[..., None] >> (0, 8, 16) & 255).astype(np.uint8)).save(folder / entry["file_name"])
        present = set(np.unique(moved).tolist())
        segments = [
            {"id": one["id"], "category_id": one["category_id"]}
            for one in entry["segments_info"]
            if one["id"] in present
        ]
        entries.append({**entry, "segments_info": segments})
    prediction.write_text(json.dumps({"annotations": entries}))
