"""deeplab2's goldens, and the formula for their weights."""

import json
import zlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

GOLDENS = Path(__file__).parents[1] / "goldens" / "deeplab2"
CASES = sorted(path.stem for path in GOLDENS.glob("*.npz"))
PANOPTIC = tuple(case for case in CASES if "deeplabv3" not in case and "semseg" not in case)
Shape = tuple[int, ...]
Arrays = Mapping[str, NDArray[np.float32]]


class Golden(NamedTuple):
    image: NDArray[np.uint8]  # [H, W, 3]
    outputs: Mapping[str, Tensor]  # by the original's names, without the batch; `@4`: every 4th row and column
    options: Mapping[str, Any]  # of the converter
    shapes: Mapping[str, Shape]
    salt: int

    @property
    def evaluator(self) -> dict[str, str]:
        lines = self.options["evaluator"].splitlines()
        return dict(line.split(": ") for line in lines)


@cache
def golden(case: str) -> Golden:
    with np.load(GOLDENS / f"{case}.npz") as file:
        meta = json.loads(str(file["meta"]))
        outputs = {name: torch.from_numpy(file[name][0]) for name in file.files if name not in ("meta", "image")}
        image = file["image"][0]
    options = {
        "config_text": meta["config_text"],
        "evaluator": meta["evaluator"],
        "dataset": meta["dataset"],
        "crop_size": tuple(meta["crop"]),
    }
    shapes = {name: tuple(shape) for name, shape in meta["variables"]}
    return Golden(image, outputs, options, shapes, meta["salt"])


def seeded(name: str, shape: Shape, salt: int = 0) -> NDArray[np.float32]:
    """The formula of goldens/README.md."""
    random, leaf = np.random.RandomState((zlib.crc32(name.encode()) + salt) % 2**32), name.rpartition("/")[2]
    n: NDArray[np.float32] = random.standard_normal(shape).astype(np.float32)
    if leaf == "depthwise_kernel":
        return n / np.float32(np.sqrt(shape[0] * shape[1]))
    if leaf == "gamma":
        return 1 + np.float32(0.1) * n
    if leaf == "moving_variance":
        return np.asarray(np.exp(np.float32(0.2) * n))
    return n * np.float32(np.sqrt(1.5 / np.prod(shape[:-1]))) if len(shape) > 1 else np.float32(0.1) * n


def seeded_weights(shapes: Mapping[str, Shape], salt: int = 0) -> Arrays:
    return {name: seeded(name, shape, salt) for name, shape in shapes.items()}


def upsampled(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """[1, K, h, w] to [H, W, K], as the original returns its maps."""
    return F.interpolate(maps, size, mode="bilinear", align_corners=True)[0].permute(1, 2, 0)
