"""TensorFlow Lite models: weights in TensorFlow's order, and the operators between them."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from atrous.convert.arrays import Array
from atrous.convert.flow.operations import ARG_MAX, INTEGERS, MAXIMUM, REVERSED, SOFTMAX, Operation, Operations, flow_of
from atrous.convert.flow.values import NEAR_SIXTH, SIXTH, Pair, scope_of
from atrous.convert.readers.tflite import Operator, Tensor, TfLite, dequantised
from atrous.convert.system import ForeignWeights
from atrous.convert.systems.tf_deeplab import structure
from atrous.convert.systems.tf_deeplab.graphs import (
    NOMINAL,
    hints_of,
    is_image,
    left_out,
    normalization_of,
    without_holes,
)
from atrous.errors import ConversionError
from atrous.types import Size

CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")
FULLY_CONNECTED = "FULLY_CONNECTED"  # a 1x1 convolution, where a classifier sees a mean
EDGE_TPU = "edgetpu-custom-op"
INT8_SHIFT = 128  # an int8 input is a pixel less 128
SUMMAND, HALF_WAY = "half-way", 3  # of a hard sigmoid, relu6(x + 3) / 6
SMALL = 16  # numbers in a constant that says how, not what: an axis, a size, a padding
LOWEST = {"uint8": 0, "int8": -128}
BELOW = re.compile(r"(\w+_)?weights(_quant)?|BatchNorm\w*|Conv2D\w*")  # below a layer's scope, in a tensor's name
DEPTHWISE = "depthwise"
DENSE = 3  # the largest kernel that can have no holes
FLOAT = re.compile("float")  # in the name of a type
STEPS = 255  # between the lowest and the highest number of 8 bits
SIX = (5.9, 6.05)  # the end of a ReLU6 after rounding
NAMED_RELU = re.compile(r"(?<![a-z])relu6?(?![a-z])", re.IGNORECASE)
ROUNDED = "the 8-bit arithmetic of its {} layers is left out: it computes in floats, and some labels differ"
KINDS = {
    **dict.fromkeys((*CONVOLUTIONS, FULLY_CONNECTED), "conv"),
    "AVERAGE_POOL_2D": "mean",
    "MAX_POOL_2D": "max",
    "MEAN": "reduce_mean",
    **dict.fromkeys(("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"), "resize"),
    "TILE": "tile",
    **dict.fromkeys(("PAD", "PADV2"), "pad"),
    "SPACE_TO_BATCH_ND": "space_to_batch",
    "BATCH_TO_SPACE_ND": "batch_to_space",
    "ADD": "add",
    "SUB": "sub",
    "MUL": "mul",
    "DIV": "div",
    "MAXIMUM": "maximum",
    "MINIMUM": "minimum",
    "RELU": "relu",
    "RELU6": "relu6",
    "LOGISTIC": "sigmoid",
    "HARD_SWISH": "hard_swish",
    "CONCATENATION": "concat",
    **dict.fromkeys(("QUANTIZE", "DEQUANTIZE", "CAST"), "identity"),
    "SQUEEZE": "squeeze",
    "EXPAND_DIMS": "expand_dims",
    "ARG_MAX": ARG_MAX,
    "RESHAPE": "reshape",
    "TRANSPOSE": "transpose",
    "FAKE_QUANT": "identity",
    "REDUCE_MAX": MAXIMUM,
    "SOFTMAX": SOFTMAX,
    "REVERSE_V2": REVERSED,
    "SHAPE": "size",
    "PACK": "list",
}


def from_tflite(model: TfLite, label: str) -> ForeignWeights:
    """The weights of its convolutions in TensorFlow's order, dequantised; their batch norms are folded into them."""
    if not model.inputs:
        raise ConversionError(f"{label}: a graph without an input")
    if any(operator.op == EDGE_TPU for operator in model.operators):
        original = re.sub(r"_edgetpu(?=\.\w+$)", "", Path(label).name)
        other = original if original != Path(label).name else "whose name lacks _edgetpu"
        raise ConversionError(
            f"{label}: compiled for the Edge TPU, in whose code the weights can't be read; convert the .tflite that it "
            f"was compiled from ({other})"
        )
    convolutions = [operator for operator in model.operators if _is_layer(model, operator)]
    for operator in convolutions:
        if operator.op in CONVOLUTIONS:
            _require_convolution(model, operator, label)
    size, stored = _size(model), _stored(model)
    scopes = _scopes(model, convolutions, size or NOMINAL)
    variables: dict[str, Array] = {}
    for operator in convolutions:
        variables |= _variables(model, operator, scopes[operator.inputs[1]])
    flow = flow_of(_operations(model, scopes), size or NOMINAL)
    count = sum(_is_rounded(model, operator) for operator in model.operators)
    said = left_out(flow, *([ROUNDED.format(count)] if count else []), is_stored=stored is not None)
    numbers = normalization_of(flow, stored)
    return ForeignWeights(label, variables, hints_of(flow), size, numbers, flow, said, is_rounded=count > 0)


