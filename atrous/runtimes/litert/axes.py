"""Operators of PyTorch that move, join, cut and sum along axes."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from atrous.errors import ConfigError
from atrous.runtimes.litert.elements import Operand, binary, unary
from atrous.runtimes.litert.graph import Graph, Value, arranged, in_memory, plain, reshaped, viewed


def permuted(graph: Graph, x: Value, dims: Sequence[int]) -> Value:
    return Value(x.tensor, tuple(x.order[dim] for dim in dims))


def swapped(graph: Graph, x: Value, one: int, two: int) -> Value:
    order = list(x.order)
    order[one], order[two] = order[two], order[one]
    return Value(x.tensor, tuple(order))


def sliced(graph: Graph, x: Value, dim: int = 0, start: int | None = 0, end: int | None = None, step: int = 1) -> Value:
    shape, axis = list(graph.shape(x)), x.order[dim]
    first, last, _ = slice(start, end, step).indices(shape[dim])
    length = len(range(first, last, step))
    if length == shape[dim]:
        return x
    begin, stop = [0] * len(shape), list(graph.tensors[x.tensor].shape)
    shape[dim], begin[axis], stop[axis] = length, first, last
    size = in_memory(shape, x.order)
    if step == 1:
        inputs = [x.tensor, integers(graph, begin), integers(graph, size)]
        return Value(graph.add("SLICE", inputs, size, graph.dtype(x)), x.order)
    steps = [step if place == axis else 1 for place in range(len(shape))]
    inputs = [x.tensor, *(integers(graph, values) for values in (begin, stop, steps))]
    return Value(graph.add("STRIDED_SLICE", inputs, size, graph.dtype(x)), x.order)


def selected(graph: Graph, x: Value, dim: int, index: int) -> Value:
    shape = graph.shape(x)
    dim, index = dim % len(shape), index % shape[dim]
    return viewed(graph, sliced(graph, x, dim, index, index + 1), shape[:dim] + shape[dim + 1 :])


def split(graph: Graph, x: Value, sizes: Sequence[int], dim: int = 0) -> list[Value]:
    ends = np.cumsum(sizes).tolist()
    return [sliced(graph, x, dim, end - size, end) for size, end in zip(sizes, ends, strict=True)]


def padded(graph: Graph, x: Value, pads: Sequence[int], value: float = 0.0) -> Value:
    """`pads` as PyTorch has them: before and after, the last axis first."""
    if not any(pads):
        return x
    rank = len(x.order)
    around = [(0, 0)] * (rank - len(pads) // 2) + list(zip(pads[::2], pads[1::2], strict=True))[::-1]
    if any(side < 0 for pair in around for side in pair):
        raise ConfigError("litert: LiteRT can't pad by less than 0 pixels, as this model does")
    shape = in_memory([old + sum(pair) for old, pair in zip(graph.shape(x), around, strict=True)], x.order)
    table = graph.constant(np.array([around[x.order.index(axis)] for axis in range(rank)], np.int32))
    dtype = graph.dtype(x)
    extra = [graph.constant(np.array([value], dtype))] if value else []
    return Value(graph.add("PADV2" if value else "PAD", [x.tensor, table, *extra], shape, dtype), x.order)


def restrided(
    graph: Graph, x: Value, size: Sequence[int], stride: Sequence[int], offset: int | None = None, *, memory: Tensor
) -> Value:
    """`as_strided`; `memory` is an example of what PyTorch has in place of `x`, with its strides."""
    places = torch.empty_strided(memory.shape, memory.stride(), dtype=torch.int32)
    places.copy_(torch.arange(memory.numel(), dtype=torch.int32).view(memory.shape))
    return picked(graph, x, places.as_strided(size, stride, offset or 0))


def gathered(graph: Graph, x: Value, dim: int, index: Tensor, **_: object) -> Value:
    """Raises ConfigError for an index that is computed."""
    if isinstance(index, Value):
        raise ConfigError("litert: LiteRT has no gathering by a computed index of several axes, as this model does")
    shape = graph.shape(x)
    return picked(graph, x, torch.arange(math.prod(shape), dtype=torch.int32).view(shape).gather(dim, index))


def picked(graph: Graph, x: Value, places: Tensor) -> Value:
    """The elements at these places in the order of PyTorch's memory."""
    flat = reshaped(graph, arranged(graph, x, plain(len(x.order))), [math.prod(graph.shape(x))])
    inputs = [flat, graph.constant(places.numpy())]
    return Value(graph.add("GATHER", inputs, places.shape, graph.dtype(x), axis=0, batchDims=0), plain(places.ndim))


def integers(graph: Graph, values: Iterable[int]) -> int:
    return graph.constant(np.array(list(values), np.int32))


# ---- sums


def reduced(
    op: str, graph: Graph, x: Value, dims: Sequence[int] | None = None, keepdim: bool = False, **_: object
) -> Value:
    shape, rank = graph.shape(x), len(x.order)
    along = {dim % rank for dim in dims or range(rank)}
    ones = [1 if dim in along else length for dim, length in enumerate(shape)]
    inputs = [x.tensor, integers(graph, sorted(x.order[dim] for dim in along))]
    y = Value(graph.add(op, inputs, in_memory(ones, x.order), graph.dtype(x), keepDims=True), x.order)
    return y if keepdim else viewed(graph, y, tuple(length for dim, length in enumerate(shape) if dim not in along))


def argmax(graph: Graph, x: Value, dim: int | None = None, keepdim: bool = False) -> Value:
    if dim is None:
        raise ConfigError("litert: LiteRT has no arg-max over all axes at once, as this model needs")
    shape, axis = graph.shape(x), x.order[dim]
    dim = dim % len(shape)
    order = tuple(place - (place > axis) for place in x.order if place != axis)
    rest = shape[:dim] + shape[dim + 1 :]
    y = Value(graph.add("ARG_MAX", [x.tensor, integers(graph, [axis])], in_memory(rest, order), "int32"), order)
    return viewed(graph, y, (*shape[:dim], 1, *shape[dim + 1 :])) if keepdim else y


def softmax(graph: Graph, x: Value, dim: int, *_: object) -> Value:
    y = last(graph, x, dim)
    return unary("SOFTMAX", graph, y, beta=1.0)


def last(graph: Graph, x: Value, dim: int) -> Value:
    """With this axis the last in memory, and all others in their places."""
    axis = x.order[dim]
    order = tuple(len(x.order) - 1 if place == axis else place - (place > axis) for place in x.order)
    return Value(arranged(graph, x, order), order)


def layer_norm(
    graph: Graph, x: Value, shape: Sequence[int], weight: Operand | None, bias: Operand | None, eps: float
) -> tuple[Value, None, None]:
    dims = list(range(-len(shape), 0))
    centred = binary("SUB", graph, x, reduced("MEAN", graph, x, dims, True))
    variance = reduced("MEAN", graph, binary("MUL", graph, centred, centred), dims, True)
    y = binary("MUL", graph, centred, unary("RSQRT", graph, binary("ADD", graph, variance, eps)))
    y = y if weight is None else binary("MUL", graph, y, weight)
    return y if bias is None else binary("ADD", graph, y, bias), None, None
