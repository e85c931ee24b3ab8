"""TensorFlow 1's bilinear resizing without `align_corners`, by its definition: source = target * in / out."""

import numpy as np
from numpy.typing import NDArray


def legacy(maps: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """[B, K, h, w] -> [B, K, H, W]."""
    for axis, length in zip((2, 3), size, strict=True):
        old = maps.shape[axis]
        source = np.arange(length) * old / length
        first = np.floor(source).astype(int)
        second = np.minimum(first + 1, old - 1)
        along = [1] * 4
        along[axis] = length
        part = (source - first).reshape(along)
        maps = maps.take(first, axis) * (1 - part) + maps.take(second, axis) * part
    return maps.astype(np.float32)
