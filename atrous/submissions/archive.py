"""Archives of a folder. Equal files make equal bytes: no times, no owners, and the order is that of the names."""

import gzip
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

EPOCH = (1980, 1, 1, 0, 0, 0)  # the first time that a zip can hold
PACKED = (".png",)  # files that don't become smaller


def archive(folder: Path, path: Path) -> None:
    """Write all files of `folder` to an archive, of the kind that its suffix says, and wait until the disk has it."""
    with path.open("wb") as target:
        ARCHIVES[path.suffix](folder, target)
        target.flush()
        os.fsync(target.fileno())


def _members(folder: Path) -> Iterator[tuple[str, Path]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    yield from sorted((path.relative_to(folder).as_posix(), path) for path in files)


def _zip(folder: Path, target: BinaryIO) -> None:
    with zipfile.ZipFile(target, "w") as archive:
        for name, path in _members(folder):
            member = zipfile.ZipInfo(name, EPOCH)
            member.external_attr = 0o644 << 16
            member.create_system = 3  # Unix, wherever it is written
            member.compress_type = zipfile.ZIP_STORED if name.endswith(PACKED) else zipfile.ZIP_DEFLATED
            archive.writestr(member, path.read_bytes())


def _tgz(folder: Path, target: BinaryIO) -> None:
    with (
        gzip.GzipFile("", "wb", fileobj=target, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name, path in _members(folder):
            member = tarfile.TarInfo(name)
            member.size = path.stat().st_size
            with path.open("rb") as file:
                archive.addfile(member, file)


ARCHIVES: dict[str, Callable[[Path, BinaryIO], None]] = {".zip": _zip, ".tgz": _tgz}
