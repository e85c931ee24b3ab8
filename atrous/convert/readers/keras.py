"""Keras' files (`.h5`, `.weights.h5`, `.keras`): weights by layer, what the file says of the layers, and no code."""

import json
import re
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from atrous.convert.arrays import Array
from atrous.convert.readers.damage import DamagedError, quoted, reading, require_file
from atrous.errors import ConfigError
from atrous.trees import TreeError, parse_json

KIND = "model of Keras"
PROGRAM = Path(__file__).with_name("hdf5.py")
CONFIG, WEIGHTS = "config.json", "model.weights.h5"  # members of a `.keras` archive
MAX_CONFIG = 2**24  # bytes
GROWTH, SLACK = 4, 2**20  # weights hardly shrink
MAX_SECONDS = 600  # the program has a limit of its own for the processor's
NUMBERED = {  # the weights of a layer in the order of Keras 3, by its class
    "conv2d": ("kernel", "bias"),
    "depthwise_conv2d": ("depthwise_kernel", "bias"),
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
}


class Layer(NamedTuple):
    """What a file says of a layer: its class, and its arguments."""

    kind: str
    settings: Mapping[str, Any]


class KerasFile(NamedTuple):
    arrays: Mapping[str, Array]  # by layer and weight, such as `Conv/kernel`
    layers: Mapping[str, Layer]  # by name, in their order; {} in a file of weights alone


def read_keras(path: Path) -> KerasFile:
    """The weights of a file, whichever of Keras' layouts it has.

    Raises FileNotFoundError, ConfigError where h5py isn't installed, or ConversionError that says what is damaged or
    refused: links to other files, what isn't numbers, sizes that the file can't hold, models within models.
    """
    require_file(path)
    if find_spec("h5py") is None:
        raise ConfigError(f"{path} needs h5py: pip install 'atrous[keras]'")
    with reading(path, KIND), tempfile.TemporaryDirectory() as folder:
        if not zipfile.is_zipfile(path):
            return _read(path, None, Path(folder))
        layers = _layers(_extract(path, Path(folder) / WEIGHTS))
        return _read(Path(folder) / WEIGHTS, layers, Path(folder))


def _extract(path: Path, weights: Path) -> str:
    """The description of the model in an archive, whose weights are written to a file."""
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {member.filename: member.file_size for member in archive.infolist()}
            if CONFIG not in sizes or WEIGHTS not in sizes:
                raise DamagedError(f"an archive without {CONFIG} and {WEIGHTS}")
            if sizes[CONFIG] > MAX_CONFIG or sizes[WEIGHTS] > GROWTH * path.stat().st_size + SLACK:
                raise DamagedError(f"its members claim {sizes[CONFIG]} and {sizes[WEIGHTS]} bytes")
            weights.write_bytes(archive.read(WEIGHTS))
            return archive.read(CONFIG).decode()
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError) as error:
        raise DamagedError(f"truncated or damaged: {quoted(str(error))}") from error


def _read(path: Path, layers: Mapping[str, Layer] | None, folder: Path) -> KerasFile:
    out = folder / "weights.npz"
    contents = _contents(path, out)
    layers = _layers(contents["config"]) if layers is None else layers
    names = list(_names(contents["weights"], layers))
    with np.load(out) as arrays:
        return KerasFile({name: arrays[f"arr_{place}"] for place, name in enumerate(names)}, layers)


def _contents(path: Path, out: Path) -> dict[str, Any]:
    """What the program says that it has read."""
    command = [sys.executable, "-P", str(PROGRAM), str(path.absolute()), str(out)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=MAX_SECONDS, errors="replace")
    except subprocess.TimeoutExpired as error:
        raise DamagedError(f"HDF5 does not finish reading it in {MAX_SECONDS} seconds") from error
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        raise DamagedError(last.strip() if done.returncode > 0 else "damaged: HDF5's library fails on it")
    contents: dict[str, Any] = json.loads(done.stdout)
    return contents


# ---- names


def _layers(config: str) -> dict[str, Layer]:
    """Those of the model; {} without a description."""
    try:
        rows = parse_json(config)["config"]["layers"] if config else []
        return {str(row["config"]["name"]): Layer(str(row["class_name"]), dict(row["config"])) for row in rows}
    except (TreeError, LookupError, TypeError, ValueError) as error:
        raise DamagedError(f"its configuration is not that of a model: {quoted(str(error))}") from error


def _names(weights: Sequence[tuple[str, str | None, str]], layers: Mapping[str, Layer]) -> Iterator[str]:
    """`layer/kernel` of each weight, whatever stands before and behind it in its own name."""
    by_group = _groups(layers)
    for group, own, weight in weights:
        layer = own or by_group.get(group)
        if layer is None:
            raise DamagedError("its layers have no names: save the whole model, as .keras or .h5")
        leaf = weight.rpartition("/")[2].partition(":")[0]
        numbered = dict(enumerate(NUMBERED.get(re.sub(r"_\d+$", "", group), ())))
        yield f"{layer}/{numbered.get(int(leaf), leaf) if re.fullmatch(r'[0-9]', leaf) else leaf}"


def _groups(layers: Mapping[str, Layer]) -> dict[str, str]:
    """The layer of each group: `conv2d`, `conv2d_1`, ... in the order of the layers of that class."""
    counts: Counter[str] = Counter()
    groups = {}
    for name, layer in layers.items():
        kind = _snake_case(layer.kind)
        groups[f"{kind}_{counts[kind]}" if counts[kind] else kind] = name
        counts[kind] += 1
    return groups


def _snake_case(name: str) -> str:
    """As Keras does it: `DepthwiseConv2D` is `depthwise_conv2d`."""
    words = re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", words).lower()
