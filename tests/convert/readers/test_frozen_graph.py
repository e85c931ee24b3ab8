import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from atrous.convert.arrays import Array
from atrous.convert.readers.checkpoint import read_checkpoint
from atrous.convert.readers.frozen_graph import Graph, read_graph
from atrous.errors import ConversionError
from tests.conftest import SHARED
from tests.convert.readers import writers

FOLDER = SHARED / "goldens" / "tf_deeplab" / "checkpoint"
needs_goldens = pytest.mark.skipif(not FOLDER.is_dir(), reason="no folder shared/goldens")


def read(tmp_path: Path, data: bytes) -> Graph:
    (tmp_path / "graph.pb").write_bytes(data)
    return read_graph(tmp_path / "graph.pb")


def read_tensor(tmp_path: Path, tensor: bytes) -> Array:
    return read(tmp_path, writers.constant("x", tensor)).constants["x"]


def listed(dtype: int, sizes: tuple[int, ...], *values: tuple[int, writers.Value]) -> bytes:
    """A TensorProto with a list of values."""
    return writers.message((1, dtype), (2, writers.shape(*sizes)), *values)


def test_contents_of_every_type_are_read(tmp_path: Path) -> None:
    for dtype in writers.DTYPES:
        expected = np.arange(6).reshape(2, 3).astype(dtype)
        constant = read_tensor(tmp_path, writers.tensor(expected))
        np.testing.assert_array_equal(constant, expected, strict=True)
        assert constant.flags.writeable
        assert constant.flags.aligned


FLOATS = struct.pack("<3f", 1, -2, 0.5)
DOUBLES = struct.pack("<2d", 1, 1e300)
LISTS = [
    (listed(1, (3,), (5, FLOATS)), np.array([1, -2, 0.5], np.float32)),
    (listed(1, (2,), (5, 1.5), (5, 2.5)), np.array([1.5, 2.5], np.float32)),
    (listed(1, (), (5, 1.5)), np.float32(1.5)),
    (listed(2, (2,), (6, DOUBLES)), np.array([1, 1e300], np.float64)),
    (listed(3, (2,), (7, writers.varint(5) + writers.varint(-7))), np.array([5, -7], np.int32)),
    (listed(3, (2,), (7, 5), (7, -7)), np.array([5, -7], np.int32)),
    (listed(6, (1,), (7, -7)), np.array([-7], np.int8)),
    (listed(9, (1,), (10, -(2**62))), np.array([-(2**62)], np.int64)),
    (listed(23, (1,), (17, 2**64 - 1)), np.array([2**64 - 1], np.uint64)),
    (listed(10, (3,), (11, b"\1\0\1")), np.array([True, False, True])),
    (listed(19, (2,), (13, writers.varint(0x3C00) + writers.varint(0xC000))), np.array([1, -2], np.float16)),
    (listed(14, (2,), (13, writers.varint(0x3F80) + writers.varint(0xC000))), np.array([1, -2], np.float32)),
    (
        listed(1, (2, 3), (5, FLOATS)),
        np.array([[1, -2, 0.5], [0.5, 0.5, 0.5]], np.float32),
    ),  # the last one is repeated
    (listed(3, (2, 2), (7, 9)), np.full((2, 2), 9, np.int32)),
    (listed(1, (2,)), np.zeros(2, np.float32)),
    (listed(1, (0, 3)), np.zeros((0, 3), np.float32)),
    (listed(4, (1,), (7, 300)), np.array([44], np.uint8)),  # the type keeps the lowest bits
]


def test_lists_of_values_are_read(tmp_path: Path) -> None:
    for tensor, expected in LISTS:
        np.testing.assert_array_equal(read_tensor(tmp_path, tensor), np.asarray(expected), strict=True)


def test_nodes_have_their_attributes_by_type(tmp_path: Path) -> None:
    attributes = {
        "strides": writers.message((1, writers.message((3, writers.varint(1) + writers.varint(2)), (3, 2)))),
        "padding": writers.message((2, "SAME")),
        "epsilon": writers.message((4, 0.5)),
        "align_corners": writers.message((5, 1)),
        "axis": writers.message((3, -1)),
        "shape": writers.message((7, writers.shape(1, -1, -1, 3))),
        "unranked": writers.message((7, writers.message((3, 1)))),
        "_class": writers.message((1, writers.message((2, "loc:@x")))),
    }
    graph = read(
        tmp_path, writers.node("image", "Placeholder") + writers.node("a/b", "Op", "image", "^c", **attributes)
    )
    assert list(graph.nodes) == ["image", "a/b"]
    node = graph.nodes["a/b"]
    assert (node.name, node.op, node.inputs) == ("a/b", "Op", ("image", "^c"))
    assert node.ints == {"strides": (1, 2, 2), "_class": ()}
    assert node.texts == {"padding": "SAME"}
    assert node.numbers == {"epsilon": 0.5, "align_corners": 1, "axis": -1}
    assert node.shapes == {"shape": (1, -1, -1, 3)}
    assert graph.constants == {}


