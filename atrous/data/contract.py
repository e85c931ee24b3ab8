"""What a dataset layout is: a module with a `Config`, `samples(config, split)` and `label_space(config)`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from atrous.data.label_space import LabelSpace
from atrous.types import Sample, Settings


class DataConfig(Settings):
    """The settings that all layouts share; a layout narrows `format` to its own name and adds what it needs."""

    format: str
    root: Path | None = None  # the folder of the data set
    train: str = "train"  # the split to learn from
    val: str = "val"  # the split to measure on
    names: dict[int, str] | tuple[str, ...] | None = None  # class names; None: as the layout says
    ignore: int | None = None  # label value that counts nowhere; None: as the layout says
    on_error: str = "stop"  # stop | skip: a file that can't be read ends the run, or is left out and counted


class Layout(NamedTuple):
    """One row of FORMATS. `samples` lists files at once and reads them when asked; both raise on bad input."""

    config: type[DataConfig]
    samples: Callable[[Any, str], Sequence[Sample]]
    label_space: Callable[[Any], LabelSpace]
