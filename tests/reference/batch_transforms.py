"""Colours, blur and noise of one image the slow, obvious way: float64, step after step, one kernel tap at a time."""

import math

import numpy as np
from numpy.typing import NDArray

from atrous.types import Image

Pixels = NDArray[np.float64]
LUMA = np.array([0.299, 0.587, 0.114])


def varied_by_definition(image: Image, variation: NDArray[np.float64], kernel: list[float], noise: Pixels) -> Pixels:
    """[H, W, 3], not rounded. `kernel` is that of the blur; `noise` is added at the end."""
    brightness, contrast, saturation, hue, blur, _ = variation.tolist()
    mean = image.reshape(-1, 3).mean(0) @ LUMA * brightness
    pixels = blurred_by_definition(image.astype(np.float64), kernel) if blur else image.astype(np.float64)
    grey = (pixels @ LUMA)[..., None]
    pixels = turned(grey + saturation * (pixels - grey), hue) * brightness
    return np.asarray(mean + contrast * (pixels - mean) + noise)


def blurred_by_definition(image: Pixels, kernel: list[float]) -> Pixels:
    height, width = image.shape[:2]
    reach, result = len(kernel) // 2, np.zeros_like(image)
    for y, x, i, j in np.ndindex(height, width, len(kernel), len(kernel)):
        row, column = np.clip(y + i - reach, 0, height - 1), np.clip(x + j - reach, 0, width - 1)
        result[y, x] += kernel[i] * kernel[j] * image[row, column]
    return result


def gaussian(sigma: float, reach: int) -> list[float]:
    weights = [math.exp(-(place**2) / (2 * sigma**2)) for place in range(-reach, reach + 1)]
    return [weight / sum(weights) for weight in weights]


def turned(image: Pixels, turns: float) -> Pixels:
    """About the grey axis: what is left of a colour beside its mean is a plane vector, whose angle changes."""
    mean = image.mean(-1, keepdims=True)
    first, second = np.array([2, -1, -1]) / math.sqrt(6), np.array([0, 1, -1]) / math.sqrt(2)
    angle = 2 * math.pi * turns
    u, v = (image - mean) @ first, (image - mean) @ second
    rotated = np.outer(u * math.cos(angle) - v * math.sin(angle), first)
    rotated += np.outer(u * math.sin(angle) + v * math.cos(angle), second)
    return np.asarray(mean + rotated.reshape(image.shape))
