"""OpenCV's bilinear resizing of bytes, for those who ask for it: `augment.resampling=opencv`, the extra `opencv`."""

import contextlib
import importlib.util
from collections.abc import Iterator
from typing import Any

import numpy as np

from atrous.errors import ConfigError
from atrous.types import Image


def require() -> None:
    """Raises ConfigError, before the work begins, if OpenCV isn't installed."""
    if importlib.util.find_spec("cv2") is None:
        raise ConfigError(
            "augment.resampling=opencv: OpenCV is not installed; pip install 'atrous[opencv]', or set "
            "augment.resampling=fast, which needs nothing else"
        )


def is_copy(rows: slice, columns: slice, scales: tuple[float, float]) -> bool:
    """Whether both sides would keep their lengths: then OpenCV moves no pixel, however little the factors are off 1."""
    lengths = [part.stop - part.start for part in (rows, columns)]
    return scales != (1, 1) and [round(side * scale) for side, scale in zip(lengths, scales, strict=True)] == lengths


def resized(part: Image, scales: tuple[float, float]) -> Image:
    """By the factors (y, x), from the part's top left corner on, without antialiasing."""
    import cv2

    with _one_thread(cv2):
        pixels = cv2.resize(part, None, fx=scales[1], fy=scales[0], interpolation=cv2.INTER_LINEAR)
    return np.asarray(pixels, np.uint8)


@contextlib.contextmanager
def _one_thread(cv2: Any) -> Iterator[None]:  # noqa: ANN401
    """The process's other calls of OpenCV keep their number of threads.

    Workers are processes, one for a core. A forked one has none of the threads that its parent's OpenCV had started:
    asked to use them, it would wait forever; 0, other than 1, doesn't make it end them either.
    """
    number = cv2.getNumThreads()
    if number <= 1:
        yield
        return
    cv2.setNumThreads(0)
    try:
        yield
    finally:
        cv2.setNumThreads(number)
