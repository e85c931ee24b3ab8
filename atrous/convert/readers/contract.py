"""What the readers share: how a damaged or foreign file is told of, and the sizes that it may claim."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
Shape: TypeAlias = tuple[int, ...]
MAX_DIMENSIONS = 32  # numpy's own bound in its oldest version that we run on
MAX_ELEMENTS = 2**48  # far above any file, far below where numpy's sizes overflow


class DamagedError(ValueError):
    """What is wrong inside of a file; `naming` adds which file."""


@contextlib.contextmanager
def naming(path: Path, kind: str) -> Iterator[None]:
    """Make a `DamagedError` from inside the ValueError that a user reads: `path`, and the `kind` it was read as."""
    try:
        yield
    except DamagedError as error:
        raise ValueError(f"cannot read {path} as a {kind}: {error}") from error


def read_whole(path: Path) -> bytes:
    """The file's content; ValueError for a folder or device (which may have no end)."""
    return require_file(path).read_bytes()


def require_file(path: Path) -> Path:
    """`path`, if it is a regular file."""
    if not path.exists():
        raise FileNotFoundError(f"no such file: {path}")
    if not path.is_file():
        raise ValueError(f"not a regular file: {path}")
    return path


def quoted(name: str | bytes) -> str:
    """A name out of a file, on one line and short."""
    text = name.decode(errors="backslashreplace") if isinstance(name, bytes) else name
    return repr(text if len(text) <= 120 else f"{text[:120]}...")


def count_elements(shape: Sequence[int]) -> int:
    """How many numbers a claimed shape has, exactly, however absurd it is; DamagedError where no array can have it."""
    if len(shape) > MAX_DIMENSIONS:
        raise DamagedError(f"a shape of {len(shape)} dimensions")
    if any(size < 0 for size in shape):
        raise DamagedError(f"a negative size in the shape {tuple(shape)}")
    if math.prod(max(size, 1) for size in shape) > MAX_ELEMENTS:
        raise DamagedError(f"the impossible shape {tuple(shape)}")
    return math.prod(shape)
