"""Names of classes in a file of their own: one a line, given by the user or packed into a TensorFlow Lite model."""

import zipfile
import zlib
from pathlib import Path

from atrous.convert.options import validated
from atrous.data.label_space import LabelSpace
from atrous.errors import ConfigError

MAX_BYTES = 2**20  # of a file of names


def read_names(path: Path, num_classes: int) -> tuple[str, ...]:
    """Raises ConfigError for what isn't a text of that many names, FileNotFoundError where there is nothing."""
    if not path.exists():
        raise FileNotFoundError(f"--labels {path}: no such file")
    if not path.is_file() or path.stat().st_size > MAX_BYTES:
        raise ConfigError(f"--labels {path}: not a text file with the name of a class on each line")
    names = _names_in(path.read_bytes())
    if not names:
        raise ConfigError(f"--labels {path}: no text with the name of a class on each line")
    if "" in names:
        raise ConfigError(f"--labels {path}: line {names.index('') + 1} is empty, which names no class")
    if len(names) != num_classes:
        raise ConfigError(f"--labels {path}: {len(names)} names, but the model has {num_classes} classes")
    return validated(LabelSpace, {"names": names}, f"--labels {path}", ConfigError).names


def _names_in(data: bytes) -> tuple[str, ...]:
    """None in what isn't UTF-8; empty lines at the end are no names."""
    try:
        lines = [line.strip() for line in data.decode("utf-8-sig").rstrip().splitlines()]
    except UnicodeDecodeError:
        return ()
    return () if any("\0" in line for line in lines) else tuple(lines)


def packed_names(path: Path) -> dict[str, tuple[str, ...]]:
    """The text files in the zip archive that follows a model with metadata, by their names."""
    try:
        with zipfile.ZipFile(path) as archive:
            texts = [member for member in archive.infolist() if member.filename.lower().endswith(".txt")]
            small = [member for member in texts if member.file_size <= MAX_BYTES][:8]
            contents = {member.filename: _names_in(archive.read(member)) for member in small}
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError, ValueError):
        return {}
    return {name: names for name, names in contents.items() if names and "" not in names}
