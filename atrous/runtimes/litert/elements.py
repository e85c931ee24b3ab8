"""Operators of PyTorch that compute each element by itself, and how operands get one shape, order and type."""

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from atrous.errors import ConfigError
from atrous.runtimes.litert.graph import (
    SUPPORTED,
    Array,
    Graph,
    Option,
    Order,
    Shape,
    Value,
    arranged,
    in_memory,
    plain,
    viewed,
)

Operand: TypeAlias = Value | Tensor | float  # what is computed, a constant, a number

# ---- one tensor


def unary(op: str, graph: Graph, x: Value, **options: Option) -> Value:
    return Value(graph.add(op, [x.tensor], graph.tensors[x.tensor].shape, graph.dtype(x), **options), x.order)


def clip(graph: Graph, x: Value, low: float | None = None, high: float | None = None) -> Value:
    if (name := CLIPS.get((low, high))) is not None:
        return unary(name, graph, x)
    x = x if low is None else binary("MAXIMUM", graph, x, low)
    return x if high is None else binary("MINIMUM", graph, x, high)


CLIPS: dict[tuple[float | None, float | None], str] = {(0, 6): "RELU6", (-1, 1): "RELU_N1_TO_1", (0, None): "RELU"}


def hardtanh(graph: Graph, x: Value, low: float = -1.0, high: float = 1.0) -> Value:
    return clip(graph, x, low, high)


def leaky_relu(graph: Graph, x: Value, slope: float = 0.01) -> Value:
    return unary("LEAKY_RELU", graph, x, alpha=slope)


def gelu(graph: Graph, x: Value, *, approximate: str = "none") -> Value:
    return unary("GELU", graph, x, approximate=approximate == "tanh")


def hardsigmoid(graph: Graph, x: Value) -> Value:
    return binary("MUL", graph, unary("RELU6", graph, binary("ADD", graph, x, 3.0)), 1 / 6)


def silu(graph: Graph, x: Value) -> Value:
    return binary("MUL", graph, x, unary("LOGISTIC", graph, x))


def power(graph: Graph, x: Value, exponent: float) -> Value:
    return binary("MUL", graph, x, x) if exponent == 2 else binary("POW", graph, x, exponent)


def converted(graph: Graph, x: Value, *, dtype: torch.dtype | None = None, **_: object) -> Value:
    return x if dtype is None else cast(graph, x, dtype_name(dtype))


def cast(graph: Graph, x: Value, dtype: str) -> Value:
    if graph.dtype(x) == dtype:
        return x
    return Value(graph.add("CAST", [x.tensor], graph.tensors[x.tensor].shape, dtype), x.order)


def same(graph: Graph, x: Value, *_: object, **__: object) -> Value:
    return x


# ---- several tensors


def binary(op: str, graph: Graph, one: Operand, two: Operand, *, alpha: float = 1) -> Value:
    """`alpha` is a factor on `two`."""
    if alpha != 1:
        two = two * alpha if not isinstance(two, Value) else binary("MUL", graph, two, alpha)
    if isinstance(one, Value) and is_neutral(graph, op, one, two):
        return cast(graph, one, "float32") if isinstance(two, Tensor) and two.is_floating_point() else one
    tensors, shape, order = together(graph, [one, two])
    return Value(graph.add(op, tensors, in_memory(shape, order), graph.tensors[tensors[0]].dtype), order)


def is_neutral(graph: Graph, op: str, one: Value, two: Operand) -> bool:
    """`two` is a constant that changes neither values nor shape."""
    if isinstance(two, Value) or op not in NEUTRAL:
        return False
    is_equal = bool((torch.as_tensor(two) == NEUTRAL[op]).all())
    return is_equal and common_shape(graph.shape(one), shape_of(graph, two)) == graph.shape(one)


NEUTRAL = {"ADD": 0, "SUB": 0, "MUL": 1, "DIV": 1}


def reverse(op: str, graph: Graph, one: Operand, two: Operand) -> Value:
    return binary(op, graph, two, one)


