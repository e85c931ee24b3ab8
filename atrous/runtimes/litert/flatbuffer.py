"""A graph as the bytes of a .tflite file, version 3 of the format, and what such bytes say of themselves."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from atrous.runtimes.litert.graph import Array, Graph, Operator, Tensor

IDENTIFIER, VERSION = b"TFL3", 3
DESCRIPTION = "written by Atrous"
HEADER, CHECKSUM = "atrous", "atrous_checksum"  # names of metadata
MARK = hashlib.sha256(b"place of the checksum").digest()  # stands there until it is computed
NO_CHECKSUM = bytes(len(MARK))  # stands there while it is computed
ALIGNMENT = 16  # bytes, of constants
OPTIONS = {  # the table of options of an operator that has one
    "ADD": "AddOptions",
    "ARG_MAX": "ArgMaxOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions",
    "BATCH_MATMUL": "BatchMatMulOptions",
    "CAST": "CastOptions",
    "CONCATENATION": "ConcatenationOptions",
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "DIV": "DivOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions",
    "GATHER": "GatherOptions",
    "GELU": "GeluOptions",
    "LEAKY_RELU": "LeakyReluOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "MEAN": "ReducerOptions",
    "MIRROR_PAD": "MirrorPadOptions",
    "MUL": "MulOptions",
    "REDUCE_MAX": "ReducerOptions",
    "REDUCE_MIN": "ReducerOptions",
    "RESHAPE": "ReshapeOptions",
    "RESIZE_BILINEAR": "ResizeBilinearOptions",
    "RESIZE_NEAREST_NEIGHBOR": "ResizeNearestNeighborOptions",
    "SOFTMAX": "SoftmaxOptions",
    "STRIDED_SLICE": "StridedSliceOptions",
    "SUB": "SubOptions",
    "SUM": "ReducerOptions",
}
VERSIONS = {  # of an operator, where the first does not know what we use of it: dilation, half pixels, kept axes
    "BROADCAST_TO": 2,
    "DEPTHWISE_CONV_2D": 2,
    "FULLY_CONNECTED": 5,
    "RESIZE_BILINEAR": 3,
    "RESIZE_NEAREST_NEIGHBOR": 3,
}
VERSIONS_OF_INTEGERS = {"CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "CONCATENATION": 2, "DEQUANTIZE": 2, "PAD": 2}
Code: TypeAlias = tuple[str, int]  # an operator and its version


def serialised(
    graph: Graph,
    operators: Sequence[Operator],
    inputs: Mapping[str, int],
    outputs: Mapping[str, int],
    metadata: Mapping[str, bytes],
) -> bytes:
    """`inputs` and `outputs` are tensors by name, and so is their signature; only tensors in use are written."""
    from ai_edge_litert import schema_py_generated as schema

    used = [*inputs.values(), *(one for operator in operators for one in (*operator.inputs, operator.output))]
    places = {tensor: place for place, tensor in enumerate(dict.fromkeys(used))}
    names = {tensor: name for name, tensor in [*inputs.items(), *outputs.items()]}
    model = schema.ModelT()
    model.version, model.description = VERSION, DESCRIPTION
    model.buffers = [_buffer(schema, b"")]
    subgraph = schema.SubGraphT()
    subgraph.name = "main"
    subgraph.tensors = [_tensor(schema, model, graph.tensors[one], names.get(one, f"tensor_{one}")) for one in places]
    subgraph.inputs, subgraph.outputs = ([places[one] for one in side.values()] for side in (inputs, outputs))
    codes = list(dict.fromkeys(_code_of(graph, operator) for operator in operators))
    subgraph.operators = [_operator(schema, graph, operator, codes, places) for operator in operators]
    model.operatorCodes, model.subgraphs = [_code(schema, *code) for code in codes], [subgraph]
    model.signatureDefs = [_signature(schema, inputs, outputs, places)]
    model.metadata = [_metadata(schema, model, name, content) for name, content in metadata.items()]
    return _packed(model)


def _packed(model: Any) -> bytes:  # noqa: ANN401
    import flatbuffers

    builder = flatbuffers.Builder(sum(len(buffer.content) for buffer in model.buffers) + 2**16)
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


def _buffer(schema: Any, content: bytes) -> Any:  # noqa: ANN401
    class Aligned(schema.BufferT):  # type: ignore[misc]  # the schema's own packs without alignment
        def Pack(self, builder: Any) -> Any:  # noqa: ANN401, N802
            data = _aligned(builder, self.content) if self.content else None
            schema.BufferStart(builder)
            if data is not None:
                schema.BufferAddData(builder, data)
            return schema.BufferEnd(builder)

    buffer = Aligned()
    buffer.content = content
    return buffer


def _aligned(builder: Any, content: bytes) -> Any:  # noqa: ANN401
    builder.StartVector(1, len(content), ALIGNMENT)
    builder.head -= len(content)
    builder.Bytes[builder.head : builder.head + len(content)] = content
    return builder.EndVector()


def _tensor(schema: Any, model: Any, tensor: Tensor, name: str) -> Any:  # noqa: ANN401
    result = schema.TensorT()
    result.name, result.shape, result.hasRank = name, list(tensor.shape), True
    result.type = getattr(schema.TensorType, tensor.dtype.upper())
    result.buffer = 0 if tensor.data is None else len(model.buffers)
    if tensor.data is not None:
        model.buffers.append(_buffer(schema, _bytes(tensor.data)))
    if tensor.scale:
        result.quantization = schema.QuantizationParametersT()
        result.quantization.scale, result.quantization.zeroPoint = list(tensor.scale), list(tensor.zero_point)
        result.quantization.quantizedDimension = tensor.axis
    return result


def _bytes(data: Array) -> bytes:
    return data.astype(data.dtype.newbyteorder("<")).tobytes()


def _operator(
    schema: Any,  # noqa: ANN401
    graph: Graph,
    operator: Operator,
    codes: Sequence[Code],
    places: Mapping[int, int],
) -> Any:  # noqa: ANN401
    result = schema.OperatorT()
    result.opcodeIndex = codes.index(_code_of(graph, operator))
    result.inputs, result.outputs = [places[one] for one in operator.inputs], [places[operator.output]]
    if operator.op in OPTIONS:
        kind = OPTIONS[operator.op]
        result.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
        result.builtinOptions = getattr(schema, f"{kind}T")()
        for name, value in {**operator.options, **_types(schema, graph, operator)}.items():
            setattr(result.builtinOptions, name, list(value) if isinstance(value, tuple) else value)
    return result


def _types(schema: Any, graph: Graph, operator: Operator) -> dict[str, int]:  # noqa: ANN401
    """What some options repeat of the tensors."""
    inp, out = (
        getattr(schema.TensorType, graph.tensors[tensor].dtype.upper())
        for tensor in (operator.inputs[0], operator.output)
    )
    tables = {"CAST": {"inDataType": inp, "outDataType": out}, "ARG_MAX": {"outputType": out}}
    return tables.get(operator.op, {})


def _code_of(graph: Graph, operator: Operator) -> Code:
    is_int8 = graph.tensors[operator.inputs[0]].dtype == "int8"
    return operator.op, (VERSIONS_OF_INTEGERS if is_int8 else VERSIONS).get(operator.op, VERSIONS.get(operator.op, 1))


def _code(schema: Any, op: str, version: int) -> Any:  # noqa: ANN401
    code = schema.OperatorCodeT()
    code.builtinCode = getattr(schema.BuiltinOperator, op)
    code.deprecatedBuiltinCode = min(code.builtinCode, 127)
    code.version = version
    return code


def _signature(schema: Any, inputs: Mapping[str, int], outputs: Mapping[str, int], places: Mapping[int, int]) -> Any:  # noqa: ANN401
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = "serving_default", 0
    signature.inputs, signature.outputs = (
        [_named(schema, name, places[tensor]) for name, tensor in side.items()] for side in (inputs, outputs)
    )
    return signature


def _named(schema: Any, name: str, place: int) -> Any:  # noqa: ANN401
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name, place
    return entry


def _metadata(schema: Any, model: Any, name: str, content: bytes) -> Any:  # noqa: ANN401
    entry = schema.MetadataT()
    entry.name, entry.buffer = name, len(model.buffers)
    model.buffers.append(_buffer(schema, content))
    return entry


# ---- reading


class Contents(NamedTuple):
    version: int
    inputs: list[tuple[str, str, tuple[int, ...]]]  # name, type, shape
    outputs: list[tuple[str, str, tuple[int, ...]]]
    metadata: Mapping[str, bytes]


def contents_of(content: bytes) -> Contents:
    """Raises whatever the library raises if the file is damaged."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(content, 0)
    graph = model.Subgraphs(0)
    kinds = {number: name for name, number in vars(schema.TensorType).items() if not name.startswith("_")}
    inputs = [_description(graph.Tensors(graph.Inputs(place)), kinds) for place in range(graph.InputsLength())]
    outputs = [_description(graph.Tensors(graph.Outputs(place)), kinds) for place in range(graph.OutputsLength())]
    entries = [model.Metadata(place) for place in range(model.MetadataLength())]
    metadata = {entry.Name().decode(): _content(model.Buffers(entry.Buffer())) for entry in entries}
    return Contents(model.Version(), inputs, outputs, metadata)


