"""TensorFlow Lite models, version 3 of the format (schema.fbs): tensors with their constants, and operators."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from atrous.convert.arrays import Array, Shape
from atrous.convert.readers.damage import DamagedError, count_elements, quoted, read_ends, read_whole, reading
from atrous.convert.readers.flatbuffer import Table, require_identifier, root
from atrous.convert.readers.tensor_types import widened
from atrous.errors import ConversionError

KIND = "TensorFlow Lite model"
IDENTIFIER, VERSION = b"TFL3", 3
CUSTOM = 32
BFLOAT16 = "bfloat16"
DTYPES = (  # TensorType by number
    *("float32", "float16", "int32", "uint8", "int64", "string", "bool", "int16", "complex64", "int8", "float64"),
    *("complex128", "uint64", "resource", "variant", "uint32", "uint16", "int4", BFLOAT16, "int2", "uint4"),
    *("float8_e4m3fn", "float8_e5m2"),
)
STORED: dict[str, np.dtype[Any]] = {  # how one element of a constant lies in the file
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "int32": np.dtype("<i4"),
    "uint8": np.dtype("u1"),
    "int64": np.dtype("<i8"),
    "bool": np.dtype("u1"),
    "int16": np.dtype("<i2"),
    "int8": np.dtype("i1"),
    "float64": np.dtype("<f8"),
    "uint64": np.dtype("<u8"),
    "uint32": np.dtype("<u4"),
    "uint16": np.dtype("<u2"),
    BFLOAT16: np.dtype("<u2"),
}
OPS = {  # BuiltinOperator: those that networks for images use; others are named by their number
    0: "ADD",
    1: "AVERAGE_POOL_2D",
    2: "CONCATENATION",
    3: "CONV_2D",
    4: "DEPTHWISE_CONV_2D",
    5: "DEPTH_TO_SPACE",
    6: "DEQUANTIZE",
    9: "FULLY_CONNECTED",
    14: "LOGISTIC",
    17: "MAX_POOL_2D",
    18: "MUL",
    19: "RELU",
    21: "RELU6",
    22: "RESHAPE",
    23: "RESIZE_BILINEAR",
    25: "SOFTMAX",
    26: "SPACE_TO_DEPTH",
    28: "TANH",
    34: "PAD",
    36: "GATHER",
    37: "BATCH_TO_SPACE_ND",
    38: "SPACE_TO_BATCH_ND",
    39: "TRANSPOSE",
    40: "MEAN",
    41: "SUB",
    42: "DIV",
    43: "SQUEEZE",
    45: "STRIDED_SLICE",
    49: "SPLIT",
    50: "LOG_SOFTMAX",
    53: "CAST",
    54: "PRELU",
    55: "MAXIMUM",
    56: "ARG_MAX",
    57: "MINIMUM",
    59: "NEG",
    60: "PADV2",
    65: "SLICE",
    67: "TRANSPOSE_CONV",
    69: "TILE",
    70: "EXPAND_DIMS",
    74: "SUM",
    77: "SHAPE",
    79: "ARG_MIN",
    80: "FAKE_QUANT",
    82: "REDUCE_MAX",
    83: "PACK",
    88: "UNPACK",
    97: "RESIZE_NEAREST_NEIGHBOR",
    98: "LEAKY_RELU",
    100: "MIRROR_PAD",
    101: "ABS",
    102: "SPLIT_V",
    105: "REVERSE_V2",
    114: "QUANTIZE",
    117: "HARD_SWISH",
}
PADDINGS = ("SAME", "VALID")
ACTIVATIONS = ("NONE", "RELU", "RELU_N1_TO_1", "RELU6", "TANH", "SIGN_BIT")


class OptionFields(NamedTuple):
    """Numbers of the fields in a table of options; pairs are (height, width)."""

    padding: int | None = None
    stride: tuple[int, int] | None = None
    dilation: tuple[int, int] | None = None
    kernel: tuple[int, int] | None = None
    activation: int | None = None
    depth_multiplier: int | None = None
    align_corners: int | None = None
    half_pixel_centers: int | None = None
    axis: int | None = None


OPTIONS = {  # BuiltinOptions by number; those of other operators don't affect a network's weights
    1: OptionFields(padding=0, stride=(2, 1), activation=3, dilation=(5, 4)),  # Conv2D
    2: OptionFields(padding=0, stride=(2, 1), depth_multiplier=3, activation=4, dilation=(6, 5)),  # DepthwiseConv2D
    5: OptionFields(padding=0, stride=(2, 1), kernel=(4, 3), activation=5),  # Pool2D
    8: OptionFields(activation=0),  # FullyConnected
    10: OptionFields(axis=0, activation=1),  # Concatenation
    11: OptionFields(activation=0),  # Add
    15: OptionFields(align_corners=2, half_pixel_centers=3),  # ResizeBilinear
    21: OptionFields(activation=0),  # Mul
    28: OptionFields(activation=0),  # Sub
    29: OptionFields(activation=0),  # Div
    49: OptionFields(padding=0, stride=(2, 1), activation=3),  # TransposeConv
    74: OptionFields(align_corners=0, half_pixel_centers=1),  # ResizeNearestNeighbor
}


class Tensor(NamedTuple):
    name: str
    shape: Shape
    dtype: str  # in the file; bool and bfloat16 data are widened to uint8 and float32
    data: Array | None  # a constant, read-only; None if it is computed
    scale: NDArray[np.float32]  # [n], n = 0: not quantised, 1: one for the whole tensor, else one per channel
    zero_point: NDArray[np.int64]  # [n]
    channel_axis: int  # along which scale and zero point lie, if n > 1


class OperatorOptions(NamedTuple):
    """The settings of an operator; those that it doesn't have are neutral. Pairs are (height, width)."""

    padding: str = "VALID"
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    kernel: tuple[int, int] = (1, 1)  # of pooling
    activation: str = "NONE"
    depth_multiplier: int = 1
    align_corners: bool = False
    half_pixel_centers: bool = False
    axis: int = 0


