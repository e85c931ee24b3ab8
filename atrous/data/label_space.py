"""What the numbers in a label map mean. A label space travels inside the model file."""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, model_validator

from atrous.errors import listing
from atrous.settings import MAX_CLASSES, Settings

MAX_LABEL = 2**16 - 1  # that a label file can hold
NOT_COUNTED = 255  # what ignored raw ids are mapped to
CONTROLS = ("Cc", "Cs", "Zl", "Zp")  # Unicode's categories of control characters, half characters, line separators


def require_printable(name: str) -> str:
    """Raises ValueError for a name that would be invisible, or would move the cursor of a terminal."""
    if not name.strip():
        raise ValueError(f"a class has no name, only {name!r}")
    if any(unicodedata.category(character) in CONTROLS for character in name):
        raise ValueError(f"the name {name!r} has a control character")
    return name


ClassName = Annotated[str, Field(max_length=200), AfterValidator(require_printable)]
Label = Annotated[int, Field(ge=0, le=MAX_LABEL)]
Channel = Annotated[int, Field(ge=0, le=255)]  # of a colour

BACKGROUND = {"background", "bg", "void", "unlabeled", "unlabelled", "nothing", "none"}  # without signs, in lower case


class LabelSpace(Settings):
    """Class `i` is called `names[i]`; pixels of value `ignore` count neither in the loss nor in a score."""

    names: tuple[ClassName, ...] = Field(max_length=MAX_CLASSES)
    colors: tuple[tuple[Channel, Channel, Channel], ...] = Field(
        (), max_length=MAX_CLASSES
    )  # empty: the PASCAL VOC colours
    things: tuple[Label, ...] = Field(
        (), max_length=MAX_CLASSES
    )  # classes whose objects are counted individually; all others are stuff
    ignore: Label = 255  # may be a class, like ADE20K's "other": the network then has a logit that is never trained
    panoptic_divisor: int = Field(1000, ge=1, le=2**20)  # panoptic id = class * divisor + number in its class
    raw_ids: tuple[tuple[Label, Label], ...] = Field(
        (), max_length=MAX_LABEL + 1
    )  # (value in the label files, class); empty: values are classes

    @model_validator(mode="after")
    def _is_valid(self) -> "LabelSpace":
        if len(self.names) < 2:
            number = f"one ({self.names[0]})" if self.names else "none"
            raise ValueError(f"expected at least two classes, got {number}; name the background as well")
        _require_distinct(self.names, "class names must differ, but {} is repeated")
        _require_distinct(self.things, "things must differ, but {} is repeated")
        _require_distinct([value for value, _ in self.raw_ids], "raw_ids must differ, but {} is repeated")
        if self.colors and len(self.colors) != len(self.names):
            raise ValueError(f"{len(self.names)} class names but {len(self.colors)} colors")
        self._require_classes(self.things, "things")
        counted = [label for _, label in self.raw_ids if label not in (self.ignore, NOT_COUNTED)]
        self._require_classes(counted, "raw_ids")
        return self

    def _require_classes(self, labels: Sequence[int], what: str) -> None:
        outside = [label for label in labels if label >= len(self.names)]
        if outside:
            raise ValueError(f"{what}: no class {listing(outside)}; there are {len(self.names)}, counted from 0")

    @property
    def num_classes(self) -> int:
        return len(self.names)

    @property
    def background(self) -> tuple[int, ...]:
        """Classes that pictures leave uncoloured: those that are black, and a first class that is named for nothing."""
        colors = self.palette()[: self.num_classes]
        first_name = "".join(filter(str.isalpha, self.names[0].lower()))
        black = [index for index, color in enumerate(colors.tolist()) if color == [0, 0, 0]]
        return tuple(sorted({*black, *([0] if first_name in BACKGROUND else [])}))

    def palette(self) -> NDArray[np.uint8]:  # [256, 3], or as many as there are classes
        """A colour for each label value."""
        palette = voc_colors(max(256, self.num_classes))
        if self.colors:
            palette[: len(self.colors)] = self.colors
        return palette


def _require_distinct(values: Sequence[object], complaint: str) -> None:
    repeated = sorted(str(value) for value, count in Counter(values).items() if count > 1)
    if repeated:
        raise ValueError(complaint.format(listing(repeated)))


def voc_colors(count: int) -> NDArray[np.uint8]:  # [count, 3]
    """PASCAL VOC's colours: the bits of the index, dealt to R, G, B from the highest bit down."""
    index = np.arange(count)
    bits = [(index[:, None] >> (3 * position + np.arange(3)) & 1) << (7 - position) for position in range(8)]
    return np.asarray(sum(bits), dtype=np.uint8)


def numbered_names(count: int) -> tuple[str, ...]:
    """Names for classes when only their number is known."""
    return tuple(f"class_{index}" for index in range(count))
