"""OpenVINO's files, an .xml with the graph and a .bin with the weights, computed by OpenVINO."""

import errno
import hashlib
import warnings
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
from numpy.typing import NDArray

from atrous.deployed import IMAGES, Deployment, traced
from atrous.errors import ConfigError, ModelFileError
from atrous.layers.quantization import write_as
from atrous.models import ModelConfig
from atrous.runtimes.contract import (
    Runtime,
    Signature,
    failure,
    first_line,
    lacking,
    opened,
    require,
    require_images,
)
from atrous.types import Network

SECTION = "atrous"  # of the file's own place for what others add
CHECKSUMS = ("graph_checksum", "weights_checksum")  # of the .xml with zeros in place of this, and of the .bin
NOTHING = "0" * 64
MAX_GRAPH = 2**28  # bytes; those of models have some 10**6
KINDS = {"u8": "UINT8", "f32": "FLOAT"}


# ---- writing


def write(deployment: Deployment, path: Path) -> None:
    """Raises ConfigError with the operator that OpenVINO lacks."""
    require(OPENVINO, "--to openvino")
    import openvino

    model = _model(deployment)
    for key, value in {**deployment.metadata, CHECKSUMS[0]: NOTHING, CHECKSUMS[1]: NOTHING}.items():
        model.set_rt_info(value, [SECTION, key])
    try:
        openvino.save_model(model, path, compress_to_fp16=False)
    except RuntimeError as error:  # the library's own, for a disk that is full
        raise OSError(errno.EIO, f"OpenVINO could not write it, as on a full disk ({first_line(error)})") from error
    weights = hashlib.sha256(path.with_suffix(".bin").read_bytes()).hexdigest()
    text = path.read_bytes().replace(_entry(CHECKSUMS[1], NOTHING), _entry(CHECKSUMS[1], weights))
    graph = hashlib.sha256(text).hexdigest()
    path.write_bytes(text.replace(_entry(CHECKSUMS[0], NOTHING), _entry(CHECKSUMS[0], graph)))


def _model(deployment: Deployment) -> Any:  # noqa: ANN401 - a Model of OpenVINO
    import openvino

    write_as(deployment.module, "products")
    program = traced(deployment)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the library's own, about PyTorch
            model = openvino.convert_model(program)
    except Exception as error:  # of the library: what it can't convert has several
        advice = "; with one size, such as --size 513,513, it may not need it" if deployment.size is None else ""
        raise ConfigError(f"--to openvino: {lacking(error)}{advice}") from error
    size = (-1, -1, -1) if deployment.size is None else (1, *deployment.size)
    model.reshape(openvino.PartialShape([*size, 3]))
    model.input(0).get_tensor().set_names({IMAGES})
    for output, name in zip(model.outputs, deployment.names, strict=True):
        output.get_tensor().set_names({name})
    return model


def _entry(key: str, value: str) -> bytes:
    return f'<{key} value="{value}" />'.encode()


# ---- reading


def read_metadata(path: Path) -> Mapping[str, str]:
    """Without OpenVINO, of which a damaged file may end the process."""
    text = _read(path)
    try:
        section = ElementTree.fromstring(text).find(f"rt_info/{SECTION}")
    except ElementTree.ParseError as error:
        raise ModelFileError(f"{path}: not a complete OpenVINO file (truncated or damaged): {error}") from error
    metadata = {} if section is None else {part.tag: part.get("value", "") for part in section}
    _require_checksums(path, text, metadata)
    return {key: value for key, value in metadata.items() if key not in CHECKSUMS}


def _read(path: Path) -> bytes:
    if path.stat().st_size > MAX_GRAPH:
        raise ModelFileError(f"{path}: not an OpenVINO graph of Atrous: more than {MAX_GRAPH} bytes")
    text = path.read_bytes()
    if b"<net " not in text[:1000] or b"<!DOCTYPE" in text:
        raise ModelFileError(f"{path}: not an OpenVINO graph, or cut off: no <net> at its start")
    if not path.with_suffix(".bin").is_file():
        raise ModelFileError(f"{path}: its weights, {path.with_suffix('.bin').name}, are not beside it")
    return text


