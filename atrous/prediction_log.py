"""Which images a folder of predictions holds the results of, so that a prediction goes on where the last one stopped.

Each process that writes results has a file of its own, to which it adds a line when the files of an image are there.
"""

import errno
import hashlib
import json
import os
import platform
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from atrous.data.finding import NamedImage
from atrous.files import write_atomically

LOCK = threading.Lock()  # several threads of a process write images
FOLDER, SUFFIX, CURRENT = ".atrous", ".jsonl", "current"


class Row(NamedTuple):
    """An image whose files are written."""

    name: str
    image: list[int]  # what tells it from another of the same name: its size in bytes, its time
    files: list[str]  # within the output folder

    def folders(self) -> set[str]:
        return {Path(file).parts[0] for file in self.files}


class Log(NamedTuple):
    out: Path
    maker: str  # a checksum of all that decides what is written

    @property
    def folder(self) -> Path:
        return self.out / FOLDER

    @property
    def own(self) -> Path:
        """The file of this process."""
        return self.folder / f"{self.maker}.{platform.node()}.{os.getpid()}{SUFFIX}"

    def files(self) -> list[Path]:
        return sorted(self.folder.glob(f"{self.maker}.*{SUFFIX}"))


def maker_of(**facts: Any) -> str:  # noqa: ANN401 - anything in JSON
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def begin(log: Log) -> None:
    """Forget what other models, or other settings, have written: it is about to be replaced."""
    write_atomically(log.folder / CURRENT, log.maker)
    for path in set(log.folder.glob(f"*{SUFFIX}")) - set(log.files()):
        path.unlink(missing_ok=True)


def require_current(log: Log) -> None:
    """Raises OSError if another model, or the same with other settings, has begun to predict into the folder."""
    try:
        maker = (log.folder / CURRENT).read_text(encoding="utf-8")
    except FileNotFoundError:  # somebody wants all images predicted again
        return
    if maker != log.maker:
        reason = "another model, or the same with other settings, has begun to predict into this folder"
        raise OSError(errno.EBUSY, f"{log.out}: {reason}; name another one")


def add(log: Log, image: NamedImage, files: Iterable[Path]) -> None:
    """Note that the files of an image are there. Raises OSError with the path, and as `require_current` does."""
    require_current(log)
    row = Row(str(image.name), identity(image), [file.relative_to(log.out).as_posix() for file in files])
    try:
        with LOCK, log.own.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row._asdict()) + "\n")
    except OSError as error:
        raise OSError(error.errno, f"cannot write {log.own}: {error.strerror}") from error


def identity(image: NamedImage) -> list[int]:
    """[] for an image that can't be looked at: whoever reads it says why."""
    try:
        facts = (image.path if image.entry is None else image.entry.shard).stat()
    except OSError:
        return []
    start = [] if image.entry is None else [min(member.start for member in image.entry.files.values())]
    return [facts.st_size, facts.st_mtime_ns, *start]


class Reader:
    """The rows of all processes so far. It reads each line once, and leaves out what a kill cut off."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.rows: dict[str, Row] = {}
        self._places: dict[Path, int] = {}

    def update(self) -> None:
        for path in self.log.files():
            with path.open("rb") as file:
                file.seek(self._places.get(path, 0))
                text = file.read()
            whole = text[: text.rfind(b"\n") + 1]
            self._places[path] = self._places.get(path, 0) + len(whole)
            self.rows |= {row.name: row for line in whole.splitlines() if (row := _row(line)) is not None}

    def files_of(self, image: NamedImage, folders: Iterable[str]) -> list[Path]:
        """The files in these folders, and others, if the image has not changed and they are all there; else []."""
        row = self.rows.get(str(image.name))
        if row is None or row.image != identity(image) or not row.folders() >= set(folders):
            return []
        files = [self.log.out / file for file in row.files]
        return files if all(file.is_file() for file in files) else []


def _row(line: bytes) -> Row | None:
    """None for damaged text."""
    try:
        row = Row(**json.loads(line))
        is_whole = isinstance(row.name, str) and isinstance(row.image, list) and set(map(type, row.files)) <= {str}
    except (ValueError, TypeError, RecursionError):
        return None
    return row if is_whole else None
