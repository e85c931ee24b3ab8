"""Layers of PyTorch's programs in inference, for networks written from a specification: weights have names."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of RGB in 0..1


class Layers:
    def __init__(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        self.weights = {name: torch.from_numpy(array) for name, array in weights.items()}

    def normalized(self, image: Tensor) -> Tensor:  # [B, 3, H, W] in 0..255
        mean, std = (torch.tensor(color).view(3, 1, 1) * 255 for color in (MEAN, STD))
        return (image.float() - mean) / std

    def conv(self, name: str, x: Tensor, **how: int) -> Tensor:
        y: Tensor = F.conv2d(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"), **how)
        return y

    def conv_norm(self, conv: str, norm: str, x: Tensor, *, relu: bool = True, **how: int) -> Tensor:
        mean, var, weight, bias = (
            self.weights[f"{norm}.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias")
        )
        y = F.batch_norm(self.conv(conv, x, **how), mean, var, weight, bias, eps=1e-5)
        return y.relu() if relu else y
