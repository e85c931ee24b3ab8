"""Where a program rounds to 8-bit integers: LiteRT's integer convolutions give bytes, so that their results are rounded.

A result that is rounded anyway, for the next convolution, is rounded as that one needs it; other results, such as those
of shortcuts, to the range that was measured of them. All else stays in floats.
"""

import math
from typing import Any, TypeAlias

import torch
import torch.ao.quantization.fx._decomposed  # defines the operators
from torch.export import ExportedProgram
from torch.fx.node import Node

from atrous.deployed import Deployment, traced
from atrous.layers.quantization import LEVELS, Int8Conv, steps_of
from atrous.runtimes.litert.lowering import decomposed

aten, operators = torch.ops.aten, torch.ops.quantized_decomposed
Levels: TypeAlias = tuple[Any, ...]  # arguments of the operators after the tensor: step, zero, and their limits

ACTIVATIONS: dict[Any, tuple[float | None, float | None] | None] = {
    aten.relu.default: (0.0, None),
    aten.relu6.default: (0.0, 6.0),
    aten.clamp.default: None,
    aten.hardtanh.default: None,
    aten.alias.default: (None, None),
    aten.clone.default: (None, None),
}  # what LiteRT computes within a convolution: the least and the greatest value; None: the operator's arguments


def with_rounding(deployment: Deployment) -> Deployment:
    """The graph as LiteRT computes it, in PyTorch's operators."""
    program = decomposed(traced(deployment))
    graph = program.graph
    for node in list(graph.nodes):
        if node.target is aten.cat.default:
            _round_parts(program, node)
    for node in list(graph.nodes):
        if (part := _integer_convolution(deployment, program, node)) is not None:
            _round_result(program, node, part)
    graph.eliminate_dead_code()
    graph.lint()
    program.graph_module.recompile()
    return deployment._replace(program=program)


def _integer_convolution(deployment: Deployment, program: ExportedProgram, node: Node) -> Int8Conv | None:
    """The part that the convolution comes from, by the name of its weights."""
    weight: Any = node.args[1] if node.target is aten.conv2d.default else None
    if not isinstance(weight, Node) or weight.target is not operators.dequantize_per_channel.default:
        return None
    buffers: Any = program.graph_signature.inputs_to_buffers
    part = deployment.module.get_submodule(buffers[weight.args[0].name].rpartition(".")[0])  # type: ignore[union-attr]
    assert isinstance(part, Int8Conv)
    return part


def _is_rounding(node: Node) -> bool:
    return node.target is operators.quantize_per_tensor.default


def _round_parts(program: ExportedProgram, joint: Node) -> None:
    """What is joined and then rounded may be rounded before."""
    users = list(joint.users)
    if not users or not all(_is_rounding(user) and user.args[1:] == users[0].args[1:] for user in users):
        return
    parts: Any = joint.args[0]
    for part in dict.fromkeys(parts):
        _, floats = _rounded(program, part, users[0].args[1:])
        joint.replace_input_with(part, floats)


def _round_result(program: ExportedProgram, convolution: Node, part: Int8Conv) -> None:
    result, limits = _activated(convolution)
    readers = [user for user in result.users if _is_rounding(user)]
    if not readers and part.result is None:  # nothing is known of it: it is computed in floats
        return
    levels = readers[0].args[1:] if readers else _levels(part, limits)
    users = list(result.users)
    rounded, floats = _rounded(program, result, levels)
    for user in users:
        if user.target is operators.quantize_per_tensor.default and user.args[1:] == levels:
            user.replace_all_uses_with(rounded)
        else:
            user.replace_input_with(result, floats)


def _activated(convolution: Node) -> tuple[Node, tuple[float, float]]:
    """The end of the activations that LiteRT computes within a convolution, and their least and greatest value."""
    result, low, high = convolution, -math.inf, math.inf
    while len(result.users) == 1 and (user := next(iter(result.users))).target in ACTIVATIONS:
        own: Any = ACTIVATIONS[user.target] or user.args[1:3]
        low, high = max(low, -math.inf if own[0] is None else own[0]), min(high, math.inf if own[1] is None else own[1])
        result = user
    return result, (low, high)


def _levels(part: Int8Conv, limits: tuple[float, float]) -> Levels:
    assert part.result is not None
    low, high = (min(max(value, limits[0]), limits[1]) for value in part.result)
    return (*steps_of(low, high), 0, LEVELS, torch.uint8)


def _rounded(program: ExportedProgram, node: Node, levels: Levels) -> tuple[Node, Node]:
    """The node's value in levels, and these as floats."""
    graph = program.graph
    with graph.inserting_after(node):
        rounded = graph.call_function(operators.quantize_per_tensor.default, (node, *levels))
    with graph.inserting_after(rounded):
        floats = graph.call_function(operators.dequantize_per_tensor.default, (rounded, *levels))
    rounded.meta["val"], floats.meta["val"] = node.meta["val"].to(torch.uint8), node.meta["val"]
    return rounded, floats
