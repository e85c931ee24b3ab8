"""What kind a file is of: its content tells, for people rename files."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

Kind: TypeAlias = Literal[
    "tflite", "graph", "pytorch", "safetensors", "archive", "index", "keras", "numpy", "onnx", "coreml"
]

ZIP_MAGIC, HDF5_MAGIC = b"PK\x03\x04", b"\x89HDF\r\n\x1a\n"
ZIP_NAME_AT, ZIP_SIZE_AT = 30, 26  # of the name of an archive's first member
NUMPY_MEMBER = b".npy"
KERAS_MEMBERS = (b"metadata.json", b"config.json", b"model.weights.h5")
HEAD, TAIL = 512, 8  # bytes that are looked at
TABLE = bytes.fromhex("57fb808b247547db")  # ends the index of a checkpoint
TAR, TAR_AT = b"ustar", 257
NODE = re.compile(rb"\x0a([\x80-\xff]{0,4}[\x01-\x7f])\x0a[\x01-\x7f][A-Za-z0-9.]")  # a graph's first, which has a name
SAVED_MODEL = re.compile(rb"\x08\x01\x12[\x80-\xff]{0,4}[\x01-\x7f]")
NAMED = rb"\x0a[\x80-\xff]{0,2}[\x01-\x7f]\x0a[\x01-\x7f][A-Za-z_]"  # a message that begins with a name
CORE_ML = re.compile(rb"\x08[\x02-\x20]\x12[\x80-\xff]{0,4}[\x01-\x7f]" + NAMED)  # its version, and its first input
ONNX = re.compile(rb"\x08[\x03-\x20][\x12\x1a\x22\x3a\x42]")  # its version, which is 3 or more, and another field


DOWNLOADED = {  # beginnings of files that stand where people expect a model
    b"<!doctype html": "it is a page of HTML: the page about the file was saved, not the file",
    b"<html": "it is a page of HTML: the page about the file was saved, not the file",
    b"version https://git-lfs": "it is a pointer of Git LFS: `git lfs pull` brings the file itself",
}


class Ends(NamedTuple):
    head: bytes
    tail: bytes
    size: int


def kind_of(path: Path) -> Kind | None:
    """None: no kind that content shows for certain; the name must."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        head = file.read(HEAD)
        file.seek(max(size - TAIL, 0))
        ends = Ends(head, file.read(TAIL), size)
    return next((kind for kind, is_it in KINDS.items() if is_it(ends)), None)


def no_model(path: Path) -> str | None:
    """What a file is that a download left in place of a model; None: it may be one."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    if len(head) == HEAD and not head.strip(b"\0"):
        return "it begins with zeros, as no kind of model does"
    start = head.lstrip().lower()
    return next((what for beginning, what in DOWNLOADED.items() if start.startswith(beginning)), None)


def _is_pytorch(ends: Ends) -> bool:
    """A zip archive, or a pickle of the older format."""
    return ends.head.startswith(ZIP_MAGIC) or (ends.head[:1] == b"\x80" and ends.head[1:2] in (b"\x02", b"\x03"))


def _is_keras(ends: Ends) -> bool:
    """An HDF5 file, or an archive with one."""
    is_archive = ends.head.startswith(ZIP_MAGIC) and ends.head[ZIP_NAME_AT:].startswith(KERAS_MEMBERS)
    return ends.head.startswith(HDF5_MAGIC) or is_archive


def _is_numpy(ends: Ends) -> bool:
    """An archive of arrays."""
    size = int.from_bytes(ends.head[ZIP_SIZE_AT : ZIP_SIZE_AT + 2], "little")
    name = ends.head[ZIP_NAME_AT : ZIP_NAME_AT + size]
    return ends.head.startswith(ZIP_MAGIC) and name.endswith(NUMPY_MEMBER)


def _is_safetensors(ends: Ends) -> bool:
    length = int.from_bytes(ends.head[:8], "little")
    return ends.head[8:9] == b"{" and 2 <= length <= ends.size - 8


def _is_archive(ends: Ends) -> bool:
    return ends.head.startswith(b"\x1f\x8b") or ends.head[TAR_AT:].startswith(TAR)


KINDS: dict[Kind, Callable[[Ends], bool]] = {
    "tflite": lambda ends: ends.head[4:8] == b"TFL3",
    "keras": _is_keras,
    "numpy": _is_numpy,
    "pytorch": _is_pytorch,
    "safetensors": _is_safetensors,
    "archive": _is_archive,
    "index": lambda ends: ends.tail == TABLE,
    "coreml": lambda ends: bool(CORE_ML.match(ends.head)),
    "onnx": lambda ends: bool(ONNX.match(ends.head)),
    "graph": lambda ends: bool(NODE.match(ends.head) or SAVED_MODEL.match(ends.head)),
}
