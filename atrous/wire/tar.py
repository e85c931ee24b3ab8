"""Tar files that are read by the place of their members, never unpacked; and written so that equal files are equal."""

import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from atrous.errors import DamagedError

BLOCK = 512
MAX_NAME, MAX_PATH = 255, 1000  # bytes of a part and of a whole path: limits of file systems
PIECE = 2**20


class Member(NamedTuple):
    """Where a file's content lies in the tar."""

    start: int
    size: int


def members(path: Path) -> Iterator[tuple[str, Member]]:
    """The files in a tar, in its order. Only their heads are read.

    Raises DamagedError for a name that leads out of the folder, a link, a device, a sparse file, and a damaged tar.
    """
    with path.open("rb") as file:
        end = 0
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for info in tar:
                    _inside(info.name)
                    end = info.offset_data + -(-info.size // BLOCK) * BLOCK if info.isreg() else info.offset_data
                    if info.isdir():
                        continue
                    if not info.isreg() or info.issparse():
                        raise DamagedError(f"{quoted(info.name)} is a link, a device or a sparse file")
                    yield info.name, Member(info.offset_data, info.size)
        except (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError) as error:
            if isinstance(error, DamagedError):
                raise
            raise DamagedError(f"not a tar file, or cut off ({' '.join(str(error).split())})") from error
        _require_end(file, end)


def _require_end(file: BinaryIO, end: int) -> None:
    """Two blocks of zeros must follow the last member; tarfile stops without a word at a damaged head."""
    file.seek(end)
    size = 0
    while piece := file.read(PIECE):
        size += len(piece)
        if piece.strip(b"\0"):
            raise DamagedError(f"the head of a member, at byte {end}, is damaged")
    if size < 2 * BLOCK:
        raise DamagedError("its end is missing")


def checked_path(name: str) -> PurePosixPath:
    """The path of a file inside a folder, where a disk can hold it. Raises DamagedError for any other name."""
    path = _inside(name)
    if len(name.encode(errors="replace")) > MAX_PATH or any(len(part.encode()) > MAX_NAME for part in path.parts):
        raise _not_inside(name)
    return path


def _inside(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or not name.isprintable():
        raise _not_inside(name)
    return path


def _not_inside(name: str) -> DamagedError:
    return DamagedError(f"{quoted(name)} is not the name of a file inside a folder")


def quoted(name: str) -> str:
    """A name from a file, on one line and short."""
    return repr(name if len(name) <= 120 else f"{name[:120]}...")


def member_bytes(name: str, content: bytes) -> bytes:
    """A file as it lies in a tar: nothing of who wrote it, or when."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), 0o644
    return b"".join((info.tobuf(tarfile.PAX_FORMAT), content, bytes(-len(content) % BLOCK)))


END = bytes(2 * BLOCK)  # of a tar
