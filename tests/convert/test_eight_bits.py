"""Graphs in 8 bits whose converter left out the ReLUs: where an output's numbers end tells them, or its name does."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from atrous.convert.conversion import convert_weights
from atrous.convert.readers.tflite import Operator, TfLite, read_tflite
from atrous.convert.systems.tf_deeplab.lite import from_tflite
from atrous.errors import ConversionError
from tests.convert import graphs
from tests.convert.graphs import half_width_steps
from tests.convert.sources import folded_half_width

ADDS_AND_CONVS = ("CONV_2D", "DEPTHWISE_CONV_2D", "ADD")
SIX = 6.0


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> TfLite:
    path = tmp_path_factory.mktemp("graph") / "graph.tflite"
    path.write_bytes(graphs.lite(half_width_steps(), folded_half_width()))
    return read_tflite(path)


def without_relus(
    graph: TfLite, end_of: Callable[[str, str], float], suffix_of: Callable[[str], str] = lambda relu: ""
) -> TfLite:
    """Its outputs in bytes that stand for 0 to an end, by layer and ReLU, and named by the ReLU, where it had one."""
    tensors = list(graph.tensors)
    relus = {operator.outputs[0]: operator.options.activation for operator in graph.operators}
    for index, relu in relus.items():
        name = tensors[index].name
        if relu != "NONE":
            scale = np.array([end_of(name, relu) / 255], np.float32)
            changed = {"name": f"{name}{suffix_of(relu)}", "scale": scale, "zero_point": np.array([0])}
            tensors[index] = tensors[index]._replace(dtype="uint8", **changed)  # type: ignore[arg-type]
    return graph._replace(tensors=tuple(tensors), operators=tuple(_bare(graph.operators)))


def _bare(operators: tuple[Operator, ...]) -> Iterator[Operator]:
    for one in operators:
        is_bare = one.op in ADDS_AND_CONVS
        yield one._replace(options=one.options._replace(activation="NONE")) if is_bare else one


def name_of_model(graph: TfLite) -> str:
    return convert_weights(from_tflite(graph, "a.tflite"), None, {}).segmenter.model.config.name


def by_relu(name: str, relu: str) -> float:
    return SIX if relu == "RELU6" else 3.2


def calibrated(name: str, relu: str) -> float:
    """Images whose features never reached 6 in some layers."""
    return 4.3 if "expanded_conv_3/" in name or "expanded_conv_15/" in name else by_relu(name, relu)


@pytest.mark.parametrize("end_of", [by_relu, calibrated])
def test_layers_before_the_last_that_ends_at_6_are_relu6(end_of: Callable[[str, str], float], graph: TfLite) -> None:
    assert name_of_model(without_relus(graph, end_of)) == "deeplab_v3"


@pytest.mark.parametrize("end", [1.5, SIX])
def test_names_tell_where_numbers_do_not(end: float, graph: TfLite) -> None:
    """Also ReLUs that end at 6 by chance, and ReLU6 none of which gets there."""
    suffixes = {"RELU": "/Relu_97:out0", "RELU6": "/Relu6_1;scope/Conv2D"}
    assert name_of_model(without_relus(graph, lambda name, relu: end, suffixes.__getitem__)) == "deeplab_v3"


@pytest.mark.parametrize("suffix", ["", "/Relu6"])
def test_what_ends_above_6_is_no_relu6(suffix: str, graph: TfLite) -> None:
    def beyond(name: str, relu: str) -> float:
        return 7.5 if "expanded_conv_9/" in name else by_relu(name, relu)

    with pytest.raises(ConversionError, match=r"relu\(MobilenetV2/expanded_conv_9/\w+\), the model the input relu6"):
        name_of_model(without_relus(graph, beyond, lambda relu: suffix if relu == "RELU6" else ""))