def comparison(op: str, graph: Graph, one: Operand, two: Operand) -> Value:
    tensors, shape, order = together(graph, [one, two])
    return Value(graph.add(op, tensors, in_memory(shape, order), "bool"), order)


def where(graph: Graph, condition: Operand, one: Operand, two: Operand) -> Value:
    tensors, shape, order = together(graph, [condition, one, two], num_free=1)
    return Value(graph.add("SELECT_V2", tensors, in_memory(shape, order), graph.tensors[tensors[-1]].dtype), order)


def together(graph: Graph, operands: Sequence[Operand], *, num_free: int = 0) -> tuple[list[int], Shape, Order]:
    """Operands ready to be broadcast, the shape of the result in PyTorch's order, and its order.

    All but the first `num_free` get one type.
    """
    shapes = [shape_of(graph, operand) for operand in operands]
    shape = common_shape(*shapes)
    computed = [operand for operand in operands if isinstance(operand, Value)]
    largest = max(computed, key=lambda value: math.prod(graph.shape(value)))
    order = raised(graph, largest, len(shape)).order
    bound = [operand for operand in operands[num_free:] if isinstance(operand, Value)] or computed
    dtypes = [graph.dtype(value) for value in bound]
    dtype = "float32" if "float32" in dtypes else dtypes[0]
    kinds = [*["bool"] * num_free, *[dtype] * (len(operands) - num_free)]
    tensors = [placed(graph, operand, order, kind) for operand, kind in zip(operands, kinds, strict=True)]
    return tensors, shape, order


def common_shape(*shapes: Sequence[int]) -> Shape:
    return tuple(np.broadcast_shapes(*map(tuple, shapes)))


def shape_of(graph: Graph, operand: Operand) -> Shape:
    if isinstance(operand, Value):
        return graph.shape(operand)
    return tuple(operand.shape) if isinstance(operand, Tensor) else ()


def raised(graph: Graph, value: Value, rank: int) -> Value:
    """With axes of length 1 before its own."""
    return viewed(graph, value, (1,) * (rank - len(value.order)) + graph.shape(value))


def placed(graph: Graph, operand: Operand, order: Order, dtype: str) -> int:
    if isinstance(operand, Value):
        return arranged(graph, cast(graph, raised(graph, operand, len(order)), dtype), order)
    return graph.constant(constant_array(operand, order).astype(dtype))


def constant_array(operand: Tensor | float, order: Order) -> Array:
    array = np.asarray(operand.numpy(force=True) if isinstance(operand, Tensor) else operand)
    if array.size == 1:
        return array.reshape(1)
    full = array.reshape((1,) * (len(order) - array.ndim) + array.shape)
    return full.transpose(in_memory(plain(len(order)), order))


def joined(graph: Graph, operands: Sequence[Operand], dim: int = 0) -> Value:
    computed = [operand for operand in operands if isinstance(operand, Value)]
    largest = max(computed, key=lambda value: math.prod(graph.shape(value)))
    order, dtype, rank = largest.order, graph.dtype(largest), len(largest.order)
    tensors = [placed(graph, operand, order, dtype) for operand in operands]
    shapes = [shape_of(graph, operand) for operand in operands]
    shape = list(shapes[0])
    shape[dim % rank] = sum(one[dim] for one in shapes)
    return Value(graph.add("CONCATENATION", tensors, in_memory(shape, order), dtype, axis=order[dim]), order)


def batch_norm(
    graph: Graph,
    x: Value,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    momentum: float,
    eps: float,
) -> tuple[Value, None, None]:
    """Two operators, which `passes` folds into a convolution before them."""
    factor = (variance.double() + eps).rsqrt() * (1 if weight is None else weight.double())
    shift = (0 if bias is None else bias.double()) - mean.double() * factor
    along = [-1, *[1] * (len(x.order) - 2)]
    scaled = binary("MUL", graph, x, factor.view(along))
    return binary("ADD", graph, scaled, shift.view(along)), None, None


# ---- operands


def dtype_name(dtype: torch.dtype) -> str:
    name = str(dtype).removeprefix("torch.")
    if name not in SUPPORTED:
        raise ConfigError(f"litert: LiteRT does not compute in {name}; this model needs it")
    return name
