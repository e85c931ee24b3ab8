"""The operations of a graph, whatever program wrote it, and the flow that they make of an image."""

from collections.abc import Callable, Container, Mapping
from typing import NamedTuple, TypeAlias

import numpy as np

from atrous.convert.arrays import Array
from atrous.convert.flow.values import (
    NO_PADS,
    ROLES,
    Affine,
    Flow,
    Layer,
    Pads,
    Pair,
    Resize,
    Role,
    Run,
    Value,
    activated,
    added,
    averaged,
    constant,
    empty_flow,
    image,
    joined,
    layer_output,
    limited,
    multiplied,
    padding_at,
    pooled,
    scaled,
    shifted,
    value,
)
from atrous.types import Size

ARITHMETIC = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "maximum": np.maximum,
    "minimum": np.minimum,
}
MOST_NUMBERS = 16  # in a constant that is computed
CHANNELS = (3, -1, 4)  # the axes of channels in TensorFlow's order, and of several maps, one after the other
CHANNELS_FIRST = (1, -3)
ORDERS = ([0, 1, 2, 3], [0, 2, 3, 1], [0, 3, 1, 2])  # of axes, that leave the height before the width
NUM_CHANNELS = 3  # of an image
MOST_PREPARED = 5  # operations on images that are named
MEAN_OF_OTHERS = "mean over other axes"  # of several maps
MAXIMUM, SOFTMAX, REVERSED = "maximum of maps", "softmax", "reversed"
INTEGERS, ARG_MAX = "cast to integers", "arg_max"
SAME = ("identity", "squeeze", "expand_dims", INTEGERS, "reshape", "transpose")  # as a rule, the same numbers in order
SPATIAL = ((1, 2), (2, 3))  # axes of a map, in TensorFlow's order and in PyTorch's
EXTREMES = (  # conventions by (corners are aligned, half-pixel centres)
    ("legacy", "half-pixel centres"),
    ("aligned corners", "aligned corners"),
)


class Operation(NamedTuple):
    """Settings that an operation doesn't have are neutral."""

    op: str  # a row of OPERATIONS, or the program's own word
    name: str  # in the file, for messages
    inputs: tuple[str, ...]
    output: str
    weights: str = ""  # the name of a layer's
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    rate: Pair = (1, 1)
    is_same: bool = True  # padded by TensorFlow's SAME; else by `pads`
    pads: Pads = NO_PADS
    activation: str = ""  # after it
    align_corners: bool = False
    half_pixel_centers: bool = False
    method: str = "bilinear"  # of resizing
    masks: tuple[int, int, int] = (0, 0, 0)  # of a slice: which begin and end where the list does, which are one number
    axis: int | None = None  # along which maps are joined, if a setting says so and no constant
    channels: tuple[int, ...] = CHANNELS  # the axes along which they may be
    is_channels_first: bool = False  # PyTorch's order, as a setting says


class Operations(NamedTuple):
    """A graph."""

    operations: list[Operation]  # in the order in which they run
    constants: Mapping[str, Array]
    images: tuple[str, ...]  # the inputs of the graph
    epsilons: dict[str, float]  # of batch norms, by the name of their variance
    weights: Container[str] | None = None  # constants that are parts of layers; None: not known, any may be


def flow_of(graph: Operations, size: Size, name_of: "Callable[[Operation, Value], str] | None" = None) -> Flow:
    """What the graph computes of an image, which is of this `size` when it reaches the first layer.

    `name_of` says what the weights of a layer are called that takes a value, if not as in the file.
    """
    flow = empty_flow(size)
    flow.epsilons.update(graph.epsilons)
    values = {name: constant(array, _role(name, graph.weights)) for name, array in graph.constants.items()}
    values |= {name: image(size) for name in graph.images}
    for operation in graph.operations:
        unknown = constant(None, _role("", graph.weights))
        inputs = [values.get(name, unknown) for name in operation.inputs] or [unknown]
        if name_of and operation.weights:
            operation = operation._replace(weights=name_of(operation, inputs[0]))
        y = activated(operation.activation, _result(flow, operation, inputs))
        values[operation.output] = y
        flow.keys.add(y.key)
        flow.runs.append(_run(operation, inputs, y))
    return flow


def _run(operation: Operation, inputs: list[Value], y: Value) -> Run:
    named = (operation.op, operation.name, operation.inputs, tuple(inputs), operation.output, y.key)
    return Run(*named, operation.method, operation.masks, operation.is_channels_first)


def _role(name: str, weights: Container[str] | None) -> Role:
    return "constant" if weights is None else "weight" if name in weights else "number"


