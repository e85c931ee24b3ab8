"""A .tflite file that Atrous has written, opened as a network."""

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from atrous.errors import ConfigError, DamagedModelError, ModelFileError
from atrous.models import ModelConfig
from atrous.runtimes.contract import Signature, failure, first_line, opened, require_images
from atrous.runtimes.litert.flatbuffer import (
    CHECKSUM,
    DESCRIPTION,
    HEADER,
    IDENTIFIER,
    VERSION,
    Contents,
    contents_of,
    is_intact,
    narrowed,
)
from atrous.runtimes.litert.graph import NHWC
from atrous.types import Network

Session: TypeAlias = Callable[[NDArray[Any]], list[NDArray[Any]]]

MAX_BYTES = 2**31 - 1  # that a flatbuffer addresses
LABEL_AXES = 3  # of labels [B, H, W], which have no channels
STDERR = 2
PACKAGE = "ai_edge_litert"
MAX_REASON = 200  # letters
MAX_SECONDS = 300  # of a trial
DAMAGED = "not a complete TensorFlow Lite file (truncated, damaged or of another kind)"
TRIAL = """
import sys
from ai_edge_litert.interpreter import Interpreter
interpreter = Interpreter(sys.argv[1], num_threads=1)
interpreter.allocate_tensors()
interpreter.invoke()
"""


def recognises(start: bytes) -> bool:
    return start[4:8] == IDENTIFIER


def read_metadata(path: Path) -> Mapping[str, str]:
    """Raises ModelFileError for a file that is damaged, or of another program."""
    contents = _contents(path, _read(path))
    require_images(path, contents.inputs)
    return _header(path, contents)


def _read(path: Path) -> bytes:
    if path.stat().st_size > MAX_BYTES:
        raise ModelFileError(f"{path}: not a TensorFlow Lite file that can be read: more than 2 GiB")
    content = path.read_bytes()
    if not recognises(content[:8]):
        raise DamagedModelError(f"{path}: {DAMAGED}")
    return content


def _contents(path: Path, content: bytes) -> Contents:
    """What the file says of itself, compared with its checksum if it has metadata of ours."""
    is_ours = DESCRIPTION.encode() in content
    if is_ours and importlib.util.find_spec(PACKAGE) is None:
        raise ConfigError(f"{path} needs {PACKAGE}: pip install 'atrous[litert]'")
    try:
        contents = contents_of(content)
    except ImportError as error:
        raise ModelFileError(f"{path}: not exported by Atrous") from error
    except Exception as error:  # of the library, which follows offsets without a look at them
        raise DamagedModelError(f"{path}: {DAMAGED}") from error
    if contents.version != VERSION:
        raise ModelFileError(f"{path}: its format has version {contents.version}; version {VERSION} is read")
    if {CHECKSUM, HEADER} & contents.metadata.keys() and not is_intact(content, contents):
        raise DamagedModelError(f"{path}: it does not match its checksum: the file is damaged")
    return contents


def _header(path: Path, contents: Contents) -> Mapping[str, str]:
    if HEADER not in contents.metadata:
        return {}
    try:
        tree = json.loads(contents.metadata[HEADER])
    except ValueError as error:
        raise DamagedModelError(f"{path}: its metadata is damaged: {error}") from error
    if not isinstance(tree, dict) or not all(isinstance(text, str) for text in tree.values()):
        raise DamagedModelError(f"{path}: its metadata is damaged: not texts by name")
    return tree


def open_file(path: Path, config: ModelConfig | None, num_classes: int, device: torch.device) -> Network:
    content = _read(path)
    contents = _contents(path, content)
    size = require_images(path, contents.inputs)
    channels = {name: shape[-1] if len(shape) != LABEL_AXES else None for name, _, shape in contents.outputs}
    session = cache(partial(_session, path, content))

    def run(images: NDArray[Any], names: Sequence[str]) -> list[NDArray[Any]]:
        return session(str(images.dtype), tuple(names))(images)

    network = opened(path, _header(path, contents), Signature(size, channels), run)
    if CHECKSUM not in contents.metadata:
        _try_out(path)
    return network


def _session(path: Path, content: bytes, dtype: str, names: Sequence[str]) -> Session:
    """The graph that leads to these outputs. Bytes become floats in it anyway, so that it takes floats as well."""
    from ai_edge_litert.interpreter import Interpreter

    try:
        with _quiet():
            interpreter = Interpreter(
                model_content=narrowed(content, names, dtype), num_threads=torch.get_num_threads()
            )
            interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise ModelFileError(f"{path}: LiteRT can't read its graph: {first_line(error)}") from error
    places = {row["name"]: row["index"] for row in interpreter.get_output_details()}
    return partial(_run, interpreter, threading.Lock(), [places[name] for name in names])


def _run(interpreter: Any, lock: threading.Lock, places: Sequence[int], images: NDArray[Any]) -> list[NDArray[Any]]:  # noqa: ANN401
    """One image after the other: the graph takes one."""
    (entry,) = interpreter.get_input_details()
    results = []
    with lock:
        for image in images:
            interpreter.set_tensor(entry["index"], image[None])
            try:
                interpreter.invoke()
            except RuntimeError as error:
                raise failure(error) from error
            results.append([interpreter.get_tensor(place) for place in places])
    return [_as_in_torch(np.concatenate(maps)) for maps in zip(*results, strict=True)]


def _as_in_torch(maps: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(maps.transpose(0, 3, 1, 2)) if maps.ndim == len(NHWC) else maps


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """LiteRT says what it computes with on the process's own standard error; what goes wrong it raises."""
    sys.stderr.flush()
    with Path(os.devnull).open("wb") as null:
        saved = os.dup(STDERR)
        try:
            os.dup2(null.fileno(), STDERR)
            yield
        finally:
            os.dup2(saved, STDERR)
            os.close(saved)


def _try_out(path: Path) -> None:
    """LiteRT may end the process that runs a damaged file, and a file without our checksum may be one."""
    command = [sys.executable, "-c", TRIAL, str(path.absolute())]
    try:
        trial = subprocess.run(command, capture_output=True, text=True, timeout=MAX_SECONDS, errors="replace")
    except subprocess.TimeoutExpired as error:
        raise ModelFileError(f"{path}: LiteRT does not finish one image in {MAX_SECONDS} seconds") from error
    if trial.returncode:
        reason = trial.stderr.strip().rpartition("\n")[2][:MAX_REASON] if trial.returncode > 0 else "it crashes"
        raise ModelFileError(f"{path}: LiteRT can't run its graph: {reason}")
