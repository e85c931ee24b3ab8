"""A network in LiteRT's operators, before it is written: tensors with axes as they lie in memory, and operators."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Shape: TypeAlias = tuple[int, ...]
Order: TypeAlias = tuple[int, ...]
Array: TypeAlias = NDArray[Any]
Option: TypeAlias = int | float | bool | tuple[int, ...]

NHWC: Order = (0, 3, 1, 2)  # where batch, channels, rows and columns of PyTorch's [B, C, H, W] lie in LiteRT's tensors
SUPPORTED = ("float32", "float16", "int32", "uint8", "int64", "bool", "int8")


class Tensor(NamedTuple):
    shape: Shape  # in memory
    dtype: str
    data: Array | None = None  # of a constant
    scale: tuple[float, ...] = ()  # of a quantised tensor: one, or one per channel along `axis`
    zero_point: tuple[int, ...] = ()
    axis: int = 0


class Operator(NamedTuple):
    op: str  # a name of BuiltinOperator
    inputs: tuple[int, ...]  # indices of tensors
    output: int
    options: Mapping[str, Option] = {}  # by their names in the schema; `pads`: above and left of a window


class Value(NamedTuple):
    """What PyTorch calls a tensor: `order` says which axis in memory each of its axes is."""

    tensor: int
    order: Order


class Graph:
    """Grows while a network is lowered."""

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self.operators: list[Operator] = []
        self.constants: dict[tuple[str, Shape, bytes], int] = {}  # by type, shape and digest

    def tensor(self, shape: Sequence[int], dtype: str) -> int:
        """A tensor that is computed, or an input."""
        self.tensors.append(Tensor(tuple(shape), dtype))
        return len(self.tensors) - 1

    def constant(self, data: Array) -> int:
        """Equal constants are stored once."""
        data = np.ascontiguousarray(data)
        key = str(data.dtype), data.shape, hashlib.sha256(data.reshape(-1).view(np.uint8).data).digest()
        if key not in self.constants:
            self.tensors.append(Tensor(data.shape, str(data.dtype), data))
            self.constants[key] = len(self.tensors) - 1
        return self.constants[key]

    def integers(self, data: Array, scale: tuple[float, ...], zero_point: tuple[int, ...], axis: int) -> int:
        """A constant of integers that stand for floats."""
        data = np.ascontiguousarray(data)
        self.tensors.append(Tensor(data.shape, str(data.dtype), data, scale, zero_point, axis))
        return len(self.tensors) - 1

    def add(self, op: str, inputs: Sequence[int], shape: Sequence[int], dtype: str, **options: Option) -> int:
        """An operator's result."""
        output = self.tensor(shape, dtype)
        self.operators.append(Operator(op, tuple(inputs), output, options))
        return output

    def shape(self, value: Value) -> Shape:
        """As PyTorch has it."""
        lengths = self.tensors[value.tensor].shape
        return tuple(lengths[axis] for axis in value.order)

    def dtype(self, value: Value) -> str:
        return self.tensors[value.tensor].dtype


def in_memory(values: Sequence[int], order: Order) -> Shape:
    """Values per axis, such as sizes, from PyTorch's order into that of the memory."""
    return tuple(values[order.index(axis)] for axis in range(len(order)))


def plain(rank: int) -> Order:
    return tuple(range(rank))


def arranged(graph: Graph, value: Value, order: Order) -> int:
    """The value's tensor with its axes at these places; moving axes of length 1 is free."""
    if value.order == order:
        return value.tensor
    lengths, dtype = graph.tensors[value.tensor].shape, graph.dtype(value)
    permutation = tuple(value.order[order.index(axis)] for axis in range(len(order)))  # place -> the old place
    shape = [lengths[axis] for axis in permutation]
    moved = [axis for axis in permutation if lengths[axis] > 1]
    if moved == sorted(moved):
        return reshaped(graph, value.tensor, shape)
    return graph.add("TRANSPOSE", [value.tensor, _integers(graph, permutation)], shape, dtype)


def reshaped(graph: Graph, tensor: int, shape: Sequence[int]) -> int:
    old = graph.tensors[tensor]
    if old.shape == tuple(shape):
        return tensor
    options: dict[str, Option] = {"newShape": tuple(shape)}
    return graph.add("RESHAPE", [tensor, _integers(graph, shape)], shape, old.dtype, **options)


def _integers(graph: Graph, values: Sequence[int]) -> int:
    return graph.constant(np.array(values, np.int32))


def viewed(graph: Graph, value: Value, shape: Shape) -> Value:
    """The same elements with other axes: nothing is moved where axes that are joined or split lie side by side."""
    old = graph.shape(value)
    if old == shape:
        return value
    blocks = sorted(_blocks(old, shape), key=lambda block: [value.order[axis] for axis in block.old])
    places = [value.order[axis] for block in blocks for axis in block.old]
    if places != sorted(places):
        return Value(reshaped(graph, arranged(graph, value, plain(len(old))), shape), plain(len(shape)))
    axes = [axis for block in blocks for axis in block.new]
    order = tuple(axes.index(axis) for axis in range(len(shape)))
    return Value(reshaped(graph, value.tensor, in_memory(shape, order)), order)


class Block(NamedTuple):
    """A shortest run of old axes, without those of length 1, and the new axes of its elements."""

    old: list[int]
    new: list[int]


def _blocks(old: Shape, new: Shape) -> list[Block]:
    sources = [axis for axis, length in enumerate(old) if length > 1]
    targets = list(range(len(new)))
    blocks = [] if sources else [Block([], [])]
    while sources:
        block = Block([sources.pop(0)], [])
        while (one := _count(old, block.old)) != (two := _count(new, block.new)):
            side, rest = (block.old, sources) if one < two else (block.new, targets)
            side.append(rest.pop(0))
        blocks.append(block)
    blocks[-1].new.extend(targets)  # of length 1
    return blocks


def _count(shape: Shape, axes: Sequence[int]) -> int:
    return math.prod(shape[axis] for axis in axes)
