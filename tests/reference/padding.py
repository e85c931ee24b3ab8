"""TensorFlow's SAME padding, straight from its definition."""

import itertools

from torch import Tensor


def same_sums(x: Tensor, kernel: int, stride: int, rate: int) -> list[list[float]]:
    """[H, W] -> the sums of a `kernel` x `kernel` window of ones at each step, of those taps that lie inside."""
    height, width = x.shape
    extent = rate * (kernel - 1) + 1

    def taps(size: int) -> list[list[int]]:
        steps = (size + stride - 1) // stride
        before = max((steps - 1) * stride + extent - size, 0) // 2
        places = [[step * stride - before + rate * tap for tap in range(kernel)] for step in range(steps)]
        return [[place for place in window if 0 <= place < size] for window in places]

    return [
        [float(sum(x[i, j] for i, j in itertools.product(rows, columns))) for columns in taps(width)]
        for rows in taps(height)
    ]
