"""From a program that torch.export has captured to a graph of LiteRT's operators."""

import operator
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.ao.quantization.fx._decomposed  # defines operators
from torch.export import ExportedProgram
from torch.fx.node import Node, map_arg
from torch.utils import _pytree as pytree

from atrous.errors import ConfigError
from atrous.runtimes.litert import axes, elements, integers, maps, products
from atrous.runtimes.litert.elements import Operand, dtype_name
from atrous.runtimes.litert.graph import Graph, Value, plain, viewed

aten = torch.ops.aten


class Lowered(NamedTuple):
    graph: Graph
    inputs: list[Value]
    outputs: list[Value]


def lower(program: ExportedProgram) -> Lowered:
    """Raises ConfigError with its name for an operator that has no counterpart."""
    program = decomposed(program)
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


def decomposed(program: ExportedProgram) -> ExportedProgram:
    """In operators that have a counterpart, as far as PyTorch knows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own, about its own
        return program.run_decompositions(_decompositions())


def _decompositions() -> dict[Any, Callable[..., Any]]:
    """PyTorch's own, but for the operators that LiteRT has, too."""
    table = torch.export.default_decompositions()
    for target in LOWERINGS:
        table.pop(target, None)  # type: ignore[no-untyped-call]
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
    args: Any = map_arg(node.args, lambda one: values[one.name])
    kwargs: Any = map_arg(node.kwargs, lambda one: values[one.name])
    target: Any = node.target
    leaves = pytree.tree_leaves((args, kwargs), is_leaf=lambda one: isinstance(one, Value))
    if target in IGNORED:
        return None
    if target is operator.getitem or not any(isinstance(leaf, Value) for leaf in leaves):
        return CONSTANTS.get(target, target)(*args, **kwargs)
    if target in VIEWS:
        return viewed(graph, args[0], tuple(node.meta["val"].shape))
    if target is aten.as_strided.default:
        kwargs = {**kwargs, "memory": node.args[0].meta["val"]}  # type: ignore[union-attr]
    if target not in LOWERINGS:
        raise ConfigError(f"litert: LiteRT has no counterpart of {target}, which this model uses; try another target")
    return LOWERINGS[target](graph, *args, **kwargs)


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
quantized = torch.ops.quantized_decomposed
CONSTANTS: dict[Any, Callable[..., Any]] = {quantized.dequantize_per_channel.default: integers.levels}
LOWERINGS: dict[Any, Callable[..., Any]] = {
    aten.abs.default: partial(elements.unary, "ABS"),
    aten.exp.default: partial(elements.unary, "EXP"),
    aten.log.default: partial(elements.unary, "LOG"),
    aten.neg.default: partial(elements.unary, "NEG"),
    aten.relu.default: partial(elements.unary, "RELU"),
    aten.relu6.default: partial(elements.unary, "RELU6"),
    aten.rsqrt.default: partial(elements.unary, "RSQRT"),
    aten.sigmoid.default: partial(elements.unary, "LOGISTIC"),
    aten.sqrt.default: partial(elements.unary, "SQRT"),
    aten.tanh.default: partial(elements.unary, "TANH"),
    aten.hardswish.default: partial(elements.unary, "HARD_SWISH"),
    aten.hardsigmoid.default: elements.hardsigmoid,
    aten.hardtanh.default: elements.hardtanh,
    aten.clamp.default: elements.clip,
    aten.leaky_relu.default: elements.leaky_relu,
    aten.gelu.default: elements.gelu,
    aten.silu.default: elements.silu,
    aten.pow.Tensor_Scalar: elements.power,
    aten._to_copy.default: elements.converted,
    aten.alias.default: elements.same,
    aten.clone.default: elements.same,
    aten.detach.default: elements.same,
    aten.add.Tensor: partial(elements.binary, "ADD"),
    aten.add.Scalar: partial(elements.binary, "ADD"),
    aten.sub.Tensor: partial(elements.binary, "SUB"),
    aten.sub.Scalar: partial(elements.binary, "SUB"),
    aten.rsub.Scalar: partial(elements.reverse, "SUB"),
    aten.mul.Tensor: partial(elements.binary, "MUL"),
    aten.mul.Scalar: partial(elements.binary, "MUL"),
    aten.div.Tensor: partial(elements.binary, "DIV"),
    aten.div.Scalar: partial(elements.binary, "DIV"),
    aten.maximum.default: partial(elements.binary, "MAXIMUM"),
    aten.minimum.default: partial(elements.binary, "MINIMUM"),
    aten.eq.Tensor: partial(elements.comparison, "EQUAL"),
    aten.eq.Scalar: partial(elements.comparison, "EQUAL"),
    aten.ne.Tensor: partial(elements.comparison, "NOT_EQUAL"),
    aten.ne.Scalar: partial(elements.comparison, "NOT_EQUAL"),
    aten.ge.Tensor: partial(elements.comparison, "GREATER_EQUAL"),
    aten.ge.Scalar: partial(elements.comparison, "GREATER_EQUAL"),
    aten.gt.Tensor: partial(elements.comparison, "GREATER"),
    aten.gt.Scalar: partial(elements.comparison, "GREATER"),
    aten.le.Tensor: partial(elements.comparison, "LESS_EQUAL"),
    aten.le.Scalar: partial(elements.comparison, "LESS_EQUAL"),
    aten.lt.Tensor: partial(elements.comparison, "LESS"),
    aten.lt.Scalar: partial(elements.comparison, "LESS"),
    aten.where.self: elements.where,
    aten.cat.default: elements.joined,
    aten._native_batch_norm_legit_no_training.default: elements.batch_norm,
    aten.native_layer_norm.default: axes.layer_norm,
    aten.permute.default: axes.permuted,
    aten.transpose.int: axes.swapped,
    aten.expand.default: maps.expanded,
    aten.slice.Tensor: axes.sliced,
    aten.select.int: axes.selected,
    aten.split_with_sizes.default: axes.split,
    aten.constant_pad_nd.default: axes.padded,
    aten.as_strided.default: axes.restrided,
    aten.gather.default: axes.gathered,
    aten.mean.default: partial(axes.reduced, "MEAN"),
    aten.mean.dim: partial(axes.reduced, "MEAN"),
    aten.sum.default: partial(axes.reduced, "SUM"),
    aten.sum.dim_IntList: partial(axes.reduced, "SUM"),
    aten.amax.default: partial(axes.reduced, "REDUCE_MAX"),
    aten.amin.default: partial(axes.reduced, "REDUCE_MIN"),
    aten.argmax.default: axes.argmax,
    aten.softmax.int: axes.softmax,
    aten._softmax.default: axes.softmax,
    aten.bmm.default: products.matmul,
    aten.mm.default: products.matmul,
    aten.matmul.default: products.matmul,
    aten.linear.default: products.linear,
    aten.addmm.default: products.addmm,
    aten.scaled_dot_product_attention.default: products.attention,
    aten.conv2d.default: maps.conv2d,
    aten.max_pool2d.default: maps.max_pool,
    aten.avg_pool2d.default: maps.mean_pool,
    aten.adaptive_avg_pool2d.default: maps.adaptive_mean_pool,
    aten.replication_pad2d.default: maps.with_edge,
    aten.upsample_bilinear2d.vec: maps.bilinear,
    aten.upsample_nearest2d.vec: maps.nearest,
    aten._upsample_nearest_exact2d.vec: maps.nearest_exact,
    quantized.quantize_per_tensor.default: integers.rounded,
    quantized.dequantize_per_tensor.default: integers.in_floats,
}
"""Functions of the graph and the operator's own arguments. What isn't here is decomposed by PyTorch, or refused."""
