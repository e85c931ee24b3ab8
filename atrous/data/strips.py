"""Pixels that lie uncompressed in a file, in strips of rows with a checksum each: a crop reads its own rows only."""

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atrous.errors import DataError
from atrous.types import Sample
from atrous.wire.tar import Member

ROWS = 64  # of a strip
MOST = 2**18  # strips that a process remembers to be right
_RIGHT: set[tuple[Path, int, int]] = set()


class LateError(DataError):
    """Pixels that can't be read, which shows only when a transform asks for them."""


@dataclass(frozen=True)
class Strips:
    """Stands for an array [H, W, ...] in transforms: it has a shape, and is read where it is sliced."""

    path: Path
    name: str  # of the file in it, for complaints
    start: int  # of the first row, in bytes
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    checksums: tuple[int, ...]  # CRC-32 of each strip

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __getitem__(self, place: tuple[slice, slice]) -> NDArray[Any]:
        """The rows and columns, in memory of their own. Raises LateError."""
        rows, columns = place
        top, bottom, _ = rows.indices(self.shape[0])
        first, last = top // ROWS, -(-bottom // ROWS)
        begin = first * ROWS
        pixels = self._read(begin, min(last * ROWS, self.shape[0]))
        self._check(pixels, first)
        return pixels[top - begin : bottom - begin, columns]

    def _read(self, begin: int, end: int) -> NDArray[Any]:
        pixels = np.empty((max(0, end - begin), *self.shape[1:]), self.dtype)
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(self.start + begin * (pixels.nbytes // max(1, len(pixels))))
                size = file.readinto(pixels.reshape(-1).view(np.uint8).data)
        except OSError as error:
            raise LateError(f"cannot read {self.path}: {error.strerror}") from error
        if size != pixels.nbytes:
            raise LateError(f"{self.path}: {self.name} is cut off: {self.path.name} is shorter than its index says")
        return pixels

    def _check(self, pixels: NDArray[Any], first: int) -> None:
        """A strip that was right once is not checked again by this process: that would take as long as to read it."""
        for number, top in enumerate(range(0, len(pixels), ROWS), first):
            place = self.path, self.start, number
            if place in _RIGHT:
                continue
            if zlib.crc32(pixels[top : top + ROWS].data) != self.checksums[number]:
                raise LateError(f"{self.path}: {self.name} is damaged: the checksum of its pixels is wrong")
            if len(_RIGHT) < MOST:
                _RIGHT.add(place)


def whole(sample: Sample) -> Sample:
    """The sample with all of its pixels read."""
    maps: dict[str, Any] = {"image": sample.image, "semantic": sample.semantic, "instance": sample.instance}
    arrays = {
        field: pixels[:, :]
        for field, pixels in maps.items()
        if pixels is not None and not isinstance(pixels, np.ndarray)  # but what stands for one
    }
    return sample._replace(**arrays)


def checksums(pixels: NDArray[Any]) -> list[int]:
    """The CRC-32 of each strip."""
    return [zlib.crc32(np.ascontiguousarray(pixels[top : top + ROWS]).data) for top in range(0, len(pixels), ROWS)]


def strips_of(
    path: Path, name: str, member: Member, shape: tuple[int, ...], dtype: type[np.generic], sums: list[int]
) -> Strips:
    """The pixels of a NumPy file (.npy) of known shape. Raises DataError if its size is another."""
    kind = np.dtype(dtype).newbyteorder("<")
    size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    if not 0 < member.size - size <= 4096 or len(sums) != -(-shape[0] // ROWS):
        raise DataError(
            f"{path}: {name} has {member.size} bytes, which are not an array of {' x '.join(map(str, shape))}"
        )
    return Strips(path, name, member.start + member.size - size, shape, kind, tuple(sums))
