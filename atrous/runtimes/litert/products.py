"""Operators of PyTorch that multiply matrices."""

import numpy as np

from atrous.errors import ConfigError
from atrous.runtimes.litert.axes import last, softmax, swapped
from atrous.runtimes.litert.elements import Operand, binary, common_shape, constant_array, placed, raised, shape_of
from atrous.runtimes.litert.graph import Graph, Option, Value, arranged, plain


def matmul(graph: Graph, one: Operand, two: Operand) -> Value:
    rank = max(len(shape_of(graph, operand)) for operand in (one, two))
    (first, adj_first), (second, adj_second) = (_matrix(graph, operand, rank) for operand in (one, two))
    (*batch, rows, _), (*other, _, columns) = (shape_of(graph, operand) for operand in (one, two))
    shape = (*common_shape(batch, other), rows, columns)
    options: dict[str, Option] = {"adjX": adj_first, "adjY": adj_second}
    return Value(graph.add("BATCH_MATMUL", [first, second], shape, "float32", **options), plain(rank))


def _matrix(graph: Graph, operand: Operand, rank: int) -> tuple[int, bool]:
    """Its tensor, and whether rows and columns lie in the other order."""
    straight = plain(rank)
    if not isinstance(operand, Value):
        return placed(graph, operand, straight, "float32"), False
    value = raised(graph, operand, rank)
    turned = (*straight[:-2], rank - 1, rank - 2)
    lengths = graph.tensors[value.tensor].shape
    places = [axis for axis in value.order if lengths[axis] > 1]
    is_straight = places == sorted(places)
    swapped_places = [value.order[axis] for axis in turned if lengths[value.order[axis]] > 1]
    is_turned = not is_straight and swapped_places == sorted(swapped_places)
    return arranged(graph, value, turned if is_turned else straight), is_turned


def linear(graph: Graph, x: Value, weight: Operand, bias: Operand | None = None) -> Value:
    """[..., inp] and [out, inp] -> [..., out]."""
    if isinstance(weight, Value) or isinstance(bias, Value):
        y = matmul(graph, x, swapped(graph, weight, 0, 1) if isinstance(weight, Value) else weight.mT)  # type: ignore[union-attr]
        return y if bias is None else binary("ADD", graph, y, bias)
    x = last(graph, x, -1)
    matrix = constant_array(weight, plain(2)).astype(np.float32)
    added = np.zeros(len(matrix), np.float32) if bias is None else constant_array(bias, plain(1)).astype(np.float32)
    inputs = [x.tensor, graph.constant(matrix), graph.constant(added)]
    shape = (*graph.tensors[x.tensor].shape[:-1], len(matrix))
    return Value(graph.add("FULLY_CONNECTED", inputs, shape, "float32", keepNumDims=True), x.order)


def addmm(graph: Graph, bias: Operand, one: Operand, two: Operand) -> Value:
    return binary("ADD", graph, matmul(graph, one, two), bias)


def attention(
    graph: Graph,
    query: Value,
    key: Value,
    value: Value,
    mask: Operand | None = None,
    dropout: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    **_: object,
) -> Value:
    if is_causal:
        raise ConfigError("litert: causal attention, which this model uses, is not supported")
    factor = graph.shape(query)[-1] ** -0.5 if scale is None else scale
    scores = matmul(graph, binary("MUL", graph, query, factor), swapped(graph, key, -2, -1))
    scores = scores if mask is None else binary("ADD", graph, scores, mask)
    return matmul(graph, softmax(graph, scores, -1), value)
