"""The model zoo's archives (`.tar.gz`, `.tgz`, `.tar`): extracted with distrust, and searched for a model."""

import contextlib
import gzip
import io
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from atrous.convert.readers.checkpoint import find_prefix
from atrous.convert.readers.damage import DamagedError, quoted, reading, require_file
from atrous.errors import ConversionError
from atrous.wire.tar import BLOCK, checked_path

KIND = "tar archive"
GZIP_MAGIC = b"\x1f\x8b"
GROWTH, SLACK, MAX_SIZE = 20, 2**24, 2**33  # weights hardly compress: an archive that grows more holds no model
MAX_MEMBERS = 10_000
PIECE = 2**18


def extract(archive: Path, folder: Path) -> None:
    """Write the archive's files below `folder`, which must be new or empty.

    Raises ConversionError, and writes nothing of that member, for a name that leads out of `folder`, a link, a device,
    a sparse file, a repeated name, more than 10,000 members, and more than 8 GiB or 20 times the archive's size.
    """
    require_file(archive)
    if folder.exists() and any(folder.iterdir()):
        raise ConversionError(f"cannot extract {archive}: the folder is not empty: {folder}")
    with reading(archive, KIND), archive.open("rb") as file:
        limit = min(GROWTH * archive.stat().st_size + SLACK, MAX_SIZE)
        stream = _Bounded(_decompressed(file), limit)
        with _library_errors():
            tar = tarfile.open(mode="r|", fileobj=stream, bufsize=PIECE)  # noqa: SIM115 - closed below
        with contextlib.closing(tar):
            for member, path in _checked(_members(tar), limit):
                _write(tar, member, folder / path)
            _require_end(tar)


def find_model(folder: Path) -> Path:
    """What to convert below `folder`: the prefix of its checkpoint, else its frozen graph, else its .tflite."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    if folders := sorted({path.parent for path in files if path.suffix == ".index"}):
        return find_prefix(_only(folders, folder))
    if graphs := [path for path in files if path.suffix == ".pb"]:
        frozen = [path for path in graphs if path.name == "frozen_inference_graph.pb"]
        return _only(frozen or graphs, folder)
    if models := [path for path in files if path.suffix == ".tflite"]:
        return _only(models, folder)
    raise FileNotFoundError(f"no checkpoint (.index), frozen graph (.pb) or .tflite below {folder}")


def _only(paths: list[Path], folder: Path) -> Path:
    if len(paths) > 1:
        names = ", ".join(quoted(str(path.relative_to(folder))) for path in paths[:5])
        raise ConversionError(f"several models below {folder}: name one of {names}")
    return paths[0]


class _Bounded(io.RawIOBase):
    """A stream that raises DamagedError when more than `limit` bytes have been read."""

    def __init__(self, stream: BinaryIO, limit: int) -> None:
        self.stream, self.left = stream, limit

    def read(self, size: int = -1) -> bytes:
        data = self.stream.read(PIECE if size < 0 else min(size, PIECE))  # whatever size a caller asks for
        self.left -= len(data)
        if self.left < 0:
            raise DamagedError("it grows far more than a model's files do, or beyond 8 GiB")
        return data


def _decompressed(file: BinaryIO) -> BinaryIO:
    is_gzip = file.read(2) == GZIP_MAGIC
    file.seek(0)
    return gzip.GzipFile(fileobj=file) if is_gzip else file  # type: ignore[return-value]


@contextlib.contextmanager
def _library_errors() -> Iterator[None]:
    """For calls of the standard library alone, which raises all of these for damaged archives."""
    try:
        yield
    except DamagedError:  # of _Bounded
        raise
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError, RecursionError) as error:
        raise DamagedError(quoted(str(error))) from error


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while True:
        with _library_errors():
            member = tar.next()
        if member is None:
            return
        yield member


def _checked(members: Iterator[tarfile.TarInfo], limit: int) -> Iterator[tuple[tarfile.TarInfo, PurePosixPath]]:
    """Each regular file with its path, once it is known to be harmless."""
    files: set[PurePosixPath] = set()
    folders = {PurePosixPath()}
    for count, member in enumerate(members):
        path = checked_path(member.name)
        if count >= MAX_MEMBERS:
            raise DamagedError(f"it has more than {MAX_MEMBERS} members")
        if member.isdir():
            continue
        if not member.isreg() or member.issparse():
            raise DamagedError(f"{quoted(member.name)} is a link, a device or a sparse file")
        limit -= max(member.size, 0)
        if limit < 0:
            raise DamagedError(f"{quoted(member.name)} claims {member.size} bytes, more than a model's files have")
        if path in files or path in folders or files.intersection(path.parents):
            raise DamagedError(f"{quoted(member.name)} occurs twice, or is both a file and a folder")
        files.add(path)
        folders.update(path.parents)
        yield member, path


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    with _library_errors():
        content = tar.extractfile(member)
    assert content is not None, "a regular file has content"
    target.parent.mkdir(parents=True, exist_ok=True)
    with content, target.open("wb") as file, _library_errors():
        shutil.copyfileobj(content, file, PIECE)


def _require_end(tar: tarfile.TarFile) -> None:
    """Two blocks of zeros must follow; tarfile has read the first, or takes a damaged header for it."""
    assert tar.fileobj is not None
    size = 0
    with _library_errors():
        while rest := tar.fileobj.read(PIECE):
            size += len(rest)
            if rest.strip(b"\0"):
                raise DamagedError("a header between its members is damaged")
    if size < BLOCK:
        raise DamagedError("its end is missing")