def _require_checksums(path: Path, text: bytes, metadata: Mapping[str, str]) -> None:
    if not metadata:
        return
    graph, weights = (metadata.get(key, "") for key in CHECKSUMS)
    blank = text.replace(_entry(CHECKSUMS[0], graph), _entry(CHECKSUMS[0], NOTHING))
    with path.with_suffix(".bin").open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    own = (
        ("graph", path, graph, hashlib.sha256(blank).hexdigest()),
        ("weights", path.with_suffix(".bin"), weights, digest),
    )
    for what, file_path, stored, computed in own:
        if stored != computed:
            raise ModelFileError(
                f"{file_path}: its {what} do not match the checksum in {path.name}: damaged, or changed by another "
                "program; export the model again"
            )


def open_file(path: Path, config: ModelConfig, num_classes: int, device: torch.device) -> Network:
    return open_graph(path, read_metadata(path))


def open_graph(path: Path, metadata: Mapping[str, str]) -> Network:
    """Of an .xml file, or of ONNX, which OpenVINO reads itself."""
    require(OPENVINO, str(path))
    import openvino

    core = openvino.Core()
    try:
        model = core.read_model(path)
    except Exception as error:  # of the library
        raise ModelFileError(f"{path}: OpenVINO can't read its graph: {first_line(error)}") from error
    signature = _signature(path, model)
    compiled = cache(partial(_compiled, core, path))

    def run(precision: str, images: NDArray[Any], names: Sequence[str]) -> list[NDArray[Any]]:
        return _run(compiled(precision, images.dtype.name, tuple(names)), images, names)

    return opened(path, metadata, signature, partial(run, "f32"), in_bf16=partial(run, "bf16"))


def _signature(path: Path, model: Any) -> Signature:  # noqa: ANN401
    inputs = [
        (next(iter(port.get_names()), "?"), KINDS.get(port.element_type.get_type_name(), "?"), _sides(port))
        for port in model.inputs
    ]
    sides = require_images(path, inputs)
    outputs = {next(iter(port.get_names()), "?"): _sides(port) for port in model.outputs}
    return Signature(sides, {name: (shape[1] if len(shape) > 1 else None) for name, shape in outputs.items()})


def _sides(port: Any) -> tuple[int | None, ...]:  # noqa: ANN401
    return tuple(dimension.get_length() if dimension.is_static else None for dimension in port.partial_shape)


def _compiled(core: Any, path: Path, precision: str, kind: str, names: tuple[str, ...]) -> Any:  # noqa: ANN401
    """For these outputs alone. Bytes become floats in the graph anyway, so that it takes floats as well."""
    import openvino

    model = core.read_model(path)
    results = [next(port.node for port in model.outputs if name in port.get_names()) for name in names]
    model = openvino.Model(results, model.get_parameters(), "atrous")
    model.get_parameters()[0].set_element_type(openvino.Type.u8 if kind == "uint8" else openvino.Type.f32)
    model.validate_nodes_and_infer_types()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": precision,
    }
    try:
        return core.compile_model(model, "CPU", settings)
    except Exception as error:
        raise ModelFileError(f"{path}: OpenVINO can't use its graph: {first_line(error)}") from error


def _run(compiled: Any, images: NDArray[Any], names: Sequence[str]) -> list[NDArray[Any]]:  # noqa: ANN401
    try:
        maps = compiled(images, share_outputs=True)  # copied below, and not before
    except Exception as error:
        raise failure(error) from error
    return [np.array(maps[index]) for index in range(len(names))]


def recognises(start: bytes) -> bool:
    return b"<net " in start


OPENVINO = Runtime(
    ".xml",
    read_metadata,
    open_file,
    write=write,
    packages=("openvino",),
    extra="openvino",
    beside=".bin",
    has_bf16=True,
    groups=True,
    opens={"onnx": open_graph},
    recognises=recognises,
)