def _description(tensor: Any, kinds: Mapping[int, str]) -> tuple[str, str, tuple[int, ...]]:  # noqa: ANN401
    shape = tuple(int(tensor.Shape(axis)) for axis in range(tensor.ShapeLength()))
    return tensor.Name().decode(), kinds[tensor.Type()], shape


def _content(buffer: Any) -> bytes:  # noqa: ANN401
    return buffer.DataAsNumpy().tobytes() if buffer.DataLength() else b""


def with_checksum(content: bytes) -> bytes:
    """The file with the SHA-256 of all its other bytes, and zeros in its own place, in its metadata."""
    digest = hashlib.sha256(content.replace(MARK, NO_CHECKSUM, 1)).digest()
    return content.replace(MARK, digest, 1)


def is_intact(content: bytes, contents: Contents) -> bool:
    digest = contents.metadata.get(CHECKSUM, b"")
    return (
        len(digest) == len(NO_CHECKSUM) and hashlib.sha256(content.replace(digest, NO_CHECKSUM, 1)).digest() == digest
    )


def narrowed(content: bytes, outputs: Sequence[str], dtype: str) -> bytes:
    """The file with only these outputs, what leads to them, and an input of another type."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    (graph,) = model.subgraphs
    graph.outputs = [place for place in graph.outputs if graph.tensors[place].name.decode() in outputs]
    needed, operators = set(graph.outputs), []
    for operator in reversed(graph.operators):
        if needed & set(operator.outputs):
            needed |= set(operator.inputs)
            operators.append(operator)
    graph.operators = operators[::-1]
    kind = getattr(schema.TensorType, dtype.upper())
    for operator in graph.operators:
        if operator.inputs[0] in graph.inputs and operator.builtinOptionsType == schema.BuiltinOptions.CastOptions:
            operator.builtinOptions.inDataType = kind
    for place in graph.inputs:
        graph.tensors[place].type = kind
    model.buffers = [_buffer(schema, b"" if buffer.data is None else bytes(buffer.data)) for buffer in model.buffers]
    model.signatureDefs, model.metadata = [], []
    return _packed(model)
