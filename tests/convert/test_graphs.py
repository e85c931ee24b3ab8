"""Graphs as the variables they were made from."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from atrous.convert.readers.tflite import Operator, OperatorOptions, Tensor, TfLite
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
