"""Trees of plain values (mappings, lists, texts, numbers) from YAML and JSON that others wrote, and back to YAML; XML.

Values have the types of YAML 1.2, so that `yes`, `1:30` and `2024-01-01` are texts and `1e-3` is a number; 010 is ten.
A key that is given twice, nesting without end and values that multiply by aliases are refused.
"""

import codecs
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element, ParseError, fromstring

import yaml
from yaml import (
    AliasEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from yaml.reader import Reader

from atrous.files import require_regular

Tree = dict[str, Any]  # a configuration before it is checked

MAX_BYTES = 2**20  # of YAML
MAX_VALUES = 50_000  # of a YAML file, with those that aliases repeat
MAX_DEPTH = 32
MAX_DIGITS = 300  # of a whole number

_Parser: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is ten times faster
BYTE_ORDER_MARKS = (  # UTF-32's begins with UTF-16's
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

NULL, BOOL, INT, FLOAT, TEXT = (f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str"))
NUMBER = r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
INFINITE = {".inf": "inf", "+.inf": "inf", "-.inf": "-inf", ".nan": "nan"}

KINDS = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "a mapping"}


class TreeError(ValueError):
    """What is wrong with a text, in one line, with the number of the line if it is known."""


class _Plain(NamedTuple):
    """What a text without quotes stands for, unless it is text."""

    pattern: re.Pattern[str]
    read: Callable[[str], Any]


PLAIN: Mapping[str, _Plain] = {
    NULL: _Plain(re.compile(r"~|null|Null|NULL|"), lambda text: None),
    BOOL: _Plain(re.compile(r"true|True|TRUE|false|False|FALSE"), lambda text: text.lower() == "true"),
    INT: _Plain(re.compile(r"[-+]?[0-9][0-9_]*"), lambda text: _whole_number(text)),
    FLOAT: _Plain(
        re.compile(rf"{NUMBER}|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"),
        lambda text: float(INFINITE.get(text.lower(), text.replace("_", ""))),
    ),
}


def _whole_number(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise TreeError(f"a number of {len(text)} digits is too large: {text[:20]}...")
    return int(text.replace("_", ""))


def kind_of(value: object) -> str:
    """What a value is, in an error: `got a list`."""
    if value is None:
        return "nothing"
    return next((name for kind, name in KINDS.items() if isinstance(value, kind)), type(value).__name__)


# ---- YAML


def read_yaml(path: Path) -> Any:  # noqa: ANN401 - any YAML value
    """The tree in a file: None for an empty one. Raises OSError, or TreeError for anything but one sound document."""
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise TreeError(f"larger than {MAX_BYTES // 2**20} MiB: not a file of settings")
    return parse_yaml(decoded(content))


def decoded(content: bytes) -> str:
    """Text in UTF-8, UTF-16 (as PowerShell writes it) or UTF-32. Raises TreeError for other encodings."""
    encoding = next((name for mark, name in BYTE_ORDER_MARKS if content.startswith(mark)), _unmarked(content[:2]))
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        damage = f"not {encoding.upper()} text (byte 0x{content[error.start]:02x})"
        raise TreeError(f"line {line}: {damage}; save the file as UTF-8") from None


def _unmarked(start: bytes) -> str:
    """Half of a UTF-16 text's bytes are 0; it begins with an ASCII character."""
    if len(start) == 2 and start.count(0) == 1:
        return "utf-16-be" if start[0] == 0 else "utf-16-le"
    return "utf-8"


def parse_yaml(text: str) -> Any:  # noqa: ANN401 - any YAML value
    """The tree of one document. Raises TreeError."""
    if control := Reader.NON_PRINTABLE.search(text):
        line = text.count("\n", 0, control.start()) + 1
        raise TreeError(f"line {line}: not YAML: it has the control character {control.group()!r}")
    try:
        tree = _document(_bounded(yaml.parse(text, Loader=_Parser)))
    except yaml.MarkedYAMLError as error:
        raise TreeError(_syntax_error(error, text)) from None
    _require_bounded(tree, MAX_VALUES)
    return tree


def _bounded(events: Iterator[Event]) -> Iterator[Event]:
    """A value has two events at most: its beginning and its end."""
    for number, event in enumerate(events):
        _require(number <= 2 * MAX_VALUES, event, f"more than {MAX_VALUES} values")
        yield event


def _syntax_error(error: yaml.MarkedYAMLError, text: str) -> str:
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return f"not YAML: {error.problem}"
    lines = text.splitlines()
    number = min(mark.line, len(lines) - 1)  # the end of the text may be a line after its last
    if "\t" in lines[number][: len(lines[number]) - len(lines[number].lstrip())]:
        return f"line {number + 1}: not YAML: indented with a tab; use spaces"
    start = error.context_mark
    where = f" {error.context} that begins in line {start.line + 1}" if start and start.line != number else ""
    return f"line {number + 1}: not YAML: {error.problem}{where}"


def _document(events: Iterator[Event]) -> Any:  # noqa: ANN401 - any YAML value
    anchors: dict[str, Any] = {}
    trees: list[Any] = []
    for event in events:
        if isinstance(event, yaml.DocumentStartEvent):
            _require(not trees, event, "a second document begins; expected one")
            trees.append(_value(next(events), events, anchors, 0))
    return trees[0] if trees else None


def _value(event: Event, events: Iterator[Event], anchors: dict[str, Any], depth: int) -> Any:  # noqa: ANN401
    """The value that begins with `event`; the events that belong to it are taken from `events`."""
    _require(depth <= MAX_DEPTH, event, f"more than {MAX_DEPTH} levels of nesting")
    if isinstance(event, AliasEvent):
        name = str(event.anchor)
        _require(name in anchors, event, f"*{name} has no &{name} before it")
        return anchors[name]
    if isinstance(event, SequenceStartEvent):
        _require_tag(event, "tag:yaml.org,2002:seq")
        value: Any = [_value(one, events, anchors, depth + 1) for one in _until(SequenceEndEvent, events)]
    elif isinstance(event, MappingStartEvent):
        _require_tag(event, "tag:yaml.org,2002:map")
        value = _mapping(events, anchors, depth)
    else:
        assert isinstance(event, ScalarEvent)
        value = _scalar(event)
    if event.anchor:
        anchors[event.anchor] = value
    return value


def _until(end: type[Event], events: Iterator[Event]) -> Iterator[Event]:
    for event in events:
        if isinstance(event, end):
            return
        yield event


def _mapping(events: Iterator[Event], anchors: dict[str, Any], depth: int) -> dict[Any, Any]:
    mapping: dict[Any, Any] = {}
    lines: dict[Any, int] = {}
    merged: dict[Any, Any] = {}
    for event in _until(MappingEndEvent, events):
        key = _value(event, events, anchors, depth + 1)
        _require(not isinstance(key, list | dict), event, "a key must be text or a number, not a list or a mapping")
        _require(key not in lines, event, f"{key!r} is given twice, first in line {lines.get(key)}")
        lines[key] = _line(event)
        value = _value(next(events), events, anchors, depth + 1)
        if key == "<<" and isinstance(event, ScalarEvent) and event.implicit[0]:
            merged = _merged(value, event)
        else:
            mapping[key] = value
    return {**merged, **mapping}


def _merged(value: Any, event: Event) -> dict[Any, Any]:  # noqa: ANN401 - any YAML value
    """What `<<: *anchor` or `<<: [*first, *second]` stands for; the first counts."""
    parts = value if isinstance(value, list) else [value]
    _require(all(isinstance(part, dict) for part in parts), event, "<< must be followed by mappings")
    return {key: inner for part in reversed(parts) for key, inner in part.items()}


def _scalar(event: ScalarEvent) -> Any:  # noqa: ANN401 - any YAML value
    text: str = event.value
    if event.tag and event.tag != "!":
        _require_tag(event, TEXT, *PLAIN)
        kind = PLAIN.get(event.tag)
        _require(kind is None or bool(kind.pattern.fullmatch(text)), event, f"{text!r} is not of type {event.tag}")
    else:
        kind = next((kind for kind in PLAIN.values() if event.implicit[0] and kind.pattern.fullmatch(text)), None)
    try:
        return text if kind is None else kind.read(text)
    except TreeError as error:
        raise TreeError(f"line {_line(event)}: {error}") from None


def _require_tag(event: SequenceStartEvent | MappingStartEvent | ScalarEvent, *known: str) -> None:
    _require(event.tag in (None, "!", *known), event, f"not YAML of plain values: it has the type {event.tag}")


def _line(event: Event) -> int:
    assert event.start_mark is not None
    return event.start_mark.line + 1


def _require(holds: bool, event: Event, complaint: str) -> None:
    if not holds:
        raise TreeError(f"line {_line(event)}: {complaint}")


class _Dumper(yaml.SafeDumper):
    """Texts that this reader, or one of YAML 1.1, would take for something else are quoted."""


_Dumper.add_implicit_resolver(FLOAT, PLAIN[FLOAT].pattern, list("-+.0123456789"))


def to_yaml(tree: Any) -> str:  # noqa: ANN401 - any YAML value
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=120)


# ---- JSON


def read_json(path: Path) -> Any:  # noqa: ANN401 - any JSON value
    """The tree in a file. Raises OSError, or TreeError as `parse_json` does."""
    require_regular(path)
    return parse_json(decoded(path.read_bytes()))


def parse_json(text: str) -> Any:  # noqa: ANN401 - any JSON value
    """Raises TreeError for what is not JSON, has a key twice, is nested too deep, or has numbers too large."""
    try:
        tree = json.loads(text, object_pairs_hook=_with_each_key_once)
    except RecursionError:
        raise TreeError(f"more than {MAX_DEPTH} levels of nesting") from None
    except TreeError:
        raise
    except ValueError as error:  # also for numbers of thousands of digits
        raise TreeError(f"not JSON: {error}") from None
    _require_bounded(tree, len(text))
    return tree


def _with_each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        repeated = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise TreeError(f"{repeated!r} is given twice")
    return mapping


def _require_bounded(tree: Any, max_values: int) -> None:  # noqa: ANN401 - any YAML or JSON value
    level, count = [tree], 0
    for _ in range(MAX_DEPTH + 1):
        count += len(level)
        if count > max_values:
            raise TreeError(f"more than {max_values} values, with those that aliases repeat")
        parts = (one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list))
        level = [value for part in parts for value in part]
    if level:
        raise TreeError(f"more than {MAX_DEPTH} levels of nesting")


# ---- XML


def read_xml(path: Path) -> Element:
    """The root element of a file. Raises OSError, or TreeError for what is not XML or defines entities of its own.

    A few lines of such definitions may stand for gigabytes, or for another file; no program for labels writes them.
    """
    require_regular(path)
    text = decoded(path.read_bytes())
    if definition := re.search(r"<!(DOCTYPE|ENTITY)", text):
        line = text.count("\n", 0, definition.start()) + 1
        raise TreeError(f"line {line}: a {definition[0]} is not read; labels need none")
    try:
        return fromstring(text)
    except (ParseError, ValueError) as error:
        raise TreeError(f"not XML: {error}") from None
