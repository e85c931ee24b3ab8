"""What people convert from: a checkpoint, graph or archive, a name of the zoo, or arrays, all as foreign weights."""

import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from rich.console import Console

from atrous.convert import zoo
from atrous.convert.arrays import Arrays
from atrous.convert.class_names import packed_names
from atrous.convert.companions import described, find_weights, joined
from atrous.convert.filling import shapes_of
from atrous.convert.kinds import Kind, kind_of, no_model
from atrous.convert.notes import noted
from atrous.convert.other_programs import CORE_ML, ONNX, refuse, refuse_by_suffix
from atrous.convert.readers.archive import extract, find_model
from atrous.convert.readers.checkpoint import OBJECT_SUFFIX, read_checkpoint
from atrous.convert.readers.frozen_graph import read_graph
from atrous.convert.readers.keras import read_keras
from atrous.convert.readers.npz import read_npz
from atrous.convert.readers.pth import read_content, read_pth, split, without_wrapper
from atrous.convert.readers.safetensors import read_safetensors
from atrous.convert.readers.tflite import read_tflite
from atrous.convert.system import ForeignWeights, OptionTree
from atrous.convert.systems import bonlime
from atrous.convert.systems.tf_deeplab.frozen import from_graph
from atrous.convert.systems.tf_deeplab.lite import from_tflite
from atrous.errors import ConfigError, ConversionError
from atrous.files import user_path

SourceLike: TypeAlias = str | Path | Arrays  # a path, `zoo:NAME`, or arrays by name

ARCHIVES = (".tar.gz", ".tgz", ".tar")
PYTORCH = (".pth", ".pt", ".pth.tar", ".bin")
LIGHTNING = ".ckpt"  # also the end of a checkpoint's prefix in TensorFlow, which is no file
SAFETENSORS = ".safetensors"
NUMPY = ".npz"
KERAS = (".h5", ".hdf5", ".keras")
ZOO = "zoo:"
CHECKPOINT = re.compile(r"\.index$|\.data-\d+-of-\d+$")
SAVED_MODEL, VARIABLES = "saved_model.pb", "variables/variables.index"
LOGITS = re.compile(r"logits/semantic/weights|[Ll]ogits(/Conv2d_1c_1x1)?/weights|decoder/decoder_conv0/weights")
SHARD = re.compile(r"\.data-\d+-of-\d+$")  # weights may be zeros
KINDS = (
    "a checkpoint's prefix, .index or folder",
    "a frozen graph (.pb)",
    ".tflite",
    *PYTORCH,
    SAFETENSORS,
    LIGHTNING,
    *KERAS,
    NUMPY,
    *ARCHIVES,
    "zoo:NAME",
)
AVERAGE = "/ExponentialMovingAverage"  # ends the names of a moving average in a checkpoint
ONLY_AVERAGE = "the moving average, as which the file has its weights"
ARRAYS = "the arrays"  # their label in messages
NOT_IN_NAMES = re.compile(rf"({re.escape(OBJECT_SUFFIX)}|:0)$")


class Source(NamedTuple):
    """Weights, with what the zoo says about them."""

    weights: ForeignWeights
    system: str | None
    options: OptionTree


def open_source(source: SourceLike, system: str | None, options: OptionTree, console: Console | None) -> Source:
    """Raises FileNotFoundError or ConversionError for the source, ConfigError for a wrong name; shows a download."""
    if isinstance(source, Mapping):
        return Source(ForeignWeights(ARRAYS, _checked_arrays(source, ARRAYS)), system, options)
    require_named(source)
    if str(source).startswith(ZOO):
        return _from_zoo(str(source).removeprefix(ZOO), system, options, console)
    return Source(read(user_path(source)), system, options)


def require_named(source: str | Path) -> None:
    """Raises ConfigError for an empty text, which `Path` would take for the folder that one is in."""
    if not str(source).strip():
        raise ConfigError("the path of what is converted is empty: name a file, a folder, or zoo:NAME")


def _from_zoo(name: str, system: str | None, options: OptionTree, console: Console | None) -> Source:
    model = zoo.find(name)
    if system not in (None, model.system):
        raise ConfigError(f"system={system}: {name} of the zoo is of {model.system}")
    archive = zoo.fetch(model.name, progress=console)
    return Source(read(archive), model.system, {**model.options, **options})


def _checked_arrays(source: Arrays, label: str) -> Arrays:
    """Under the names of the variables, of which TensorFlow's tensors are the outputs :0."""
    arrays = {name: np.asarray(array) for name, array in source.items()}
    for name, array in arrays.items():
        if not isinstance(name, str):
            raise ConversionError(f"{label}: names must be strings, got {name!r}")
        if array.dtype.kind not in "fiub":
            raise ConversionError(f"{label}: {name} must hold numbers, but its type is {array.dtype}")
    return without_wrapper({NOT_IN_NAMES.sub("", name): array for name, array in arrays.items()})


# ---- files


