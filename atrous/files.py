"""Files that are either whole or not there: written aside, then renamed."""

import contextlib
import os
from pathlib import Path


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write `content` to `path`; a kill or a full disk leaves the old file, or none. Raises OSError with the path."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as file:
            file.write(content.encode(errors="backslashreplace") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        raise OSError(error.errno, f"cannot write {path}: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):  # it was renamed, or never came to be
            aside.unlink()


def require_folder(path: Path, what: str) -> Path:
    """`path`, if it is a folder; `what` names the setting that it came from."""
    if not path.exists():
        raise FileNotFoundError(f"{what}: no such folder: {path}")
    if not path.is_dir():
        raise NotADirectoryError(f"{what}: not a folder: {path}")
    return path


def prepare_output(path: Path) -> Path:
    """Make the folder `path` and make sure that it can be written to, before hours of work depend on it."""
    probe = path / f".probe.{os.getpid()}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(error.errno, f"cannot write into the output folder {path}: {error.strerror}") from error
    return path
