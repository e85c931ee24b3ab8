"""Other programs' `.safetensors` files, such as timm's: weights by name."""

import os
from pathlib import Path

from safetensors import SafetensorError, safe_open

from atrous.convert.arrays import Array
from atrous.convert.readers.damage import DamagedError, quoted, reading, require_file
from atrous.convert.readers.pth import as_array, without_wrapper

KIND = "file of safetensors"
MAX_HEADER = 2**24  # bytes; those of networks have some 10**5
OURS = "atrous_format"  # in the metadata of our models


def read_safetensors(path: Path) -> dict[str, Array]:
    """The weights, without `module.` before their names; bfloat16 becomes float32.

    Raises FileNotFoundError, or ConversionError that says what is damaged, or that it is a model of Atrous already.
    """
    with reading(require_file(path), KIND):
        _require_header(path)
        try:
            with safe_open(path, framework="pt") as file:
                if OURS in (file.metadata() or {}):
                    raise DamagedError("it is a model of Atrous already")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise DamagedError(f"it is truncated or damaged: {quoted(str(error))}") from error
        if not tensors:
            raise DamagedError("it holds no weights")
        return {name: as_array(name, tensor) for name, tensor in without_wrapper(tensors).items()}


def is_foreign(path: Path) -> bool:
    """Whether the file is a whole one of another program."""
    try:
        _require_header(path)
        with safe_open(path, framework="pt") as file:
            return OURS not in (file.metadata() or {})
    except (OSError, SafetensorError, DamagedError):
        return False


def _require_header(path: Path) -> None:
    """The library itself would read 100 MB of header."""
    with path.open("rb") as file:
        start, size = file.read(9), os.fstat(file.fileno()).st_size
    length = int.from_bytes(start[:8], "little")
    if not 2 <= length <= min(size - 8, MAX_HEADER) or start[8:] != b"{":
        raise DamagedError("it is truncated, damaged or of another kind")
