"""Graphs in plain operators that round to 8 bits, as `quantization.Int8Conv` has them, for `torch.compile`: it makes
integer convolutions of other operators, which files don't hold because other programs lack them."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.fx import GraphModule, Node

from atrous.layers.quantization import LEVELS, WEIGHT_LEVELS

aten = torch.ops.aten
ZEROS = "zeros_of"  # what the names of the levels of 0 begin with
UNITS = ("avx512_vnni", "avx_vnni", "amx_int8")
LEAST = -WEIGHT_LEVELS


def has_units() -> bool:
    """Whether the processor adds products of bytes in 32 bits: elsewhere sums of 16 bits would overflow, unnoticed."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(capabilities.get(name) for name in UNITS)


def use(module: GraphModule) -> int:
    """Write roundings and weights as the compiler looks for them, in place. Returns how many convolutions are of
    integers then."""
    import torch.ao.quantization.fx._decomposed  # noqa: F401 - defines the operators

    convolutions = list(_of_integers(module))
    for convolution, levels, weights in convolutions:
        _round(module, convolution, levels)
        _weigh(module, convolution, weights)
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()
    return len(convolutions)


Levels = tuple[Node, float, int]  # what is rounded, the distance of two levels, the level of 0
Weights = tuple[Node, Node]  # integers, and the distance of two levels in each channel


def _of_integers(module: GraphModule) -> Iterator[tuple[Node, Levels, Weights]]:
    for node in module.graph.nodes:
        if node.target is aten.conv2d.default:
            levels, weights = _levels(node.args[0]), _weights(module, node.args[1])
            if levels is not None and weights is not None:
                yield node, levels, weights


def _levels(node: Any) -> Levels | None:  # noqa: ANN401 - what a graph has for an argument
    """As `in_plain_levels` writes them."""
    clamp, step = _arguments(node, aten.mul.Tensor)
    rounding, low, high = _arguments(clamp, aten.clamp.default, 3)
    (product,) = _arguments(rounding, aten.round.default, 1)
    x, inverse = _arguments(product, aten.mul.Tensor)
    is_known = isinstance(step, float) and isinstance(low, int) and isinstance(high, int)
    if not is_known or inverse != 1 / step or high - low != LEVELS or not -LEVELS <= low <= 0:
        return None
    return x, step, -low


def _weights(module: GraphModule, node: Any) -> Weights | None:  # noqa: ANN401
    """As `Int8Conv.products` writes them."""
    floats, along = _arguments(node, aten.mul.Tensor)
    levels, kind = _arguments(floats, aten.to.dtype)
    steps, shape = _arguments(along, aten.view.default)
    if kind is not torch.float32 or shape != [-1, 1, 1, 1] or _tensor(module, levels).dtype != torch.int8:
        return None
    return levels, steps


def _arguments(node: Any, target: Any, number: int = 2) -> tuple[Any, ...]:  # noqa: ANN401
    """Those of a call of `target` with so many; else Nones."""
    is_call = isinstance(node, Node) and node.target is target and len(node.args) == number and not node.kwargs
    return tuple(node.args) if is_call else (None,) * number


def _tensor(module: GraphModule, node: Any) -> torch.Tensor:  # noqa: ANN401
    """A constant of the graph; an empty one for anything else."""
    if not isinstance(node, Node) or node.op != "get_attr":
        return torch.empty(0)
    parent, _, name = str(node.target).rpartition(".")
    tensor: torch.Tensor = getattr(module.get_submodule(parent), name)
    return tensor


def _round(module: GraphModule, convolution: Node, levels: Levels) -> None:
    x, step, zero = levels
    operators, limits = torch.ops.quantized_decomposed, (step, zero, 0, LEVELS, torch.uint8)
    with module.graph.inserting_before(convolution):
        rounded = module.graph.call_function(operators.quantize_per_tensor.default, (x, *limits))
        floats = module.graph.call_function(operators.dequantize_per_tensor.default, (rounded, *limits))
    convolution.update_arg(0, floats)


def _weigh(module: GraphModule, convolution: Node, weights: Weights) -> None:
    levels, steps = weights
    name = f"{ZEROS}_{convolution.name}"
    module.register_buffer(name, torch.zeros_like(_tensor(module, steps), dtype=torch.int64))
    limits = 0, LEAST, WEIGHT_LEVELS, torch.int8
    with module.graph.inserting_before(convolution):
        zeros = module.graph.get_attr(name)
        dequantize = torch.ops.quantized_decomposed.dequantize_per_channel.default
        floats = module.graph.call_function(dequantize, (levels, steps, zeros, *limits))
    convolution.update_arg(1, floats)
