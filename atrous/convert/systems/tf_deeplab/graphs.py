"""The variables in frozen graphs and TensorFlow Lite models, and what the operations there show."""

import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from atrous.convert.arrays import Array
from atrous.convert.readers.frozen_graph import Graph
from atrous.convert.readers.tflite import Operator, TfLite, dequantised
from atrous.convert.system import ForeignWeights, Hints
from atrous.convert.systems.tf_deeplab.layout import NORM_LEAVES
from atrous.convert.systems.tf_deeplab.scopes import ROOTS
from atrous.errors import ConversionError
from atrous.types import Size

LEAVES = frozenset({"weights", "depthwise_weights", "pointwise_weights", "biases", *NORM_LEAVES.values()})
SCOPES = {root.scope for root in ROOTS.values()}
ASPP = re.compile(r"aspp(\d+)(_depthwise)?/")
INT8_SHIFT = 128  # an int8 input is a pixel less 128


class Layer(NamedTuple):
    """A convolution or pooling of a graph."""

    scope: str
    stride: int
    rate: int


# ---- frozen graphs


def from_graph(graph: Graph, label: str) -> ForeignWeights:
    """The constants that were variables, under their names."""
    variables = {name: array for name, array in graph.constants.items() if name.rpartition("/")[2] in LEAVES}
    return ForeignWeights(label, variables, _hints(list(_graph_layers(graph))), _graph_size(graph))


def _graph_layers(graph: Graph) -> Iterator[Layer]:
    for node in graph.nodes.values():
        if node.op in ("Conv2D", "DepthwiseConv2dNative", "MaxPool"):
            strides, dilations = node.ints.get("strides", ()), node.ints.get("dilations", ())
            block = graph.constants.get(f"{node.name}/SpaceToBatchND/block_shape", np.ones(1))
            yield Layer(node.name, max((1, *strides)), max((1, *dilations, *(int(side) for side in block.flat[:2]))))


def _graph_size(graph: Graph) -> Size | None:
    """Of the input, or of the canvas on which the graph lays it, if it is fixed."""
    inputs = [node.shapes.get("shape", ()) for node in graph.nodes.values() if node.op == "Placeholder"]
    canvases = [tuple(array.tolist()) for array in graph.constants.values() if array.shape == (4,)]
    fixed = {shape[1:3] for shape in (*inputs, *canvases) if _is_image(shape)}
    return fixed.pop() if len(fixed) == 1 else None


def _is_image(shape: tuple[Any, ...]) -> bool:
    return len(shape) == 4 and shape[0] == 1 and shape[3] == 3 and all(isinstance(n, int) and n > 1 for n in shape[1:3])


# ---- TensorFlow Lite


def from_tflite(model: TfLite, label: str) -> ForeignWeights:
    """The weights of its convolutions in TensorFlow's order, dequantised; their batch norms are folded into them."""
    variables: dict[str, Array] = {}
    layers: list[Layer] = []
    producers = {output: operator for operator in model.operators for output in operator.outputs}
    for operator in model.operators:
        if operator.op in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            _require_convolution(model, operator, label)
            scope = _tflite_scope(model, operator)
            variables |= _tflite_variables(model, operator, scope)
            block = _block(model, producers.get(operator.inputs[0]))
            layers.append(Layer(scope, max(operator.options.stride), max(*operator.options.dilation, block)))
        if operator.op == "MAX_POOL_2D":
            name = model.tensors[operator.outputs[0]].name
            layers.append(Layer(name, max(operator.options.stride), 1))
    if not model.inputs:
        raise ConversionError(f"{label}: a graph without an input")
    return ForeignWeights(label, variables, _hints(layers), _tflite_size(model), _normalization(model))


def _tflite_size(model: TfLite) -> Size | None:
    shape = model.tensors[model.inputs[0]].shape
    return (shape[1], shape[2]) if _is_image(shape) else None


def _require_convolution(model: TfLite, operator: Operator, label: str) -> None:
    """Raises ConversionError unless it has weights of four dimensions, which its depth multiplier divides."""
    indices, multiplier = operator.inputs, operator.options.depth_multiplier
    if len(indices) < 2 or min(indices[:2]) < 0:
        raise ConversionError(f"{label}: a convolution without weights")
    shape = model.tensors[indices[1]].shape
    is_depthwise = operator.op == "DEPTHWISE_CONV_2D"
    if len(shape) != 4 or (is_depthwise and (shape[0] != 1 or multiplier < 1 or shape[3] % multiplier)):
        name = model.tensors[indices[1]].name[:80]
        reason = f"weights of the shape {list(shape)}, multiplier {multiplier}, fit no convolution"
        raise ConversionError(f"{label}: {name!r}: {reason}")


def _tflite_scope(model: TfLite, operator: Operator) -> str:
    """`aspp0` of `aspp0/Conv2D_Fold;aspp0/weights_quant/...`: where the weights are."""
    name = model.tensors[operator.inputs[1]].name
    return name.partition(";")[0].rpartition("/")[0]


def _tflite_variables(model: TfLite, operator: Operator, scope: str) -> dict[str, Array]:
    weights = dequantised(model.tensors[operator.inputs[1]])
    if operator.op == "CONV_2D":  # [out, height, width, in] -> HWIO
        variables: dict[str, Array] = {f"{scope}/weights": weights.transpose(1, 2, 3, 0)}
    else:  # [1, height, width, out] -> HWIM
        multiplier = operator.options.depth_multiplier
        height, width, out = weights.shape[1:]
        variables = {f"{scope}/depthwise_weights": weights.reshape(height, width, out // multiplier, multiplier)}
    if len(operator.inputs) > 2 and operator.inputs[2] >= 0:
        variables[f"{scope}/biases"] = dequantised(model.tensors[operator.inputs[2]])
    return variables


def _block(model: TfLite, producer: Operator | None) -> int:
    """The rate that rearranging the input amounts to, if the convolution itself isn't dilated."""
    if producer is None or producer.op != "SPACE_TO_BATCH_ND" or len(producer.inputs) < 2:
        return 1
    data = model.tensors[producer.inputs[1]].data
    return 1 if data is None or data.size == 0 else int(data.max())


def _normalization(model: TfLite) -> tuple[float, float] | None:
    """(shift, scale) of pixels in 0..255, if the input's quantisation shows them."""
    image = model.tensors[model.inputs[0]]
    if image.dtype not in ("uint8", "int8") or image.scale.size != 1 or not image.scale[0] > 0:
        return None
    shift = int(image.zero_point[0]) + (INT8_SHIFT if image.dtype == "int8" else 0)
    return float(shift), 1 / float(image.scale[0])


# ---- both


def _hints(layers: list[Layer]) -> Hints:
    """The output stride from the backbone's strides, ASPP's rates from its convolutions."""
    trunk = [layer for layer in layers if layer.scope.partition("/")[0] in SCOPES and "shortcut" not in layer.scope]
    stride = math.prod(layer.stride for layer in trunk if "squeeze_excite" not in layer.scope)
    rates = {int(match[1]): layer.rate for layer in layers if (match := ASPP.match(f"{layer.scope}/"))}
    aspp = tuple(rate for number, rate in sorted(rates.items()) if number > 0 and rate > 1)
    return Hints(stride if stride in (8, 16, 32) else None, aspp or None)
