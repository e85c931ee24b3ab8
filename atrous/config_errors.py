"""What is wrong with the settings of an experiment, in one line: the key, its value, what would be right.

`known` are the names that the tree may have, as `config.known_keys` lists them: sections and section.field.
"""

import difflib
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import ValidationError

from atrous import other_words
from atrous.config_kinds import KINDS
from atrous.errors import MAX_SHOWN, listing, nearest, shortened, shown
from atrous.models import format_1

EXPERIMENT = "training"  # the section of a model's header that holds a whole experiment
MANY = 40  # names in an error of one line
EXPLANATIONS = {  # pydantic's type of an error -> what is expected
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing_size": "must be a whole number of fewer digits",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "string_unicode": "must be text of whole characters",
    "invalid_key": "a key must be a name",
    "tuple_type": "must be a list such as [1, 2]",
    "dict_type": "must be a list or a mapping",
    "model_type": "must be a mapping of settings",
    "model_attributes_type": "must be a mapping of settings",
    "path_type": "must be a path",
    "too_long": "wrong number of values: at most {max_length}, got {actual_length}",
    "too_short": "wrong number of values: at least {min_length}, got {actual_length}",
    "literal_error": "must be {expected}",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
}


def explain(
    error: ValidationError, known: Sequence[str], source: str, overrides: Sequence[str], *, section: str = ""
) -> str:
    """The first error in one line, with the number of others; `section` names the only section that was checked."""
    above = (section,) if section else ()
    errors = [{**one, "loc": (*above, *one["loc"])} for one in _innermost(error.errors())]
    line, places = _explain_one(errors[0], known), {_key(one) for one in errors}
    key = line.partition(":")[0].partition("=")[0]
    names = [text.partition("=")[0] for text in overrides]
    is_override = any(name.startswith(key) or key.startswith(f"{name}.") for name in names)
    place = "on the command line" if is_override else f"in {source}"
    more = f" (and {len(places) - 1} more)" if len(places) > 1 else ""
    return f"{line} ({place}){more}"


def brief(error: ValidationError, known: Sequence[str], *, section: str = "") -> str:
    """The first error as `key=value: reason`, for settings that come from neither a recipe nor the command line."""
    first = _innermost(error.errors())[0]
    place = (section, *first["loc"]) if section else first["loc"]
    if len(place) > 1 and place[0] == EXPERIMENT:
        return f"{EXPERIMENT}.{_explain_one({**first, 'loc': place[1:]}, known)}"
    return _explain_one({**first, "loc": place}, known)


def _innermost(errors: Sequence[Any]) -> list[Any]:
    """Leave out errors that follow from others: a tuple that is too short because an item is wrong."""
    outer = {one["loc"][:length] for one in errors for length in range(len(one["loc"]))}
    return [one for one in errors if one["loc"] not in outer]


def _explain_one(details: Any, known: Sequence[str]) -> str:  # noqa: ANN401
    kind, context = details["type"], details.get("ctx", {})
    path = _without_kind([str(part) for part in details["loc"]])
    key = shortened(".".join(path))
    if kind == "extra_forbidden":
        path = [*path, *_single_keys(details["input"])]
        return f"{shortened('.'.join(path))}: unknown key{_suggestion(path, known)}"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return _unknown_kind(key, details["input"])
    if kind == "missing" and len(path) > 1 and path[-1].isdigit():
        return f"{'.'.join(path[:-1])}: wrong number of values: at least {int(path[-1]) + 1}"
    if kind == "missing":
        return f"{key} is missing"
    if kind == "value_error":
        return f"{key}: {context['error']}"
    reason = EXPLANATIONS[kind].format(**context) if kind in EXPLANATIONS else details["msg"]
    return f"{key}={shown(details['input'])}: {reason}"


def _key(details: Any) -> str:  # noqa: ANN401
    return ".".join(_without_kind([str(part) for part in details["loc"]]))


def _unknown_kind(section: str, part: Any) -> str:  # noqa: ANN401 - any YAML value
    key, kinds = KINDS[section]
    place = section if "." in section else f"{section}.{key}"
    if isinstance(part, dict) and key not in part:
        return f"{place} is missing; known: {', '.join(kinds)}"
    value = str(part[key]) if isinstance(part, dict) else str(getattr(part, key, part))
    what = key if section == "data" else section.rpartition(".")[2]
    return f"{place}={shortened(value)}: unknown {what}{nearest(value, kinds) or '; known: ' + listing(kinds, MANY)}"


def _single_keys(value: Any) -> Iterator[str]:  # noqa: ANN401 - any YAML value
    """The rest of an override's path below an unknown key."""
    while isinstance(value, dict) and len(value) == 1:
        ((key, value),) = value.items()
        yield str(key)


def _suggestion(path: Sequence[str], known: Sequence[str]) -> str:
    """What an unknown key may mean: its current name, a similar name in its section, or the same name elsewhere."""
    key = ".".join(path)
    if any(part.isdigit() for part in path) or len(key) > MAX_SHOWN:
        return ""
    if len(path) == 1:
        return nearest(
            key,
            [name for name in known if name.rpartition(".")[2] == key] or [name for name in known if "." not in name],
        )
    renamed = format_1.new_names(*path) if len(path) == 2 else []
    current = [name for name in renamed if name in known or path[0] == "loss"]
    if current:
        return f"; did you mean {current[0]}?"
    if meaning := other_words.hint(path[-1]):
        return meaning
    section = (renamed[0] if renamed else key).rpartition(".")[0]
    siblings = {name.rpartition(".")[2]: name for name in known if name.rpartition(".")[0] == section}
    if "." not in section or not siblings:
        fields = [name for name in known if "." in name]
        return nearest(key, fields) or nearest(key, list(siblings.values()))
    close = difflib.get_close_matches(path[-1], list(siblings), n=1)
    if close:
        return f"; did you mean {siblings[close[0]]}?"
    elsewhere = [name for name in known if name.rpartition(".")[2] == path[-1]]
    return nearest(key, elsewhere) if elsewhere else f"; known: {', '.join(siblings.values())}"


def _without_kind(path: list[str]) -> list[str]:
    """Leave out what pydantic adds: the kinds of sections, the branches of unions."""
    places: list[str] = []
    for part in path:
        _, kinds = KINDS.get(".".join(places), ("", {}))
        if part not in kinds:
            places.append(part)
    parent = ".".join(places[:-1])
    if "." in parent and places[-1] == KINDS.get(parent, ("", {}))[0]:
        places.pop()  # users write `model.backbone=...`
    return [part for index, part in enumerate(places) if index < 2 or part.isdigit() or part.isidentifier()]
