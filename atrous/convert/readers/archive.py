"""The model zoo's archives (`.tar.gz`, `.tgz`, `.tar`): taken apart with distrust, and searched for what to convert."""

import contextlib
import gzip
import io
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal, NamedTuple

from atrous.convert.readers.checkpoint import find_prefix
from atrous.convert.readers.contract import DamagedError, naming, quoted, require_file

KIND = "tar archive"
GZIP_MAGIC = b"\x1f\x8b"
GROWTH, SLACK, MAX_SIZE = 20, 2**24, 2**33  # weights hardly shrink, so a file that grows more is no model
MAX_MEMBERS = 10_000
MAX_NAME, MAX_PATH = 255, 1000  # bytes of each part and of the whole, as file systems have it
BLOCK = 512
PIECE = 2**18


class Source(NamedTuple):
    """What there is to convert; `path` is a prefix for a checkpoint, else a file."""

    kind: Literal["checkpoint", "frozen_graph", "tflite"]
    path: Path


def extract(archive: Path, folder: Path) -> None:
    """Write the archive's files below `folder`, which has to be new or empty.

    ValueError, and nothing of that member is written: a name that leads out of `folder`, a link, device or sparse file,
    a name that is there twice, more than 10,000 members, more than 8 GiB or 20 times the archive's size in all.
    """
    require_file(archive)
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"cannot extract {archive}: the folder is not empty: {folder}")
    with naming(archive, KIND), _tar_errors(), archive.open("rb") as file:
        limit = min(GROWTH * archive.stat().st_size + SLACK, MAX_SIZE)
        with tarfile.open(mode="r|", fileobj=_Bounded(_decompressed(file), limit), bufsize=PIECE) as tar:
            for member, path in _checked(tar, limit):
                _write(tar, member, folder / path)
            _require_end(tar)


def find_source(folder: Path) -> Source:
    """The checkpoint below `folder`; if there is none the frozen graph, then the TensorFlow Lite model."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    if folders := sorted({path.parent for path in files if path.suffix == ".index"}):
        return Source("checkpoint", find_prefix(_only(folders, folder)))
    if graphs := [path for path in files if path.suffix == ".pb"]:
        frozen = [path for path in graphs if path.name == "frozen_inference_graph.pb"]
        return Source("frozen_graph", _only(frozen or graphs, folder))
    if models := [path for path in files if path.suffix == ".tflite"]:
        return Source("tflite", _only(models, folder))
    raise FileNotFoundError(f"no checkpoint (.index), frozen graph (.pb) or .tflite below {folder}")


def _only(found: list[Path], folder: Path) -> Path:
    if len(found) > 1:
        names = ", ".join(quoted(str(path.relative_to(folder))) for path in found[:5])
        raise ValueError(f"several models below {folder}: name one of {names}")
    return found[0]


class _Bounded(io.RawIOBase):
    """A stream that is refused, not read, beyond `limit` bytes."""

    def __init__(self, stream: BinaryIO, limit: int) -> None:
        self.stream, self.left = stream, limit

    def read(self, size: int = -1) -> bytes:
        data = self.stream.read(PIECE if size < 0 else min(size, PIECE))  # no caller can make it allocate more
        self.left -= len(data)
        if self.left < 0:
            raise DamagedError("it grows far more than a model's files do, or beyond 8 GiB")
        return data


def _decompressed(file: BinaryIO) -> BinaryIO:
    is_gzip = file.read(2) == GZIP_MAGIC
    file.seek(0)
    return gzip.GzipFile(fileobj=file) if is_gzip else file  # type: ignore[return-value]


@contextlib.contextmanager
def _tar_errors() -> Iterator[None]:
    """All that the standard library raises for a damaged archive; ValueError and RecursionError come of its headers."""
    try:
        yield
    except DamagedError:
        raise
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError, RecursionError) as error:
        raise DamagedError(quoted(str(error))) from error


def _checked(tar: tarfile.TarFile, limit: int) -> Iterator[tuple[tarfile.TarInfo, PurePosixPath]]:
    """Each regular file with its path, once it is known to be harmless."""
    files: set[PurePosixPath] = set()
    folders = {PurePosixPath()}
    for count, member in enumerate(tar):
        path = _checked_path(member.name)
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
            raise DamagedError(f"{quoted(member.name)} is there twice, or both a file and a folder")
        files.add(path)
        folders.update(path.parents)
        yield member, path


def _checked_path(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    is_outside = path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name
    is_odd = not name.isprintable() or len(name.encode(errors="replace")) > MAX_PATH
    if is_outside or is_odd or any(len(part.encode()) > MAX_NAME for part in path.parts):
        raise DamagedError(f"{quoted(name)} is no name of a file inside of a folder")
    return path


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    content = tar.extractfile(member)
    assert content is not None, "a regular file has content"
    target.parent.mkdir(parents=True, exist_ok=True)
    with content, target.open("wb") as file:
        shutil.copyfileobj(content, file, PIECE)


def _require_end(tar: tarfile.TarFile) -> None:
    """Two blocks of zeros, of which tarfile has read the first; at a damaged header it stops as if it were the end."""
    assert tar.fileobj is not None
    size = 0
    while rest := tar.fileobj.read(PIECE):
        size += len(rest)
        if rest.strip(b"\0"):
            raise DamagedError("a header between its members is damaged")
    if size < BLOCK:
        raise DamagedError("its end is missing")
