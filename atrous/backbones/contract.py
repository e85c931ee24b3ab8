"""What a backbone is: normalised images in, named feature maps out."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

Color = tuple[float, float, float]


class Backbone(nn.Module, ABC):
    """Features by name: the stages `c1`..`c5`, and `low_level`, what a decoder at stride 4 taps.

    `c1` has stride 2, each stage twice that of the one before, up to the output stride, at which the rest stays.
    """

    mean: Color  # RGB in 0..255: what an image is normalised with
    std: Color
    channels: dict[str, int]  # by the names that `forward` returns
    strides: dict[str, int]

    @abstractmethod
    def forward(self, images: Tensor) -> dict[str, Tensor]:  # [B, 3, H, W], (RGB - mean) / std
        ...


class Entry(NamedTuple):
    """A row of BACKBONES: how to build it, and which settings beside the output stride it takes."""

    build: Callable[[int, float, tuple[int, ...] | None], Backbone]  # output stride, depth multiplier, multi-grid
    has_width: bool = False  # takes a depth multiplier
    num_grid: int = 0  # units of c5, each with its factor in a multi-grid; 0: takes none
