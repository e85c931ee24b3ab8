"""The targets of Panoptic-DeepLab, thing by thing and pixel by pixel."""

import math

import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.int64]


def heatmap(semantic: Map, instance: Map, things: list[int], sigma: float) -> NDArray[np.float64]:
    total = np.zeros(semantic.shape)
    reach = int(3 * sigma + 1)
    for category in things:
        for number in np.unique(instance[semantic == category]):
            if number == 0:
                continue
            y, x = center(semantic, instance, category, int(number))
            for row in range(semantic.shape[0]):
                for column in range(semantic.shape[1]):
                    dy, dx = row - y, column - x
                    if abs(dy) <= reach and abs(dx) <= reach:
                        height = math.exp(-(dy**2 + dx**2) / (2 * sigma**2))
                        total[row, column] = max(total[row, column], height)
    return total


def center(semantic: Map, instance: Map, category: int, number: int) -> tuple[int, int]:
    ys, xs = np.nonzero((semantic == category) & (instance == number))
    return round(float(ys.mean())), round(float(xs.mean()))  # half to even


def offset(semantic: Map, instance: Map, things: list[int]) -> NDArray[np.float64]:
    total = np.zeros((2, *semantic.shape))
    for row in range(semantic.shape[0]):
        for column in range(semantic.shape[1]):
            if semantic[row, column] in things and instance[row, column]:
                y, x = center(semantic, instance, int(semantic[row, column]), int(instance[row, column]))
                total[:, row, column] = y - row, x - column
    return total
