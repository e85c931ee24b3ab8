"""NumPy's archives (`.npz`): arrays by name, as `np.savez` and `np.savez_compressed` write them, and no objects."""

import contextlib
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from atrous.convert.arrays import Array
from atrous.convert.readers.damage import DamagedError, count_elements, quoted, reading, require_file

KIND = "NumPy archive"
SUFFIX = ".npy"  # of its members
GROWTH, SLACK = 20, 2**20  # weights hardly compress
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_npz(path: Path) -> dict[str, Array]:
    """Raises FileNotFoundError, or ConversionError that says what is damaged, or what is no array of numbers."""
    size = require_file(path).stat().st_size
    with reading(path, KIND), _library_errors(), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        claimed = sum(member.file_size for member in members)
        if claimed > GROWTH * size + SLACK:
            raise DamagedError(f"its arrays claim {claimed} bytes, in a file of {size}")
        names = [member.filename.removesuffix(SUFFIX) for member in members]
        if len(set(names)) < len(names):
            raise DamagedError("an array occurs twice")
        return {name: _read(archive, member) for name, member in zip(names, members, strict=True)}


@contextlib.contextmanager
def _library_errors() -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError, RuntimeError) as error:
        raise DamagedError(f"not a file of np.savez, or damaged: {quoted(str(error))}") from error


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array:
    with archive.open(member) as stream:
        shape, is_fortran, dtype = _header(stream, member.filename)
        if dtype.hasobject or dtype.kind not in "fiub":
            raise DamagedError(f"{quoted(member.filename)} holds {dtype}; only numbers are read")
        content = stream.read()
    if len(content) != count_elements(shape) * dtype.itemsize:
        raise DamagedError(f"{quoted(member.filename)} has {len(content)} bytes, not those of the shape {shape}")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if is_fortran else "C")


def _header(stream: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, "np.dtype[np.generic]"]:
    version = np.lib.format.read_magic(stream)
    if version not in HEADERS:
        raise DamagedError(f"{quoted(name)} is of version {'.'.join(map(str, version))} of the format")
    return HEADERS[version](stream)
