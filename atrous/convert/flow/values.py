"""What flows through a network: expressions of its layers, equal where two networks compute the same."""

import hashlib
from collections.abc import Container, Iterator
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from atrous.convert.arrays import Array
from atrous.layers.conv import same_padding
from atrous.types import Size

Pair: TypeAlias = tuple[int, int]  # height, width
Pads: TypeAlias = tuple[Pair, Pair]  # (before, after) of the height, of the width
Role: TypeAlias = Literal["weight", "number", "constant"]  # of a constant: a layer's, none's, not known whose
Affine: TypeAlias = tuple[Array, Array]  # (factor, summand), for all channels or for each

ROLES: tuple[Role, ...] = ("weight", "number", "constant")  # what is computed of several has the first of theirs
NO_PADS: Pads = ((0, 0), (0, 0))
SIXTH, NEAR_SIXTH = 1 / 6, 1e-4  # TensorFlow has 0.16667 in some places
DEPTH, LONGEST = 3, 160  # of an expression in a message: operations inside one another, characters
SIGNS = {"add": " + ", "mul": " * ", "concat": ", "}
CLIPS = {  # (outer, inner): what both do
    ("relu", "relu"): "relu",
    ("relu", "relu6"): "relu6",
    ("relu", "clip6"): "relu6",
    ("relu6", "relu"): "relu6",
    ("relu6", "relu6"): "relu6",
    ("relu6", "clip6"): "relu6",
    ("clip6", "relu"): "relu6",
    ("clip6", "relu6"): "relu6",
    ("clip6", "clip6"): "clip6",
}
LIMITS = {  # (outer, inner): what both are
    ("relu", "minimum 6"): "relu6",
    ("minimum 6", "relu"): "relu6",
    ("maximum -6", "minimum 6"): "clip6",
    ("minimum 6", "maximum -6"): "clip6",
}


class Value(NamedTuple):
    """An image, a constant, a layer's output, or what an operation makes of others. Equal values have equal keys."""

    op: str
    kind: Literal["image", "constant", "feature"] = "feature"
    inputs: tuple["Value", ...] = ()
    key: str = ""
    size: Size | None = None  # None: not known
    pads: Pads | None = NO_PADS  # zeros around it, which the next layer sees; None: not known
    block: Pair = (1, 1)  # its pixels are rearranged so that the next layers have this rate
    affine: Affine | None = None  # of an image: what happened to its pixels; None: not known
    prepared: tuple[str, ...] = ()  # of an image: what else happened to it
    array: Array | None = None  # of a constant; None: it is computed


class Layer(NamedTuple):
    """A convolution, but for its weights."""

    kernel: Pair
    stride: Pair
    rate: Pair
    pads: Pads | None  # zeros around its input; None: not known
    input: Value


class Pool(NamedTuple):
    """Means over windows."""

    kernel: Pair
    stride: Pair


class Resize(NamedTuple):
    name: str
    input: Value
    convention: str  # and method
    size: Size | None  # None: not known


class Run(NamedTuple):
    """An operation that has run: what it took, and what came out."""

    op: str
    name: str  # in the file
    sources: tuple[str, ...]
    inputs: tuple[Value, ...]
    output: str
    key: str  # of the value that came out
    method: str  # of resizing
    masks: tuple[int, int, int]  # of a slice
    is_channels_first: bool


class Flow(NamedTuple):
    """A network for images of one size. Each part is in the order in which it was met."""

    size: Size
    layers: dict[str, list[Layer]]  # by the name of the weights; several: it runs several times
    resizes: list[Resize]
    pools: dict[str, Pool]  # by the key of what they make
    keys: set[str]  # of all values
    epsilons: dict[str, float]  # of batch norms, by the name of their variance
    runs: list[Run]  # of a file's operations


def empty_flow(size: Size) -> Flow:
    return Flow(size, {}, [], {}, set(), {}, [])


# ---- making values


def image(size: Size) -> Value:
    return Value("image", "image", key="image", size=size, affine=(np.ones(1), np.zeros(1)))


def constant(array: Array | None = None, role: Role = "constant") -> Value:
    return Value(role, "constant", array=array)


def value(op: str, *inputs: Value, size: Size | None = None) -> Value:
    """A feature; without `size`, of the size of its largest input: single pixels are spread over others."""
    largest = max((one.size for one in inputs if one.size), default=None)
    block = max((one.block for one in inputs), default=(1, 1))
    return Value(op, "feature", inputs, _key(op, inputs), size or largest, NO_PADS, block)


def _key(op: str, inputs: tuple[Value, ...]) -> str:
    parts = [op, *(f"{one.key}{one.pads if one.pads != NO_PADS else ''}" for one in inputs)]
    return hashlib.blake2b("\0".join(parts).encode(errors="backslashreplace"), digest_size=16).hexdigest()


def activated(activation: str, x: Value) -> Value:
    """Zeros around a map stay zeros; of two limits, one after the other, one is left."""
    if not activation:
        return x
    inner, both = x._replace(pads=NO_PADS), CLIPS.get((activation, x.op))
    return (value(both, *inner.inputs) if both else value(activation, inner))._replace(pads=x.pads)


def added(x: Value, y: Value) -> Value:
    return value("add", *sorted((x, y), key=_by_key))


def joined(*inputs: Value) -> Value:
    """One after the other; one alone is itself."""
    return value("concat", *inputs) if len(inputs) > 1 else inputs[0]


def shifted(x: Value, summand: float) -> Value:
    return value(f"add {summand:.5g}", x)


