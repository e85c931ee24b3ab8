"""Operators of PyTorch that multiply matrices."""

import numpy as np
import torch
from torch import Tensor

from atrous.errors import ConfigError
from atrous.runtimes.litert.axes import last, softmax, swapped
from atrous.runtimes.litert.elements import (
    Operand,
    binary,
    common_shape,
    constant_array,
    placed,
    raised,
    shape_of,
    where,
)
from atrous.runtimes.litert.graph import NHWC, Graph, Option, Value, arranged, plain, reshaped


def matmul(graph: Graph, one: Operand, two: Operand) -> Value:
    if isinstance(two, Value) and isinstance(one, Tensor) and two.order == NHWC and one.ndim == 2:
        return _along_rows(graph, one, two)
    if isinstance(one, Value) and isinstance(two, Tensor) and one.order == NHWC and two.ndim == 2:
        return _along_columns(graph, one, two)
    return _product(graph, one, two)


def _along_rows(graph: Graph, matrix: Tensor, x: Value) -> Value:
    """[new, H] @ [B, C, H, W], whose columns and channels lie side by side in memory."""
    batch, rows, columns, channels = graph.tensors[x.tensor].shape
    flat = reshaped(graph, x.tensor, (batch, rows, columns * channels))
    y = _product(graph, matrix[None], Value(flat, plain(3)))
    return Value(reshaped(graph, y.tensor, (batch, len(matrix), columns, channels)), NHWC)


def _along_columns(graph: Graph, x: Value, matrix: Tensor) -> Value:
    """[B, C, H, W] @ [W, new]: in memory, the turned matrix times [W, C] for each row."""
    batch, rows, columns, channels = graph.tensors[x.tensor].shape
    flat = reshaped(graph, x.tensor, (batch * rows, columns, channels))
    y = _product(graph, matrix.mT[None], Value(flat, plain(3)))
    return Value(reshaped(graph, y.tensor, (batch, rows, matrix.shape[1], channels)), NHWC)


def _product(graph: Graph, one: Operand, two: Operand) -> Value:
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
    return matmul(graph, softmax(graph, _masked(graph, scores, mask), -1), value)


def _masked(graph: Graph, scores: Value, mask: Operand | None) -> Value:
    """A mask of floats is added; one of truth values keeps the scores where it is true."""
    if mask is None:
        return scores
    is_boolean = graph.dtype(mask) == "bool" if isinstance(mask, Value) else torch.as_tensor(mask).dtype == torch.bool
    return where(graph, mask, scores, -torch.inf) if is_boolean else binary("ADD", graph, scores, mask)
