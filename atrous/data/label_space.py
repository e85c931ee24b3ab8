"""What the numbers in a label map mean. A label space travels inside the model file."""

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from atrous.settings import Settings
from atrous.types import Color


class LabelSpace(Settings):
    """Class `i` is called `names[i]`; pixels of value `ignore` count neither in the loss nor in a score."""

    names: tuple[str, ...]
    colors: tuple[Color, ...] = ()  # empty: the PASCAL VOC colours
    things: tuple[int, ...] = ()  # classes whose objects are counted individually; all others are stuff
    ignore: int = 255  # may be a class, like ADE20K's "other": the network then has a logit that is never trained
    panoptic_divisor: int = 1000  # panoptic id = class * divisor + number of the thing in its class
    raw_ids: tuple[tuple[int, int], ...] = ()  # (value in the label files, class); empty: values are classes

    @model_validator(mode="after")
    def _is_valid(self) -> "LabelSpace":
        if len(self.names) < 2:
            number = f"one ({self.names[0]})" if self.names else "none"
            raise ValueError(f"expected at least two classes, got {number}; name the background as well")
        repeated = sorted({name for name in self.names if self.names.count(name) > 1})
        if repeated:
            raise ValueError(f"class names must differ, but {', '.join(repeated)} is repeated")
        if self.colors and len(self.colors) != len(self.names):
            raise ValueError(f"{len(self.names)} class names but {len(self.colors)} colors")
        return self

    @property
    def num_classes(self) -> int:
        return len(self.names)

    def palette(self) -> NDArray[np.uint8]:  # [256, 3], or as many as there are classes
        """A colour for each label value."""
        palette = voc_colors(max(256, self.num_classes))
        if self.colors:
            palette[: len(self.colors)] = self.colors
        return palette


def voc_colors(count: int) -> NDArray[np.uint8]:  # [count, 3]
    """PASCAL VOC's colours: the bits of the index, dealt to R, G, B from the highest bit down."""
    index = np.arange(count)
    bits = [(index[:, None] >> (3 * position + np.arange(3)) & 1) << (7 - position) for position in range(8)]
    return np.asarray(sum(bits), dtype=np.uint8)


def numbered_names(count: int) -> tuple[str, ...]:
    """Names for classes when only their number is known."""
    return tuple(f"class_{index}" for index in range(count))