class Operator(NamedTuple):
    op: str  # a name of OPS, the custom code, or `BUILTIN_123`
    inputs: tuple[int, ...]  # indices of tensors; -1: an optional one that is absent
    outputs: tuple[int, ...]
    options: OperatorOptions


class TfLite(NamedTuple):
    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]  # in the order in which they run
    inputs: tuple[int, ...]  # indices of tensors
    outputs: tuple[int, ...]


def read_tflite(path: Path) -> TfLite:
    """A model of one graph; constants are views of the file's bytes. Raises ConversionError for any other file."""
    with reading(path, KIND):
        require_identifier(read_ends(path, 8)[0], IDENTIFIER)
        return _read_model(root(read_whole(path), IDENTIFIER))


def dequantised(tensor: Tensor) -> NDArray[np.float32]:
    """A constant's real numbers, (q - zero point) * scale, as a copy. Raises ConversionError for a computed tensor."""
    if tensor.data is None:
        raise ConversionError(f"the tensor {quoted(tensor.name)} is not a constant: it is computed when the model runs")
    if not tensor.scale.size:
        return tensor.data.astype(np.float32)
    along = [1] * len(tensor.shape)
    if tensor.scale.size > 1:
        along[tensor.channel_axis] = tensor.scale.size
    centred = tensor.data.astype(np.float64) - tensor.zero_point.reshape(along)
    return (centred * tensor.scale.reshape(along)).astype(np.float32)


def _read_model(model: Table) -> TfLite:
    if (version := model.integer(0, "I")) != VERSION:
        raise DamagedError(f"its format has version {version}; version {VERSION} is read")
    graphs = model.tables(2)
    if len(graphs) != 1:
        raise DamagedError(f"it has {len(graphs)} graphs; models of one graph are read")
    buffers = tuple(_read_buffer(buffer) for buffer in model.tables(4))
    ops = tuple(_op(code) for code in model.tables(1))
    tensors = tuple(_read_tensor(tensor, buffers) for tensor in graphs[0].tables(0))
    operators = tuple(_read_operator(operator, ops, len(tensors)) for operator in graphs[0].tables(3))
    inputs, outputs = (_indices(graphs[0], field, len(tensors)) for field in (1, 2))
    return TfLite(tensors, operators, inputs, outputs)


def _read_buffer(buffer: Table) -> NDArray[np.uint8]:
    if buffer.integer(1, "Q") > 1:
        raise DamagedError("its constants lie outside the flatbuffer, which is not supported")
    return buffer.vector(0, np.dtype("u1"))


def _op(code: Table) -> str:
    number = max(code.integer(0, "b"), code.integer(3))  # the older field holds at most 127
    return code.text(1) if number == CUSTOM else OPS.get(number, f"BUILTIN_{number}")


