"""What the readers share: how a damaged file is reported, and how large the things in it may claim to be."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from atrous.errors import ConversionError
from atrous.errors import DamagedError as DamagedError

MAX_DIMENSIONS = 32  # the limit of the oldest NumPy that we support
MAX_ELEMENTS = 2**48  # far more than any file holds, far fewer than overflow NumPy's sizes


@contextlib.contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Add the `path` to a `DamagedError`, and the `kind` of file that it was read as."""
    try:
        yield
    except DamagedError as error:
        raise ConversionError(f"cannot read {path} as a {kind}: {error}") from error


def read_whole(path: Path) -> bytes:
    """The file's content. Raises ConversionError for a folder or a device, which may have no end."""
    return require_file(path).read_bytes()


def read_ends(path: Path, count: int) -> tuple[bytes, bytes, int]:
    """The first and the last `count` bytes of a file, and its size: they tell soon what isn't worth reading."""
    with require_file(path).open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        head = file.read(count)
        file.seek(max(size - count, 0))
        return head, file.read(count), size


def require_file(path: Path) -> Path:
    """`path`, if it is a regular file."""
    if not path.exists():
        raise FileNotFoundError(f"no such file: {path}")
    if not path.is_file():
        raise ConversionError(f"not a regular file: {path}")
    return path


def quoted(name: str | bytes) -> str:
    """A name from a file, on one line and short."""
    text = name.decode(errors="backslashreplace") if isinstance(name, bytes) else name
    return repr(text if len(text) <= 120 else f"{text[:120]}...")


def count_elements(shape: Sequence[int]) -> int:
    """How many elements a claimed shape has. Raises DamagedError if no array can have this shape."""
    if len(shape) > MAX_DIMENSIONS:
        raise DamagedError(f"a shape of {len(shape)} dimensions")
    if any(size < 0 for size in shape):
        raise DamagedError(f"a negative size in the shape {tuple(shape)}")
    if math.prod(max(size, 1) for size in shape) > MAX_ELEMENTS:
        raise DamagedError(f"the impossible shape {tuple(shape)}")
    return math.prod(shape)
