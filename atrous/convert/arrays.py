"""Weights of other programs: NumPy arrays by name."""

from collections.abc import Mapping
from typing import Any, TypeAlias

from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
Arrays: TypeAlias = Mapping[str, Array]
Shape: TypeAlias = tuple[int, ...]
BESIDE = "beside the network/"  # goes before the names of what a training's module holds besides its network
Shapes: TypeAlias = Mapping[str, Shape]  # of weights, with the axes in the original's order
