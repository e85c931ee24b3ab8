"""Reads the weights in an HDF5 file of Keras: a program of its own, since HDF5's library may hang or crash on a damaged
file. It imports nothing of Atrous, so that it starts at once.

Keras 1 and 2 keep a group for each layer, with the names of its weights; Keras 3, and `.keras` archives of Keras 2,
number the weights within groups that are named after classes.
"""

import contextlib
import itertools
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

ROOTS = ("layers", "_layer_checkpoint_dependencies")  # of numbered weights; the second in Keras 2.12
MAX_TEXT = 2**24  # bytes of an attribute; the description of Xception takes some 10**6
MAX_LAYERS = 10_000
GROWTH, SLACK = 4, 2**20  # weights may be compressed, but hardly shrink
SECONDS, BYTES_A_SECOND = 10, 2**23  # of the processor
MEMORY = 2**32  # bytes of addresses, besides what the file needs


class RefusedError(ValueError):
    """What is wrong with the file, in one line."""


class Weight(NamedTuple):
    group: str
    layer: str | None  # None: only the order of the layers tells
    name: str  # or a number
    dataset: h5py.Dataset


def main(path: Path, out: Path) -> None:
    """Write the arrays to `out`, and print what they are, with the model's description if there is one."""
    size = path.stat().st_size
    _limit(size)
    with h5py.File(path, "r", locking=False) as file:
        weights = list(_weights(file))
        if not weights:
            raise RefusedError("it holds no weights by layer, so that it is no model of Keras")
        claimed = sum(map(_claim, weights))
        if claimed > GROWTH * size + SLACK:
            raise RefusedError(f"its weights claim {claimed} bytes, in a file of {size}")
        with out.open("wb") as target:
            np.savez(target, *(np.asarray(weight.dataset[()]) for weight in weights))
        print(json.dumps({"config": "".join(_texts(file, "model_config")), "weights": [one[:3] for one in weights]}))


def _limit(size: int) -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):  # not every system has them
        import resource

        seconds, memory = SECONDS + size // BYTES_A_SECOND, MEMORY + 2 * GROWTH * size
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))


def _claim(weight: Weight) -> int:
    """Bytes that reading takes. Raises RefusedError for what isn't plain numbers that lie in this file."""
    dataset, name = weight.dataset, weight.name
    if dataset.dtype.kind not in "fiu":
        raise RefusedError(f"{name!r} is {dataset.dtype}; only floats and integers are read")
    if dataset.shape is None or dataset.is_virtual or dataset.external:
        raise RefusedError(f"{name!r} is empty, or lies in another file, which is not read")
    return int(max(math.prod(dataset.shape), math.prod(dataset.chunks or ())) * dataset.dtype.itemsize)


# ---- layouts


def _weights(file: h5py.File) -> Iterator[Weight]:
    numbered = next((root for root in ROOTS if root in file), None)
    return _named(file) if numbered is None else _numbered(_group(file, [numbered]))


def _named(file: h5py.File) -> Iterator[Weight]:
    """Of Keras 1 and 2, which split long lists of names."""
    root = _group(file, ["model_weights"]) if "model_weights" in file else file
    for layer in _texts(root, "layer_names"):
        group = _group(root, layer.split("/"))
        for name in _texts(group, "weight_names"):
            yield Weight(layer, layer, name, _dataset(group, name.split("/")))


def _numbered(root: h5py.Group) -> Iterator[Weight]:
    """Of Keras 3; and of archives of Keras 2, whose layers have no names here."""
    if len(root) > MAX_LAYERS:
        raise RefusedError(f"more than {MAX_LAYERS} layers")
    for key in root:
        group = _group(root, [key])
        if any(inner in group for inner in ROOTS):
            raise RefusedError(f"{key!r} is a model within the model: save the inner one")
        variables = _group(group, ["vars"]) if "vars" in group else group
        layer = next(iter(_texts(variables, "name")), None)
        for number in variables:
            yield Weight(key, layer, number, _dataset(variables, [number]))


# ---- with distrust


def _at(group: h5py.Group, parts: list[str]) -> Any:  # noqa: ANN401 - a group or an array
    """What lies below a group. Raises RefusedError for a link, which may lead to any file of the machine."""
    below: Any = group
    for part in parts:
        link = below.get(part, getlink=True) if isinstance(below, h5py.Group) and part else None
        if link is None:
            raise RefusedError(f"{'/'.join(parts)!r} is missing")
        if not isinstance(link, h5py.HardLink):
            raise RefusedError(f"{'/'.join(parts)!r} is a link, which is not followed")
        below = below[part]
    return below


def _group(group: h5py.Group, parts: list[str]) -> h5py.Group:
    below = _at(group, parts)
    if not isinstance(below, h5py.Group):
        raise RefusedError(f"{'/'.join(parts)!r} is not a group of weights")
    return below


def _dataset(group: h5py.Group, parts: list[str]) -> h5py.Dataset:
    below = _at(group, parts)
    if not isinstance(below, h5py.Dataset):
        raise RefusedError(f"{'/'.join(parts)!r} is not an array")
    return below


def _texts(group: h5py.Group, name: str) -> list[str]:
    """An attribute of one or more texts; Keras splits one that is long: `layer_names0`, `layer_names1`, ..."""
    pieces = (f"{name}{number}" for number in itertools.count())
    present = [name] if name in group.attrs else itertools.takewhile(lambda piece: piece in group.attrs, pieces)
    return [text for piece in present for text in _attribute(group, piece)]


def _attribute(group: h5py.Group, name: str) -> list[str]:
    place = group.attrs.get_id(name)
    if place.shape == (0,):  # an empty list, which NumPy takes for floats
        return []
    if place.shape is None or place.dtype.kind not in "SO" or math.prod(place.shape) > MAX_LAYERS:
        raise RefusedError(f"its {name} are not texts")
    if place.dtype.itemsize * math.prod(place.shape) > MAX_TEXT:
        raise RefusedError(f"its {name} claim more than {MAX_TEXT} bytes")
    values = np.asarray(group.attrs[name], dtype=object).ravel()
    texts = [value.decode() if isinstance(value, bytes) else value for value in values]
    if not all(isinstance(text, str) for text in texts):
        raise RefusedError(f"its {name} are not texts")
    return texts


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except RefusedError as error:
        sys.exit(str(error))
    except Exception as error:  # HDF5's library raises anything for a damaged file
        sys.exit(f"truncated or damaged: {str(error) or type(error).__name__}".partition("\n")[0])
