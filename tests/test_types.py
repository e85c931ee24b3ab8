"""Settings: text becomes the field's type, and nothing else does."""

from pathlib import Path
from typing import Literal

import pytest
from pydantic import ValidationError

from atrous.types import Settings


class Example(Settings):
    stride: Literal[8, 16] = 8
    rates: tuple[int, ...] | None = None
    names: dict[int, str] | tuple[str, ...] | None = None
    factor: float = 1.0
    title: str = ""
    root: Path | None = None
    steps: int = 1
    is_on: bool = False


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("stride", "16", 16),
        ("rates", "6,12", (6, 12)),
        ("rates", "[6, 12]", (6, 12)),
        ("names", "road, sky", ("road", "sky")),
        ("names", "{0: road, 7: sky}", {0: "road", 7: "sky"}),
        ("factor", "1e-3", 0.001),
        ("title", "2024-01-01", "2024-01-01"),
        ("title", "yes", "yes"),
        ("title", "a, b", "a, b"),
        ("root", "007", Path("007")),
        ("is_on", "true", True),
    ],
)
def test_text_is_read_as_the_field_is_typed(key: str, text: str, value: object) -> None:
    assert getattr(Example.model_validate({key: text}), key) == value


@pytest.mark.parametrize(
    ("key", "value"), [("steps", True), ("steps", "true"), ("factor", True), ("steps", "2.5"), ("stride", "12")]
)
def test_other_types_are_refused(key: str, value: object) -> None:
    with pytest.raises(ValidationError):
        Example.model_validate({key: value})


def test_unknown_keys_are_refused_and_values_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Example.model_validate({"stepz": 3})
    with pytest.raises(ValidationError):
        Example().steps = 2  # type: ignore[misc]
