"""From a program that torch.export has captured to a graph of LiteRT's operators: one function per operator of PyTorch."""

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx.node import Node, map_arg
from torch.utils import _pytree as pytree

from atrous.errors import ConfigError
from atrous.runtimes.litert.graph import (
    NHWC,
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
    reshaped,
    viewed,
)

Operand: TypeAlias = Value | Tensor | float  # what is computed, a constant, a number
aten = torch.ops.aten
MULTIPLIER = "depthMultiplier"


class Lowered(NamedTuple):
    graph: Graph
    inputs: list[Value]
    outputs: list[Value]


def lower(program: ExportedProgram) -> Lowered:
    """Raises ConfigError with its name for an operator that has no counterpart."""
    program = program.run_decompositions(_decompositions())
    graph, values, inputs = Graph(), _constants(program), list[Value]()
    with torch.no_grad():
        for node in program.graph.nodes:
            if node.op == "placeholder" and node.name not in values:
                values[node.name] = _input(graph, node)
                inputs.append(values[node.name])
            elif node.op == "call_function":
                values[node.name] = _called(graph, node, values)
    (results,) = (node.args[0] for node in program.graph.nodes if node.op == "output")
    return Lowered(graph, inputs, [_computed(values[node.name], number) for number, node in enumerate(results)])


def _decompositions() -> dict[Any, Callable[..., Any]]:
    """PyTorch's own, but for the operators that LiteRT has, too."""
    table = torch.export.default_decompositions()
    for target in LOWERINGS:
        table.pop(target, None)
    return table


def _constants(program: ExportedProgram) -> dict[str, Any]:
    stored = {**program.state_dict, **program.constants}
    return {
        spec.arg.name: stored[spec.target].detach()
        for spec in program.graph_signature.input_specs
        if spec.target is not None and spec.target in stored
    }


def _input(graph: Graph, node: Node) -> Value:
    example = node.meta["val"]
    return Value(graph.tensor(example.shape, dtype_name(example.dtype)), plain(example.ndim))


def _computed(value: Operand, number: int) -> Value:
    if isinstance(value, Value):
        return value
    raise ConfigError(f"litert: output {number} does not depend on the image, so that there is nothing to compute")


def _called(graph: Graph, node: Node, values: Mapping[str, Any]) -> Any:  # noqa: ANN401 - an operand or several
    args = map_arg(node.args, lambda one: values[one.name])
    kwargs = map_arg(node.kwargs, lambda one: values[one.name])
    target: Any = node.target
    leaves = pytree.tree_leaves((args, kwargs), is_leaf=lambda one: isinstance(one, Value))
    if target in IGNORED:
        return None
    if target is operator.getitem or not any(isinstance(leaf, Value) for leaf in leaves):
        return target(*args, **kwargs)  # a constant
    if target in VIEWS:
        return viewed(graph, args[0], tuple(node.meta["val"].shape))
    if target is aten.as_strided.default:
        kwargs = {**kwargs, "memory": node.args[0].meta["val"]}  # type: ignore[union-attr]
    if target not in LOWERINGS:
        raise ConfigError(f"litert: LiteRT has no counterpart of {target}, which this model uses; try another target")
    return LOWERINGS[target](graph, *args, **kwargs)


def dtype_name(dtype: torch.dtype) -> str:
    name = str(dtype).removeprefix("torch.")
    if name not in SUPPORTED:
        raise ConfigError(f"litert: LiteRT does not compute in {name}; this model needs it")
    return name


# ---- one tensor, element by element


def unary(op: str, graph: Graph, x: Value, **options: Option) -> Value:
    return Value(graph.add(op, [x.tensor], graph.tensors[x.tensor].shape, graph.dtype(x), **options), x.order)


def clip(graph: Graph, x: Value, low: float | None = None, high: float | None = None) -> Value:
    if (low, high) in CLIPS:
        return unary(CLIPS[low, high], graph, x)
    x = x if low is None else binary("MAXIMUM", graph, x, low)
    return x if high is None else binary("MINIMUM", graph, x, high)


