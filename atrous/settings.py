"""Settings: a frozen section of the configuration, whose fields are read from text or YAML."""

import ast
import inspect
import itertools
import textwrap
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from atrous.trees import TreeError, parse_yaml

# Bounds on what decides an allocation or a loop: whoever wrote a recipe or a model's header, reading it takes little.
MAX_CLASSES = 2**16
MAX_COUNT = 2**31 - 1

Channels = Annotated[int, Field(gt=0, le=2**14)]
Side = Annotated[int, Field(gt=0, le=2**15)]  # of an image or a window, in pixels
Rate = Annotated[int, Field(gt=0, le=2**10)]  # atrous
Rates = Annotated[tuple[Rate, ...], Field(max_length=32)]
Bins = Annotated[tuple[Rate, ...], Field(max_length=32)]  # of a pyramid of means
Scale = Annotated[float, Field(gt=0, le=16)]  # of images
Scales = Annotated[tuple[Scale, ...], Field(min_length=1, max_length=32)]
Count = Annotated[int, Field(gt=0, le=MAX_COUNT)]  # of steps
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class Settings(BaseModel):
    """A frozen section of the configuration: unknown keys are refused, and text is read as the field's type."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def descriptions(cls) -> dict[str, str]:
        """What each field does: the docstring below it. A field that a class only narrows keeps that of the base.

        The source is read when somebody asks: pydantic's `use_attribute_docstrings` would read it at each import, which
        takes half a second.
        """
        below = [_docstrings(kind) for kind in reversed(cls.__mro__) if issubclass(kind, Settings)]
        texts = {name: text for part in below for name, text in part.items()}
        return {name: texts[name] for name in cls.model_fields if name in texts}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core_schema)
        properties = handler.resolve_ref_schema(schema).get("properties", {})
        for name, text in cls.descriptions().items():
            properties[name]["description"] = text
        return schema

    @model_validator(mode="before")
    @classmethod
    def _read_texts(cls, tree: Any) -> Any:  # noqa: ANN401
        if not isinstance(tree, dict):
            return tree
        for name, value in tree.items():
            _require_text(str(name), value)
        fields = {name: field.annotation for name, field in cls.model_fields.items()}
        return {name: _read(value, fields[name]) if name in fields else value for name, value in tree.items()}


@cache
def _docstrings(kind: type[Settings]) -> dict[str, str]:
    """The docstring below each field that the class itself defines; {} where Python has no source files."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    except OSError:
        return {}
    assert isinstance(tree, ast.ClassDef)
    return {
        field.target.id: text.value.value
        for field, text in itertools.pairwise(tree.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }


def _require_text(name: str, value: Any) -> None:  # noqa: ANN401
    """Raises ValueError for text that no file could hold: such as the name of a path that is not in UTF-8."""
    parts = value if isinstance(value, list | tuple) else (value,)
    texts = [str(part) for part in parts if isinstance(part, str | Path)]
    if damaged := next((text for text in texts if not _is_text(text)), None):
        raise ValueError(f"{name} is {damaged[:40].encode('unicode_escape').decode()}, which is not text in UTF-8")


def _is_text(text: str) -> bool:
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def _read(value: Any, annotation: Any) -> Any:  # noqa: ANN401
    value = _from_text(value, annotation) if isinstance(value, str) else value
    if isinstance(value, bool) and bool not in members(annotation):
        return str(value).lower()  # pydantic would take `true` for 1
    return value


def members(annotation: Any) -> set[Any]:  # noqa: ANN401
    """A type and all types within its unions, tuples and literals."""
    outer = get_origin(annotation) or (annotation if isinstance(annotation, type) else type(annotation))
    return {outer}.union(*(members(part) for part in get_args(annotation)))


def _from_text(text: str, annotation: Any) -> Any:  # noqa: ANN401
    """`16` for a Literal[8, 16], `513,513` for a tuple; a field that may hold text keeps the text."""
    types = members(annotation)
    is_bracketed = text.startswith(("[", "{"))
    if {tuple, dict} & types and (is_bracketed or "," in text):
        return _parse(text if is_bracketed else f"[{text}]", text)
    return text if {str, Path} & types else _parse(text, text)


def _parse(text: str, original: str) -> Any:  # noqa: ANN401
    """Text that is not valid YAML is returned as it is: pydantic then says what would be right."""
    try:
        return parse_yaml(text)
    except TreeError:
        return original