def _result(flow: Flow, operation: Operation, inputs: list[Value]) -> Value:
    kinds = {x.kind for x in inputs}
    if operation.op == "size":
        return constant(None if inputs[0].size is None else np.array([1, *inputs[0].size, 0]))
    if "feature" not in kinds and not operation.weights:
        return _prepared(flow, operation, inputs) if "image" in kinds else _computed(operation, inputs)
    if operation.op in ARITHMETIC and any(_is_by_channel(x) for x in inputs):
        return value(f"{operation.op} by channel", *(x for x in inputs if x.kind != "constant"))
    return OPERATIONS.get(operation.op, _other)(flow, operation, inputs)


def _is_by_channel(x: Value) -> bool:
    """A constant for each channel that is no layer's: no weights of the model would take its place."""
    return x.op == "number" and (x.array is None or x.array.size > 1)


# ---- constants, and what is done with images before the first layer


def _computed(operation: Operation, inputs: list[Value]) -> Value:
    """A constant of other constants: sizes are computed from sizes."""
    arrays = [x.array for x in inputs if x.array is not None and x.array.size <= MOST_NUMBERS]
    role: Role = next((role for role in ROLES if any(x.op == role for x in inputs)), "constant")
    if operation.op in SAME:
        return inputs[0]
    if len(arrays) < len(inputs) or operation.op not in (*ARITHMETIC, "list", "slice"):
        return constant(None, role)
    try:
        with np.errstate(all="ignore"):
            return constant(_calculated(operation, arrays), role)
    except (ValueError, TypeError, IndexError, OverflowError):
        return constant(None, role)


def _calculated(operation: Operation, arrays: list[Array]) -> Array:
    if operation.op == "list":
        return np.concatenate([array.reshape(-1) for array in arrays])
    if operation.op == "slice":
        return _sliced(operation, arrays)
    return np.asarray(ARITHMETIC[operation.op](*arrays[:2]))


def _sliced(operation: Operation, arrays: list[Array]) -> Array:
    array, (begin, end, step) = arrays[0], (int(one.reshape(-1)[0]) for one in arrays[1:4])
    from_start, to_end, single = operation.masks
    if single & 1:
        return np.asarray(array[begin])
    return array[None if from_start & 1 else begin : None if to_end & 1 else end : step]


def _prepared(flow: Flow, operation: Operation, inputs: list[Value]) -> Value:
    x = next(x for x in inputs if x.kind == "image")
    if operation.op in AFFINE:
        return _changed(operation.op, x, inputs)
    if operation.op == "pad":
        pads = _constant_pads(inputs)
        return x._replace(size=flow.size) if pads is None else x._replace(pads=pads)  # computed: to the whole canvas
    if operation.op == "resize":
        x = x._replace(size=_target(inputs))
    if operation.op in (*SAME, "space_to_batch", "batch_to_space") and _keeps_order(operation, inputs):
        return x._replace(pads=NO_PADS)
    return x._replace(pads=NO_PADS, prepared=(*x.prepared, operation.op)[:MOST_PREPARED])


def _changed(op: str, x: Value, inputs: list[Value]) -> Value:
    """A constant added to an image, or multiplied with it."""
    others = [one.array for one in inputs if one is not x]
    if x.affine is None or len(others) != 1 or others[0] is None or others[0].size not in (1, NUM_CHANNELS):
        return x._replace(affine=None, pads=NO_PADS)
    is_first = inputs[0] is x
    with np.errstate(all="ignore"):
        affine = AFFINE[op](x.affine, others[0].reshape(-1).astype(np.float64), is_first)
    is_known = all(np.isfinite(numbers).all() for numbers in affine) and affine[0].all()
    return x._replace(affine=affine if is_known else None, pads=NO_PADS)


def _plus(pixels: Affine, summand: Array, is_first: bool) -> Affine:
    return pixels[0], pixels[1] + summand


def _minus(pixels: Affine, other: Array, is_first: bool) -> Affine:
    return (pixels[0], pixels[1] - other) if is_first else (-pixels[0], other - pixels[1])


def _by(pixels: Affine, factor: Array, is_first: bool) -> Affine:
    return pixels[0] * factor, pixels[1] * factor


def _over(pixels: Affine, divisor: Array, is_first: bool) -> Affine:
    return pixels[0] / divisor, pixels[1] / divisor


AFFINE: dict[str, Callable[[Affine, Array, bool], Affine]] = {"add": _plus, "sub": _minus, "mul": _by, "div": _over}


# ---- features

Rule: TypeAlias = Callable[[Flow, Operation, list[Value]], Value]


def _same(flow: Flow, operation: Operation, inputs: list[Value]) -> Value:
    return next(x for x in inputs if x.kind != "constant")


