"""ONNX files, computed by ONNX Runtime."""

import contextlib
import hashlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from atrous.deployed import IMAGES, Deployment, traced
from atrous.errors import ConfigError, ModelFileError
from atrous.files import write_atomically
from atrous.models import ModelConfig
from atrous.runtimes.contract import (
    Runtime,
    Signature,
    failure,
    first_line,
    is_stripped,
    lacking,
    opened,
    require,
    require_images,
)
from atrous.types import Network

DIMENSIONS = ("batch", "height", "width")
CHECKSUM = "file_checksum"  # of all bytes before it: as protobuf allows, it is a message of its own at the end
SILENT = 4  # only what ends the process is logged: all else is raised
MAX_BYTES = 2**31 - 1  # that protobuf reads


# ---- writing


def write(deployment: Deployment, path: Path) -> None:
    """Raises ConfigError with the operator that ONNX lacks."""
    require(ONNX, "--to onnx")
    import onnx

    model = _model(deployment)
    _name_dimensions(model)
    for node in model.graph.node:
        del node.metadata_props[:]  # where in Python it comes from
    del model.graph.value_info[:]
    model.producer_name = "atrous"
    onnx.helper.set_model_props(model, dict(deployment.metadata))
    content = model.SerializeToString()
    write_atomically(path, content + _checksum_of(content))


def _model(deployment: Deployment) -> Any:  # noqa: ANN401 - a ModelProto
    program = traced(deployment)
    try:
        with _quiet():
            onnx_program = torch.onnx.export(
                program, dynamo=True, input_names=[IMAGES], output_names=list(deployment.names), verbose=False
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise ConfigError(_lacking(error)) from error
    assert onnx_program is not None
    return onnx_program.model_proto


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the libraries say of their own code."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _lacking(error: BaseException) -> str:
    """The operator is named by the cause."""
    chain = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    return f"--to onnx: {lacking(ValueError(' '.join(map(str, chain))))}"


def _name_dimensions(model: Any) -> None:  # noqa: ANN401
    (images,) = model.graph.input
    sides = zip(images.type.tensor_type.shape.dim, DIMENSIONS, strict=False)
    symbols = {dim.dim_param: name for dim, name in sides if dim.dim_param}  # a fixed side has none
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in symbols:
                dim.dim_param = symbols[dim.dim_param]


def _checksum_of(content: bytes) -> bytes:
    import onnx

    entry = onnx.ModelProto()
    onnx.helper.set_model_props(entry, {CHECKSUM: hashlib.sha256(content).hexdigest()})
    return bytes(entry.SerializeToString())


# ---- reading


def read_metadata(path: Path) -> Mapping[str, str]:
    return {entry.key: entry.value for entry in _read(path).metadata_props if entry.key != CHECKSUM}


def _read(path: Path) -> Any:  # noqa: ANN401 - a ModelProto
    """Raises ModelFileError for a file that is damaged, or isn't ONNX."""
    require(ONNX, str(path))
    import onnx
    from google.protobuf.message import DecodeError

    if path.stat().st_size > MAX_BYTES:
        raise ModelFileError(f"{path}: not an ONNX file that can be read: more than 2 GiB")
    content = path.read_bytes()
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise ModelFileError(f"{path}: not a complete ONNX file (truncated, damaged or of another kind)") from error
    if not model.graph.node or not model.opset_import:
        raise ModelFileError(f"{path}: not a complete ONNX file (truncated, damaged or of another kind)")
    _require_checksum(content, model, path)
    return model


def _require_checksum(content: bytes, model: Any, path: Path) -> None:  # noqa: ANN401
    """A file that another program has written again has it no more at its end."""
    stored = {entry.key: entry.value for entry in model.metadata_props}.get(CHECKSUM)
    if stored is None:
        return
    own = len(_checksum_of(b""))
    if content[-own:-64].endswith(CHECKSUM.encode() + b"\x12@") and _checksum_of(content[:-own]) != content[-own:]:
        raise ModelFileError(
            f"{path}: it does not match its checksum: damaged, or changed by another program; export the model again"
        )


def open_file(path: Path, config: ModelConfig, num_classes: int, device: torch.device) -> Network:
    model = _read(path)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    signature = _signature(path, model)
    session = cache(partial(_session, path, model, device))
    session("uint8" if is_stripped(metadata) else "float32")  # what is wrong with the file shows now

    def run(images: NDArray[Any], names: Sequence[str]) -> list[NDArray[Any]]:
        return _run(session(images.dtype.name), images, names)

    return opened(path, metadata, signature, run)


def _signature(path: Path, model: Any) -> Signature:  # noqa: ANN401 - a ModelProto
    import onnx

    kinds = onnx.TensorProto.DataType
    inputs = [(value.name, kinds.Name(value.type.tensor_type.elem_type), _sides(value)) for value in model.graph.input]
    sides = require_images(path, inputs)
    outputs = {value.name: _sides(value) for value in model.graph.output}
    return Signature(sides, {name: (shape[1] if len(shape) > 1 else None) for name, shape in outputs.items()})


def _sides(value: Any) -> tuple[int | None, ...]:  # noqa: ANN401 - a ValueInfoProto
    return tuple(dim.dim_value or None for dim in value.type.tensor_type.shape.dim)


def _session(path: Path, model: Any, device: torch.device, kind: str) -> Any:  # noqa: ANN401
    """Bytes become floats in the graph anyway, so that it takes floats as well: images that are resized or padded."""
    import onnx
    import onnxruntime

    model.graph.input[0].type.tensor_type.elem_type = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = SILENT
    options.add_session_config_entry("session.force_spinning_stop", "1")  # what comes next needs the cores
    providers = ["CUDAExecutionProvider"] * (device.type == "cuda") + ["CPUExecutionProvider"]
    own = [name for name in providers if name in onnxruntime.get_available_providers()]
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=own)
    except Exception as error:  # of the library: it has a class of its own for each kind
        raise ModelFileError(f"{path}: ONNX Runtime can't read its graph: {first_line(error)}") from error


def _run(session: Any, images: NDArray[Any], names: Sequence[str]) -> list[NDArray[Any]]:  # noqa: ANN401
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.only_execute_path_to_fetches = True  # without labels, no map is upsampled
    options.log_severity_level = SILENT
    try:
        maps: list[NDArray[Any]] = session.run(list(names), {IMAGES: images}, options)
    except Exception as error:
        raise failure(error) from error
    return maps


def recognises(start: bytes) -> bool:
    """The first field of a ModelProto is its version of the format."""
    return start[:1] == b"\x08" and start[2:3] in (b"\x12", b"\x1a", b"\x3a")


ONNX = Runtime(
    ".onnx",
    read_metadata,
    open_file,
    write=write,
    packages=("onnx", "onnxscript", "onnxruntime"),
    extra="onnx",
    groups=True,
    recognises=recognises,
)