CLIPS = {(0, 6): "RELU6", (-1, 1): "RELU_N1_TO_1", (0, None): "RELU"}


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


# ---- several tensors, element by element


def binary(op: str, graph: Graph, one: Operand, two: Operand, *, alpha: float = 1) -> Value:
    """`alpha` is a factor on `two`."""
    if alpha != 1:
        two = two * alpha if not isinstance(two, Value) else binary("MUL", graph, two, alpha)
    if is_neutral(graph, op, one, two):
        return cast(graph, one, "float32") if isinstance(two, Tensor) and two.is_floating_point() else one
    tensors, shape, order = together(graph, [one, two])
    return Value(graph.add(op, tensors, in_memory(shape, order), graph.tensors[tensors[0]].dtype), order)


def is_neutral(graph: Graph, op: str, one: Operand, two: Operand) -> bool:
    """A constant that changes neither values nor shape."""
    if isinstance(two, Value) or not isinstance(one, Value) or op not in NEUTRAL:
        return False
    is_equal = bool((torch.as_tensor(two) == NEUTRAL[op]).all())
    return is_equal and torch.broadcast_shapes(graph.shape(one), shape_of(graph, two)) == graph.shape(one)


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
    shape = tuple(torch.broadcast_shapes(*shapes))
    computed = [operand for operand in operands if isinstance(operand, Value)]
    largest = max(computed, key=lambda value: math.prod(graph.shape(value)))
    order = raised(graph, largest, len(shape)).order
    bound = [operand for operand in operands[num_free:] if isinstance(operand, Value)] or computed
    dtypes = [graph.dtype(value) for value in bound]
    dtype = "float32" if "float32" in dtypes else dtypes[0]
    kinds = [*["bool"] * num_free, *[dtype] * (len(operands) - num_free)]
    tensors = [placed(graph, operand, order, kind) for operand, kind in zip(operands, kinds, strict=True)]
    return tensors, shape, order


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


def layer_norm(
    graph: Graph, x: Value, shape: Sequence[int], weight: Operand | None, bias: Operand | None, eps: float
) -> tuple[Value, None, None]:
    dims = list(range(-len(shape), 0))
    centred = binary("SUB", graph, x, reduced("MEAN", graph, x, dims, True))
    variance = reduced("MEAN", graph, binary("MUL", graph, centred, centred), dims, True)
    y = binary("MUL", graph, centred, unary("RSQRT", graph, binary("ADD", graph, variance, eps)))
    y = y if weight is None else binary("MUL", graph, y, weight)
    return y if bias is None else binary("ADD", graph, y, bias), None, None


# ---- axes


def permuted(graph: Graph, x: Value, dims: Sequence[int]) -> Value:
    return Value(x.tensor, tuple(x.order[dim] for dim in dims))


def swapped(graph: Graph, x: Value, one: int, two: int) -> Value:
    order = list(x.order)
    order[one], order[two] = order[two], order[one]
    return Value(x.tensor, tuple(order))


def expanded(graph: Graph, x: Value, sizes: Sequence[int], **_: object) -> Value:
    x = raised(graph, x, len(sizes))
    shape = [old if new == -1 else new for old, new in zip(graph.shape(x), sizes, strict=True)]
    target, old = in_memory(shape, x.order), graph.tensors[x.tensor].shape
    if target == old:
        return x
    if x.order == NHWC and old[1:3] == (1, 1) and (old[0], old[3]) == (target[0], target[3]):
        return bilinear(graph, x, shape[2:], True)  # the same, by an operator that XNNPACK has
    return Value(graph.add("BROADCAST_TO", [x.tensor, integers(graph, target)], target, graph.dtype(x)), x.order)


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


def gathered(
    graph: Graph, x: Value, size: Sequence[int], stride: Sequence[int], offset: int | None = None, *, memory: Tensor
) -> Value:
    """`as_strided`; `memory` is an example of what PyTorch has in place of `x`, with its strides."""
    places = torch.empty_strided(memory.shape, memory.stride(), dtype=torch.int32)
    places.copy_(torch.arange(memory.numel(), dtype=torch.int32).view(memory.shape))
    index = places.as_strided(size, stride, offset or 0)
    flat = reshaped(graph, arranged(graph, x, plain(len(x.order))), [memory.numel()])
    inputs = [flat, graph.constant(index.numpy())]
    return Value(graph.add("GATHER", inputs, size, graph.dtype(x), axis=0, batchDims=0), plain(len(size)))