def _size(model: TfLite) -> Size | None:
    shape = model.tensors[model.inputs[0]].shape
    return (shape[1], shape[2]) if is_image(shape) else None


def _is_layer(model: TfLite, operator: Operator) -> bool:
    """Whether it has weights that become a layer's. A product of two maps has none."""
    if operator.op != FULLY_CONNECTED:
        return operator.op in CONVOLUTIONS
    if min(operator.inputs[1:2], default=-1) < 0:
        return False
    weights = _stored_tensor(model, operator.inputs[1])
    return weights.data is not None and len(weights.shape) == 2


def _require_convolution(model: TfLite, operator: Operator, label: str) -> None:
    """Raises ConversionError unless it has constant weights of four dimensions, which its depth multiplier divides."""
    indices, multiplier = operator.inputs, operator.options.depth_multiplier
    if len(indices) < 2 or min(indices[:2]) < 0:
        raise ConversionError(f"{label}: a convolution without weights")
    shape = model.tensors[indices[1]].shape
    is_depthwise = operator.op == "DEPTHWISE_CONV_2D"
    if len(shape) != 4 or (is_depthwise and (shape[0] != 1 or multiplier < 1 or shape[3] % multiplier)):
        name = model.tensors[indices[1]].name[:80]
        reason = f"weights of the shape {list(shape)}, multiplier {multiplier}, fit no convolution"
        raise ConversionError(f"{label}: {name!r}: {reason}")
    for index in (one for one in indices[1:3] if one >= 0):
        if (stored := _stored_tensor(model, index)).data is None:
            raise ConversionError(f"{label}: weights that are computed when it runs: {stored.name[:80]!r}")


# ---- weights


def _scope(model: TfLite, operator: Operator) -> str:
    """`aspp0` of `aspp0/Conv2D_Fold;aspp0/weights_quant/...`, `aspp0/weights/read/_4__cf__4`: where the weights are."""
    parts = model.tensors[operator.inputs[1]].name.partition(";")[0].split("/")
    ends = (
        index
        for index in range(1, len(parts))
        if BELOW.fullmatch(parts[index])
        or (parts[index - 1].endswith(DEPTHWISE) and parts[index].startswith(DEPTHWISE))
    )
    return "/".join(parts[: next(ends, -1)])


def _scopes(model: TfLite, convolutions: list[Operator], size: Size) -> dict[int, str]:
    """Of layers, by the tensor of their weights: by its name or, where that isn't known, by structure."""
    named = {operator.inputs[1]: _scope(model, operator) for operator in convolutions}
    if structure.are_known(list(named.values())):
        return named
    numbered = {index: f"layer_{index}" for index in named}
    kernels = {
        _weights_name(operator, numbered): structure.Kernel(
            without_holes(_kernel_of(model, operator))[0].shape, operator.op == "DEPTHWISE_CONV_2D"
        )
        for operator in convolutions
    }
    names = structure.names_by_structure(_operations(model, numbered), kernels, size)
    by_number = {scope_of(old): scope_of(new) for old, new in names.items()}
    return {index: by_number[scope] for index, scope in numbered.items()} if names else named


def _weights_name(operator: Operator, scopes: Mapping[int, str]) -> str:
    leaf = "depthwise_weights" if operator.op == "DEPTHWISE_CONV_2D" else "weights"
    return f"{scopes[operator.inputs[1]]}/{leaf}"


