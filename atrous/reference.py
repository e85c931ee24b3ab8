"""What every setting does, from the line below its field: `atrous recipes --settings`, and docs/settings.md.

The page is written by `python -m atrous.reference > docs/settings.md`.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, get_args

from pydantic_core import PydanticUndefined, to_jsonable_python

from atrous.config import Config
from atrous.config_kinds import KINDS, PREFIXED, kinds_of_task
from atrous.errors import ConfigError, nearest
from atrous.settings import MAX_COUNT, Settings, members
from atrous.tasks import TASKS

Kinds = tuple[type[Settings], ...]
OPENING = """\
# All settings

Generated from the fields themselves by `python -m atrous.reference > docs/settings.md`; a test compares the two. The
same in a terminal, for all, one section, one kind of it, or one setting:

```
atrous recipes --settings
atrous recipes --settings model.backbone
atrous recipes --settings pspnet
atrous recipes --settings train.batch
```

A setting is written `section.field=value` on the command line and `section: {field: value}` in a recipe. `none`
switches off what may be none.
"""


class Row(NamedTuple):
    """One setting."""

    key: str  # section.field
    default: str | None  # None: it must be set
    values: str
    text: str


class Group(NamedTuple):
    """The settings of a section, or those that only some of its kinds have."""

    section: str
    kinds: tuple[str, ...]  # their names; (): all of them
    rows: tuple[Row, ...]


# ---- from fields to rows


def sections() -> dict[str, Kinds]:
    """The classes that hold the settings of each section, also of those within sections, such as `model.aspp`."""
    known: dict[str, Kinds] = {}
    for name, field in Config.model_fields.items():
        known[name] = _kinds_of_section(name) or _settings_in(field.annotation)
    for name, kinds in tuple(known.items()):
        known |= _inner_sections(name, kinds)
    return known


def _kinds_of_section(name: str) -> Kinds:
    if name in KINDS:
        return tuple(dict.fromkeys([*KINDS[name][1].values(), *PREFIXED.get(name, {}).values()]))
    by_task = (kinds_of_task(task) for task in TASKS)
    return tuple(kinds[name] for kinds in by_task if name in kinds)


def _inner_sections(section: str, kinds: Kinds) -> dict[str, Kinds]:
    inner: dict[str, Kinds] = {}
    for kind in kinds:
        for name, field in kind.model_fields.items():
            kinds_in = (*inner.get(f"{section}.{name}", ()), *_settings_in(field.annotation))
            inner[f"{section}.{name}"] = tuple(dict.fromkeys(kinds_in))
    return {name: kinds for name, kinds in inner.items() if kinds}


def _settings_in(annotation: Any) -> Kinds:  # noqa: ANN401 - any annotation
    kinds = (kind for kind in members(annotation) if isinstance(kind, type) and issubclass(kind, Settings))
    return tuple(sorted(kinds, key=lambda kind: (kind.__module__, kind.__qualname__)))


def groups() -> list[Group]:
    """All settings: of each section those that all its kinds share, then those of each kind."""
    return [group for section, kinds in sections().items() for group in _groups_of(section, kinds)]


def _groups_of(section: str, kinds: Kinds) -> Iterator[Group]:
    key, by_name = KINDS.get(section, ("", {}))
    tables = {kind: {row.key: row for row in rows_of(section, kind)} for kind in kinds}
    first, *rest = tables.values()
    shared = tuple(row for key, row in first.items() if all(table.get(key) == row for table in rest))
    if by_name:
        choice = first[f"{section}.{key}"]
        others = [f"{prefix}NAME" for prefix in PREFIXED.get(section, {})]
        shared = (choice._replace(default=None, values=", ".join([*by_name, *others])), *shared)
    yield Group(section, (), shared)
    for kind, table in tables.items():
        own = tuple(row for row in table.values() if row not in shared and row.key != f"{section}.{key}")
        if own:
            yield Group(section, _names_of(section, kind, key), own)


def _names_of(section: str, kind: type[Settings], key: str) -> tuple[str, ...]:
    """The kind's names, such as `resnet50`; for a kind without, the tasks that it belongs to."""
    prefixes = tuple(f"{prefix}NAME" for prefix, other in PREFIXED.get(section, {}).items() if other is kind)
    if key:
        return prefixes or get_args(kind.model_fields[key].annotation)
    return tuple(task for task in TASKS if kind in kinds_of_task(task).values())


def rows_of(section: str, kind: type[Settings]) -> list[Row]:
    schema, texts = kind.model_json_schema(), kind.descriptions()
    rows = []
    for name, field in kind.model_fields.items():
        key, default = f"{section}.{name}", field.get_default(call_default_factory=True)
        if _settings_in(field.annotation):
            rows.append(Row(key, getattr(default, "name", None), f"see {key}", texts.get(name, "")))
        else:
            rows.append(Row(key, _default_of(default), _values(schema["properties"][name]), texts.get(name, "")))
    return rows


