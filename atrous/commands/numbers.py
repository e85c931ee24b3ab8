"""Options of several numbers, such as `--size 512,1024`."""

from collections.abc import Collection
from typing import TYPE_CHECKING

from atrous.errors import ConfigError

if TYPE_CHECKING:  # it imports torch
    from atrous.types import Size

DIGITS = 5  # of a number up to LARGEST
LARGEST = 2**16 - 1


def parsed_size(text: str | None) -> "Size | None":
    """`512,1024` or `512x1024`, height first; a single number is both sides. Raises ConfigError."""
    if text is None:
        return None
    sides = _numbers(text.replace("x", ","), (1, 2))
    if not sides:
        raise ConfigError(
            f"--size {text[:80]}: must be height and width in pixels, each 1 to {LARGEST}, such as 512,1024"
        )
    return sides[0], sides[-1]


def parsed_bands(text: str | None) -> tuple[int, ...]:
    """`4,3,2`. Raises ConfigError."""
    if text is None:
        return ()
    bands = _numbers(text, (1, 3))
    if not bands:
        raise ConfigError(
            f"--bands {text[:80]}: must be one or three numbers of bands, counted from 1, as in --bands 4,3,2"
        )
    return bands


def _numbers(text: str, counts: Collection[int]) -> tuple[int, ...]:
    """As many as one of `counts`, of 1 to LARGEST each; none for all else."""
    parts = [part.strip() for part in text.split(",")]
    are_digits = all(part.isascii() and part.isdigit() and len(part) <= DIGITS for part in parts)
    numbers = tuple(map(int, parts)) if are_digits and len(parts) in counts else ()
    return numbers if all(1 <= number <= LARGEST for number in numbers) else ()
