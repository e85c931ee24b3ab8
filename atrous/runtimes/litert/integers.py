"""8-bit integers in LiteRT: what is rounded has a scale and the level of 0, and convolutions of such give such."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from atrous.runtimes.litert.graph import NHWC, Graph, Operator, Value, arranged

SIGNED = 128  # PyTorch's bytes begin at 0, LiteRT's at -128
CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")


class Levels(NamedTuple):
    """Constant integers, and the distance of two levels in each channel, along the first axis."""

    values: Tensor
    steps: Tensor

    @property
    def shape(self) -> torch.Size:
        return self.values.shape

    def permute(self, *order: int) -> "Levels":
        return Levels(self.values.permute(*order), self.steps)

    def constant(self, graph: Graph, axis: int) -> int:
        """A tensor of the graph; `axis` is that of the channels."""
        scale = tuple(self.steps.tolist())
        return graph.integers(self.values.numpy(force=True), scale, (0,) * len(scale), axis)


def levels(values: Tensor, steps: Tensor, *_: Any) -> Levels:  # noqa: ANN401 - limits and kinds
    return Levels(values.detach(), steps.detach())


def rounded(graph: Graph, x: Value, step: float, zero: int, *_: Any) -> Value:  # noqa: ANN401
    """Maps lie as convolutions read them."""
    order = NHWC if len(x.order) == len(NHWC) else x.order
    tensor = arranged(graph, x, order)
    output = graph.add("QUANTIZE", [tensor], graph.tensors[tensor].shape, "int8")
    graph.tensors[output] = graph.tensors[output]._replace(scale=(step,), zero_point=(zero - SIGNED,))
    return Value(output, order)


def in_floats(graph: Graph, x: Value, *_: Any) -> Value:  # noqa: ANN401
    return Value(graph.add("DEQUANTIZE", [x.tensor], graph.tensors[x.tensor].shape, "float32"), x.order)


# ---- operators of integers, from those of floats between roundings


def in_integers(graph: Graph, operators: Sequence[Operator], outputs: Iterable[int]) -> list[Operator]:
    """The operators, with convolutions in integers where their input is one and their result becomes one."""
    makers = {operator.output: operator for operator in operators}
    readers: dict[int, list[Operator]] = {}
    for operator in operators:
        for tensor in operator.inputs:
            readers.setdefault(tensor, []).append(operator)
    ends = set(outputs)
    result, renamed = list[Operator](), dict[int, int]()
    for operator in operators:
        if operator.output in renamed:  # computed by the operator before
            continue
        own = readers.get(operator.output, [])
        inputs = [_rounded_input(graph, makers, tensor) for tensor in operator.inputs]
        is_rounded = len(own) == 1 and own[0].op == "QUANTIZE" and operator.output not in ends
        if is_rounded and _has_integers(graph, operator, inputs, own[0]):
            renamed[own[0].output] = operator.output
            result.append(operator._replace(inputs=tuple(inputs), output=own[0].output))
        else:
            result.append(_of_floats(graph, operator))
    return _needed(result, ends)


def _rounded_input(graph: Graph, makers: dict[int, Operator], tensor: int) -> int:
    """The integers that floats come from; else the tensor itself."""
    maker = makers.get(tensor)
    return maker.inputs[0] if maker is not None and maker.op == "DEQUANTIZE" else tensor


def _has_integers(graph: Graph, operator: Operator, inputs: Sequence[int], rounding: Operator) -> bool:
    """A convolution of integers; or parts with the scale of the whole, joined."""
    if operator.op in CONVOLUTIONS:
        return all(graph.tensors[tensor].scale for tensor in inputs)
    whole = graph.tensors[rounding.output]
    return operator.op == "CONCATENATION" and all(
        (graph.tensors[tensor].scale, graph.tensors[tensor].zero_point) == (whole.scale, whole.zero_point)
        for tensor in inputs
    )


def _of_floats(graph: Graph, operator: Operator) -> Operator:
    """A convolution with its weights in floats again, where its result is none of integers."""
    if operator.op not in CONVOLUTIONS or not graph.tensors[operator.inputs[1]].scale:
        return operator
    return operator._replace(inputs=(operator.inputs[0], *(_in_floats(graph, one) for one in operator.inputs[1:])))


def _in_floats(graph: Graph, tensor: int) -> int:
    constant = graph.tensors[tensor]
    assert constant.data is not None
    along = [1] * constant.data.ndim
    along[constant.axis] = -1
    steps = np.array(constant.scale, np.float32).reshape(along)
    return graph.constant((constant.data * steps).astype(np.float32))


def _needed(operators: Sequence[Operator], outputs: set[int]) -> list[Operator]:
    """Those that lead to the outputs."""
    tensors, result = set(outputs), list[Operator]()
    for operator in reversed(operators):
        if operator.output in tensors:
            tensors |= set(operator.inputs)
            result.append(operator)
    return result[::-1]
