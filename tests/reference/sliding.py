"""semseg's testing protocol in the slow, obvious way: one window, one flip, one pixel at a time."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atrous.inference import InferenceConfig
from atrous.models import Model

Floats = NDArray[np.float64]


def mixing(old: int, new: int, *, aligned: bool) -> Floats:  # [new, old]
    """The share of each old pixel in each new one: linear between the two nearest."""
    matrix = np.zeros((new, old))
    for index in range(new):
        position = index * (old - 1) / max(new - 1, 1) if aligned else (index + 0.5) * old / new - 0.5
        position = min(max(position, 0.0), old - 1.0)
        low = min(int(position), old - 1)
        matrix[index, low] += 1 - (position - low)
        matrix[index, min(low + 1, old - 1)] += position - low
    return matrix


def bilinear(x: Floats, size: tuple[int, int], *, aligned: bool = False) -> Floats:  # [K, h, w] -> [K, *size]
    rows, columns = (mixing(old, new, aligned=aligned) for old, new in zip(x.shape[1:], size, strict=True))
    return np.asarray(rows @ x @ columns.T)


def softmax(logits: Floats) -> Floats:
    exponentials = np.exp(logits - logits.max(0))
    return np.asarray(exponentials / exponentials.sum(0))


def of_window(model: Model, window: Floats) -> Floats:
    with torch.no_grad():
        logits = model(torch.from_numpy(window.copy()).float()[None]).semantic[0].double().numpy()
    height, width = window.shape[1:]
    return softmax(bilinear(logits, (height, width), aligned=True))


def of_window_and_its_flip(model: Model, window: Floats) -> Floats:
    return np.asarray((of_window(model, window) + of_window(model, window[..., ::-1])[..., ::-1]) / 2)


def at_scale(model: Model, image: Floats, crop: tuple[int, int], longest: int) -> Floats:
    """[3, H, W] -> [C, H, W]: resized, padded, predicted in windows, averaged over visits, cropped, resized back."""
    height, width = image.shape[1:]
    new_height = longest if height >= width else round(longest / width * height)
    new_width = longest if width >= height else round(longest / height * width)
    small = bilinear(image, (new_height, new_width))
    top, left = max(crop[0] - new_height, 0) // 2, max(crop[1] - new_width, 0) // 2
    padded = np.tile(np.array(model.mean)[:, None, None], (1, max(crop[0], new_height), max(crop[1], new_width)))
    padded[:, top : top + new_height, left : left + new_width] = small
    total, visits = np.zeros((model.num_classes, *padded.shape[1:])), np.zeros(padded.shape[1:])
    strides = [math.ceil(side * 2 / 3) for side in crop]
    for row in range(math.ceil((padded.shape[1] - crop[0]) / strides[0]) + 1):
        for column in range(math.ceil((padded.shape[2] - crop[1]) / strides[1]) + 1):
            bottom = min(row * strides[0] + crop[0], padded.shape[1])
            right = min(column * strides[1] + crop[1], padded.shape[2])
            part = (slice(None), slice(bottom - crop[0], bottom), slice(right - crop[1], right))
            total[part] += of_window_and_its_flip(model, padded[part])
            visits[part[1:]] += 1
    mean = (total / visits)[:, top : top + new_height, left : left + new_width]
    return bilinear(mean, (height, width))


def predict_probabilities(model: Model, image: Tensor, config: InferenceConfig) -> Tensor:
    """[1, 3, H, W] -> [1, C, H, W], for a config with a base size."""
    assert config.base_size is not None
    pixels = image[0].double().numpy()
    views = [at_scale(model, pixels, config.window, round(scale * config.base_size)) for scale in config.scales]
    return torch.from_numpy(np.mean(views, 0))[None].float()
