"""COCO's run-length encoding of masks, as pycocotools writes it."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray


def encode(mask: NDArray[np.bool_]) -> dict[str, object]:
    """[H, W] as `size` and `counts`: the lengths of runs of 0 and 1 in turn, column by column, in COCO's text form."""
    return {"size": list(mask.shape), "counts": _text(_counts(mask))}


def _counts(mask: NDArray[np.bool_]) -> list[int]:
    """The first run is one of 0, and may be empty."""
    column = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(column)) + 1
    start = [0] if column.size and column[0] else []
    return np.diff([0, *start, *changes, column.size]).tolist()  # type: ignore[no-any-return]


def _text(counts: list[int]) -> str:
    """From the fourth on, a count is written as its difference to the one before the last."""
    values = (count - counts[index - 2] if index > 2 else count for index, count in enumerate(counts))
    return "".join(character for value in values for character in _characters(value))


def _characters(value: int) -> Iterator[str]:
    """Five bits at a time, the lowest first; the sixth bit says that more follow, the fifth of the last is the sign."""
    is_last = False
    while not is_last:
        bits, value = value & 31, value >> 5
        is_last = value == (-1 if bits & 16 else 0)
        yield chr(48 + bits + (0 if is_last else 32))
