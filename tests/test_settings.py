"""Settings: text becomes the field's type, and nothing else does."""

from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from atrous.settings import Settings


class Example(Settings):
    stride: Literal[8, 16] = 8
    rates: tuple[int, ...] | None = None
    names: dict[int, str] | tuple[str, ...] | None = None
    factor: float = 1.0
    title: str = ""
    root: Path | None = None
    steps: int = 1
    is_on: bool = False
    factors: tuple[float, ...] = ()


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("stride", "16", 16),
        ("rates", "6,12", (6, 12)),
        ("rates", "[6, 12]", (6, 12)),
        ("names", "road, sky", ("road", "sky")),
        ("names", "{0: road, 7: sky}", {0: "road", 7: "sky"}),
        ("steps", "010", 10),
        ("rates", "08,010", (8, 10)),
        ("factor", "1e-3", 0.001),
        ("title", "2024-01-01", "2024-01-01"),
        ("title", "yes", "yes"),
        ("title", "a, b", "a, b"),
        ("root", "007", Path("007")),
        ("is_on", "true", True),
    ],
)
def test_text_is_read_as_the_type_of_the_field(key: str, text: str, value: object) -> None:
    assert getattr(Example.model_validate({key: text}), key) == value


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("steps", True),
        ("steps", "true"),
        ("factor", True),
        ("steps", "2.5"),
        ("stride", "12"),
        ("steps", "0x10"),
        ("steps", "1:30"),
        ("factor", "inf"),
        ("factor", ".nan"),
        ("factor", float("inf")),
        ("factors", "inf"),
        ("factors", "1,nan"),
    ],
)
def test_other_types_are_refused(key: str, value: object) -> None:
    with pytest.raises(ValidationError):
        Example.model_validate({key: value})


def test_unknown_keys_are_refused_and_values_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Example.model_validate({"stepz": 3})
    with pytest.raises(ValidationError):
        Example().steps = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("rates", "[1,2"),
        ("steps", "@5"),
        ("factor", "*2"),
        ("steps", "{"),
        ("steps", "2024-99-99"),
    ],
)
def test_text_that_is_not_yaml_is_refused_unchanged(key: str, text: str) -> None:
    with pytest.raises(ValidationError) as error:
        Example.model_validate({key: text})
    assert error.value.errors()[0]["input"] == text


@given(st.integers(0, 10**12), st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_leading_zeros_do_not_make_a_number_octal(number: int, zeros: int) -> None:
    assert Example.model_validate({"steps": "0" * zeros + str(number)}).steps == number
