"""What an engine is: it spreads the images of a prediction over processes. A file here, and a row in ENGINES."""

from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from atrous.data.finding import NamedImage


class Outcome(NamedTuple):
    """What came of one image."""

    files: Mapping[Path, Path] = {}  # that were written, each with its folder
    row: Any = None  # of the image in a file over all of them
    failure: str = ""  # why nothing was written, in a line


Predict = Callable[[NamedImage], Outcome]


class Stages(NamedTuple):
    """The work on an image in three parts, of which the outer two can be done beside the network.

    Where an image fails, a part returns an Outcome that says why, in place of its result.
    """

    read: Callable[[NamedImage], Any]
    together: Callable[[Any], int]  # how many of what was read, all of one size, are best computed at once
    compute: Callable[[Sequence[NamedImage], Sequence[Any]], Sequence[Any]]
    write: Callable[[NamedImage, Any], Outcome]


class Work(NamedTuple):
    images: Sequence[NamedImage]
    predict: Predict  # in this process
    load: Callable[[str], Predict]  # the same in another process, to which this value is sent, and on this device
    device: str | None
    address: str | None  # of the machines, if the engine has many
    stages: Stages | None = None  # `predict` in parts


class Engine(NamedTuple):
    """A row of ENGINES."""

    run: Callable[[Work], Generator[tuple[NamedImage, Outcome]]]  # in any order; an OSError ends it
    is_here: bool  # whether all is done in this process