def _default_of(default: Any) -> str | None:  # noqa: ANN401 - of any type
    return None if default is PydanticUndefined else _text_of(to_jsonable_python(default))


def _text_of(value: Any) -> str:  # noqa: ANN401 - any JSON value
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else "none" if value is None else json.dumps(value)


# ---- from a JSON schema to words

WORDS = {"boolean": "true or false", "null": "none", "string": "text", "object": "mapping"}


def _values(schema: Mapping[str, Any]) -> str:
    """What a field takes."""
    if "const" in schema or "enum" in schema:
        return _alternatives([_text_of(value) for value in schema.get("enum", [schema.get("const")])])
    if parts := schema.get("anyOf") or schema.get("oneOf"):
        return _alternatives([_values(part) for part in parts])
    kind = schema["type"]
    if kind in ("integer", "number"):
        return f"{'whole number' if kind == 'integer' else 'number'}{_range(schema)}"
    if kind == "array":
        return _list(schema)
    if isinstance(schema.get("additionalProperties"), dict):
        return f"mapping to {_plural(_values(schema['additionalProperties']))}"
    return "path" if schema.get("format") == "path" else WORDS[kind]


def _alternatives(words: list[str]) -> str:
    *others, last = dict.fromkeys(words)
    first = ", ".join(others).replace(" or ", ", ")
    return f"{first} or {last}" if others else last


def _list(schema: Mapping[str, Any]) -> str:
    if "prefixItems" not in schema:
        return f"list of {_plural(_values(schema['items']))}"
    items = [_values(part) for part in schema["prefixItems"]]
    return f"{len(items)} {_plural(items[0])}" if len(set(items)) == 1 else f"[{', '.join(items)}]"


def _plural(words: str) -> str:
    """`numbers, above 0` of `number, above 0`."""
    return re.sub(r"\b(number|text|path)\b", r"\1s", words, count=1)


def _range(schema: Mapping[str, Any]) -> str:
    """`, 1..32768`, `, at least 0`, `, above 0` or nothing. A limit that no one will reach is left out."""
    least, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    if schema["type"] == "integer" and above is not None:
        least, above = above + 1, None
    most = schema.get("maximum", schema.get("exclusiveMaximum"))
    most = None if most is None or most >= MAX_COUNT else most
    below = " below" if "exclusiveMaximum" in schema else " up to"
    if least is not None and most is not None and "maximum" in schema:
        return f", {least:g}..{most}"
    start = f", at least {least:g}" if least is not None else f", above {above:g}" if above is not None else ""
    return start if most is None else f"{start},{below} {most:g}"


# ---- for a terminal


def lines(name: str | None = None) -> Iterator[str]:
    """The settings of a section, a kind of section (`pspnet`) or one setting; of None, all.

    Raises ConfigError with the nearest name.
    """
    selection = groups() if name is None else _selection(groups(), name)
    if not any(group.rows for group in selection):
        yield f"{name} has no settings"
    for group in (group for group in selection if group.rows):
        if group.kinds:
            yield f"{group.section}, of {', '.join(group.kinds)}:"
        for row in group.rows:
            yield f"{row.key}{'' if row.default is None else f'={row.default}'}  ({row.values})"
            yield f"    {row.text}"
        yield ""


def _selection(known: list[Group], name: str) -> list[Group]:
    of_sections = [group for group in known if group.section == name]
    of_kinds = [group for group in known if name in group.kinds]
    rows = [group._replace(rows=tuple(row for row in group.rows if row.key == name)) for group in known]
    selection = of_sections or of_kinds or [group for group in rows if group.rows]
    if not selection:
        keys = [key for group in known for key in (*group.kinds, *(row.key for row in group.rows))]
        hint = nearest(name, list(dict.fromkeys([*sections(), *keys])))
        known_sections = ", ".join(Config.model_fields)
        raise ConfigError(
            f"--settings {name}: no section, kind of section or setting{hint}; sections: {known_sections}"
        )
    return selection


# ---- for docs/


def page() -> str:
    parts, texts = [OPENING], Config.descriptions()
    for section in sections():
        tables = [_table(group) for group in groups() if group.section == section and group.rows]
        parts.append(f"## {section}\n\n{texts.get(section, '')}".rstrip() + "\n")
        parts += tables or ["It has no settings.\n"]
    return "\n".join(parts)


def _table(group: Group) -> str:
    title = f"Of {', '.join(f'`{kind}`' for kind in group.kinds)}:\n\n" if group.kinds else ""
    cells = [[f"`{row.key}`", _code(row.default), row.values, row.text] for row in group.rows]
    table = [["setting", "default", "values", "what it does"], ["---"] * 4, *cells]
    return title + "\n".join(f"| {' | '.join(row)} |" for row in table) + "\n"


def _code(default: str | None) -> str:
    return f"`{default}`" if default else ""


if __name__ == "__main__":
    print(page(), end="")
