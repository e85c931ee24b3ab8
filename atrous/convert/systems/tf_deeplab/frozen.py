"""Frozen graphs: the variables that became constants, and the operations between them."""

from collections.abc import Iterator, Mapping

from atrous.convert.arrays import Array
from atrous.convert.flow.operations import Operation, Operations, flow_of
from atrous.convert.flow.values import NO_PADS, Pads, Pair
from atrous.convert.readers.frozen_graph import Graph, Node
from atrous.convert.system import ForeignWeights
from atrous.convert.systems.tf_deeplab.graphs import (
    NOMINAL,
    hints_of,
    is_image,
    left_out,
    normalization_of,
    without_holes,
)
from atrous.convert.systems.tf_deeplab.layout import NORM_LEAVES
from atrous.types import Size

WEIGHTS = frozenset({"weights", "depthwise_weights", "pointwise_weights"})
LEAVES = frozenset({*WEIGHTS, "biases", *NORM_LEAVES.values()})
FAKE_QUANT = "FakeQuant"
NCHW = "NCHW"
MOST_BEHIND = 64  # nodes from which a kernel is computed
ROUNDED = (
    "the rounding to 8 bits of its {} FakeQuant operations is left out: it computes in floats, and some labels differ"
)
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
    **dict.fromkeys(("Add", "AddV2", "AddN"), "add"),
    "Sub": "sub",
    "Mul": "mul",
    **dict.fromkeys(("Div", "RealDiv"), "div"),
    "Maximum": "maximum",
    "Minimum": "minimum",
    "Relu": "relu",
    "Relu6": "relu6",
    "Sigmoid": "sigmoid",
    **dict.fromkeys(("Concat", "ConcatV2"), "concat"),
    **dict.fromkeys(("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3", "BiasAdd"), "norm"),
    **dict.fromkeys(("Identity", "Squeeze", "ExpandDims", "Reshape", "Transpose", "Cast"), "identity"),
    **dict.fromkeys(("StopGradient", "CheckNumerics", "PlaceholderWithDefault", "Snapshot"), "identity"),
    "Shape": "size",
    "Pack": "list",
    "StridedSlice": "slice",
}
METHODS = {"ResizeNearestNeighbor": "nearest", "ResizeBicubic": "bicubic"}


def from_graph(graph: Graph, label: str) -> ForeignWeights:
    """The constants that were variables, under their names, and what the graph does with them."""
    variables = {name: array for name, array in graph.constants.items() if name.rpartition("/")[2] in LEAVES}
    rates = {name: without_holes(array) for name, array in variables.items() if array.ndim == 4}
    variables |= {name: kernel for name, (kernel, _) in rates.items()}
    size = _graph_size(graph)
    flow = flow_of(_operations(graph, {name: rate for name, (_, rate) in rates.items()}), size or NOMINAL)
    count = sum(node.op.startswith(FAKE_QUANT) for node in graph.nodes.values())
    said = left_out(flow, *([ROUNDED.format(count)] if count else []))
    return ForeignWeights(label, variables, hints_of(flow), size, normalization_of(flow), flow, said)


def _graph_size(graph: Graph) -> Size | None:
    """Of the input, or of the canvas on which the graph lays it, if it is fixed."""
    inputs = [node.shapes.get("shape", ()) for node in graph.nodes.values() if node.op == "Placeholder"]
    canvases = [tuple(array.tolist()) for array in graph.constants.values() if array.shape == (4,)]
    fixed = {shape[1:3] for shape in (*inputs, *canvases) if is_image(shape)}
    return fixed.pop() if len(fixed) == 1 else _canvas(graph)


def _canvas(graph: Graph) -> Size | None:
    """To which images are padded: max(height - that of the image, 0), and the same for the width."""
    sides = [
        int(graph.constants[first].item())
        for node in graph.nodes.values()
        if node.op == "Maximum"
        for source in _sources(node)
        if source in graph.nodes and graph.nodes[source].op == "Sub"
        for first in list(_sources(graph.nodes[source]))[:1]
        if first in graph.constants and graph.constants[first].size == 1
    ]
    return (sides[0], sides[1]) if len(sides) == 2 and min(sides) > 1 else None


# ---- operations


