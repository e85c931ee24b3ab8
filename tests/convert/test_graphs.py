"""Graphs as the variables they were made from."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from atrous.convert.flow.values import layer_key, value
from atrous.convert.readers.tflite import Operator, OperatorOptions, Tensor, TfLite
from atrous.convert.system import ForeignWeights
from atrous.convert.systems.tf_deeplab import lite
from atrous.errors import ConversionError


def _lite(weights: NDArray[Any], multiplier: int = 1, op: str = "DEPTHWISE_CONV_2D") -> TfLite:
    """A graph of one convolution."""
    none = np.zeros(0, np.float32)
    tensors = [
        Tensor(name, array.shape, "float32", array if name != "input" else None, none, none.astype(np.int64), 0)
        for name, array in {"input": np.zeros((1, 65, 65, 3), np.float32), "aspp0/weights": weights}.items()
    ]
    operator = Operator(op, (0, 1), (0,), OperatorOptions(depth_multiplier=multiplier))
    return TfLite(tuple(tensors), (operator,), (0,), (0,))


MISFITS: tuple[tuple[tuple[int, ...], int, str], ...] = (  # shape of the weights, depth multiplier, operator
    ((3, 3, 8), 1, "CONV_2D"),
    ((1, 3, 3, 8), 0, "DEPTHWISE_CONV_2D"),
    ((1, 3, 3, 8), 3, "DEPTHWISE_CONV_2D"),
    ((2, 3, 3, 8), 1, "DEPTHWISE_CONV_2D"),
)


def test_a_graph_whose_weights_fit_no_convolution_is_refused() -> None:
    for shape, multiplier, op in MISFITS:
        with pytest.raises(ConversionError, match=r"a\.tflite: 'aspp0/weights': weights .* fit no convolution"):
            lite.from_tflite(_lite(np.zeros(shape, np.float32), multiplier, op), "a.tflite")


def test_a_graphs_convolutions_become_variables() -> None:
    weights = np.arange(3 * 3 * 8, dtype=np.float32).reshape(1, 3, 3, 8)
    foreign = lite.from_tflite(_lite(weights), "a.tflite")
    assert foreign.input_size == (65, 65)
    np.testing.assert_array_equal(foreign.arrays["aspp0/depthwise_weights"][..., 0], weights[0])


def gate(factor: float, activation: str = "RELU6") -> ForeignWeights:
    """A convolution of 1x1, whose output is limited and multiplied, as converters write relu6(y + 3) / 6."""
    none = np.zeros(0, np.float32)
    constants = {
        "aspp0/weights": np.ones((8, 1, 1, 3), np.float32),
        "bias": np.full(8, 5, np.float32),
        "factor": np.array(factor, np.float32),
    }
    arrays = {"input": None, **constants, "limited": None, "gate": None}
    shapes = {"input": (1, 65, 65, 3), **{name: array.shape for name, array in constants.items()}}
    tensors = tuple(
        Tensor(name, shapes.get(name, ()), "float32", array, none, none.astype(np.int64), 0)
        for name, array in arrays.items()
    )
    operators = (
        Operator("CONV_2D", (0, 1, 2), (4,), OperatorOptions(activation=activation)),
        Operator("MUL", (4, 3), (5,), OperatorOptions()),
    )
    return lite.from_tflite(TfLite(tensors, operators, (0,), (5,)), "a.tflite")


def test_the_3_of_a_hard_sigmoid_that_a_converter_has_added_to_biases_is_found() -> None:
    """So TensorFlow's converter writes the gates of MobileNetV3: relu6(x + 3) / 6, with x + 3 as the convolution."""
    hard_sigmoid = value("hard_sigmoid", value("unused")._replace(key=layer_key("aspp0/weights"))).key
    for factor, activation, bias in ((1 / 6, "RELU6", 2), (0.16663, "RELU6", 2), (0.2, "RELU6", 5), (1 / 6, "RELU", 5)):
        foreign = gate(factor, activation)
        np.testing.assert_array_equal(foreign.arrays["aspp0/biases"], np.full(8, bias, np.float32))
        assert foreign.flow is not None
        assert (hard_sigmoid in foreign.flow.keys) == (bias == 2)


def test_a_convolution_without_a_bias_has_zeros() -> None:
    foreign = lite.from_tflite(_lite(np.ones((1, 3, 3, 8), np.float32)), "a.tflite")
    np.testing.assert_array_equal(foreign.arrays["aspp0/biases"], np.zeros(8, np.float32))


def test_weights_that_are_computed_are_named() -> None:
    model = _lite(np.ones((1, 3, 3, 8), np.float32))
    tensors = tuple(tensor._replace(data=None) for tensor in model.tensors)
    with pytest.raises(ConversionError, match=r"a\.tflite: weights that are computed when it runs: 'aspp0/weights'"):
        lite.from_tflite(model._replace(tensors=tensors), "a.tflite")
