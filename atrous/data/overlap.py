"""Images that are in two splits, which makes scores too good: the same file, or a copy of it."""

import filecmp
from collections import defaultdict
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol, runtime_checkable

from atrous.data.pairing import Pair
from atrous.types import Sample

PROBE = 4096  # bytes from the middle of a file: images of one size differ there


@runtime_checkable
class Paired(Protocol):
    """Samples that are files."""

    @property
    def pairs(self) -> Sequence[Pair]: ...


def shared_images(first: Sequence[Sample], second: Sequence[Sample]) -> list[str]:
    """The images of the second split that are also in the first, by name; [] for samples that aren't files.

    Only files of one size are opened, and only those with the same middle are compared as a whole.
    """
    if not (isinstance(first, Paired) and isinstance(second, Paired)):
        return []
    sizes = {_size(pair.image) for pair in first.pairs} & {_size(pair.image) for pair in second.pairs}
    alike: dict[bytes, list[Path]] = defaultdict(list)
    for pair in first.pairs:
        alike[_middle(pair.image, sizes)].append(pair.image)
    alike.pop(b"", None)
    return [pair.name for pair in second.pairs if _is_among(pair.image, alike.get(_middle(pair.image, sizes), ()))]


def _size(path: Path) -> int:
    """In bytes; 0 for a file that can't be read."""
    with suppress(OSError):
        return path.stat().st_size
    return 0


def _middle(path: Path, sizes: Collection[int]) -> bytes:
    """Bytes from the middle of a file; none if its size isn't among `sizes`, or it can't be read."""
    size = _size(path)
    with suppress(OSError):
        if size in sizes:
            with path.open("rb") as file:
                file.seek(size // 2)
                return file.read(PROBE)
    return b""


def _is_among(path: Path, others: Collection[Path]) -> bool:
    with suppress(OSError):
        return any(filecmp.cmp(path, other, shallow=False) for other in others)
    return False
