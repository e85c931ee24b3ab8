"""What a format is: a file in `formats/` with a `Config`, `of_image`, which writes the files of one image, and a row.

The identifiers of images are texts, as the benchmark's own file names begin with them.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

from atrous.data.label_space import LabelSpace
from atrous.settings import Settings
from atrous.tasks.contract import Labels

NO_CLASS = -1  # the official id of a class that the benchmark doesn't have


def _require_word(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]*", text):
        raise ValueError(f"{text!r} can't be a part of a file's name; letters, digits, points and dashes can")
    return text


Word = Annotated[str, Field(max_length=64), AfterValidator(_require_word)]  # in the name of a file


class NoSettings(Settings):
    """A format that leaves no choice."""


class Answer(NamedTuple):
    """What a model says about one image, as the image's file stores the pixels."""

    id: str
    labels: Labels  # on the CPU
    space: LabelSpace  # the model's
    official: NDArray[np.int64]  # [C] the official id of each of its classes, or NO_CLASS


class Part(NamedTuple):
    """The part of one image in an archive."""

    files: Mapping[str, bytes]  # by path in the archive
    rows: Sequence[Any] = ()  # of the file over all images


def _no_files(rows: Sequence[Any], config: Any) -> Mapping[str, bytes]:  # noqa: ANN401 - the format's own Config
    return {}


class Format(NamedTuple):
    """A row of SUBMISSIONS."""

    benchmark: str  # for people
    config: type[Settings]  # the section `format`
    space: LabelSpace  # the official classes; a raw id is an official one
    needs: tuple[str, ...]  # what a task must have learnt, as in `Task.needs`
    identify: Callable[[str], str | None]  # the image's identifier by the name of its file, without suffix, or by an id
    example: str  # of a file name
    archive: Callable[[Any], str]  # its name
    of_image: Callable[[Answer, Any], Part]
    of_all: Callable[[Sequence[Any], Any], Mapping[str, bytes]] = _no_files  # files over all images, from their rows
    missing: str = ""  # what the official program does about an image that is missing
    empty: str = ""  # what the official program does if there is no row at all
    are_things_alone: bool = False  # classes of stuff aren't written, so they may be any
