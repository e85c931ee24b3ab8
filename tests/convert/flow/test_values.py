"""Expressions of layers: equal where two networks compute the same, different where they don't."""

import numpy as np
import pytest

from atrous.convert.flow.operations import Operation, Operations, flow_of
from atrous.convert.flow.values import (
    NO_PADS,
    Value,
    activated,
    added,
    described,
    empty_flow,
    joined,
    layer_key,
    limited,
    multiplied,
    padding_at,
    pooled,
    scaled,
    shifted,
    strided,
    value,
)

X, Y = value("x", size=(9, 9)), value("y", size=(9, 9))


def test_hard_swish_may_be_written_out_in_two_ways() -> None:
    swish = activated("hard_swish", X).key
    clipped = activated("relu6", shifted(X, 3))
    assert scaled(multiplied(X, clipped), 1 / 6).key == swish
    assert multiplied(scaled(clipped, 0.16667), X).key == swish
    assert scaled(clipped, 1 / 6).op == "hard_sigmoid"
    assert multiplied(scaled(clipped, 1 / 6), Y).op == "mul"
    assert scaled(activated("relu6", shifted(X, 2)), 1 / 6).op == "mul 0.16667"


@pytest.mark.parametrize(
    ("outer", "inner", "both"),
    [("relu", "relu6", "relu6"), ("relu6", "clip6", "relu6"), ("relu", "relu", "relu"), ("clip6", "clip6", "clip6")],
)
def test_of_two_limits_one_is_left(outer: str, inner: str, both: str) -> None:
    assert activated(outer, activated(inner, X)).key == activated(both, X).key


def test_limits_are_activations() -> None:
    assert limited(X, "maximum", 0).key == activated("relu", X).key
    assert limited(limited(X, "maximum", 0), "minimum", 6).key == activated("relu6", X).key
    assert limited(limited(X, "minimum", 6), "maximum", -6).key == activated("clip6", X).key
    assert limited(X, "minimum", 5).key != activated("relu6", X).key


def test_order_counts_in_a_concatenation_only() -> None:
    assert added(X, Y).key == added(Y, X).key
    assert multiplied(X, Y).key == multiplied(Y, X).key
    assert joined(X, Y).key != joined(Y, X).key
    assert joined(X).key == X.key


def test_a_window_that_covers_the_map_is_the_mean() -> None:
    flow = empty_flow((9, 9))
    no_pads = ((0, 0), (0, 0))
    assert pooled(flow, X, "mean", (9, 9), (1, 1), no_pads).op == "mean"
    part = pooled(flow, X, "mean", (3, 5), (1, 2), no_pads)
    assert (part.size, flow.pools[part.key]) == ((7, 3), ((3, 5), (1, 2)))
    assert pooled(flow, X, "max", (1, 1), (2, 2), no_pads).key == strided(strided(X, 0, 2), 1, 2).key


def test_padding_is_that_of_tensorflow() -> None:
    assert padding_at((8, 9), (3, 3), (2, 2), (1, 1)) == ((0, 1), (1, 1))
    assert padding_at(None, (3, 3), (1, 1), (4, 6)) == ((4, 4), (6, 6))
    assert padding_at(None, (3, 3), (2, 2), (1, 1)) is None


def test_a_long_expression_is_cut() -> None:
    x = X
    for _ in range(200):
        x = added(x, x)
    assert len(described(x)) < 200


# ---- graphs


def flow_keys(*operations: Operation, **constants: object) -> set[str]:
    arrays = {name: np.asarray(number) for name, number in constants.items()}
    return flow_of(Operations(list(operations), arrays, ("image",), {}), (9, 9)).keys


CONV = Operation("conv", "a", ("image",), "a", weights="a/weights", kernel=(3, 3))


def test_a_single_number_counts_and_one_for_each_channel_is_a_part_of_the_layer() -> None:
    bias = Operation("add", "b", ("a", "bias"), "b")
    after = Operation("relu", "c", ("b",), "c")
    plain = Operation("relu", "c", ("a",), "c")
    assert flow_keys(CONV, bias, after, bias=[1.0, 2.0]) == flow_keys(CONV, plain)
    assert flow_keys(CONV, bias, after, bias=1.0) != flow_keys(CONV, plain)


