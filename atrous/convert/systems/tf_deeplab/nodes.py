"""What the nodes of a frozen graph are: operations, and the constants that these take."""

from collections.abc import Container, Iterator, Mapping
from types import MappingProxyType

from atrous.convert.arrays import Array
from atrous.convert.flow.operations import (
    ARG_MAX,
    CHANNELS,
    CHANNELS_FIRST,
    INTEGERS,
    MAXIMUM,
    REVERSED,
    SOFTMAX,
    Operation,
    Operations,
)
from atrous.convert.flow.values import NO_PADS, Pads, Pair
from atrous.convert.layouts import NORM_LEAVES
from atrous.convert.readers.frozen_graph import Graph, Node
from atrous.convert.systems.tf_deeplab.graphs import without_holes

WEIGHTS = frozenset({"weights", "depthwise_weights", "pointwise_weights"})
FAKE_QUANT = "FakeQuant"
NCHW, FIRST_IN_NCHW = "NCHW", 2
MOST_BEHIND = 64  # nodes from which a kernel is computed
KINDS = {
    "Conv2D": "conv",
    "DepthwiseConv2dNative": "conv",
    "AvgPool": "mean",
    "MaxPool": "max",
    "Mean": "reduce_mean",
    "ResizeBilinear": "resize",
    "ResizeNearestNeighbor": "resize",
    "ResizeBicubic": "resize",
    "Tile": "tile",
    "Pad": "pad",
    "PadV2": "pad",
    "SpaceToBatchND": "space_to_batch",
    "BatchToSpaceND": "batch_to_space",
    **dict.fromkeys(("Add", "AddV2", "AddN", "BiasAdd"), "add"),
    "Sub": "sub",
    "Mul": "mul",
    **dict.fromkeys(("Div", "RealDiv"), "div"),
    "Maximum": "maximum",
    "Minimum": "minimum",
    "Relu": "relu",
    "Relu6": "relu6",
    "Sigmoid": "sigmoid",
    **dict.fromkeys(("Concat", "ConcatV2"), "concat"),
    **dict.fromkeys(("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"), "norm"),
    **dict.fromkeys(("Identity", "Cast"), "identity"),
    "Squeeze": "squeeze",
    "ExpandDims": "expand_dims",
    "ArgMax": ARG_MAX,
    "Reshape": "reshape",
    "Transpose": "transpose",
    **dict.fromkeys(("StopGradient", "CheckNumerics", "PlaceholderWithDefault", "Snapshot"), "identity"),
    "Max": MAXIMUM,
    "Softmax": SOFTMAX,
    "ReverseV2": REVERSED,
    "Shape": "size",
    "Pack": "list",
    "StridedSlice": "slice",
}
FLOATS = (1, 2, 14, 19)  # numbers of types
METHODS = {"ResizeNearestNeighbor": "nearest", "ResizeBicubic": "bicubic"}
NUM_AXES = 4  # of a kernel
NO_NAMES: Mapping[str, str] = MappingProxyType({})


def operations(graph: Graph, names: Mapping[str, str] = NO_NAMES, weights: Container[str] | None = None) -> Operations:
    """`names`: of layers' weights, by the convolution's node, where these aren't named as in the file; `weights`: all
    constants that are parts of layers, if they are known."""
    nodes = list(in_order(graph))
    others = [node for node in nodes if node.op not in ("Const", "Placeholder")]
    images = tuple(node.name for node in nodes if node.op == "Placeholder")
    is_first = any(_first_side(node) == FIRST_IN_NCHW for node in nodes)
    channels = (*CHANNELS, *CHANNELS_FIRST) if is_first else CHANNELS
    operations = [_operation(graph, node, names)._replace(channels=channels) for node in others]
    return Operations(operations, graph.constants, images, {}, weights)


def in_order(graph: Graph) -> Iterator[Node]:
    """Nodes, each after those that it needs; a loop is cut somewhere."""
    order: dict[str, None] = {}
    begun: set[str] = set()
    stack = list(reversed(graph.nodes))
    while stack:
        name = stack[-1]
        begun.add(name)
        waiting = [one for one in sources(graph.nodes[name]) if one in graph.nodes and one not in begun]
        stack += waiting
        if not waiting:
            order.setdefault(stack.pop())
    return (graph.nodes[name] for name in order)


def sources(node: Node) -> Iterator[str]:
    """The nodes whose outputs it takes."""
    return (source.partition(":")[0] for source in node.inputs if not source.startswith("^"))