def read(path: Path) -> ForeignWeights:
    """The weights in a file, a folder, or behind a checkpoint's prefix."""
    label = str(path)
    if path.is_dir():
        refuse_by_suffix(path)
        return read(find_weights(path) or find_model(path))._replace(label=label)
    if path.is_file() and path.name == "checkpoint":  # it names the newest checkpoint of its folder
        return read(path.parent)
    if path.is_file() and not SHARD.search(path.name) and (what := no_model(path)):
        raise ConversionError(f"cannot read {path}: {what}")
    kind = kind_of(path) if path.is_file() else None
    by_name = next((reader for suffixes, reader in READERS.items() if path.name.endswith(suffixes)), _read_checkpoint)
    return BY_CONTENT.get(kind, by_name)(path, label)


def _read_archive(archive: Path, label: str) -> ForeignWeights:
    """All its weights are in memory when its folder is removed. Messages name the archive instead of the folder."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            extract(archive, Path(folder))
            weights = read(find_model(Path(folder)))
        except (FileNotFoundError, ConversionError) as error:
            raise type(error)(str(error).replace(folder, str(archive))) from None
    return weights._replace(label=label)


def _read_graph(path: Path, label: str) -> ForeignWeights:
    """A SavedModel's weights lie in a folder beside it, unless they are constants of the graph."""
    if path.name == SAVED_MODEL and (path.parent / VARIABLES).is_file():
        return read(path.parent / VARIABLES)._replace(label=label)
    return from_graph(read_graph(path), label)


def _read_tflite(path: Path, label: str) -> ForeignWeights:
    """With the names of the classes, where the file has as many."""
    weights = from_tflite(read_tflite(path), label)
    num_classes = {array.shape[-1] for name, array in weights.arrays.items() if LOGITS.search(name)}
    packed = packed_names(path)
    fitting = [names for names in packed.values() if len(names) in num_classes]
    others = (
        []
        if fitting
        else [f"{len(names)} names in its {name}, not one for each class" for name, names in packed.items()]
    )
    return weights._replace(class_names=fitting[0] if fitting else (), left_out=(*weights.left_out, *others))


def _read_pth(path: Path, label: str) -> ForeignWeights:
    content = read_content(path)
    weights = described(path, ForeignWeights(label, content.arrays, averages=content.averages))
    weights = weights._replace(left_out=(*weights.left_out, *([ONLY_AVERAGE] if content.is_average else [])))
    weights = noted(weights, content.notes)
    return joined(path, weights, lambda partner: ForeignWeights(str(partner), read_pth(partner)))


def _refuse_pickle(path: Path, label: str) -> ForeignWeights:
    raise ConversionError(
        f"{path}: a pickle, such as Detectron2's, of which no network is read; weights of another program can be saved "
        'alone: torch.save(model.state_dict(), "weights.pth")'
    )


def _read_safetensors(path: Path, label: str) -> ForeignWeights:
    weights, averages = (without_wrapper(part) for part in split(read_safetensors(path)))
    return described(path, ForeignWeights(label, weights, averages=averages))


def _read_keras(path: Path, label: str) -> ForeignWeights:
    file = read_keras(path)
    options = bonlime.declared(file.layers, label) if bonlime.recognised(shapes_of(file.arrays)) else {}
    return ForeignWeights(label, file.arrays, options=options, layers=file.layers)


def _read_npz(path: Path, label: str) -> ForeignWeights:
    return ForeignWeights(label, _checked_arrays(read_npz(path), label))


def _read_ckpt(path: Path, label: str) -> ForeignWeights:
    return _read_pth(path, label) if path.is_file() else _read_checkpoint(path, label)


def _read_index(path: Path, label: str) -> ForeignWeights:
    """Raises ConversionError where its name doesn't lead to the files with the numbers."""
    if not CHECKPOINT.search(path.name):
        raise ConversionError(
            f"{path}: the index of a TensorFlow checkpoint, or a checkpoint of its oldest format: name the prefix of a "
            "checkpoint whose files end in .index and .data-00000-of-00001"
        )
    return _read_checkpoint(path, label)


def _read_checkpoint(path: Path, label: str) -> ForeignWeights:
    if path.is_file() and not CHECKPOINT.search(path.name):
        refuse_by_suffix(path)
        raise ConversionError(f"{path}: not a kind of file that can be converted; known: {', '.join(KINDS)}")
    arrays = read_checkpoint(path)
    averages = {name.removesuffix(AVERAGE): array for name, array in arrays.items() if name.endswith(AVERAGE)}
    return ForeignWeights(label, arrays, averages=averages)


READERS: dict[tuple[str, ...], Callable[[Path, str], ForeignWeights]] = {  # by how a name ends
    (".pb",): _read_graph,
    (".tflite",): _read_tflite,
    PYTORCH: _read_pth,
    (SAFETENSORS,): _read_safetensors,
    (LIGHTNING,): _read_ckpt,
    KERAS: _read_keras,
    (NUMPY,): _read_npz,
    ARCHIVES: _read_archive,
    (".pkl", ".pickle"): _refuse_pickle,
}
BY_CONTENT: dict[Kind | None, Callable[[Path, str], ForeignWeights]] = {
    "tflite": _read_tflite,
    "graph": _read_graph,
    "pytorch": _read_pth,
    "safetensors": _read_safetensors,
    "archive": _read_archive,
    "index": _read_index,
    "keras": _read_keras,
    "numpy": _read_npz,
    "onnx": lambda path, label: refuse(ONNX, label),
    "coreml": lambda path, label: refuse(CORE_ML, label),
}
