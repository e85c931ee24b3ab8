"""A system's options: read, checked against its own names, and compared with what the weights decide."""

from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from atrous.convert.system import OptionsT, OptionTree, System
from atrous.errors import AtrousError, ConfigError, nearest
from atrous.settings import Settings

M = TypeVar("M", bound=BaseModel)


def read_options(system: System[OptionsT], tree: OptionTree, label: str) -> OptionsT:
    """Raises ConfigError, in one line, for the first unknown name or wrong value."""
    options = system.unpacked(tree, label)
    require_known(options, system.options.model_fields, label)
    return validated(system.options, options, label, ConfigError)


def require_known(options: Mapping[str, Any], known: Collection[str], label: str) -> None:
    for name in options:
        if name not in known:
            raise ConfigError(f"{label}: no model depends on an option {name!r}{nearest(str(name), list(known))}")


def validated(kind: type[M], fields: Mapping[str, Any], label: str, error: type[AtrousError]) -> M:
    """The value of these fields. Raises `error` in one line: the first field that is wrong."""
    try:
        return kind.model_validate(dict(fields))
    except ValidationError as invalid:
        first = invalid.errors()[0]
        reason = first.get("ctx", {}).get("error", first["msg"])
        name = ".".join(str(part) for part in first["loc"])
        what = f"{name}={first['input']!r}: " if name else ""
        raise error(f"{label}: {what}{reason}") from None


def require_agreement(options: Settings, decided: Mapping[str, object], label: str) -> None:
    """Raises ConfigError where an option contradicts the weights; None, on either side, says nothing."""
    tree = options.model_dump(include=set(decided))
    for name, value in decided.items():
        if None not in (tree[name], value) and tree[name] != value:
            raise ConfigError(f"{label}: {name}={tree[name]}, but its weights are those of {name}={value}")
