"""Numbers and names as people read them."""

import math
from collections.abc import Sequence

from atrous.tasks.contract import UNKNOWN as UNKNOWN

NUM_NAMED = 5
UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))  # of time, in seconds


def known(value: float | None) -> float | None:
    """The value if it is a finite number."""
    return value if value is not None and math.isfinite(value) else None


def fraction(value: float | None) -> str:
    """A score as papers print it: 0.853."""
    return UNKNOWN if known(value) is None else f"{value:.3f}"


def percent(value: float | None) -> str:
    """Two significant digits: 85%, 8.5%, and <0.1% for anything smaller except 0."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    scaled = 100 * value
    if 0 < scaled < 0.1:
        return "<0.1%"
    return f"{scaled:.0f}%" if scaled >= 9.95 or scaled == 0 else f"{scaled:.1f}%"


def count(value: float | None) -> str:
    return UNKNOWN if known(value) is None else f"{value:,.0f}"


def number(value: float, *, digits: int = 4) -> str:
    """As an axis writes it: 0.25, 12k, 3e-5."""
    if not math.isfinite(value):
        return "none"
    scale, unit = next(((s, u) for s, u in ((1e6, "M"), (1e3, "k")) if abs(value) >= s), (1.0, ""))
    return f"{value / scale:.{digits}g}{unit}".replace("e-0", "e-")


def duration(seconds: float) -> str:
    """The two largest units: 3 min 7 s, 2 d 5 h."""
    rest = round(seconds)
    parts = [(rest // size % (limit // size), unit) for (size, unit), limit in zip(UNITS, _limits(), strict=True)]
    first = next((index for index, (amount, _) in enumerate(parts) if amount), len(parts) - 1)
    return " ".join(
        f"{amount} {unit}" for amount, unit in parts[first : first + 2] if amount or len(parts) == first + 1
    )


def _limits() -> list[int]:
    """Of each unit, in seconds: the next larger one."""
    return [10**12, *(size for size, _ in UNITS[:-1])]


def plural(amount: int, noun: str, many: str | None = None) -> str:
    """`1 image`, `2,000 images`, `2 classes`."""
    return f"{count(amount)} {noun if amount == 1 else many or f'{noun}s'}"


def listed(names: Sequence[str], limit: int = NUM_NAMED) -> str:
    """`a`, `a and b`, `a, b and 7 more`."""
    if len(names) > limit:
        names = [*names[: limit - 1], f"{count(len(names) - limit + 1)} more"]
    return " and ".join(part for part in (", ".join(names[:-1]), *names[-1:]) if part)


def capitalized(text: str) -> str:
    """Only the first letter changes, and only in a phrase: `pixel accuracy`, but not `mIoU` or `mIoU of things`."""
    return text[:1].upper() + text[1:] if text.partition(" ")[0].islower() and " " in text else text
