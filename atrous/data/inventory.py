"""Which files a split consists of, so that a resumed run notices when its data has changed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from atrous.data.image_files import ImageFiles
from atrous.data.pairing import Pair
from atrous.types import Sample

Inventory = dict[str, list[int]]  # name of a sample -> bytes of its image and of its labels; UNREADABLE: not a file
UNREADABLE = -1


@runtime_checkable
class Listed(Protocol):
    """Samples that know the sizes of their files."""

    def inventory(self) -> Inventory: ...


def inventory(samples: Sequence[Sample]) -> Inventory:
    """The sizes of a split's files, in its order; empty for samples that are painted, which their settings describe."""
    if isinstance(samples, Listed):
        return samples.inventory()
    return {pair.name: [_size(path) for path in (pair.image, *pair.label_files)] for pair in pairs_of(samples)}


def pairs_of(samples: Sequence[Sample]) -> Sequence[Pair]:
    """The files of samples that have files of their own."""
    return samples.pairs if isinstance(samples, ImageFiles) else ()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # reading the sample says what is wrong
        return UNREADABLE
