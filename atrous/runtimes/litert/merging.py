"""Neighbouring operators that LiteRT computes as one: batch norms, activations, cut borders, and paddings by name."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from atrous.layers.conv import same_padding
from atrous.runtimes.litert.graph import Array, Graph, Operator, Option
from atrous.runtimes.litert.integers import in_integers

ACTIVATION = "fusedActivationFunction"
ACTIVATIONS = {"RELU": 1, "RELU_N1_TO_1": 2, "RELU6": 3}  # ActivationFunctionType
ACTIVATED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "ADD", "SUB", "MUL", "DIV", "MAX_POOL_2D")
CHANNEL_AXES = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0}  # of the weights: the result's channels
SAME, VALID = 0, 1  # Padding


def merged(graph: Graph, outputs: Iterable[int]) -> list[Operator]:
    """The graph's operators, in order, each joined with the only one that reads its result where that is possible."""
    outputs = list(outputs)
    readers = Counter([tensor for operator in graph.operators for tensor in operator.inputs] + outputs)
    operators: dict[int, Operator] = {}  # by the tensor that they compute
    for operator in graph.operators:
        sources = [tensor for tensor in operator.inputs if tensor in operators]
        if len(sources) == 1 and readers[sources[0]] == 1:
            joints = (merge(graph, operators[sources[0]], operator) for merge in MERGES.get(operator.op, ()))
            if (joint := next(filter(None, joints), None)) is not None:
                del operators[sources[0]]
                operator = joint
        operators[operator.output] = operator
    joined = in_integers(graph, list(operators.values()), outputs)
    return [part for operator in joined for part in _with_padding(graph, operator)]


def _scaled(graph: Graph, source: Operator, product: Operator) -> Operator | None:
    """A factor per channel goes into the weights."""
    factor = _per_channel(graph, source, product)
    if factor is None:
        return None
    weights, bias = (_data(graph, tensor) for tensor in source.inputs[1:])
    along = [1] * weights.ndim
    along[CHANNEL_AXES[source.op]] = -1
    return _weighted(graph, source, product, weights * factor.reshape(along), bias * factor)


def _shifted(graph: Graph, source: Operator, total: Operator) -> Operator | None:
    """An addend per channel goes into the bias."""
    addend = _per_channel(graph, source, total)
    if addend is None:
        return None
    weights, bias = (_data(graph, tensor) for tensor in source.inputs[1:])
    return _weighted(graph, source, total, weights, bias + addend)


def _prepadded(graph: Graph, source: Operator, convolution: Operator) -> Operator | None:
    """Zeros around what is convolved become pads; those below and to the right follow from the result's size."""
    if source.op != "PAD" or source.output != convolution.inputs[0]:
        return None
    images, (top, _), (left, _), channels = _data(graph, source.inputs[1]).tolist()
    if any((*images, *channels)):
        return None
    above, beside = _numbers(convolution.options, "pads")
    options = {**convolution.options, "pads": (above + top, beside + left)}
    return convolution._replace(inputs=(source.inputs[0], *convolution.inputs[1:]), options=options)


def _prescaled(graph: Graph, source: Operator, convolution: Operator) -> Operator | None:
    """A factor or divisor per channel of what is convolved goes into the weights: zeros around it stay zeros."""
    tensors = [tensor for tensor in source.inputs if graph.tensors[tensor].data is not None]
    weights, shape = graph.tensors[convolution.inputs[1]].data, graph.tensors[convolution.inputs[0]].shape
    is_int8 = bool(graph.tensors[convolution.inputs[1]].scale)
    if source.op not in ("MUL", "DIV") or source.options or len(tensors) != 1 or weights is None or is_int8:
        return None
    computed = source.inputs[0]
    factor = _data(graph, tensors[0]).reshape(-1)
    is_grouped = weights.shape[-1] != shape[-1]
    if (
        tensors[0] == computed
        or graph.tensors[computed].shape != shape
        or factor.size not in (1, shape[-1])
        or is_grouped
    ):
        return None
    scaled = weights / factor if source.op == "DIV" else weights * factor
    inputs = (computed, graph.constant(scaled.astype(np.float32)), *convolution.inputs[2:])
    return convolution._replace(inputs=inputs)


def _per_channel(graph: Graph, source: Operator, operator: Operator) -> Array | None:
    """The operator's constant, if `source` has weights, nothing after them, and the same shape as the operator."""
    others = [tensor for tensor in operator.inputs if tensor != source.output]
    if len(others) != 1 or source.op not in CHANNEL_AXES or source.options.get(ACTIVATION):
        return None
    if any(graph.tensors[tensor].data is None for tensor in (*others, *source.inputs[1:])):
        return None
    if graph.tensors[source.inputs[1]].scale:  # integers
        return None
    constant, shape = _data(graph, others[0]), graph.tensors[source.output].shape
    is_per_channel = constant.size == 1 or (constant.size == constant.shape[-1] == shape[-1])
    if not is_per_channel or graph.tensors[operator.output].shape != shape:
        return None
    return np.broadcast_to(constant.reshape(-1), shape[-1:])


def _weighted(graph: Graph, source: Operator, operator: Operator, weights: Array, bias: Array) -> Operator:
    constants = (graph.constant(values.astype(np.float32)) for values in (weights, bias))
    return source._replace(inputs=(source.inputs[0], *constants), output=operator.output)


