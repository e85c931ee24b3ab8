"""From a path, an archive, the zoo's name or a mapping of arrays to a segmenter."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from atrous.config import nearest
from atrous.convert import zoo
from atrous.convert.contract import Array, Conversion, Source
from atrous.convert.readers.archive import Source as Found
from atrous.convert.readers.archive import extract, find_source
from atrous.convert.readers.checkpoint import read_checkpoint
from atrous.convert.readers.frozen_graph import read_graph
from atrous.convert.readers.tflite import read_tflite
from atrous.convert.systems import tf_deeplab
from atrous.segmenter import Segmenter


class System(NamedTuple):
    recognised: Callable[[Mapping[str, tuple[int, ...]]], bool]  # from names and shapes
    convert: Callable[[Source, Mapping[str, Any]], Conversion]


SYSTEMS = {"tf_deeplab": System(tf_deeplab.recognised, tf_deeplab.convert)}
ARCHIVES = (".tar.gz", ".tgz", ".tar")
ZOO = "zoo:"


def convert(
    source: str | Path | Mapping[str, Array], *, system: str | None = None, options: Mapping[str, Any] | None = None
) -> Segmenter:
    """The model in `source`: a checkpoint, frozen graph, .tflite, archive, `zoo:NAME`, or arrays by variable name.

    `system` is told from the names where it isn't given; `options` has what weights can't tell, in the flag names of
    that system. Raises FileNotFoundError, or ValueError in one line with what is missing or doesn't fit.
    """
    return conversion(source, system=system, options=options).segmenter


def conversion(
    source: str | Path | Mapping[str, Array],
    *,
    system: str | None = None,
    options: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> Conversion:
    """As `convert`, with what was not used, and what was taken for granted; `console` shows a download."""
    options = options or {}
    if isinstance(source, Mapping):
        return _converted(Source("the given variables", _arrays(source)), system, options)
    text = str(source)
    if text.startswith(ZOO):
        model = zoo.find(text.removeprefix(ZOO))
        archive = zoo.fetch(model.name, progress=console)
        return conversion(archive, system="tf_deeplab", options={**model.options, **options})
    if text.endswith(ARCHIVES) and Path(source).is_file():
        return _from_archive(Path(source), system, options)
    return _converted(read(Path(source)), system, options)


def read(path: Path) -> Source:
    """What a file, a checkpoint's prefix or a folder holds. Raises FileNotFoundError, or ValueError: what is wrong."""
    label = str(path)
    if path.is_file() and path.suffix == ".pb":
        return tf_deeplab.graphs.from_graph(read_graph(path), label)
    if path.is_file() and path.suffix == ".tflite":
        return tf_deeplab.graphs.from_tflite(read_tflite(path), label)
    if path.is_dir():
        return _read_found(find_source(path), label)
    if path.suffix == ".safetensors":
        raise ValueError(f"{path}: is a .safetensors file; atrous.load reads those that Atrous wrote")
    return Source(label, read_checkpoint(path))


def _read_found(found: Found, label: str) -> Source:
    return read(found.path)._replace(label=label)


def _from_archive(archive: Path, system: str | None, options: Mapping[str, Any]) -> Conversion:
    with tempfile.TemporaryDirectory() as folder:
        extract(archive, Path(folder))
        return _converted(_read_found(find_source(Path(folder)), str(archive)), system, options)


def _arrays(source: Mapping[str, Array]) -> dict[str, Array]:
    arrays = {name: np.asarray(array) for name, array in source.items()}
    for name, array in arrays.items():
        if array.dtype.kind not in "fiub":
            raise ValueError(f"the given variables: {name} is no array of numbers, but of {array.dtype}")
    return arrays


def _converted(source: Source, system: str | None, options: Mapping[str, Any]) -> Conversion:
    shapes = {name: array.shape for name, array in source.variables.items()}
    if system is None:
        system = next((name for name, row in SYSTEMS.items() if row.recognised(shapes)), None)
    if system is None:
        first = ", ".join(list(shapes)[:3]) or "none"
        raise ValueError(f"{source.label}: variables of no known system ({first} ...); known: {', '.join(SYSTEMS)}")
    if system not in SYSTEMS:
        raise ValueError(f"system={system}: unknown{nearest(system, SYSTEMS)}")
    return SYSTEMS[system].convert(source, options)