def multiplied(x: Value, y: Value) -> Value:
    """Hard swish, if one is the hard sigmoid of the other."""
    for one, other in ((x, y), (y, x)):
        if other.op == "hard_sigmoid" and other.inputs[0].key == one.key:
            return value("hard_swish", one)
    return value("mul", *sorted((x, y), key=_by_key))


def scaled(x: Value, factor: float) -> Value:
    """A hard sigmoid or hard swish, if a sixth is what it lacks."""
    if abs(factor - SIXTH) < NEAR_SIXTH:
        if (inner := _clipped_after_3(x)) is not None:
            return value("hard_sigmoid", inner)
        if x.op == "mul":
            for one, other in (x.inputs, x.inputs[::-1]):
                if (inner := _clipped_after_3(other)) is not None and inner.key == one.key:
                    return value("hard_swish", one)
    return value(f"mul {factor:.5g}", x)


def _clipped_after_3(x: Value) -> Value | None:
    """y, if x is relu6(y + 3)."""
    return x.inputs[0].inputs[0] if x.op == "relu6" and x.inputs[0].op == "add 3" else None


def _by_key(x: Value) -> str:
    return x.key


def limited(x: Value, op: Literal["maximum", "minimum"], limit: float) -> Value:
    """max(x, 0) is a ReLU; with min(x, 6), it is a ReLU6."""
    own = "relu" if (op, limit) == ("maximum", 0) else f"{op} {limit:.5g}"
    both = LIMITS.get((own, x.op))
    return activated(both, x.inputs[0]) if both else activated(own, x)


def pooled(flow: Flow, x: Value, op: str, kernel: Pair, stride: Pair, pads: Pads | None) -> Value:
    """The whole map's mean, every second pixel, or windows."""
    if kernel == (1, 1):
        return strided(strided(x, 0, stride[0]), 1, stride[1])
    size = x.size and _outputs(x.size, kernel, stride, pads)
    if op == "mean" and x.size and all(side >= whole for side, whole in zip(kernel, x.size, strict=True)):
        return averaged(x)
    y = value(f"{op} of {times(kernel)}, step {times(stride)}, {pads}", x, size=size)._replace(size=size)
    if op == "mean":
        flow.pools[y.key] = Pool(kernel, stride)
    return y


def averaged(x: Value) -> Value:
    return value("mean", x, size=(1, 1))


def strided(x: Value, axis: int, step: int) -> Value:
    if step == 1:
        return x
    size = x.size and (-(-x.size[0] // step) if axis == 0 else x.size[0], -(-x.size[1] // step) if axis else x.size[1])
    return value(f"every {step}th along {'yx'[axis]}", x)._replace(size=size)


def layer_output(flow: Flow, name: str, layer: Layer) -> Value:
    """Record a layer; its output."""
    flow.layers.setdefault(name, []).append(layer)
    return Value(scope_of(name), "feature", (), layer_key(name), outputs_of(layer), NO_PADS, layer.input.block)


def layer_key(name: str) -> str:
    """Of a layer's output, by the name of its weights."""
    return _key(f"layer {name}", ())


def outputs_of(layer: Layer) -> Size | None:
    height, width = (rate * (side - 1) + 1 for side, rate in zip(layer.kernel, layer.rate, strict=True))
    return layer.input.size and _outputs(layer.input.size, (height, width), layer.stride, layer.pads)


def scope_of(weights: str) -> str:
    """`aspp0` of `aspp0/weights`."""
    return weights.rpartition("/")[0] if weights.endswith("weights") else weights


def _outputs(size: Size, extent: Pair, stride: Pair, pads: Pads | None) -> Size | None:
    if pads is None:
        return size if stride == (1, 1) else None
    height, width = (
        max((side + sum(around) - reach) // step + 1, 1)
        for side, reach, step, around in zip(size, extent, stride, pads, strict=True)
    )
    return height, width


def padding_at(size: Size | None, kernel: Pair, stride: Pair, rate: Pair) -> Pads | None:
    """TensorFlow's SAME; at stride 1 it doesn't depend on the size."""
    if size is None and stride != (1, 1):
        return None
    sides = size or (1 << 20, 1 << 20)
    height, width = (same_padding(*axis) for axis in zip(sides, kernel, stride, rate, strict=True))
    return height, width


# ---- looking into values


def components(*values: Value, ends: Container[str] = ()) -> Iterator[Value]:
    """These values and what they are made of, each once, though it occurs often; `ends`: keys not to look into."""
    waiting, seen = list(values), set[str]()
    while waiting:
        x = waiting.pop()
        if x.key not in seen:
            seen.add(x.key)
            yield x
            waiting += () if x.key in ends else reversed(x.inputs)


# ---- messages


def times(pair: Pair) -> str:
    return f"{pair[0]} x {pair[1]}"


def once(pair: Pair) -> str:
    """One number, if both sides have it."""
    return str(pair[0]) if pair[0] == pair[1] else times(pair)


def described(x: Value, depth: int = DEPTH) -> str:
    """An expression for people, cut where it becomes long."""
    if x.pads not in (NO_PADS, None):
        return f"padded {described(x._replace(pads=NO_PADS), depth)}"
    if not x.inputs:
        return "a constant" if x.kind == "constant" else x.op
    if depth == 0:
        return "..."
    parts = [described(one, depth - 1) for one in x.inputs]
    text = SIGNS.get(x.op, ", ").join(parts)
    text = f"({text})" if x.op in SIGNS else f"{x.op}({text})"
    return text if len(text) <= LONGEST else text[:LONGEST] + "..."
