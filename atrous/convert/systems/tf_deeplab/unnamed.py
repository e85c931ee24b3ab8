"""Frozen graphs whose constants don't have the variables' names: layers by structure, weights by what takes them."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from atrous.convert.arrays import Array
from atrous.convert.flow.values import scope_of
from atrous.convert.layouts import NORM_LEAVES
from atrous.convert.readers.frozen_graph import Graph, Node
from atrous.convert.systems.tf_deeplab import structure
from atrous.convert.systems.tf_deeplab.nodes import (
    FAKE_QUANT,
    constant_behind,
    in_order,
    is_convolution,
    kernel_name,
    kernel_of,
    layer_name,
    operations,
)
from atrous.types import Size

PASSING = ("Identity", "BatchToSpaceND")  # between a convolution and its norm
SUMS = ("BiasAdd", "Add", "AddV2")


class Variables(NamedTuple):
    arrays: dict[str, Array]
    epsilons: dict[str, float]  # of batch norms, by the name of their variance
    constants: set[str]  # of the file, which these are made of


def names_of(graph: Graph, size: Size) -> dict[str, str]:
    """Of layers' weights, by the convolution's node; none: they have the file's names, or no network has them."""
    nodes = [node for node in in_order(graph) if is_convolution(node)]
    scopes = {kernel_name(graph, node): scope_of(layer_name(graph, node)) for node in nodes}
    if not nodes or None in scopes or structure.are_known(list(scopes.values())):
        return {}
    numbers = {name: f"layer_{number}/weights" for number, name in enumerate(scopes)}
    numbered = {node.name: numbers[kernel_name(graph, node)] for node in nodes}
    kernels = {}
    for node in nodes:
        kernel, _ = kernel_of(graph, node)
        assert kernel is not None, "the node has a constant"
        kernels[numbered[node.name]] = structure.Kernel(kernel.shape, node.op.startswith("Depthwise"))
    names = structure.names_by_structure(operations(graph, numbered), kernels, size)
    return {node: names[number] for node, number in numbered.items()} if names else {}


def variables(graph: Graph, names: Mapping[str, str]) -> Variables:
    """The weights of each layer, under its name, with the batch norm or bias that takes what it makes."""
    layers = Variables({}, {}, set())
    takers = _takers(graph)
    for node, name in names.items():
        kernel, _ = kernel_of(graph, graph.nodes[node])
        assert kernel is not None, "the node has a constant"
        layers.arrays[name] = kernel
        for taker in _after(graph.nodes[node], takers):
            _add(graph, taker, name, layers)
    return layers


def _takers(graph: Graph) -> dict[str, list[Node]]:
    """Nodes by the first of what they take, and the second of a sum or product."""
    takers: defaultdict[str, list[Node]] = defaultdict(list)
    for node in graph.nodes.values():
        for name in dict.fromkeys(source.partition(":")[0] for source in node.inputs[:2]):
            takers[name].append(node)
    return takers


def _after(node: Node, takers: Mapping[str, list[Node]]) -> Iterator[Node]:
    """The norm that follows a convolution, or the product and the sum."""
    while len(following := takers.get(node.name, [])) == 1:
        (node,) = following
        is_last = node.op.startswith("FusedBatchNorm") or node.op in SUMS
        if is_last or node.op == "Mul":
            yield node
        elif node.op not in PASSING and not node.op.startswith(FAKE_QUANT):
            return
        if is_last:
            return


def _add(graph: Graph, node: Node, name: str, layers: Variables) -> None:
    scope, arrays = name.rpartition("/")[0], layers.arrays
    kernel = arrays[name]
    axes = (2, 3) if name.endswith("depthwise_weights") else (3,)
    channels = int(np.prod([kernel.shape[axis] for axis in axes]))
    names = [constant_behind(graph, one.partition(":")[0]) for one in node.inputs]
    own = {one: graph.constants[one] for one in names if one in graph.constants}
    vectors = [array.reshape(-1) for array in own.values() if array.size == channels]
    layers.constants.update(own)
    if node.op.startswith("FusedBatchNorm") and len(vectors) == len(NORM_LEAVES):
        leaves = zip(NORM_LEAVES.values(), vectors, strict=True)
        arrays |= {f"{scope}/BatchNorm/{leaf}": array for leaf, array in leaves}
        layers.epsilons[f"{scope}/BatchNorm/{NORM_LEAVES['running_var']}"] = node.numbers.get("epsilon", 1e-4)
    elif len(vectors) == 1 and node.op in SUMS:
        arrays[f"{scope}/biases"] = vectors[0]
    elif len(vectors) == 1:
        arrays[name] = kernel * vectors[0].reshape([kernel.shape[axis] for axis in axes])
