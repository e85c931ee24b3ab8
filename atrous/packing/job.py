"""What is packed, and how."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, ValidationError

from atrous.data.label_space import LabelSpace
from atrous.errors import ConfigError
from atrous.settings import Settings, Side
from atrous.types import Sample


class Options(Settings):
    """What `atrous pack` may be told beside the settings of the data."""

    to: Literal["shards", "tfrecord"] = "shards"
    style: Literal["deeplab", "deeplab2"] = "deeplab"
    quality: Annotated[int, Field(ge=1, le=100)] | None = None
    max_size: Side | None = None
    for_crops: bool = False
    shard_size: Annotated[float, Field(gt=0, le=2**20)] = 256.0
    num_shards: Annotated[int, Field(ge=1, le=99_999)] = 10


OPTIONS_OF_OTHERS = {"shards": ("style", "num_shards"), "tfrecord": ("shard_size",)}  # by what is written


def checked_options(**options: Any) -> Options:  # noqa: ANN401
    """Raises ConfigError, with the name of the option."""
    try:
        return Options.model_validate(options)
    except ValidationError as error:
        problem = error.errors()[0]
        option = str(problem["loc"][0]).replace("_", "-")
        raise ConfigError(f"--{option} {problem['input']}: {problem['msg'].removeprefix('Input ')}") from error


class Packing(NamedTuple):
    """What is packed, and how."""

    options: Options
    space: LabelSpace
    splits: Mapping[str, Sequence[Sample]]
    source: str  # a checksum of all that decides the bytes
    skip_errors: bool


class Item(NamedTuple):
    """A sample as it will lie in a shard, or what is wrong with it."""

    content: bytes = b""
    size: tuple[int, int] = (0, 0)
    pixels: Mapping[int, int] = {}  # by label
    problem: str = ""
