"""Settings: a frozen section of the configuration, whose fields are read from text or YAML."""

from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ConfigDict, model_validator

from atrous.trees import TreeError, parse_yaml


class Settings(BaseModel):
    """A frozen section of the configuration: unknown keys are refused, and text is read as the field's type."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _read_texts(cls, tree: Any) -> Any:  # noqa: ANN401
        if not isinstance(tree, dict):
            return tree
        fields = {name: field.annotation for name, field in cls.model_fields.items()}
        return {name: _read(value, fields[name]) if name in fields else value for name, value in tree.items()}


def _read(value: Any, annotation: Any) -> Any:  # noqa: ANN401
    value = _from_text(value, annotation) if isinstance(value, str) else value
    if isinstance(value, bool) and bool not in _members(annotation):
        return str(value).lower()  # pydantic would take `true` for 1
    return value


def _members(annotation: Any) -> set[Any]:  # noqa: ANN401
    """A type and all types within its unions, tuples and literals."""
    outer = get_origin(annotation) or (annotation if isinstance(annotation, type) else type(annotation))
    return {outer}.union(*(_members(part) for part in get_args(annotation)))


def _from_text(text: str, annotation: Any) -> Any:  # noqa: ANN401
    """`16` for a Literal[8, 16], `513,513` for a tuple; a field that may hold text keeps the text."""
    members = _members(annotation)
    is_bracketed = text.startswith(("[", "{"))
    if {tuple, dict} & members and (is_bracketed or "," in text):
        return _parse(text if is_bracketed else f"[{text}]", text)
    return text if {str, Path} & members else _parse(text, text)


def _parse(text: str, original: str) -> Any:  # noqa: ANN401
    """Text that is not valid YAML is returned as it is: pydantic then says what would be right."""
    try:
        return parse_yaml(text)
    except TreeError:
        return original
