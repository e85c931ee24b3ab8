"""Frozen graphs: the variables that became constants, and the operations between them."""

from atrous.convert.flow.operations import flow_of
from atrous.convert.layouts import NORM_LEAVES
from atrous.convert.readers.frozen_graph import Graph
from atrous.convert.system import ForeignWeights
from atrous.convert.systems.tf_deeplab import unnamed
from atrous.convert.systems.tf_deeplab.graphs import (
    NOMINAL,
    hints_of,
    is_image,
    left_out,
    normalization_of,
    without_holes,
)
from atrous.convert.systems.tf_deeplab.nodes import FAKE_QUANT, WEIGHTS, epsilons, operations, sources
from atrous.convert.systems.tf_deeplab.unnamed import Variables
from atrous.types import Size

LEAVES = frozenset({*WEIGHTS, "biases", *NORM_LEAVES.values()})
ROUNDED = (
    "the rounding to 8 bits of its {} FakeQuant operations is left out: it computes in floats, and some labels differ"
)


def from_graph(graph: Graph, label: str) -> ForeignWeights:
    """The constants that were variables, under their names, and what the graph does with them."""
    size = _graph_size(graph)
    names = unnamed.names_of(graph, size or NOMINAL)
    layers = unnamed.variables(graph, names) if names else _named(graph)
    flow = flow_of(operations(graph, names, layers.constants)._replace(epsilons=layers.epsilons), size or NOMINAL)
    count = sum(node.op.startswith(FAKE_QUANT) for node in graph.nodes.values())
    said = left_out(flow, *([ROUNDED.format(count)] if count else []))
    numbers = normalization_of(flow)
    return ForeignWeights(label, layers.arrays, hints_of(flow), size, numbers, flow, said, is_rounded=count > 0)


def _named(graph: Graph) -> Variables:
    """Constants that were variables, by their names."""
    variables = {name: array for name, array in graph.constants.items() if name.rpartition("/")[2] in LEAVES}
    kernels = {name: without_holes(array)[0] for name, array in variables.items() if array.ndim == 4}
    return Variables(variables | kernels, dict(epsilons(graph)), set(variables))


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
        for source in sources(node)
        if source in graph.nodes and graph.nodes[source].op == "Sub"
        for first in list(sources(graph.nodes[source]))[:1]
        if first in graph.constants and graph.constants[first].size == 1
    ]
    return (sides[0], sides[1]) if len(sides) == 2 and min(sides) > 1 else None
