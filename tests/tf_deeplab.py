"""Weights from the seeded formula of TensorFlow DeepLab's goldens, under the original's names."""

import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atrous.convert.systems.tf_deeplab.names import variables
from atrous.models import Model

GOLDENS = Path(__file__).parent / "goldens" / "tf_deeplab"
CASES: dict[str, dict[str, Any]] = json.loads((GOLDENS / "models.json").read_text(encoding="utf-8"))
Shape = tuple[int, ...]


def seeded(name: str, shape: Shape) -> NDArray[np.float32]:
    """The formula of specs/tf-deeplab.md, section 10; `shape` as TensorFlow orders it."""
    random, leaf = np.random.RandomState(zlib.crc32(name.encode())), name.rsplit("/", 1)[-1]
    if leaf in ("gamma", "moving_variance"):
        return random.uniform(0.5, 1.5, shape).astype(np.float32)
    if leaf in ("beta", "moving_mean", "biases"):
        return (0.1 * random.standard_normal(shape)).astype(np.float32)
    fan_in = math.prod(shape[:2] if leaf == "depthwise_weights" else shape[:-1])
    return (random.standard_normal(shape) / math.sqrt(fan_in)).astype(np.float32)


def tf_axes(name: str) -> tuple[int, ...]:
    """Which of our axes (out, in, height, width) are TensorFlow's: HWIM for a depthwise kernel, else HWIO."""
    return (2, 3, 0, 1) if name.endswith("depthwise_weights") else (2, 3, 1, 0)


def listing(model: Model) -> dict[str, Shape]:
    """Name and shape of each variable, as TensorFlow has them."""
    state = model.state_dict()
    return {name: _tf_shape(name, state[key]) for key, name in variables(model).items()}


def _tf_shape(name: str, tensor: Tensor) -> Shape:
    return tuple(tensor.shape[axis] for axis in tf_axes(name)) if tensor.ndim == 4 else tuple(tensor.shape)


def load_seeded(model: Model) -> None:
    state = model.state_dict()
    for key, name in variables(model).items():
        value = torch.from_numpy(seeded(name, _tf_shape(name, state[key])))
        if value.ndim == 4:
            value = value.permute(*np.argsort(tf_axes(name)).tolist())
        state[key].copy_(value)


def golden_image(case: str) -> Tensor:  # [1, 3, H, W] uint8
    pixels = np.random.RandomState(1234).randint(0, 256, (1, *CASES[case]["crop"], 3)).astype(np.uint8)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def golden_logits(case: str, name: str = "merged_logits") -> Tensor:  # [1, C, h, w]
    with np.load(GOLDENS / f"{case}.npz") as golden:
        return torch.from_numpy(golden[name]).permute(0, 3, 1, 2)


def assert_golden(model: Model, case: str) -> None:
    """With the formula's weights, the model's logits are the original's within 1e-4 of the largest."""
    load_seeded(model.eval())
    with torch.no_grad():
        found = model(golden_image(case)).semantic
    expected = golden_logits(case)
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= 1e-4 * float(expected.abs().max())