def integers(graph: Graph, values: Iterable[int]) -> int:
    return graph.constant(np.array(list(values), np.int32))


# ---- sums


def reduced(op: str, graph: Graph, x: Value, dims: Sequence[int] | None = None, keepdim: bool = False, **_: object) -> Value:
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


# ---- products of matrices


def matmul(graph: Graph, one: Operand, two: Operand) -> Value:
    rank = max(len(shape_of(graph, operand)) for operand in (one, two))
    (first, adj_first), (second, adj_second) = (_matrix(graph, operand, rank) for operand in (one, two))
    (*batch, rows, _), (*other, _, columns) = (shape_of(graph, operand) for operand in (one, two))
    shape = (*torch.broadcast_shapes(batch, other), rows, columns)
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


# ---- maps [B, C, H, W]


def conv2d(
    graph: Graph,
    x: Value,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Value:
    if isinstance(weight, Value) or isinstance(bias, Value):
        raise ConfigError("litert: LiteRT has no convolution with computed weights, which this model uses")
    batch, channels, *size = graph.shape(x)
    stride, padding, dilation = (pair(values) for values in (stride, padding, dilation))
    out, _, *kernel = weight.shape
    is_depthwise = groups == channels and groups > 1
    filters = weight.permute(1, 2, 3, 0) if is_depthwise else weight.permute(0, 2, 3, 1)
    extents = [rate * (side - 1) + 1 for rate, side in zip(dilation, kernel, strict=True)]
    sides = [
        (old + 2 * pad - extent) // step + 1
        for old, pad, extent, step in zip(size, padding, extents, stride, strict=True)
    ]
    shift = torch.zeros(out) if bias is None else bias
    inputs = [arranged(graph, x, NHWC), *(graph.constant(_floats(values)) for values in (filters, shift))]
    options: dict[str, Option] = {
        **_steps(stride, padding),
        "dilationHFactor": dilation[0],
        "dilationWFactor": dilation[1],
        **({MULTIPLIER: out // channels} if is_depthwise else {}),
    }
    op = "DEPTHWISE_CONV_2D" if is_depthwise else "CONV_2D"
    return Value(graph.add(op, inputs, (batch, *sides, out), "float32", **options), NHWC)


def _floats(values: Tensor) -> Array:
    return values.detach().float().numpy(force=True)


def _steps(stride: Sequence[int], padding: Sequence[int]) -> dict[str, Option]:
    return {"strideH": stride[0], "strideW": stride[1], "pads": (padding[0], padding[1])}


def pair(values: Sequence[int] | int) -> tuple[int, int]:
    if isinstance(values, int):
        return values, values
    return (values[0], values[0]) if len(values) == 1 else (values[0], values[1])


def max_pool(
    graph: Graph,
    x: Value,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] | int = 0,
    dilation: Sequence[int] | int = 1,
    ceil_mode: bool = False,
) -> Value:
    if pair(dilation) != (1, 1):
        raise ConfigError("litert: LiteRT has no max pooling with holes, which this model uses")
    return _pooled("MAX_POOL_2D", graph, x, pair(kernel), pair(stride or kernel), pair(padding), ceil_mode)


def _pooled(
    op: str, graph: Graph, x: Value, kernel: Shape, stride: Shape, padding: Shape, ceil_mode: bool
) -> Value:
    batch, channels, *size = graph.shape(x)
    sides = []
    for old, window, step, pad in zip(size, kernel, stride, padding, strict=True):
        side = (old + 2 * pad - window) // step + 1
        rest = (old + 2 * pad - window) % step
        has_more = ceil_mode and rest > 0 and side * step < old + pad  # no window begins in the padding
        sides.append(side + has_more)
    options = {**_steps(stride, padding), "filterHeight": kernel[0], "filterWidth": kernel[1]}
    tensor = graph.add(op, [arranged(graph, x, NHWC)], (batch, *sides, channels), graph.dtype(x), **options)
    return Value(tensor, NHWC)


def mean_pool(
    graph: Graph,
    x: Value,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] | int = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: int | None = None,
) -> Value:
    """The mean of windows; where they count fewer cells than they have, it is corrected by a constant map."""
    shapes = pair(kernel), pair(stride or kernel), pair(padding)
    y = _pooled("AVERAGE_POOL_2D", graph, x, *shapes, ceil_mode)
    ones = torch.ones(1, 1, *graph.shape(x)[-2:])
    true = torch.nn.functional.avg_pool2d(ones, *shapes, ceil_mode, count_include_pad, divisor)
    full = torch.nn.functional.avg_pool2d(ones, *shapes, ceil_mode, True, math.prod(shapes[0]))
    correction = true / full
    return y if bool((correction == 1).all()) else binary("MUL", graph, y, correction)


def adaptive_mean_pool(graph: Graph, x: Value, size: Sequence[int]) -> Value:
    """The means of a grid of bins: a product with their shares where bins differ in size."""
    batch, channels, *old = graph.shape(x)
    new = pair(size)
    if new == (1, 1):
        return reduced("MEAN", graph, x, [2, 3], keepdim=True)
    if all(side % bins == 0 for side, bins in zip(old, new, strict=True)):
        return mean_pool(graph, x, [side // bins for side, bins in zip(old, new, strict=True)])
    cells = math.prod(old)
    shares = torch.nn.functional.adaptive_avg_pool2d(torch.eye(cells).view(1, cells, *old), new).view(cells, -1).mT
    flat = permuted(graph, viewed(graph, x, (batch, channels, cells)), (0, 2, 1))
    means = matmul(graph, shares.expand(batch, -1, -1), flat)  # [B, bins, C]
    return viewed(graph, permuted(graph, means, (0, 2, 1)), (batch, channels, *new))


def bilinear(
    graph: Graph, x: Value, size: Sequence[int] | None, align_corners: bool, factors: Sequence[float] | None = None
) -> Value:
    return _resized(
        "RESIZE_BILINEAR", graph, x, size, factors, alignCorners=align_corners, halfPixelCenters=not align_corners
    )


def nearest(graph: Graph, x: Value, size: Sequence[int] | None, factors: Sequence[float] | None = None) -> Value:
    return _resized("RESIZE_NEAREST_NEIGHBOR", graph, x, size, factors, alignCorners=False, halfPixelCenters=False)


def nearest_exact(graph: Graph, x: Value, size: Sequence[int] | None, factors: Sequence[float] | None = None) -> Value:
    return _resized("RESIZE_NEAREST_NEIGHBOR", graph, x, size, factors, alignCorners=False, halfPixelCenters=True)


def _resized(
    op: str, graph: Graph, x: Value, size: Sequence[int] | None, factors: Sequence[float] | None, **options: Option
) -> Value:
    batch, channels, *old = graph.shape(x)
    new = size or [int(side * factor) for side, factor in zip(old, factors or (), strict=True)]
    if tuple(new) == tuple(old):
        return x
    inputs = [arranged(graph, x, NHWC), integers(graph, new)]
    return Value(graph.add(op, inputs, (batch, *new, channels), graph.dtype(x), **options), NHWC)


# ---- the tables


IGNORED = {aten._assert_tensor_metadata.default, aten._assert_scalar.default, aten.sym_constrain_range_for_size.default}
VIEWS = {
    aten.view.default,
    aten._unsafe_view.default,
    aten.reshape.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.unsqueeze.default,
}
LOWERINGS: dict[Any, Callable[..., Any]] = {
    aten.abs.default: partial(unary, "ABS"),
    aten.exp.default: partial(unary, "EXP"),
    aten.log.default: partial(unary, "LOG"),
    aten.neg.default: partial(unary, "NEG"),
    aten.relu.default: partial(unary, "RELU"),
    aten.relu6.default: partial(unary, "RELU6"),
    aten.rsqrt.default: partial(unary, "RSQRT"),
    aten.sigmoid.default: partial(unary, "LOGISTIC"),
    aten.sqrt.default: partial(unary, "SQRT"),
    aten.tanh.default: partial(unary, "TANH"),
    aten.hardswish.default: partial(unary, "HARD_SWISH"),
    aten.hardsigmoid.default: hardsigmoid,
    aten.hardtanh.default: hardtanh,
    aten.clamp.default: clip,
    aten.leaky_relu.default: leaky_relu,
    aten.gelu.default: gelu,
    aten.silu.default: silu,
    aten.pow.Tensor_Scalar: power,
    aten._to_copy.default: converted,
    aten.alias.default: same,
    aten.clone.default: same,
    aten.detach.default: same,
    aten.add.Tensor: partial(binary, "ADD"),
    aten.add.Scalar: partial(binary, "ADD"),
    aten.sub.Tensor: partial(binary, "SUB"),
    aten.sub.Scalar: partial(binary, "SUB"),
    aten.rsub.Scalar: partial(reverse, "SUB"),
    aten.mul.Tensor: partial(binary, "MUL"),
    aten.mul.Scalar: partial(binary, "MUL"),
    aten.div.Tensor: partial(binary, "DIV"),
    aten.div.Scalar: partial(binary, "DIV"),
    aten.maximum.default: partial(binary, "MAXIMUM"),
    aten.minimum.default: partial(binary, "MINIMUM"),
    aten.eq.Tensor: partial(comparison, "EQUAL"),
    aten.eq.Scalar: partial(comparison, "EQUAL"),
    aten.ne.Tensor: partial(comparison, "NOT_EQUAL"),
    aten.ne.Scalar: partial(comparison, "NOT_EQUAL"),
    aten.ge.Tensor: partial(comparison, "GREATER_EQUAL"),
    aten.ge.Scalar: partial(comparison, "GREATER_EQUAL"),
    aten.gt.Tensor: partial(comparison, "GREATER"),
    aten.gt.Scalar: partial(comparison, "GREATER"),
    aten.le.Tensor: partial(comparison, "LESS_EQUAL"),
    aten.le.Scalar: partial(comparison, "LESS_EQUAL"),
    aten.lt.Tensor: partial(comparison, "LESS"),
    aten.lt.Scalar: partial(comparison, "LESS"),
    aten.where.self: where,
    aten.cat.default: joined,
    aten._native_batch_norm_legit_no_training.default: batch_norm,
    aten.native_layer_norm.default: layer_norm,
    aten.permute.default: permuted,
    aten.transpose.int: swapped,
    aten.expand.default: expanded,
    aten.slice.Tensor: sliced,
    aten.select.int: selected,
    aten.split_with_sizes.default: split,
    aten.constant_pad_nd.default: padded,
    aten.as_strided.default: gathered,
    aten.mean.dim: partial(reduced, "MEAN"),
    aten.sum.dim_IntList: partial(reduced, "SUM"),
    aten.amax.default: partial(reduced, "REDUCE_MAX"),
    aten.amin.default: partial(reduced, "REDUCE_MIN"),
    aten.argmax.default: argmax,
    aten.softmax.int: softmax,
    aten._softmax.default: softmax,
    aten.bmm.default: matmul,
    aten.mm.default: matmul,
    aten.matmul.default: matmul,
    aten.linear.default: linear,
    aten.addmm.default: addmm,
    aten.scaled_dot_product_attention.default: attention,
    aten.conv2d.default: conv2d,
    aten.max_pool2d.default: max_pool,
    aten.avg_pool2d.default: mean_pool,
    aten.adaptive_avg_pool2d.default: adaptive_mean_pool,
    aten.upsample_bilinear2d.vec: bilinear,
    aten.upsample_nearest2d.vec: nearest,
    aten._upsample_nearest_exact2d.vec: nearest_exact,
}
"""A function of the graph and the operator's own arguments. Whatever isn't here is decomposed by PyTorch, or refused."""
