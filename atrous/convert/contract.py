"""What passes between the readers of files and the systems that know what is in them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from atrous.segmenter import Segmenter

Array = NDArray[np.generic]


class Source(NamedTuple):
    """Weights under the names and in the layout of the program that they come from."""

    label: str  # where they come from, for messages
    variables: Mapping[str, Array]
    hints: Mapping[str, Any] = {}  # options that a graph shows and weights alone don't
    input_size: tuple[int, int] | None = None  # height, width, where a graph is made for one size
    normalization: tuple[float, float] | None = None  # (shift, scale) of all channels, where a graph has its own


class Conversion(NamedTuple):
    segmenter: Segmenter
    system: str
    used: int  # variables that the model is made of
    ignored: list[str]  # variables that aren't part of a model: optimiser slots, counters
    notes: list[str]  # what the weights couldn't tell, and what was taken
