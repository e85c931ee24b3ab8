from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atrous.convert.readers.tflite import OperatorOptions, TfLite, dequantised, read_tflite
from atrous.errors import ConversionError
from tests.conftest import SHARED
from tests.convert.readers import writers
from tests.convert.readers.writers import Flat

MODELS = SHARED / "models"
needs_models = pytest.mark.skipif(not MODELS.is_dir(), reason="no folder shared/models")
WEIGHTS = np.arange(24, dtype=np.int8).reshape(2, 1, 3, 4)


def ints(*values: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    return np.array(values, np.int32)


def model(changes: dict[str, dict[int, Flat]] | None = None) -> Flat:
    """An image, int8 weights with a scale for each of two channels, and their convolution; parts have `changes`."""
    quantised = {2: np.array([0.5, 2], np.float32), 3: np.array([1, -3], np.int64), 6: ("i", 0)}
    parts: dict[str, dict[int, Flat]] = {
        "image": {0: ints(1, 5, 5, 4), 1: ("b", 0), 3: "image"},
        "weights": {0: ints(2, 1, 3, 4), 1: ("b", 9), 2: ("I", 1), 3: "weights", 4: quantised},
        "out": {0: ints(1, 3, 2, 2), 3: "out"},
        "options": {0: ("b", 1), 1: ("i", 2), 2: ("i", 3), 3: ("b", 3), 4: ("i", 4)},
        "code": {0: ("b", 3)},
        "operator": {0: ("I", 0), 1: ints(0, 1, -1), 2: ints(2), 3: ("B", 1)},
        "buffer": {0: WEIGHTS.reshape(-1)},
        "graph": {1: ints(0), 2: ints(2)},
        "model": {0: ("I", 3)},
    }
    for name, fields in (changes or {}).items():
        parts[name] |= fields
    operator = parts["operator"] | {4: parts["options"]}
    graph = parts["graph"] | {0: [parts["image"], parts["weights"], parts["out"]], 3: [operator]}
    return parts["model"] | {1: [parts["code"]], 2: [graph] * (1 + ("copies" in parts)), 4: [{}, parts["buffer"]]}


def read(tmp_path: Path, root: Flat) -> TfLite:
    (tmp_path / "model.tflite").write_bytes(writers.flatbuffer(root))
    return read_tflite(tmp_path / "model.tflite")


def test_a_written_model_is_read(tmp_path: Path) -> None:
    tensors, (operator,), inputs, outputs = read(tmp_path, model())
    assert (inputs, outputs) == ((0,), (2,))
    assert [tensor[:3] for tensor in tensors] == [
        ("image", (1, 5, 5, 4), "float32"),
        ("weights", (2, 1, 3, 4), "int8"),
        ("out", (1, 3, 2, 2), "float32"),
    ]
    assert tensors[0].data is tensors[2].data is None
    np.testing.assert_array_equal(tensors[1].data, WEIGHTS, strict=True)
    assert operator.op == "CONV_2D"
    assert (operator.inputs, operator.outputs) == ((0, 1, -1), (2,))
    assert operator.options == OperatorOptions("VALID", stride=(3, 2), dilation=(1, 4), activation="RELU6")


def test_each_channel_may_have_a_scale(tmp_path: Path) -> None:
    weights = read(tmp_path, model()).tensors[1]
    numbers = dequantised(weights)
    assert numbers.dtype == np.float32
    np.testing.assert_array_equal(numbers[0], 0.5 * (WEIGHTS[0] - 1.0))
    np.testing.assert_array_equal(numbers[1], 2 * (WEIGHTS[1] + 3.0))


def test_scales_may_lie_along_another_axis(tmp_path: Path) -> None:
    scale = np.array([1, 2, 4, 8], np.float32)
    root = model({"weights": {4: {2: scale, 3: np.zeros(4, np.int64), 6: ("i", 3)}}})
    np.testing.assert_array_equal(dequantised(read(tmp_path, root).tensors[1]), WEIGHTS * scale)


def test_one_scale_may_stand_for_all_channels(tmp_path: Path) -> None:
    root = model({"weights": {4: {2: np.array([0.25], np.float32)}}})
    np.testing.assert_array_equal(dequantised(read(tmp_path, root).tensors[1]), WEIGHTS / np.float32(4))


CONSTANTS = (  # number of the type, values
    (0, np.array([1, 2.5], np.float32)),
    (1, np.array([1, 2.5], np.float16)),
    (2, np.array([1, -2], np.int32)),
    (3, np.array([1, 200], np.uint8)),
    (4, np.array([1, -2], np.int64)),
    (6, np.array([True, False])),
    (10, np.array([1, 2.5], np.float64)),
    (18, np.array([0x3F80, 0x4020], np.uint16)),
)


def test_constants_of_every_type_are_read(tmp_path: Path) -> None:
    for number, values in CONSTANTS:
        changes: dict[str, dict[int, Flat]] = {
            "weights": {0: ints(2), 1: ("b", number), 4: {}},
            "buffer": {0: values.view(np.uint8)},
        }
        tensor = read(tmp_path, model(changes)).tensors[1]
        expected = np.array([1, 2.5], np.float32) if number == 18 else values
        assert tensor.data is not None
        np.testing.assert_array_equal(tensor.data, expected)
        np.testing.assert_array_equal(dequantised(tensor), expected.astype(np.float32), strict=True)


DEPTHWISE = {0: ("b", 0), 1: ("i", 1), 2: ("i", 2), 3: ("i", 3), 4: ("b", 1), 5: ("i", 5), 6: ("i", 6)}
POOL = {0: ("b", 0), 1: ("i", 1), 2: ("i", 2), 3: ("i", 3), 4: ("i", 4)}
OPERATORS: list[tuple[int, int, dict[int, Flat], str, OperatorOptions]] = [
    (
        4,
        2,
        DEPTHWISE,
        "DEPTHWISE_CONV_2D",
        OperatorOptions("SAME", (2, 1), (6, 5), activation="RELU", depth_multiplier=3),
    ),
    (1, 5, POOL, "AVERAGE_POOL_2D", OperatorOptions("SAME", (2, 1), kernel=(4, 3))),
    (23, 15, {2: ("B", 1), 3: ("B", 0)}, "RESIZE_BILINEAR", OperatorOptions(align_corners=True)),
    (97, 74, {1: ("B", 1)}, "RESIZE_NEAREST_NEIGHBOR", OperatorOptions(half_pixel_centers=True)),
    (2, 10, {0: ("i", 3)}, "CONCATENATION", OperatorOptions(axis=3)),
    (0, 11, {0: ("b", 3)}, "ADD", OperatorOptions(activation="RELU6")),
    (121, 99, {0: ("i", 3)}, "BUILTIN_121", OperatorOptions()),
]


def test_operators_have_their_options(tmp_path: Path) -> None:
    for code, kind, fields, op, options in OPERATORS:
        root = model({"code": {0: ("b", code)}, "operator": {3: ("B", kind)}})
        root[2][0][3][0][4] = fields
        assert read(tmp_path, root).operators[0][::3] == (op, options)


def test_other_operators_are_named_by_their_codes(tmp_path: Path) -> None:
    assert read(tmp_path, model({"code": {0: ("b", 127), 3: ("i", 150)}})).operators[0].op == "BUILTIN_150"
    assert read(tmp_path, model({"code": {0: ("b", 32), 1: "TheirOwn"}})).operators[0].op == "TheirOwn"


CASES: dict[str, tuple[dict[str, dict[int, Flat]], str]] = {
    "version": ({"model": {0: ("I", 2)}}, "its format has version 2; version 3 is read"),
    "type": ({"image": {1: ("b", 99)}}, "unknown tensor type 99"),
    "string": ({"weights": {1: ("b", 5)}}, "'weights': its type string is not supported"),
    "int4": ({"weights": {1: ("b", 17)}}, "'weights': its type int4 is not supported"),
    "buffer": ({"weights": {2: ("I", 9)}}, "'weights' is in buffer 9 of 2"),
    "shape": ({"weights": {0: ints(2, 1, 3, 5)}}, "takes 30 bytes, but it has 24"),
    "negative shape": ({"weights": {0: ints(-2, -1, 3, 4)}}, "a negative size"),
    "impossible shape": ({"weights": {0: ints(*[2**31 - 1] * 3)}}, "impossible shape"),
    "sparse": ({"weights": {6: {}}}, "'weights': it is sparse"),
    "outside": ({"buffer": {1: ("Q", 4096)}}, "outside the flatbuffer"),
    "scales": ({"weights": {4: {2: np.array([1, 2, 3], np.float32)}}}, "3 scales along axis 0 of the shape"),
    "axis": ({"weights": {4: {2: np.array([1, 2], np.float32), 6: ("i", 7)}}}, "2 scales along axis 7"),
    "nan": ({"weights": {4: {2: np.array([np.nan], np.float32)}}}, "a scale is not finite"),
    "zero points": (
        {"weights": {4: {2: np.array([1], np.float32), 3: np.array([1, 2], np.int64)}}},
        "1 scales, but 2 zero points",
    ),
    "operator": ({"operator": {0: ("I", 1)}}, "unknown operator 1"),
    "tensor": ({"operator": {1: ints(0, 3)}}, "no such tensor among 3: '\\(0, 3\\)'"),
    "output": ({"graph": {2: ints(-2)}}, "no such tensor among 3"),
    "padding": ({"options": {0: ("b", 5)}}, "unknown padding 5"),
    "activation": ({"options": {3: ("b", -1)}}, "unknown activation -1"),
}


def test_damage_is_refused_with_its_reason(tmp_path: Path) -> None:
    for changes, reason in CASES.values():
        expected = f"cannot read .*model.tflite as a TensorFlow Lite model: .*{reason}"
        with pytest.raises(ConversionError, match=expected) as error:
            read(tmp_path, model(changes))
        assert "\n" not in str(error.value)


def test_a_model_of_two_graphs_is_refused(tmp_path: Path) -> None:
    root = model()
    with pytest.raises(ConversionError, match="it has 2 graphs; models of one graph are read"):
        read(tmp_path, root | {2: root[2] * 2})


def test_other_files_are_refused(tmp_path: Path) -> None:
    for data in (b"", b"TFL3", bytes(8) + b"TFL3", b"\0\0\0\0TFL2" + bytes(50)):
        (tmp_path / "model.tflite").write_bytes(data)
        with pytest.raises(ConversionError, match="its bytes 4 to 8 are not TFL3"):
            read_tflite(tmp_path / "model.tflite")


def test_every_truncation_is_detected(tmp_path: Path) -> None:
    data = writers.flatbuffer(model())
    for size in range(0, len(data) - 8, 3):  # the last bytes are padding
        (tmp_path / "model.tflite").write_bytes(data[:size])
        with pytest.raises(ConversionError, match=r"cannot read .*model.tflite"):
            read_tflite(tmp_path / "model.tflite")


def test_one_long_name_cannot_fill_the_memory(tmp_path: Path) -> None:
    """A thousand references to one tensor, whose name has a megabyte."""
    root = model()
    root[2][0][0] = np.arange(7_000_000, 7_001_000, dtype="<u4")  # offsets that are set right below
    data = bytearray(writers.flatbuffer(root))
    start = data.index(np.uint32(7_000_000).tobytes())
    at = writers.put(data, {3: "x" * 2**20})
    data[start : start + 4000] = (at - start - 4 * np.arange(1000)).astype("<u4").tobytes()
    (tmp_path / "model.tflite").write_bytes(data)
    with pytest.raises(ConversionError, match="far more than the file does"):
        read_tflite(tmp_path / "model.tflite")


def test_a_computed_tensor_has_no_value(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="the tensor 'out' is not a constant"):
        dequantised(read(tmp_path, model()).tensors[2])


@needs_models
def test_a_real_float_model_is_read() -> None:
    tensors, operators, inputs, outputs = read_tflite(MODELS / "deeplabv3_257_mv_gpu.tflite")
    assert (len(tensors), len(operators)) == (184, 70)
    assert [tensors[index][:3] for index in (*inputs, *outputs)] == [
        ("sub_7", (1, 257, 257, 3), "float32"),
        ("ResizeBilinear_3", (1, 257, 257, 21), "float32"),
    ]
    weights = tensors[operators[0].inputs[1]]
    assert weights.shape == (16, 3, 3, 3)
    assert 1 < dequantised(weights).std() < 2
    assert sum(operator.op == "DEPTHWISE_CONV_2D" for operator in operators) == 17
    assert {operator.options.dilation for operator in operators if operator.op == "DEPTHWISE_CONV_2D"} > {(2, 2)}


@needs_models
def test_a_real_quantised_model_is_read() -> None:
    tensors, operators, inputs, outputs = read_tflite(MODELS / "deeplabv3_mnv2_pascal_quant.tflite")
    image, labels = (tensors[index] for index in (*inputs, *outputs))
    assert (image.shape, image.dtype, image.scale.tolist(), image.zero_point.tolist()) == (
        (1, 513, 513, 3),
        "uint8",
        [0.0078125],
        [128],
    )
    assert (labels.shape, labels.dtype) == ((1, 513, 513), "int64")
    _, weights, bias = (tensors[index] for index in operators[0].inputs)
    assert bias.scale == pytest.approx(image.scale * weights.scale, rel=1e-6)  # as quantisation has it
    assert np.ptp(dequantised(weights)) <= weights.scale[0] * 255 * (1 + 1e-6)
