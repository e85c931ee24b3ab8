"""Frozen graphs of TensorFlow 1 (`frozen_inference_graph.pb`): a GraphDef whose variables have become constants."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from atrous.convert.arrays import Array, Shape
from atrous.convert.readers.damage import DamagedError, count_elements, quoted, read_ends, read_whole, reading
from atrous.convert.readers.tensor_types import BOOL, NO_NUMBERS, STORED, decode, read_shape, require_bytes, stored_type
from atrous.wire.protobuf import FIXED32, FIXED64, LENGTH, VARINT, Field, fields, varint, varints

KIND = "frozen TensorFlow graph"
HEAD = 16  # bytes that hold the first field's number and length
BEGINNINGS = (0x0A, 0x12, 0x18, 0x22, 0x08)  # nodes, library, version, versions; a SavedModel's version
HALF_LIST = 13  # its numbers are the bits of float16 or bfloat16
VALUE_LISTS = {  # fields of TensorProto: (the wire type of a single number, the types of tensor that use it)
    5: (FIXED32, (1,)),
    6: (FIXED64, (2,)),
    7: (VARINT, (3, 4, 5, 6, 11, 12, 13, 15, 16, 17)),
    10: (VARINT, (9,)),
    11: (VARINT, (BOOL,)),
    HALF_LIST: (VARINT, (14, 19)),
    16: (VARINT, (22,)),
    17: (VARINT, (23,)),
}
LIST_OF = {code: number for number, (_, codes) in VALUE_LISTS.items() for code in codes}
assert LIST_OF.keys() == STORED.keys()
GROWTH, SLACK = 8, 2**20  # constants may take GROWTH * the file's size + SLACK bytes: one value may stand for many


class Node(NamedTuple):
    """An operation, with its attributes by type and name: lists of whole numbers, texts, numbers, shapes."""

    name: str
    op: str
    inputs: tuple[str, ...]  # `name`, `name:1` for a second output, `^name` for a control dependency
    ints: dict[str, tuple[int, ...]]  # strides, dilations, ksize
    texts: dict[str, str]  # padding, data_format
    numbers: dict[str, float]  # epsilon, align_corners (0 or 1), dtype (the type's number)
    shapes: dict[str, Shape]  # -1: unknown


class Graph(NamedTuple):
    nodes: dict[str, Node]  # by name, in the file's order
    constants: dict[str, Array]  # by the name of their node; strings are left out


def read_graph(path: Path) -> Graph:
    """All nodes and constants of a GraphDef. Raises ConversionError for damaged and other files."""
    with reading(path, KIND):
        _require_beginning(*read_ends(path, HEAD))
        return _read_graph(_graphs(memoryview(read_whole(path))))


def _require_beginning(head: bytes, tail: bytes, size: int) -> None:
    """The first field is one of a graph or a SavedModel, and fits into the file."""
    if not head:
        return
    tag, at = varint(memoryview(head), 0)
    if tag not in BEGINNINGS:
        raise DamagedError(f"it begins with the byte {head[0]:#04x}, as no graph does")
    length, at = varint(memoryview(head), at)
    if tag & 7 == LENGTH and length > size - at:
        raise DamagedError(f"field {tag >> 3} claims {length} bytes where {size - at} are left")


def _graphs(data: memoryview) -> memoryview:
    """The bytes of a GraphDef: the file's, or those of a SavedModel's first MetaGraphDef, whose field 2 it is."""
    first = next(iter(fields(data)), None)
    if first is None or first.number != 1 or first.wire_type != VARINT:
        return data
    for meta in (field.content() for field in fields(data) if field.number == 2):
        for graph in (field.content() for field in fields(meta) if field.number == 2):
            return graph
    raise DamagedError("a SavedModel without a graph")


def _read_graph(data: memoryview) -> Graph:
    nodes: dict[str, Node] = {}
    constants: dict[str, Array] = {}
    room = GROWTH * len(data) + SLACK
    for field in fields(data):
        if field.number != 1:
            continue
        node, value = _read_node(field.content())
        if node.name in nodes:
            raise DamagedError(f"the name {quoted(node.name)} occurs twice")
        nodes[node.name] = node
        if value is not None and (tensor := _read_constant(node.name, value, room)) is not None:
            constants[node.name] = tensor
            room -= tensor.nbytes
    if not nodes:
        raise DamagedError("it has no nodes")
    return Graph(nodes, constants)


def _read_node(message: memoryview) -> tuple[Node, memoryview | None]:
    """A node, and for a constant also its TensorProto."""
    name, op, inputs, attributes = "", "", [], {}
    for field in fields(message):
        if field.number == 1:
            name = field.text()
        elif field.number == 2:
            op = field.text()
        elif field.number == 3:
            inputs.append(field.text())
        elif field.number == 5:
            attribute, value = _read_attribute(field.content())
            attributes[attribute] = value
    if not (name and op):
        raise DamagedError(f"a node without a name or an operation: {quoted(name)}, {quoted(op)}")
    node = Node(name, op, tuple(inputs), {}, {}, {}, {})
    for attribute, value in attributes.items():
        _add_attribute(node, attribute, value)
    tensors = [field.content() for field in fields(attributes.get("value", memoryview(b""))) if field.number == 8]
    return node, tensors[-1] if op == "Const" and tensors else None


def _read_attribute(message: memoryview) -> tuple[str, memoryview]:
    """The key and value of an entry of the map."""
    key, value = "", memoryview(b"")
    for field in fields(message):
        if field.number == 1:
            key = field.text()
        elif field.number == 2:
            value = field.content()
    return key, value


def _add_attribute(node: Node, name: str, value: memoryview) -> None:
    """Decode an AttrValue by its type; tensors, functions and lists of anything but whole numbers are left out."""
    for field in fields(value):
        if field.number == 1:
            node.ints[name] = tuple(_list_ints(field.content()))
        elif field.number == 2:
            node.texts[name] = bytes(field.content()).decode(errors="backslashreplace")
        elif field.number in (3, 5, 6):
            node.numbers[name] = field.signed()
        elif field.number == 4:
            node.numbers[name] = field.float32()
        elif field.number == 7 and (shape := _known_rank(field.content())) is not None:
            node.shapes[name] = shape


def _list_ints(message: memoryview) -> Iterator[int]:
    for field in fields(message):
        if field.number == 3:
            yield from (value - 2**64 if value >> 63 else value for value in varints(field))


def _known_rank(message: memoryview) -> Shape | None:
    unknown = any(field.number == 3 and field.whole() for field in fields(message))
    return None if unknown else read_shape(message)


def _read_constant(name: str, message: memoryview, room: int) -> Array | None:
    try:
        return _read_tensor(message, room)
    except DamagedError as error:
        raise DamagedError(f"the constant {quoted(name)}: {error}") from error


def _read_tensor(message: memoryview, room: int) -> Array | None:
    """A TensorProto of numbers that takes at most `room` bytes."""
    code, content = 0, None
    shape: Shape = ()
    lists: list[Field] = []
    for field in fields(message):
        if field.number == 1:
            code = field.whole()
        elif field.number == 2:
            shape = read_shape(field.content())
        elif field.number == 4:
            content = field.content()
        elif field.number in VALUE_LISTS:
            lists.append(field)
    if code in NO_NUMBERS:
        return None
    if count_elements(shape) * stored_type(code).itemsize > room:
        raise DamagedError(f"its shape {shape} takes far more bytes than the file has")
    if content:
        require_bytes(shape, code, len(content))
        return decode(np.frombuffer(content, np.uint8).copy(), code, shape)
    return _from_list([field for field in lists if field.number == LIST_OF[code]], code, shape)


def _from_list(lists: list[Field], code: int, shape: Shape) -> Array:
    """The values of a list; the last one is repeated for all that are missing, and an empty list is all zeros."""
    values, count = _values(lists, code), count_elements(shape)
    if len(values) > count:
        raise DamagedError(f"{len(values)} values for the shape {shape}")
    filled = np.zeros(count, stored_type(code))
    filled[: len(values)] = values
    filled[len(values) :] = values[-1] if len(values) else 0
    return decode(filled.view(np.uint8), code, shape)


def _values(lists: list[Field], code: int) -> Array:
    """As the type's stored elements."""
    wire_type, _ = VALUE_LISTS[LIST_OF[code]]
    if wire_type == VARINT:  # whole numbers have 64 bits in the file; a narrower type keeps the lowest
        numbers = np.fromiter((value for field in lists for value in varints(field)), np.uint64)
        return numbers != 0 if code == BOOL else _bits(numbers, stored_type(code))
    parts = [bytes(field.content(LENGTH if field.wire_type == LENGTH else wire_type)) for field in lists]
    packed = b"".join(parts)
    if len(packed) % stored_type(code).itemsize:
        raise DamagedError(f"{len(packed)} bytes can't be a list of {stored_type(code)}")
    return np.frombuffer(packed, stored_type(code))


def _bits(numbers: Array, stored: np.dtype[np.generic]) -> Array:
    return numbers.astype(f"<u{stored.itemsize}").view(stored)
