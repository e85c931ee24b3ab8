"""What errors and names look like to people."""

import pytest

from atrous.errors import visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Straße 背景 שלום é", "Straße 背景 שלום é"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\udce9t\udce9", "\\udce9t\\udce9"),
        ("\u202efdp.exe", "\\u202efdp.exe"),
        ("\x00\x7f\x9b", "\\x00\\x7f\\x9b"),
    ],
)
def test_what_cannot_be_seen_is_written_as_its_escape(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert visible(text).encode()
