"""Axes in memory: what a view joins or splits stays where it lies."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atrous.runtimes.litert.graph import NHWC, Graph, Order, Shape, Value, arranged, plain, viewed


def value(graph: Graph, shape: Shape, order: Order) -> Value:
    """A tensor that PyTorch sees with this shape."""
    return Value(graph.tensor([shape[order.index(axis)] for axis in range(len(order))], "float32"), order)


@pytest.mark.parametrize(
    ("old", "order", "new", "operators"),
    [
        ((1, 6, 5, 7), NHWC, (1, 6, 35), ["RESHAPE"]),  # rows and columns lie side by side
        ((1, 6, 5, 7), NHWC, (1, 2, 3, 5, 7), ["RESHAPE"]),
        ((1, 6, 5, 7), NHWC, (30, 7), ["TRANSPOSE", "RESHAPE"]),  # channels and rows don't
        ((1, 6, 1, 1), NHWC, (1, 6), ["RESHAPE"]),
        ((2, 6), (0, 1), (2, 6), []),
        ((2, 6), (1, 0), (12,), ["TRANSPOSE", "RESHAPE"]),
    ],
)
def test_what_a_view_costs(old: Shape, order: Order, new: Shape, operators: list[str]) -> None:
    graph = Graph()
    view = viewed(graph, value(graph, old, order), new)
    assert graph.shape(view) == new
    assert [operator.op for operator in graph.operators] == operators


def test_axes_of_length_1_move_for_nothing() -> None:
    graph = Graph()
    tensor = arranged(graph, value(graph, (1, 6, 1, 1), plain(4)), NHWC)
    assert graph.tensors[tensor].shape == (1, 1, 1, 6)
    assert [operator.op for operator in graph.operators] == ["RESHAPE"]


def evaluated(graph: Graph, tensor: int, arrays: dict[int, np.ndarray]) -> np.ndarray:
    for operator in graph.operators:
        array, argument = arrays[operator.inputs[0]], graph.tensors[operator.inputs[1]].data
        assert argument is not None
        done = array.transpose(argument) if operator.op == "TRANSPOSE" else array.reshape(argument)
        assert done.shape == graph.tensors[operator.output].shape
        arrays[operator.output] = done
    return arrays[tensor]


@given(st.permutations(range(4)), st.permutations([2, 3, 1, 4]), st.permutations(range(3)), st.data())
def test_views_hold_the_same_elements(order: list[int], sides: list[int], _: list[int], data: st.DataObject) -> None:
    new = data.draw(st.sampled_from([(24,), (2, 12), (6, 4), (1, 24, 1), (2, 3, 4), (4, 3, 2), (3, 8), (2, 2, 2, 3)]))
    graph, shape = Graph(), tuple(sides)
    old = value(graph, shape, tuple(order))
    elements = np.arange(24).reshape(shape)
    arrays = {old.tensor: elements.transpose([order.index(axis) for axis in range(4)])}
    view = viewed(graph, old, new)
    seen = evaluated(graph, view.tensor, arrays).transpose(view.order)
    assert np.array_equal(seen, elements.reshape(new))


def test_equal_constants_are_stored_once() -> None:
    graph = Graph()
    one, two = (graph.constant(np.arange(3, dtype=np.int32)) for _ in range(2))
    assert one == two != graph.constant(np.arange(3, dtype=np.int64))