def _kernel_of(model: TfLite, operator: Operator) -> Array:
    weights = dequantised(_stored_tensor(model, operator.inputs[1]))
    if operator.op == FULLY_CONNECTED:  # [out, in] -> HWIO
        return weights.T[None, None]
    if operator.op == "CONV_2D":  # [out, height, width, in] -> HWIO
        return weights.transpose(1, 2, 3, 0)
    multiplier = operator.options.depth_multiplier  # [1, height, width, out] -> HWIM
    height, width, out = weights.shape[1:]
    return weights.reshape(height, width, out // multiplier, multiplier)


def _variables(model: TfLite, operator: Operator, scope: str) -> dict[str, Array]:
    kernel = without_holes(_kernel_of(model, operator))[0]
    name = _weights_name(operator, {operator.inputs[1]: scope})
    bias = operator.inputs[2] if len(operator.inputs) > 2 else -1
    none = np.zeros(kernel[0, 0].size if operator.op == "DEPTHWISE_CONV_2D" else kernel.shape[3], np.float32)
    biases = none if bias < 0 else dequantised(_stored_tensor(model, bias))
    return {name: kernel, f"{scope}/biases": biases - HALF_WAY if _is_gate(model, operator) else biases}


def _is_gate(model: TfLite, operator: Operator) -> bool:
    """Whether it makes relu6(y) / 6 alone: a hard sigmoid, whose 3 a converter has added to the biases."""
    takers = [one for one in model.operators if set(operator.outputs[:1]) & set(one.inputs)]
    if operator.options.activation != "RELU6" or len(takers) != 1 or takers[0].op != "MUL":
        return False
    factors = (_stored_tensor(model, index) for index in takers[0].inputs if index >= 0)
    numbers = [dequantised(factor) for factor in factors if factor.data is not None]
    return any(number.size == 1 and abs(float(number.item()) - SIXTH) < NEAR_SIXTH for number in numbers)


def _stored_tensor(model: TfLite, index: int) -> Tensor:
    """A constant, or the one that it is converted from when the model runs."""
    tensor = model.tensors[index]
    sources = (
        one.inputs[0] for one in model.operators if one.op == "DEQUANTIZE" and index in one.outputs and one.inputs
    )
    return tensor if tensor.data is not None else model.tensors[next(sources, index)]


# ---- operators


def _operations(model: TfLite, scopes: Mapping[int, str]) -> Operations:
    constants = {str(index): array for index, array in _constants(model)}
    constants[SUMMAND] = np.array(HALF_WAY, np.float32)
    operators, relus = (operator for operator in model.operators if operator.outputs), _activations(model)
    operations = [part for operator in operators for part in _parts(model, operator, scopes, relus)]
    return Operations(operations, constants, tuple(map(str, model.inputs)), {}, weights=())


def _parts(
    model: TfLite, operator: Operator, scopes: Mapping[int, str], relus: Mapping[int, str]
) -> Iterator[Operation]:
    """An operator; a gate's convolution makes x, and relu6(x + 3) follows."""
    operation = _operation(model, operator, scopes, relus)
    if operation.weights and _is_gate(model, operator):
        x = f"{operation.output} before its activation"
        yield operation._replace(output=x, activation="")
        yield Operation("add", operation.name, (x, SUMMAND), operation.output, activation=operation.activation)
    else:
        yield operation


def _constants(model: TfLite) -> Iterator[tuple[int, Array]]:
    """The small ones: what larger ones hold are weights."""
    for index, tensor in enumerate(model.tensors):
        if tensor.data is not None and tensor.data.size <= SMALL:
            yield index, dequantised(tensor) if tensor.scale.size else tensor.data


def _operation(model: TfLite, operator: Operator, scopes: Mapping[int, str], relus: Mapping[int, str]) -> Operation:
    options, output = operator.options, model.tensors[operator.outputs[0]]
    activation = "" if options.activation == "NONE" else options.activation.lower()
    is_conv = _is_layer(model, operator)
    kernel, holes = _kernel(model, operator) if is_conv else (options.kernel, 1)
    return Operation(
        _kind(model, operator, is_layer=is_conv),
        output.name,
        tuple(map(str, operator.inputs)),
        str(operator.outputs[0]),
        _weights_name(operator, scopes) if is_conv else "",
        _positive(kernel),
        _positive(options.stride),
        _positive((holes * options.dilation[0], holes * options.dilation[1])),
        options.padding == "SAME",
        activation=activation or relus.get(operator.outputs[0], ""),
        align_corners=options.align_corners,
        half_pixel_centers=options.half_pixel_centers,
        method="nearest" if operator.op == "RESIZE_NEAREST_NEIGHBOR" else "bilinear",
        axis=options.axis if operator.op == "CONCATENATION" else None,
    )


def _kind(model: TfLite, operator: Operator, *, is_layer: bool) -> str:
    """A cast takes the numbers of 8 bits as they are stored, unlike a dequantisation."""
    if operator.op == FULLY_CONNECTED and not is_layer:
        return operator.op
    tensors = (model.tensors[index] for index in (*operator.inputs, *operator.outputs) if index >= 0)
    if operator.op == "CAST" and any(not FLOAT.search(tensor.dtype) for tensor in tensors):
        return INTEGERS
    return KINDS.get(operator.op, operator.op)


def _kernel(model: TfLite, operator: Operator) -> tuple[Pair, int]:
    """Its size, and the rate that its holes stand for."""
    stored = _stored_tensor(model, operator.inputs[1])
    height, width = stored.shape[1:3] if operator.op in CONVOLUTIONS else (1, 1)
    if height <= DENSE:
        return (height, width), 1
    dense, rate = without_holes(dequantised(stored).transpose(1, 2, 3, 0))
    return (dense.shape[0], dense.shape[1]), rate


def _positive(pair: Pair) -> Pair:
    return max(pair[0], 1), max(pair[1], 1)


def _activations(model: TfLite) -> dict[int, str]:
    """Of the convolutions and sums whose ReLU an older converter, or one for a chip, has left out, by their output.

    No number of 8 bits stands for less than 0 there. Where the numbers end says which ReLU it was, if at more than 6 or
    just there; where at less, as after calibration on images, the output's name does, or else the layers that follow:
    up to the last that ends at 6, all are ReLU6.
    """
    outputs = [operator.outputs[0] for operator in model.operators if _is_clipped(model, operator)]
    ends = [STEPS * float(model.tensors[index].scale[0]) for index in outputs]
    last = max((place for place, end in enumerate(ends) if SIX[0] < end < SIX[1]), default=-1)
    return {
        index: "relu" if end > SIX[1] else _named_relu(model.tensors[index]) or ("relu6" if place <= last else "relu")
        for place, (index, end) in enumerate(zip(outputs, ends, strict=True))
    }


def _is_clipped(model: TfLite, operator: Operator) -> bool:
    if operator.op not in (*CONVOLUTIONS, "ADD") or not operator.outputs or operator.options.activation != "NONE":
        return False
    output = model.tensors[operator.outputs[0]]
    return output.scale.size == 1 and output.zero_point.tolist() == [LOWEST.get(output.dtype)]


def _named_relu(output: Tensor) -> str | None:
    """`relu6` of `MobilenetV2/expanded_conv_1/depthwise/Relu6_8:out0`; None where the name has none, or both."""
    names = {name.lower() for name in NAMED_RELU.findall(output.name)}
    return names.pop() if len(names) == 1 else None


# ---- 8 bits


def _is_rounded(model: TfLite, operator: Operator) -> bool:
    """Also if only its weights have 8 bits: its input gets them when it runs."""
    return _is_layer(model, operator) and any(model.tensors[index].dtype in LOWEST for index in operator.inputs[:2])


def _stored(model: TfLite) -> tuple[float, float] | None:
    """(shift, scale) of pixels in 0..255, if the input's quantisation shows them."""
    image = model.tensors[model.inputs[0]]
    if image.dtype not in LOWEST or image.scale.size != 1 or not image.scale[0] > 0:
        return None
    shift = int(image.zero_point[0]) + (INT8_SHIFT if image.dtype == "int8" else 0)
    return float(shift), 1 / float(image.scale[0])
