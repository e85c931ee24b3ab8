"""Goldens of the PyTorch programs whose models we convert, and the formula for their weights and images."""

import json
import zlib
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

GOLDENS = Path(__file__).parents[1] / "goldens" / "pytorch"
CASES = sorted(path.stem for path in GOLDENS.glob("*.npz"))
Shape = tuple[int, ...]
Array = NDArray[np.float32]


class Golden(NamedTuple):
    image: Tensor  # [1, 3, H, W] uint8
    logits: Mapping[str, Tensor]  # [1, C, h, w] at the network's own grid, by output
    shapes: Mapping[str, Shape]  # of the program's state dict
    duplicates: frozenset[str]  # names of weights that have another name, too, which counts


@cache
def golden(case: str) -> Golden:
    return read_golden(GOLDENS / f"{case}.npz")


def read_golden(path: Path) -> Golden:
    with np.load(path) as file:
        meta = json.loads(file["meta"].tobytes())
        logits = {name: torch.from_numpy(file[name]) for name in file.files if name != "meta"}
    shapes = {name: tuple(shape) for name, shape in meta["shapes"]}
    return Golden(image(*meta["size"]), logits, shapes, frozenset(meta["duplicates"]))


def image(height: int, width: int) -> Tensor:  # [1, 3, H, W] uint8
    random = np.random.RandomState(1000 * height + width)
    return torch.from_numpy(random.randint(0, 256, (height, width, 3)).astype(np.uint8)).permute(2, 0, 1)[None]


@lru_cache(maxsize=400)  # networks share their backbones' names
def seeded(name: str, shape: Shape) -> Array:
    """Normal numbers, seeded by the name; matrices and kernels keep the magnitude of what they see."""
    random, leaf = np.random.RandomState(zlib.crc32(name.encode()) % 2**32), name.rpartition(".")[2]
    if leaf == "num_batches_tracked":
        return np.array(0, np.float32)
    n: Array = random.standard_normal(shape).astype(np.float32)
    if len(shape) in (2, 4):
        return n * np.float32(np.sqrt(1.5 / np.prod(shape[1:])))
    if leaf == "weight" and len(shape) == 1:
        return 1 + np.float32(0.1) * n
    return np.exp(np.float32(0.2) * n) if leaf == "running_var" else np.float32(0.1) * n


def seeded_weights(shapes: Mapping[str, Shape]) -> dict[str, Array]:
    return {name: seeded(name, shape) for name, shape in shapes.items()}
