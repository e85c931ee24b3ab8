"""A network as a .tflite file."""

import json
from pathlib import Path

from atrous.deployed import IMAGES, Deployment, traced
from atrous.errors import ConfigError
from atrous.files import write_atomically
from atrous.runtimes.litert.flatbuffer import CHECKSUM, HEADER, MARK, serialised, with_checksum
from atrous.runtimes.litert.graph import NHWC, Graph, Value, arranged, plain
from atrous.runtimes.litert.lowering import lower
from atrous.runtimes.litert.merging import merged

MAX_BYTES = 2**31 - 2**20  # of what a flatbuffer addresses


def write(deployment: Deployment, path: Path) -> None:
    """Maps are [B, h, w, C], as LiteRT has them. Raises ConfigError with the operator that LiteRT lacks."""
    if deployment.size is None:
        raise ConfigError("--to litert: its files take images of one size: say which, such as --size 513,513")
    graph, inputs, results = lower(traced(deployment))
    outputs = {name: _in_lite(graph, value) for name, value in zip(deployment.names, results, strict=True)}
    operators = merged(graph, outputs.values())
    size = sum(tensor.data.nbytes for tensor in graph.tensors if tensor.data is not None)
    if size > MAX_BYTES:
        raise ConfigError(f"--to litert: its files hold at most 2 GiB, and this model's weights take {size} bytes")
    (images,) = inputs
    metadata = {HEADER: json.dumps(dict(deployment.metadata)).encode(), CHECKSUM: MARK}
    content = serialised(graph, operators, {IMAGES: images.tensor}, outputs, metadata)
    write_atomically(path, with_checksum(content))


def _in_lite(graph: Graph, value: Value) -> int:
    rank = len(value.order)
    return arranged(graph, value, NHWC if rank == len(NHWC) else plain(rank))