def _other(flow: Flow, operation: Operation, inputs: list[Value]) -> Value:
    return value(operation.op, *(x for x in inputs if x.kind != "constant"))


def _joined(flow: Flow, operation: Operation, inputs: list[Value]) -> Value:
    """The axis is a setting in some programs, in others a number among the inputs."""
    features, number = _parted(inputs)
    axis = number if operation.axis is None else operation.axis
    if axis is None or axis in operation.channels:
        return joined(*features)
    return value(f"joined along axis {axis:g}", *features)


def _same_order(flow: Flow, operation: Operation, inputs: list[Value]) -> Value:
    return _same(flow, operation, inputs) if _keeps_order(operation, inputs) else value(operation.op, inputs[0])


def _keeps_order(operation: Operation, inputs: list[Value]) -> bool:
    """Whether height and width stay what they are; a target that isn't known, or is no map, counts as if."""
    target, size = _whole_numbers(inputs, 1, (4,)), inputs[0].size
    if target is None or operation.op not in ("transpose", "reshape"):
        return True
    if operation.op == "transpose":
        return target.tolist() in ORDERS
    sides = [pair for pair in (target[1:3], target[2:4]) if pair.min() > 0]
    return size is None or len(sides) < 2 or size in map(_pair, sides)


def _conv(flow: Flow, operation: Operation, inputs: list[Value]) -> Value:
    x = inputs[0]
    rate = (operation.rate[0] * x.block[0], operation.rate[1] * x.block[1])
    pads = _pads(operation, x, rate)
    layer = Layer(operation.kernel, operation.stride, rate, pads, x._replace(pads=NO_PADS))
    return layer_output(flow, operation.weights, layer)


def _pads(operation: Operation, x: Value, rate: Pair) -> Pads | None:
    """Of a layer. Rearranged pixels are padded until they fill blocks: only what lies before them counts."""
    if operation.is_same and x.block == (1, 1):
        return _same_pads(operation, x, rate)
    if operation.is_same or x.pads is None:
        return padding_at(x.size, operation.kernel, operation.stride, rate) if x.pads == NO_PADS else None
    total = [r * (side - 1) for r, side in zip(rate, operation.kernel, strict=True)]
    around = [
        (before + own[0], whole - before - own[0] if block > 1 else after + own[1])
        for (before, after), own, whole, block in zip(x.pads, operation.pads, total, x.block, strict=True)
    ]
    return around[0], around[1]


def _same_pads(operation: Operation, x: Value, rate: Pair) -> Pads | None:
    """TensorFlow's SAME, around the zeros that a map already has."""
    if x.pads is None:
        return None
    size = x.size and (x.size[0] + sum(x.pads[0]), x.size[1] + sum(x.pads[1]))
    own = padding_at(size, operation.kernel, operation.stride, rate)
    return own and (_plus_pair(x.pads[0], own[0]), _plus_pair(x.pads[1], own[1]))


def _plus_pair(one: Pair, other: Pair) -> Pair:
    return one[0] + other[0], one[1] + other[1]


def _pool(flow: Flow, operation: Operation, inputs: list[Value]) -> Value:
    x = inputs[0]._replace(pads=NO_PADS)
    pads = _same_pads(operation, inputs[0], (1, 1)) if operation.is_same else inputs[0].pads
    return pooled(flow, x, operation.op, operation.kernel, operation.stride, pads)


def _reduced(flow: Flow, operation: Operation, inputs: list[Value]) -> Value:
    axes = inputs[1].array if len(inputs) > 1 else None
    is_spatial = axes is not None and tuple(np.sort(axes.reshape(-1)).tolist()) in SPATIAL
    return averaged(inputs[0]) if is_spatial else value(MEAN_OF_OTHERS, inputs[0])


def _resize(flow: Flow, operation: Operation, inputs: list[Value]) -> Value:
    target = _target(inputs)
    rule = EXTREMES[operation.align_corners][operation.half_pixel_centers]
    flow.resizes.append(Resize(operation.name, inputs[0], f"{operation.method}, {rule}", target))
    return inputs[0]._replace(size=target)


def _target(inputs: list[Value]) -> Size | None:
    size = _whole_numbers(inputs, 1, (2,))
    return None if size is None else _pair(size)


def _tile(flow: Flow, operation: Operation, inputs: list[Value]) -> Value:
    """One pixel, repeated over a map, is resized."""
    times = _whole_numbers(inputs, 1, (4,))
    if times is None or inputs[0].size != (1, 1) or times[0] != 1:
        return _other(flow, operation, inputs)
    first = 2 if times[3] > 1 and times[1] == 1 else 1  # PyTorch's order of axes, or TensorFlow's
    return inputs[0]._replace(size=_pair(times[first:]))


