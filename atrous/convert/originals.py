"""The programs that a file came from, run on an image: LiteRT for TensorFlow Lite, TensorFlow for graphs."""

import os
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from atrous.convert.kinds import Kind, kind_of
from atrous.errors import ConfigError, ConversionError

Maps: TypeAlias = list[NDArray[Any]]  # what a graph makes of an image, each with its batch

INT8_SHIFT = 128
LABELS = "SemanticPredictions"  # TensorFlow DeepLab's name of its labels
IMAGE_OPS = ("Placeholder",)
SAVED_MODEL = "saved_model.pb"


class Original(NamedTuple):
    run: Callable[[NDArray[np.float32]], Maps]  # of an image [1, H, W, 3], in the graph's own numbers
    takes_bytes: bool  # rounded to whole numbers


class Runtime(NamedTuple):
    name: str
    module: str
    install: str
    opened: Callable[[Path], Original]


def require_program(source: Path) -> Path:
    """The file that can run: the source itself, or the one frozen graph beside a checkpoint.

    Raises ConfigError, in one line, where there is none, or what could run it isn't installed.
    """
    program = source if _runs(source) else _graph_beside(source)
    if program is None:
        raise ConfigError(
            f"--check: {source} is no graph that a program could run, and has none beside it: leave --check out, or "
            "name a .tflite or a frozen .pb"
        )
    runtime = _runtime(program)
    if find_spec(runtime.module) is None:
        raise ConfigError(f"--check needs {runtime.name} to run {program}: pip install {runtime.install}")
    return program


def _runs(path: Path) -> bool:
    return path.is_file() and kind_of(path) in RUNTIMES and path.name != SAVED_MODEL


def _graph_beside(source: Path) -> Path | None:
    """Of a checkpoint, or of a folder with one."""
    is_checkpoint = source.with_name(f"{source.name.removesuffix('.index')}.index").is_file()
    folder = source if source.is_dir() else source.parent
    graphs = [path for path in sorted(folder.glob("*.pb")) if _runs(path)] if source.is_dir() or is_checkpoint else []
    return graphs[0] if len(graphs) == 1 else None


def _runtime(program: Path) -> Runtime:
    return RUNTIMES[kind_of(program)]


def open_original(program: Path) -> Original:
    return _runtime(program).opened(program)


# ---- LiteRT


def _litert(path: Path) -> Original:
    """Without the delegate for CPUs, whose arithmetic in 8 bits is another."""
    from ai_edge_litert import interpreter as litert

    try:
        interpreter = litert.Interpreter(
            str(path), experimental_op_resolver_type=litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        )
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise ConversionError(f"--check: LiteRT can't run {path}: {_one_line(error)}") from None
    place = interpreter.get_input_details()[0]
    scale, zero_point = place["quantization"]

    def run(image: NDArray[np.float32]) -> Maps:
        numbers = image / scale + zero_point if place["dtype"] is np.int16 else image
        batch = np.repeat(_stored(numbers, place["dtype"]), place["shape"][0], axis=0)
        interpreter.set_tensor(place["index"], batch)
        interpreter.invoke()
        return [interpreter.get_tensor(output["index"])[:1] for output in interpreter.get_output_details()]

    return Original(run, place["dtype"] in (np.uint8, np.int8))


def _stored(image: NDArray[np.float32], dtype: type[np.generic]) -> NDArray[Any]:
    """Pixels of 8 bits are those of the image, signed ones less 128."""
    if not np.issubdtype(dtype, np.integer):
        return image.astype(dtype)
    pixels = np.rint(image) - (INT8_SHIFT if dtype is np.int8 else 0)
    limits = np.iinfo(dtype)  # type: ignore[type-var]
    return pixels.clip(limits.min, limits.max).astype(dtype)


# ---- TensorFlow


def _tensorflow(path: Path) -> Original:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tensorflow as tf
    v1 = tf.compat.v1
    graph = v1.GraphDef()
    graph.ParseFromString(path.read_bytes())
    for node in graph.node:
        node.attr.pop("_output_shapes", None)
    image = next((node for node in graph.node if node.op in IMAGE_OPS), None)
    taken = {name.lstrip("^").partition(":")[0] for node in graph.node for name in node.input}
    outputs = [node.name for node in graph.node if node.name not in taken and node.op != "Const"]
    if image is None or not outputs:
        raise ConfigError(f"--check: {path} has no input or no output that TensorFlow could run")
    with v1.Graph().as_default():
        v1.import_graph_def(graph, name="")
        session = v1.Session()
    fetched = [f"{name}:0" for name in sorted(outputs, key=lambda name: name != LABELS)]
    dtype = v1.as_dtype(image.attr["dtype"].type).as_numpy_dtype

    def run(pixels: NDArray[np.float32]) -> Maps:
        maps: Maps = session.run(fetched, {f"{image.name}:0": _stored(pixels, dtype)})
        return maps

    return Original(run, np.issubdtype(dtype, np.integer))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


RUNTIMES: dict[Kind | None, Runtime] = {
    "tflite": Runtime("LiteRT", "ai_edge_litert", "ai-edge-litert", _litert),
    "graph": Runtime("TensorFlow", "tensorflow", "tensorflow", _tensorflow),
}
