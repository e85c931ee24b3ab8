"""What a backbone is: normalised images in, named feature maps out."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from atrous.types import RGB


class Backbone(nn.Module, ABC):
    """Features by name: the stages `c1`..`c5`, and what decoders tap.

    `c1` has stride 2, each stage twice that of the one before, up to the output stride, at which the rest stays.
    Decoders at stride 4, 8 and 16 tap `low_level`, `low_level_8` and `low_level_16`, as far as the backbone has them.
    """

    mean: RGB  # RGB in 0..255: what an image is normalised with
    std: RGB
    channels: dict[str, int]  # by the names that `forward` returns
    strides: dict[str, int]

    @abstractmethod
    def forward(self, images: Tensor) -> dict[str, Tensor]:  # [B, 3, H, W], (RGB - mean) / std
        ...


class Options(NamedTuple):
    """What may be asked of a backbone beside its output stride; ModelConfig has fields of the same names."""

    depth_multiplier: float = 1.0
    divisible_by: int | None = None
    multi_grid: tuple[int, ...] | None = None
    bounded: bool = False
    classification_head: bool = False
    remove_stride_32: bool = False
    drop_path: float = 0.0


class Entry(NamedTuple):
    """A row of BACKBONES: how to build it, and which of the options it takes."""

    build: Callable[[int, Options], Backbone]  # output stride, options
    takes: frozenset[str] = frozenset()  # names of Options
    num_grid: int = 0  # units of c5, each with its factor in a multi-grid; 0: takes none
    output_strides: tuple[int, ...] = (8, 16, 32)
