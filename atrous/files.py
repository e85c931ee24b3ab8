"""Files that are either complete or absent: they are written under another name, then renamed."""

import contextlib
import os
from pathlib import Path


def user_path(path: str | Path) -> Path:
    """The path, with a leading `~` as the home folder: a shell does that only at the start of a word."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser raises for an unknown user


def write_atomically(path: Path, content: bytes | str) -> None:
    """After a kill, or on a full disk, `path` is still the old file, or absent. Raises OSError with the path."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
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
