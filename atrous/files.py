"""Files that are either complete or absent: they are written under another name, then renamed."""

import contextlib
import errno
import hashlib
import itertools
import os
import platform
import re
import secrets
import shutil
import stat
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from atrous.errors import ConfigError

LONG_NAME = 100  # bytes; a temporary name of more might not be allowed where the name itself is (255 bytes, or 143)
TEMPORARY = re.compile(r"\..+\.([0-9a-f]{6})-(\d+)-([0-9a-f]{6})-\d+")  # machine, process, its start: see `beside`
STARTED = secrets.token_hex(3)  # a container that is started again has its numbers of processes again
NUMBERS = itertools.count()
ABANDONED = 3600  # seconds since a process of another machine has written, which can't be asked
KINDS = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
SYSTEM_FOLDERS = {"__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found"}


def user_path(path: "str | os.PathLike[str]") -> Path:
    """The path, with a leading `~` as the home folder: a shell does that only at the start of a word."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser raises for an unknown user


def cache_folder() -> Path:
    """ATROUS_CACHE, else `atrous` in the user's cache folder."""
    folder = os.environ.get("ATROUS_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "atrous")
    try:
        return user_path(folder)
    except RuntimeError as error:
        raise ConfigError(f"{folder}: there is no home folder; set ATROUS_CACHE to a folder") from error


def write_atomically(path: Path, content: bytes | str) -> None:
    """After a kill, or on a full disk, `path` is still the old file, or absent. Raises OSError with the path."""
    with written_aside(path) as temporary:
        temporary.write_bytes(content.encode(errors="backslashreplace") if isinstance(content, str) else content)


@contextlib.contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """The place to write a large file in parts, which becomes `path` at the end, or vanishes with an error.

    Raises OSError with the path, for an OSError on the way too.
    """
    temporary = beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:  # Windows syncs only what may be written
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OSError(error.errno, f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):  # it was renamed, or never created
            temporary.unlink()


def append_line(path: Path, line: str) -> None:
    """Add a line to a file. One that a kill has cut off stays one of its own. Raises OSError."""
    with path.open("ab+") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 1, 0))
        is_cut = file.read(1) not in (b"", b"\n")
        file.write((b"\n" if is_cut else b"") + line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def remove_leftovers(folder: Path) -> None:
    """Delete what processes that were killed have half written, but nothing that a process may still write."""
    with contextlib.suppress(OSError):
        for path in [path for path in folder.iterdir() if _is_leftover(path)]:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _is_leftover(path: Path) -> bool:
    match = TEMPORARY.fullmatch(path.name)
    if match is None:
        return False
    machine, process, started = match[1], int(match[2]), match[3]
    if machine != _machine() or os.name != "posix":
        return time.time() - path.stat().st_mtime > ABANDONED
    return started != STARTED if process == os.getpid() else not _is_running(process)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # another user's; a number that no process has
        pass
    return True


def _machine() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:6]


def keep(path: Path, copy: Path) -> None:
    """Let `copy` be what `path` is, if it is there, before that is replaced. It takes no time where there are links."""
    if not path.exists():
        return
    temporary = beside(copy)
    try:
        os.link(path, temporary)
        temporary.replace(copy)
    except OSError:  # a file system without hard links
        write_atomically(copy, path.read_bytes())
    finally:
        temporary.unlink(missing_ok=True)  # where both were one file, nothing was renamed


def sync_folder(folder: Path) -> None:
    """Let what was renamed in the folder outlive a power cut, where the system can do that."""
    with contextlib.suppress(OSError):
        file = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)


def composed(name: str) -> str:
    """The name with an é of one character, not of two: systems write either, and people see no difference (NFC)."""
    return unicodedata.normalize("NFC", name)


def is_not_data(name: str) -> bool:
    """Whether a file or folder is hidden, or is one that systems make beside the data."""
    return name.startswith(".") or name.lower() in SYSTEM_FOLDERS


def require_regular(path: Path) -> None:
    """Refuse what isn't a file, after links: to open a pipe would wait for its other end. Raises OSError."""
    kind = stat.S_IFMT(path.stat().st_mode)
    if kind == stat.S_IFDIR:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if kind != stat.S_IFREG:
        raise OSError(errno.EINVAL, f"it is {KINDS.get(kind, 'no regular file')}, not a file", str(path))


def subfolders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not is_not_data(entry.name) and entry.is_dir())


def beside(path: Path) -> Path:
    """Where the content of `path` is written first, by this call alone: not by another thread, process or machine.

    For a long name, a short one that only this path has.
    """
    name = os.fsencode(path.name)
    stem = path.name if len(name) <= LONG_NAME else hashlib.sha256(name).hexdigest()[:16]
    return path.with_name(f".{stem}.{_machine()}-{os.getpid()}-{STARTED}-{next(NUMBERS)}")


def on_disk(path: Path) -> Path | None:
    """`path` as the disk spells it, or None if there is no such file.

    What people type has composed accents; names from a Mac's archive have decomposed ones, which look the same.
    """
    if os.path.lexists(path):
        return path
    folder = on_disk(path.parent) if path.parent != path else None
    if folder is None or not folder.is_dir():
        return None
    return next((other for other in folder.iterdir() if composed(other.name) == composed(path.name)), None)


def require_folder(path: Path, what: str) -> Path:
    """Return `path` as the disk spells it, if it is a folder, or raise OSError; `what` names its setting."""
    path = on_disk(path) or path
    if not path.exists():
        raise FileNotFoundError(f"{what}: no such folder: {path}")
    if not path.is_dir():
        raise NotADirectoryError(f"{what}: not a folder: {path}")
    return path


def prepare_output(path: Path) -> Path:
    """Make the folder `path` if needed. Raises OSError if it is not writable, before hours of work depend on it."""
    probe = beside(path / "probe")
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(error.errno, f"cannot write into the output folder {path}: {error.strerror}") from error
    return path


def prepare_file(path: Path) -> None:
    """Make the folder of a file if needed. Raises OSError if the file can't be written there."""
    if path.is_dir():
        raise IsADirectoryError(f"cannot write {path}: it is a folder")
    prepare_output(path.parent)
