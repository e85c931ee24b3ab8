"""Options of several numbers."""

import pytest

from atrous.commands.numbers import parsed_bands, parsed_size
from atrous.errors import ConfigError

OTHERS = ("", "0,5", "5,-1", "1,2,3,4", "a,b", "5,", "1.5,2", "٣,٣", "70000,5", "5;5", "1e3,5", "²", "9" * 5000)


@pytest.mark.parametrize(
    ("text", "size"),
    [("512,1024", (512, 1024)), ("33x49", (33, 49)), ("64", (64, 64)), (" 5, 6 ", (5, 6)), (None, None)],
)
def test_sizes(text: str | None, size: tuple[int, int] | None) -> None:
    assert parsed_size(text) == size


def test_bands() -> None:
    assert parsed_bands(None) == () and parsed_bands("4, 3,2") == (4, 3, 2) and parsed_bands("7") == (7,)


@pytest.mark.parametrize("text", OTHERS)
def test_all_else_is_refused_in_a_line(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^--size .*: must be height and width in pixels, each 1 to 65535"):
        parsed_size(text)
    with pytest.raises(ConfigError, match=r"^--bands .*: must be one or three numbers"):
        parsed_bands(text)
    with pytest.raises(ConfigError, match="--size 1,2,3"):
        parsed_size("1,2,3")
    with pytest.raises(ConfigError, match="--bands 1,2"):
        parsed_bands("1,2")