def _read_tensor(table: Table, buffers: tuple[NDArray[np.uint8], ...]) -> Tensor:
    name, shape = table.text(3), table.integers(0)
    dtype = _choice(DTYPES, table.integer(1, "b"), "tensor type")
    buffer = table.integer(2, "I")
    if buffer >= len(buffers) and buffer:
        raise DamagedError(f"the tensor {quoted(name)} is in buffer {buffer} of {len(buffers)}")
    raw = buffers[buffer] if buffer else np.zeros(0, np.uint8)  # buffer 0 is the empty one
    try:
        data = _constant(raw, dtype, shape) if raw.size else None
        scale, zero_point, axis = _quantisation(table.table(4), shape)
        if table.table(6) is not None:
            raise DamagedError("it is sparse, which is not supported")
    except DamagedError as error:
        raise DamagedError(f"the tensor {quoted(name)}: {error}") from error
    return Tensor(name, shape, dtype, data, scale, zero_point, axis)


def _constant(raw: NDArray[np.uint8], dtype: str, shape: Shape) -> Array:
    if dtype not in STORED:
        raise DamagedError(f"its type {dtype} is not supported")
    expected = count_elements(shape) * STORED[dtype].itemsize
    if expected != raw.size:
        raise DamagedError(f"its shape {shape} takes {expected} bytes, but it has {raw.size}")
    elements = raw.view(STORED[dtype]).reshape(shape)
    return widened(elements) if dtype == BFLOAT16 else elements


def _quantisation(table: Table | None, shape: Shape) -> tuple[NDArray[np.float32], NDArray[np.int64], int]:
    """Scale, zero point and the axis along which they lie."""
    if table is None:
        return np.zeros(0, np.float32), np.zeros(0, np.int64), 0
    scale, zero_point, axis = table.vector(2, np.dtype("<f4")), table.vector(3, np.dtype("<i8")), table.integer(6)
    if not np.isfinite(scale).all():
        raise DamagedError("a scale is not finite")
    if scale.size > 1 and not (0 <= axis < len(shape) and shape[axis] == scale.size):
        raise DamagedError(f"{scale.size} scales along axis {axis} of the shape {shape}")
    if zero_point.size not in (0, scale.size):
        raise DamagedError(f"{scale.size} scales, but {zero_point.size} zero points")
    return scale, zero_point if zero_point.size else np.zeros(scale.size, np.int64), axis


def _read_operator(table: Table, ops: tuple[str, ...], num_tensors: int) -> Operator:
    op = _choice(ops, table.integer(0, "I"), "operator")
    inputs, outputs = (_indices(table, field, num_tensors) for field in (1, 2))
    fields, settings = OPTIONS.get(table.integer(3, "B")), table.table(4)
    options = OperatorOptions() if fields is None or settings is None else _read_options(settings, fields)
    return Operator(op, inputs, outputs, options)


def _indices(table: Table, field: int, num_tensors: int) -> tuple[int, ...]:
    indices = table.integers(field)
    if any(not -1 <= index < num_tensors for index in indices):
        raise DamagedError(f"no such tensor among {num_tensors}: {quoted(str(indices))}")
    return indices


def _read_options(table: Table, fields: OptionFields) -> OperatorOptions:
    def pair(numbers: tuple[int, int] | None, default: int) -> tuple[int, int]:
        if numbers is None:
            return (1, 1)
        return table.integer(numbers[0], "i", default), table.integer(numbers[1], "i", default)

    def flag(number: int | None) -> bool:
        return number is not None and table.flag(number)

    def named(names: tuple[str, ...], number: int | None, neutral: str, what: str) -> str:
        return neutral if number is None else _choice(names, table.integer(number, "b"), what)

    return OperatorOptions(
        named(PADDINGS, fields.padding, "VALID", "padding"),
        pair(fields.stride, 0),
        pair(fields.dilation, 1),
        pair(fields.kernel, 0),
        named(ACTIVATIONS, fields.activation, "NONE", "activation"),
        1 if fields.depth_multiplier is None else table.integer(fields.depth_multiplier),
        flag(fields.align_corners),
        flag(fields.half_pixel_centers),
        0 if fields.axis is None else table.integer(fields.axis),
    )


def _choice(names: tuple[str, ...], number: int, what: str) -> str:
    if not 0 <= number < len(names):
        raise DamagedError(f"unknown {what} {number}")
    return names[number]