def _operation(graph: Graph, node: Node, names: Mapping[str, str]) -> Operation:
    weights = names.get(node.name) or layer_name(graph, node) if is_convolution(node) else ""
    kernel, hole = kernel_of(graph, node) if weights else (None, 1)
    rate = _pair(node, "dilations")
    padding = node.texts.get("padding", "VALID")
    return Operation(
        _kind(node),
        node.name,
        tuple(sources(node)),
        node.name,
        weights,
        _pair(node, "ksize") if kernel is None else (kernel.shape[0], kernel.shape[1]),
        _pair(node, "strides"),
        (hole * rate[0], hole * rate[1]),
        padding == "SAME",
        _explicit(node) if padding == "EXPLICIT" else NO_PADS,
        "",
        bool(node.numbers.get("align_corners")),
        bool(node.numbers.get("half_pixel_centers")),
        METHODS.get(node.op, "bilinear"),
        _masks(node),
        is_channels_first=_first_side(node) == FIRST_IN_NCHW,
    )


def _kind(node: Node) -> str:
    """A split into one part is none."""
    is_kept = node.op.startswith(FAKE_QUANT) or (node.op == "Split" and node.numbers.get("num_split") == 1)
    if node.op == "Cast" and int(node.numbers.get("DstT", FLOATS[0])) not in FLOATS:
        return INTEGERS
    return "identity" if is_kept else KINDS.get(node.op, node.op)


def _pair(node: Node, name: str) -> Pair:
    """Height and width of a list for all four axes."""
    first = _first_side(node)
    sides = node.ints.get(name, ())[first : first + 2]
    return (max(sides[0], 1), max(sides[1], 1)) if len(sides) == 2 else (1, 1)


def _masks(node: Node) -> tuple[int, int, int]:
    begin, end, single = (int(node.numbers.get(f"{name}_mask", 0)) for name in ("begin", "end", "shrink_axis"))
    return begin, end, single


def _explicit(node: Node) -> Pads:
    first = 2 * _first_side(node)
    sides = node.ints.get("explicit_paddings", ())[first : first + 4]
    return ((sides[0], sides[1]), (sides[2], sides[3])) if len(sides) == 4 else NO_PADS


def _first_side(node: Node) -> int:
    """Of the axes of height and width."""
    return FIRST_IN_NCHW if node.texts.get("data_format") == NCHW else 1


def is_convolution(node: Node) -> bool:
    return KINDS.get(node.op) == "conv"


def layer_name(graph: Graph, node: Node) -> str:
    """The variable that a convolution's kernel is, or is computed from; without one, the convolution's own name."""
    return next((name for name in _behind(graph, node) if name.rpartition("/")[2] in WEIGHTS), node.name)


def kernel_of(graph: Graph, node: Node) -> tuple[Array | None, int]:
    """A convolution's kernel without holes, and the rate that these stood for."""
    name = kernel_name(graph, node)
    return (None, 1) if name is None else without_holes(graph.constants[name])


def kernel_name(graph: Graph, node: Node) -> str | None:
    """The constant that it is, or is computed from."""
    name = layer_name(graph, node)
    own = graph.constants.get(name)
    if own is not None and own.ndim == NUM_AXES:
        return name
    return next((one for one in _behind(graph, node) if graph.constants[one].ndim == NUM_AXES), None)


def _behind(graph: Graph, node: Node) -> Iterator[str]:
    """The constants from which a kernel is computed, the nearest first."""
    names = list(sources(node))[1:2]
    for name in names:  # it grows
        if name in graph.constants:
            yield name
        elif name in graph.nodes and len(names) < MOST_BEHIND:
            names += (one for one in sources(graph.nodes[name]) if one not in names)


# ---- batch norms


def epsilons(graph: Graph) -> Iterator[tuple[str, float]]:
    """By the name of the variance: of fused norms, and of those that are written out as arithmetic."""
    for node in graph.nodes.values():
        inputs = [constant_behind(graph, name) for name in sources(node)]
        if node.op.startswith("FusedBatchNorm") and len(inputs) == 5:
            yield inputs[4], node.numbers.get("epsilon", 1e-4)
        if node.op == "Rsqrt" and (names := list(sources(node))) and names[0] in graph.nodes:
            yield from _added_epsilon(graph, graph.nodes[names[0]], graph.constants)


def _added_epsilon(graph: Graph, node: Node, constants: Mapping[str, Array]) -> Iterator[tuple[str, float]]:
    names = [constant_behind(graph, name) for name in sources(node)]
    if node.op in ("Add", "AddV2") and len(names) == 2:
        for variance, number in (names, names[::-1]):
            if number in constants and constants[number].size == 1 and variance.endswith(NORM_LEAVES["running_var"]):
                yield variance, float(constants[number].reshape(-1)[0])


def constant_behind(graph: Graph, name: str) -> str:
    """The constant behind a chain of identities."""
    for _ in range(len(graph.nodes)):
        node = graph.nodes.get(name)
        if node is None or node.op != "Identity" or not node.inputs:
            break
        name = node.inputs[0].partition(":")[0]
    return name