def _activated(graph: Graph, source: Operator, activation: Operator) -> Operator | None:
    if source.op not in ACTIVATED or source.options.get(ACTIVATION) or graph.tensors[source.output].dtype != "float32":
        return None
    options = {**source.options, ACTIVATION: ACTIVATIONS[activation.op]}
    return source._replace(options=options, output=activation.output)


def _cut(graph: Graph, source: Operator, cut: Operator) -> Operator | None:
    """A convolution whose first rows or columns are dropped begins later."""
    if source.op not in ("CONV_2D", "DEPTHWISE_CONV_2D") or source.options.get(ACTIVATION):
        return None
    begin, size = (_data(graph, tensor).tolist() for tensor in cut.inputs[1:])
    whole = graph.tensors[source.output].shape
    top, left = _numbers(source.options, "pads")
    top, left = top - begin[1] * _number(source, "strideH"), left - begin[2] * _number(source, "strideW")
    ends_there = all(first + length == full for first, length, full in zip(begin, size, whole, strict=True))
    if begin[0] or begin[3] or min(top, left) < 0 or not ends_there:
        return None
    return source._replace(options={**source.options, "pads": (top, left)}, output=cut.output)


MERGES: Mapping[str, tuple[Callable[[Graph, Operator, Operator], Operator | None], ...]] = {
    "MUL": (_scaled,),
    "ADD": (_shifted,),
    "SLICE": (_cut,),
    "CONV_2D": (_prepadded, _prescaled),
    "DEPTHWISE_CONV_2D": (_prepadded,),
    **dict.fromkeys(ACTIVATIONS, (_activated,)),
}


def _with_padding(graph: Graph, operator: Operator) -> list[Operator]:
    """The operator with a padding that LiteRT knows by name, or after one that pads."""
    if "pads" not in operator.options:
        return [operator]
    options = {name: value for name, value in operator.options.items() if name != "pads"}
    around, sames = _pads(graph, operator), _same_pads(graph, operator)
    if around == [(0, 0), (0, 0)]:
        return [operator._replace(options={**options, "padding": VALID})]
    if around == sames and operator.op != "AVERAGE_POOL_2D":  # which does not count what SAME adds
        return [operator._replace(options={**options, "padding": SAME})]
    pad = _pad(graph, operator, [(0, 0), *around, (0, 0)])
    inputs = (pad.output, *operator.inputs[1:])
    return [pad, operator._replace(inputs=inputs, options={**options, "padding": VALID})]


def _pad(graph: Graph, operator: Operator, around: Sequence[tuple[int, int]]) -> Operator:
    source = graph.tensors[operator.inputs[0]]
    shape = [length + sum(pair) for length, pair in zip(source.shape, around, strict=True)]
    table = graph.constant(np.array(around, np.int32))
    output = graph.tensor(shape, source.dtype)
    graph.tensors[output] = source._replace(shape=tuple(shape))  # 0 is on the same level
    if operator.op != "MAX_POOL_2D":
        return Operator("PAD", (operator.inputs[0], table), output)
    lowest = graph.constant(np.array([np.finfo(np.float32).min], np.float32))
    return Operator("PADV2", (operator.inputs[0], table, lowest), output)


def _pads(graph: Graph, operator: Operator) -> list[tuple[int, int]]:
    """Before and after the rows and the columns."""
    pairs = []
    for axis, (before, step, extent) in enumerate(zip(*_windows(graph, operator), strict=True), 1):
        old, new = (graph.tensors[tensor].shape[axis] for tensor in (operator.inputs[0], operator.output))
        pairs.append((before, max(0, (new - 1) * step + extent - old - before)))
    return pairs


def _same_pads(graph: Graph, operator: Operator) -> list[tuple[int, int]]:
    pairs = []
    for axis, (_, step, extent) in enumerate(zip(*_windows(graph, operator), strict=True), 1):
        old, new = (graph.tensors[tensor].shape[axis] for tensor in (operator.inputs[0], operator.output))
        pairs.append(same_padding(old, extent, step, 1) if new == -(-old // step) else (-1, -1))
    return pairs


def _windows(graph: Graph, operator: Operator) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Pads before, steps and extents: of rows, of columns."""
    steps = _number(operator, "strideH"), _number(operator, "strideW")
    if "filterHeight" in operator.options:
        extents = _number(operator, "filterHeight"), _number(operator, "filterWidth")
    else:
        kernel = graph.tensors[operator.inputs[1]].shape[1:3]
        rates = _number(operator, "dilationHFactor"), _number(operator, "dilationWFactor")
        extents = (rates[0] * (kernel[0] - 1) + 1, rates[1] * (kernel[1] - 1) + 1)
    return _numbers(operator.options, "pads"), steps, extents


def _data(graph: Graph, tensor: int) -> Array:
    data = graph.tensors[tensor].data
    assert data is not None, "a constant"
    return data


def _number(operator: Operator, name: str) -> int:
    return int(operator.options[name])  # type: ignore[arg-type]


def _numbers(options: Mapping[str, Option], name: str) -> tuple[int, ...]:
    value = options[name]
    assert isinstance(value, tuple)
    return value
