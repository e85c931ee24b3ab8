"""Files that are either complete or absent: they are written under another name, then renamed."""

import contextlib
import hashlib
import os
import unicodedata
from pathlib import Path

LONG_NAME = 100  # bytes; a temporary name of more might not be allowed where the name itself is (255 bytes, or 143)


def write_atomically(path: Path, content: bytes | str) -> None:
    """After a kill, or on a full disk, `path` is still the old file, or absent. Raises OSError with the path."""
    temporary = _beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content.encode(errors="backslashreplace") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OSError(error.errno, f"cannot write {path}: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):  # it was renamed, or never created
            temporary.unlink()


def _beside(path: Path) -> Path:
    """Where the content of `path` is written first; for a long name, a short one that only this path has."""
    name = os.fsencode(path.name)
    stem = path.name if len(name) <= LONG_NAME else hashlib.sha256(name).hexdigest()[:16]
    return path.with_name(f".{stem}.{os.getpid()}")


def on_disk(path: Path) -> Path | None:
    """`path` as the disk spells it, or None if there is no such file.

    What people type has composed accents; names from a Mac's archive have decomposed ones, which look the same.
    """
    if os.path.lexists(path):
        return path
    folder = on_disk(path.parent) if path.parent != path else None
    if folder is None or not folder.is_dir():
        return None
    name = unicodedata.normalize("NFC", path.name)
    return next((other for other in folder.iterdir() if unicodedata.normalize("NFC", other.name) == name), None)


def require_folder(path: Path, what: str) -> Path:
    """Return `path` if it is a folder, or raise OSError; `what` names the setting that it comes from."""
    if not path.exists():
        raise FileNotFoundError(f"{what}: no such folder: {path}")
    if not path.is_dir():
        raise NotADirectoryError(f"{what}: not a folder: {path}")
    return path


def prepare_output(path: Path) -> Path:
    """Make the folder `path` if needed. Raises OSError if it is not writable, before hours of work depend on it."""
    probe = path / f".probe.{os.getpid()}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(error.errno, f"cannot write into the output folder {path}: {error.strerror}") from error
    return path
