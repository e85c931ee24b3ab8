"""What TensorFlow DeepLab's own functions return: tests/goldens/tf_deeplab/ops.{json,npz}."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

GOLDENS = Path(__file__).parents[1] / "goldens" / "tf_deeplab"
FIGURES: dict[str, Any] = json.loads((GOLDENS / "ops.json").read_text(encoding="utf-8"))


def array(name: str) -> Tensor:
    with np.load(GOLDENS / "ops.npz") as arrays:
        return torch.from_numpy(arrays[name])