def _pad(flow: Flow, operation: Operation, inputs: list[Value]) -> Value:
    pads, (_, number) = _constant_pads(inputs), _parted(inputs[:1] + inputs[2:])
    if pads is None or number not in (None, 0):
        return value("computed padding" if pads is None else f"padding with {number:g}", inputs[0])
    return inputs[0]._replace(pads=pads)


def _constant_pads(inputs: list[Value]) -> Pads | None:
    array = _whole_numbers(inputs, 1, (4, 2))
    if array is None:
        return None
    top = 2 if array[3].any() and not array[1].any() else 1  # PyTorch's order of axes, or TensorFlow's
    return _pair(array[top]), _pair(array[top + 1])


def _blocks(flow: Flow, operation: Operation, inputs: list[Value]) -> Value:
    """Space to batch: the next convolution sees every n-th pixel."""
    x, block, pads = inputs[0], _whole_numbers(inputs, 1, (2,)), _whole_numbers(inputs, 2, (2, 2))
    if block is None or block.min() < 1:
        return value("computed blocks", x)
    return x._replace(block=_pair(block), pads=None if pads is None else (_pair(pads[0]), _pair(pads[1])))


def _whole_numbers(inputs: list[Value], index: int, shape: tuple[int, ...]) -> Array | None:
    """A constant of this shape among the inputs."""
    array = inputs[index].array if len(inputs) > index else None
    return array if array is not None and array.shape == shape and array.dtype.kind in "iu" else None


def _pair(array: Array) -> Pair:
    return int(array[0]), int(array[1])


def _unblocked(flow: Flow, operation: Operation, inputs: list[Value]) -> Value:
    x, block = inputs[0], _whole_numbers(inputs, 1, (2,))
    is_undone = block is None or _pair(block) == x.block
    return x._replace(block=(1, 1)) if is_undone else value(operation.op, x)


def _add(flow: Flow, operation: Operation, inputs: list[Value]) -> Value:
    """A constant for each channel is a bias, and belongs to the layer's weights."""
    features, number = _parted(inputs)
    total = features[0]
    for x in features[1:]:
        total = added(total, x)
    return total if number is None else shifted(total, number)


def _sub(flow: Flow, operation: Operation, inputs: list[Value]) -> Value:
    features, number = _parted(inputs)
    if len(features) == 1 and inputs[0] is features[0]:
        return features[0] if number is None else shifted(features[0], -number)
    return value("sub", *features) if len(features) > 1 else value("subtracted", *features)


def _mul(flow: Flow, operation: Operation, inputs: list[Value]) -> Value:
    features, number = _parted(inputs)
    if len(features) == 1:
        return features[0] if number is None else scaled(features[0], number)
    return multiplied(*features[:2])


def _div(flow: Flow, operation: Operation, inputs: list[Value]) -> Value:
    features, number = _parted(inputs)
    return scaled(features[0], 1 / number) if len(features) == 1 and number else value("div", *features)


def _limit(flow: Flow, operation: Operation, inputs: list[Value]) -> Value:
    features, number = _parted(inputs)
    if len(features) != 1 or number is None:
        return value(operation.op, *features)
    return limited(features[0], "maximum" if operation.op == "maximum" else "minimum", number)


def _parted(inputs: list[Value]) -> tuple[list[Value], float | None]:
    """Those that aren't constants, and the constant, if it is a single number and not a layer's."""
    features = [x for x in inputs if x.kind != "constant"]
    single = [x.array for x in inputs if x.op != "weight" and x.array is not None and x.array.size == 1]
    return features, float(single[0].reshape(-1)[0]) if single else None


def _activation(flow: Flow, operation: Operation, inputs: list[Value]) -> Value:
    return activated(operation.op, inputs[0])


OPERATIONS: dict[str, Rule] = {
    **dict.fromkeys(("relu", "relu6", "sigmoid", "hard_swish"), _activation),
    **dict.fromkeys(("identity", "squeeze", "expand_dims", "norm"), _same),
    **dict.fromkeys(("reshape", "transpose"), _same_order),
    **dict.fromkeys(("mean", "max"), _pool),
    **dict.fromkeys(("maximum", "minimum"), _limit),
    "conv": _conv,
    "concat": _joined,
    "reduce_mean": _reduced,
    "resize": _resize,
    "tile": _tile,
    "pad": _pad,
    "space_to_batch": _blocks,
    "batch_to_space": _unblocked,
    "add": _add,
    "sub": _sub,
    "mul": _mul,
    "div": _div,
}
