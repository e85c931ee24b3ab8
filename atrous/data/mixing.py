"""data.format=mix: how the parts are read, each by its own layout."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from atrous.data import mix
from atrous.data.contract import DataConfig, NoSplitError
from atrous.data.label_space import LabelSpace
from atrous.data.merging import Merger, merged
from atrous.data.naming import one_line
from atrous.data.pairing import NoImagesError
from atrous.data.recognising import Formats, recognised
from atrous.errors import AtrousError, ConfigError, DataError, listing, text_of, warn_once
from atrous.types import Sample


class Reading(NamedTuple):
    """What reads a part: the functions of `atrous.data`, which has this layout among its own."""

    formats: Formats
    samples: Callable[[DataConfig, str], Sequence[Sample]]
    label_space: Callable[[DataConfig], LabelSpace]
    description: Callable[[DataConfig], str]


def mixed(config: mix.Config, split: str, reading: Reading) -> mix.Mix:
    parts, mergers = _parts(config, reading), space_and_mergers(config, reading)[1]
    if split == config.val and config.validate_on is not None:
        parts = {name: parts[name] for name in config.validate_on}
    own_splits = {
        name: {config.train: part.train, config.val: part.val}.get(split, split) for name, part in parts.items()
    }
    read = {}
    for name, part in parts.items():
        with _naming_part(name):
            read[name] = merged(reading.samples(part, own_splits[name]), mergers[name])
    return mix.Mix(read, mix.weights_of(config, {name: len(part) for name, part in read.items()}))


def space_and_mergers(config: mix.Config, reading: Reading) -> tuple[LabelSpace, Mapping[str, Merger]]:
    """The label space of all parts, and how each part's own labels become labels of that."""
    spaces = {}
    for name, part in _parts(config, reading).items():
        with _naming_part(name):
            spaces[name] = reading.label_space(part)
    return mix.common_space(spaces, config)


@contextmanager
def _naming_part(name: str) -> Iterator[None]:
    """Errors say whose settings they are about."""
    try:
        yield
    except (NoSplitError, NoImagesError):
        raise
    except (AtrousError, OSError) as error:
        text = text_of(error)
        setting = f".{text.removeprefix('data.')}" if text.startswith("data.") else f": {text}"
        kind = ConfigError if isinstance(error, ConfigError) else DataError
        raise kind(f"data.parts.{name}{setting}") from error


def _parts(config: mix.Config, reading: Reading) -> dict[str, DataConfig]:
    """Raises ConfigError for settings of a part that are wrong."""
    mix.require_parts(config)
    parts = {name: _part(name, settings, reading) for name, settings in config.parts.items()}
    share = {"val_share": config.val_share, "val_seed": config.val_seed}
    return {name: part if part.val_share else part.model_copy(update=share) for name, part in parts.items()}


def _part(name: str, settings: Mapping[str, object], reading: Reading) -> DataConfig:
    own = {key: value for key, value in settings.items() if key != mix.WEIGHT}
    is_auto = own.get("format", "auto") == "auto" and bool(own.get("root"))
    with _naming_part(name):
        known = recognised(Path(str(own["root"])), reading.formats) if is_auto else str(own.get("format"))
    kind = reading.formats.get(known)
    if kind is None or kind.config is mix.Config:
        known = listing((name for name in reading.formats if name != "mix"), 40)
        raise ConfigError(f"data.parts.{name}.format={own.get('format')}: expected one of {known}")
    _require_settings(name, own, kind.config)
    try:
        part = kind.config.model_validate({**own, "format": kind.config.model_fields["format"].default})
    except ValidationError as error:
        raise ConfigError(f"data.parts.{name}: {one_line(error)}") from None
    if is_auto:
        text = f"data.parts.{name}: {reading.description(part)}"
        warn_once(text, text)
    return part


def _require_settings(part: str, settings: Collection[str], kind: type[DataConfig]) -> None:
    fields = tuple(kind.model_fields)
    for name in settings:
        if name not in fields:
            nearest = get_close_matches(name, fields, 1)
            meant = f"did you mean {nearest[0]}?" if nearest else f"its settings are {listing(fields, 30)}"
            layout = kind.model_fields["format"].default
            raise ConfigError(f"data.parts.{part}.{name}: data.format={layout} has no such setting; {meant}")