def test_a_constant_for_each_channel_that_is_no_layers_counts() -> None:
    """No weight of the model would take its place: left out, it would change what is computed without a word."""
    plain = keys_with_weights(CONV, Operation("relu", "c", ("a",), "c"))
    after = Operation("relu", "c", ("b",), "c")
    for op in ("add", "sub", "mul", "div", "maximum"):
        for other in ("numbers", "unknown"):
            changed = keys_with_weights(CONV, Operation(op, "b", ("a", other), "b"), after)
            assert not plain <= changed, (op, other)
    for op in ("add", "mul"):
        for own in ("bias", "single", "folded"):
            folded = Operation("mul", "folded", ("bias", "numbers"), "folded")
            assert plain <= keys_with_weights(folded, CONV, Operation(op, "b", ("a", own), "b"), after), (op, own)


def keys_with_weights(*operations: Operation) -> set[str]:
    constants = {"bias": np.ones(2), "single": np.ones(1), "numbers": np.array([1.0, 2.0])}
    graph = Operations(list(operations), constants, ("image",), {}, weights={"bias", "single"})
    return flow_of(graph, (9, 9)).keys


POINT = Operation("conv", "z", ("b",), "z", weights="z/weights")
REARRANGED = {  # what doesn't keep a map as it is, and what does
    "transpose": ([0, 2, 1, 3], [0, 3, 1, 2]),
    "reshape": ([1, 3, 27, 4], [1, 9, 9, 4]),
    "pad": ([[0, 0], [1, 1], [1, 1], [0, 0]], [[0, 0]] * 4),
    "batch_to_space": ([2, 2], [1, 1]),
    "concat": (1, 3),
}


@pytest.mark.parametrize("op", REARRANGED)
def test_maps_that_are_rearranged_are_others(op: str) -> None:
    for number, arrangement in enumerate(REARRANGED[op]):
        operations = [CONV, Operation(op, "b", ("a", "how"), "b"), POINT]
        graph = Operations(operations, {"how": np.array(arrangement)}, ("image",), {})
        (layer,) = flow_of(graph, (9, 9)).layers["z/weights"]
        assert (layer.input.key == layer_key("a/weights") and layer.pads == NO_PADS) == bool(number)


def test_zeros_around_a_map_are_seen_before_those_of_same_padding() -> None:
    pads = {"how": np.array([[0, 0], [1, 2], [3, 4], [0, 0]])}
    last = POINT._replace(kernel=(3, 3))
    (layer,) = flow_of(
        Operations([CONV, Operation("pad", "b", ("a", "how"), "b"), last], pads, ("image",), {}), (9, 9)
    ).layers["z/weights"]
    assert layer.pads == ((2, 3), (4, 5))


def test_padding_with_other_numbers_than_zero_is_another() -> None:
    how = np.array([[0, 0], [1, 1], [1, 1], [0, 0]])
    for number, is_padding in ((0, True), (3, False)):
        operations = [CONV, Operation("pad", "b", ("a", "how", "number"), "b"), POINT]
        graph = Operations(operations, {"how": how, "number": np.array(number)}, ("image",), {})
        (layer,) = flow_of(graph, (9, 9)).layers["z/weights"]
        assert (layer.pads == ((1, 1), (1, 1))) == is_padding


def test_sizes_are_computed_from_sizes() -> None:
    """As graphs for images of any size have them: resized to the size of another map, 2 h - 1."""
    operations = [
        CONV,
        Operation("size", "shape", ("a",), "shape"),
        Operation("slice", "sides", ("shape", "one", "three", "step"), "sides"),
        Operation("mul", "twice", ("sides", "two"), "twice"),
        Operation("sub", "larger", ("twice", "step"), "larger"),
        Operation("resize", "r", ("a", "larger"), "r", align_corners=True),
    ]
    numbers = {"one": [1], "three": [3], "step": [1], "two": 2}
    constants = {name: np.asarray(number) for name, number in numbers.items()}
    (resize,) = flow_of(Operations(operations, constants, ("image",), {}), (9, 9)).resizes
    assert (resize.size, resize.convention) == ((17, 17), "bilinear, aligned corners")


def test_strange_constants_are_no_fault() -> None:
    for strange in (np.zeros((0,)), np.zeros((2, 2, 2)), np.full(2, np.nan), np.array([0, -1]), np.array(2**62)):
        for op in ("resize", "pad", "space_to_batch", "batch_to_space", "add", "mul", "div", "reduce_mean", "maximum"):
            operations = [CONV, Operation(op, "b", ("a", "strange"), "b"), Operation("relu", "c", ("b",), "c")]
            assert flow_keys(*operations, strange=strange)
            assert flow_keys(
                Operation(op, "b", ("image", "strange"), "b"), CONV._replace(inputs=("b",)), strange=strange
            )


def test_values_have_a_short_form() -> None:
    assert described(activated("relu", added(X, Y))) in ("relu((x + y))", "relu((y + x))")
    assert isinstance(X, Value)