def _operations(graph: Graph, holes: Mapping[str, int]) -> Operations:
    """`holes`: the rates that those of kernels stand for."""
    nodes = [graph.nodes[name] for name in _in_order(graph)]
    operations = [_operation(graph, node, holes) for node in nodes if node.op not in ("Const", "Placeholder")]
    images = tuple(node.name for node in nodes if node.op == "Placeholder")
    return Operations(operations, graph.constants, images, dict(_epsilons(graph)))


def _in_order(graph: Graph) -> list[str]:
    """Names of nodes, each after those that it needs; a loop is cut somewhere."""
    order: dict[str, None] = {}
    begun: set[str] = set()
    stack = list(reversed(graph.nodes))
    while stack:
        name = stack[-1]
        begun.add(name)
        waiting = [one for one in _sources(graph.nodes[name]) if one in graph.nodes and one not in begun]
        stack += waiting
        if not waiting:
            order.setdefault(stack.pop())
    return list(order)


def _sources(node: Node) -> Iterator[str]:
    """The nodes whose outputs it takes."""
    return (source.partition(":")[0] for source in node.inputs if not source.startswith("^"))


def _operation(graph: Graph, node: Node, holes: Mapping[str, int]) -> Operation:
    is_conv = KINDS.get(node.op) == "conv"
    weights = _weights(graph, node) if is_conv else ""
    kernel, hole = graph.constants[weights].shape[:2] if weights in graph.constants else (), holes.get(weights, 1)
    rate = _pair(node, "dilations")
    padding = node.texts.get("padding", "VALID")
    return Operation(
        _kind(node),
        node.name,
        tuple(_sources(node)),
        node.name,
        weights,
        ((kernel[0] - 1) // hole + 1, (kernel[1] - 1) // hole + 1) if len(kernel) == 2 else _pair(node, "ksize"),
        _pair(node, "strides"),
        (hole * rate[0], hole * rate[1]),
        padding == "SAME",
        _explicit(node) if padding == "EXPLICIT" else NO_PADS,
        "",
        bool(node.numbers.get("align_corners")),
        bool(node.numbers.get("half_pixel_centers")),
        METHODS.get(node.op, "bilinear"),
        _masks(node),
    )


def _kind(node: Node) -> str:
    """A split into one part is none."""
    is_kept = node.op.startswith(FAKE_QUANT) or (node.op == "Split" and node.numbers.get("num_split") == 1)
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
    return 2 if node.texts.get("data_format") == NCHW else 1


def _weights(graph: Graph, node: Node) -> str:
    """The variable that a convolution's kernel is, or is computed from; without one, the convolution's own name."""
    sources = list(_sources(node))[1:2]
    for name in sources:  # it grows: the nearest come first
        if name in graph.constants and name.rpartition("/")[2] in WEIGHTS:
            return name
        if name in graph.nodes and len(sources) < MOST_BEHIND:
            sources += (one for one in list(_sources(graph.nodes[name])) if one not in sources)
    return node.name


# ---- batch norms


def _epsilons(graph: Graph) -> Iterator[tuple[str, float]]:
    """By the name of the variance: of fused norms, and of those that are written out as arithmetic."""
    for node in graph.nodes.values():
        inputs = [_constant(graph, name) for name in _sources(node)]
        if node.op.startswith("FusedBatchNorm") and len(inputs) == 5:
            yield inputs[4], node.numbers.get("epsilon", 1e-4)
        if node.op == "Rsqrt" and (sources := list(_sources(node))) and sources[0] in graph.nodes:
            yield from _added_epsilon(graph, graph.nodes[sources[0]], graph.constants)


def _added_epsilon(graph: Graph, node: Node, constants: Mapping[str, Array]) -> Iterator[tuple[str, float]]:
    names = [_constant(graph, name) for name in _sources(node)]
    if node.op in ("Add", "AddV2") and len(names) == 2:
        for variance, number in (names, names[::-1]):
            if number in constants and constants[number].size == 1 and variance.endswith(NORM_LEAVES["running_var"]):
                yield variance, float(constants[number].reshape(-1)[0])


def _constant(graph: Graph, name: str) -> str:
    """The constant behind a chain of identities."""
    for _ in range(len(graph.nodes)):
        node = graph.nodes.get(name)
        if node is None or node.op != "Identity" or not node.inputs:
            break
        name = node.inputs[0].partition(":")[0]
    return name