def test_constant_strings_are_left_out(tmp_path: Path) -> None:
    graph = read(tmp_path, writers.constant("names", listed(7, (1,), (8, "car"))))
    assert list(graph.nodes) == ["names"]
    assert graph.constants == {}


CASES = {
    "empty": (b"", "it has no nodes"),
    "text": (b"node { name: 'x' }", "it begins with the byte 0x6e"),
    "saved model": (writers.message((1, 1), (2, b"")), "a SavedModel without a graph"),
    "no name": (writers.message((1, writers.message((2, "Add")))), "without a name or an operation: '', 'Add'"),
    "twice": (writers.node("x", "A") + writers.node("x", "A"), "the name 'x' occurs twice"),
    "cut": (writers.node("x", "A")[:-1], "claims 6 bytes where 5 are left"),
    "type": (writers.constant("x", listed(8, (1,))), "the constant 'x': the type 8 is not supported"),
    "no type": (writers.constant("x", b""), "the constant 'x': the type 0 is not supported"),
    "rank": (writers.constant("x", writers.message((1, 1), (2, writers.message((3, 1))))), "unknown rank"),
    "size": (writers.constant("x", listed(1, (2,), (4, b"1234"))), "takes 8 bytes, but 4 are claimed"),
    "negative": (writers.constant("x", listed(1, (-1,), (5, 1.0))), "a negative size"),
    "too many": (writers.constant("x", listed(1, (1,), (5, FLOATS))), "3 values for the shape"),
    "half a float": (writers.constant("x", listed(1, (1,), (5, b"123"))), "3 bytes can't be a list of float32"),
    "wrong list": (writers.constant("x", listed(1, (1,), (5, 1))), "field 5 has the wire type 0, not 5"),
}


def test_damage_is_refused_with_its_reason(tmp_path: Path) -> None:
    for data, reason in CASES.values():
        expected = f"cannot read .*graph.pb as a frozen TensorFlow graph: .*({reason})"
        with pytest.raises(ConversionError, match=expected) as error:
            read(tmp_path, data)
        assert "\n" not in str(error.value)


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such file: .*graph.pb"):
        read_graph(tmp_path / "graph.pb")
    with pytest.raises(ConversionError, match="not a regular file"):
        read_graph(tmp_path)


@pytest.mark.parametrize("count", [1, 1000])
def test_one_value_cannot_fill_the_memory(tmp_path: Path, count: int) -> None:
    tensor = listed(1, (10 * 2**28 // count,), (5, 0.0))
    data = b"".join(writers.constant(f"x{number}", tensor) for number in range(count))
    tracemalloc.start()
    with pytest.raises(ConversionError, match="takes far more bytes than the file has"):
        read(tmp_path, data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**22


@needs_goldens
def test_a_real_graph_holds_the_weights_of_its_checkpoint() -> None:
    graph, checkpoint = read_graph(FOLDER / "frozen_inference_graph.pb"), read_checkpoint(FOLDER)
    shared = checkpoint.keys() & graph.constants.keys()
    assert len(shared) == 272
    for name in shared:
        np.testing.assert_array_equal(graph.constants[name], checkpoint[name], strict=True)


@needs_goldens
def test_a_real_graph_shows_how_it_was_built() -> None:
    nodes = read_graph(FOLDER / "frozen_inference_graph.pb").nodes
    assert nodes["ImageTensor"].op == "Placeholder"
    conv = nodes["MobilenetV2/Conv/Conv2D"]
    assert (conv.ints["strides"], conv.ints["dilations"], conv.texts["padding"]) == ((1, 2, 2, 1), (1, 1, 1, 1), "SAME")
    norm = nodes["MobilenetV2/Conv/BatchNorm/FusedBatchNormV3"]
    assert norm.numbers["epsilon"] == pytest.approx(1e-3)
    assert norm.inputs[1] == "MobilenetV2/Conv/BatchNorm/gamma/read"
