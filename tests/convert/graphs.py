"""The graph of TensorFlow DeepLab's smallest network, in two kinds of files: the right one, or with changes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from atrous.convert.arrays import Array, Arrays
from tests.convert.readers import writers

SIDE = 65  # of the image
STRIDES = (1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1)  # of MobileNetV2's blocks
SHORTCUTS = (2, 4, 5, 7, 8, 9, 11, 12, 14, 15)
ROOT = "MobilenetV2"


class Step(NamedTuple):
    """An operation; its output has its name."""

    op: str  # conv, depthwise, add, mean, concat, resize, a row of OTHERS; dense: TensorFlow Lite's product of matrices
    name: str
    inputs: tuple[str, ...]
    stride: int = 1
    rate: int = 1
    padding: str = "SAME"
    activation: str = ""
    kernel: int = 5  # of pooling
    size: int = 5  # of resizing
    align_corners: bool = True
    half_pixel_centers: bool = False
    method: str = "Bilinear"
    epsilon: float = 1e-3
    constants: tuple[object, ...] = ()  # of OTHERS: the inputs after the first
    is_first: bool = True  # of OTHERS: the constants come after the map
    is_integer: bool = False  # what a cast makes


def half_width_steps(output_stride: int = 16) -> list[Step]:
    """MobileNetV2 at half width, under ASPP without rates."""
    steps = [Step("conv", f"{ROOT}/Conv", ("image",), 2, activation="Relu6")]
    x, stride, rate = steps[0].name, 2, 1
    for index, own in enumerate(STRIDES):
        scope = f"{ROOT}/expanded_conv" + (f"_{index}" if index else "")
        inner = (own, rate) if stride < output_stride else (1, rate)
        stride, rate = (stride * own, rate) if stride < output_stride else (stride, rate * own)
        if index:
            steps.append(Step("conv", f"{scope}/expand", (x,), activation="Relu6"))
        steps.append(Step("depthwise", f"{scope}/depthwise", (steps[-1].name,), *inner, activation="Relu6"))
        steps.append(Step("conv", f"{scope}/project", (steps[-1].name,)))
        if index in SHORTCUTS:
            steps.append(Step("add", f"{scope}/add", (steps[-1].name, x)))
        x = steps[-1].name
    head = {"activation": "Relu", "epsilon": 1.001e-5}
    side = (SIDE - 1) // output_stride + 1
    return [
        *steps,
        Step("mean", "AvgPool2D/AvgPool", (x,), padding="VALID", kernel=side),
        Step("conv", "image_pooling", ("AvgPool2D/AvgPool",), **head),  # type: ignore[arg-type]
        Step("resize", "ResizeBilinear", ("image_pooling",), size=side),
        Step("conv", "aspp0", (x,), **head),  # type: ignore[arg-type]
        Step("concat", "concat", ("ResizeBilinear", "aspp0")),
        Step("conv", "concat_projection", ("concat",), **head),  # type: ignore[arg-type]
        Step("conv", "logits/semantic", ("concat_projection",)),
        Step("resize", "ResizeBilinear_1", ("logits/semantic",), size=SIDE),
    ]


def changed(steps: Sequence[Step], name: str, **fields: object) -> list[Step]:
    """With other settings of one step."""
    assert any(step.name == name for step in steps)
    return [step._replace(**fields) if step.name == name else step for step in steps]  # type: ignore[arg-type]


# ---- a frozen graph


def frozen(steps: Sequence[Step], arrays: Arrays, *, fake_quant: bool = False, factor: float = 2 / 255) -> bytes:
    """As TensorFlow 1 writes it: rates by rearranged pixels, batch norms apart; images are normalised in the graph."""
    constants = [writers.constant(name, writers.tensor(array)) for name, array in arrays.items()]
    shape = writers.message((7, writers.shape(1, SIDE, SIDE, 3)))
    image = [
        writers.node("ImageTensor", "Placeholder", shape=shape),
        _constant("mul/x", np.array(factor, np.float32)),
        writers.node("mul", "Mul", "mul/x", "ImageTensor"),
        _constant("sub/y", np.array(1, np.float32)),
        writers.node("image", "Sub", "mul", "sub/y"),
    ]
    return b"".join([*constants, *image, *(_frozen_step(step, arrays, fake_quant=fake_quant) for step in steps)])


def _constant(name: str, array: Array) -> bytes:
    return writers.constant(name, writers.tensor(np.asarray(array)))


def _frozen_step(step: Step, arrays: Arrays, *, fake_quant: bool) -> bytes:
    if step.op in ("conv", "depthwise"):
        return _frozen_conv(step, arrays, fake_quant=fake_quant)
    if step.op == "resize":
        flags = {"align_corners": step.align_corners, "half_pixel_centers": step.half_pixel_centers}
        attributes = {name: writers.message((5, int(flag))) for name, flag in flags.items()}
        size = _constant(f"{step.name}/size", np.array([step.size] * 2, np.int32))
        inputs = (*step.inputs, f"{step.name}/size")
        return size + writers.node(step.name, f"Resize{step.method}", *inputs, **attributes)
    if step.op == "mean":
        kernel = {"ksize": _ints(1, step.kernel, step.kernel, 1), **_windows(step)}
        return writers.node(step.name, "AvgPool", *step.inputs, **kernel)
    if step.op in OTHERS:
        return _frozen_other(step)
    op = {"add": "AddV2", "concat": "ConcatV2"}[step.op]
    return writers.node(step.name, op, *step.inputs)


def _frozen_other(step: Step) -> bytes:
    """Its settings are constants; those of a cast, the number of a type."""
    names = [f"{step.name}/{number}" for number in range(len(step.constants))]
    constants = [_constant(name, _numbers(one)) for name, one in zip(names, step.constants, strict=True)]
    inputs = (*step.inputs, *names) if step.is_first else (*names, *step.inputs)
    attributes = {"DstT": writers.message((6, 3 if step.is_integer else 1))} if step.op == "cast" else {}
    return b"".join([*constants, writers.node(step.name, OTHERS[step.op][0], *inputs, **attributes)])


def _numbers(constant: object) -> Array:
    array = np.array(constant)
    return array.astype(np.float32 if array.dtype.kind == "f" else np.int32)


def _frozen_conv(step: Step, arrays: Arrays, *, fake_quant: bool) -> bytes:
    op, leaf = ("Conv2D", "weights") if step.op == "conv" else ("DepthwiseConv2dNative", "depthwise_weights")
    weights, parts, x = f"{step.name}/{leaf}", [], step.inputs[0]
    if fake_quant:
        parts.append(writers.node(f"{step.name}/weights_quant/F", "FakeQuantWithMinMaxVars", weights))
        weights = f"{step.name}/weights_quant/F"
    if step.rate > 1:
        parts.append(_blocks(step, x))
        x = f"{step.name}/SpaceToBatchND"
    padding = "VALID" if step.rate > 1 else step.padding
    last = f"{step.name}/{op}"
    parts.append(writers.node(last, op, x, weights, **_windows(step._replace(padding=padding))))
    if step.rate > 1:
        crops = np.array([[0, 1], [0, 1]], np.int32)
        parts.append(_constant(f"{step.name}/crops", crops))
        parts.append(
            writers.node(f"{last}/B", "BatchToSpaceND", last, f"{step.name}/block_shape", f"{step.name}/crops")
        )
        last = f"{last}/B"
    parts += _after(step, last, arrays)
    return b"".join(parts)


def _blocks(step: Step, x: str) -> bytes:
    """Maps of 5 x 5, or of 9 x 9, padded to an even number."""
    pads = np.array([[step.rate, step.rate + 1]] * 2, np.int32)
    return (
        _constant(f"{step.name}/block_shape", np.array([step.rate] * 2, np.int32))
        + _constant(f"{step.name}/paddings", pads)
        + writers.node(
            f"{step.name}/SpaceToBatchND", "SpaceToBatchND", x, f"{step.name}/block_shape", f"{step.name}/paddings"
        )
    )


def _after(step: Step, x: str, arrays: Arrays) -> list[bytes]:
    """Batch norm or bias, and the activation, whose output has the step's name."""
    if f"{step.name}/BatchNorm/gamma" in arrays:
        leaves = ("gamma", "beta", "moving_mean", "moving_variance")
        variables = [f"{step.name}/BatchNorm/{leaf}" for leaf in leaves]
        epsilon = writers.message((4, step.epsilon))
        norm = writers.node(f"{step.name}/norm", "FusedBatchNormV3", x, *variables, epsilon=epsilon)
    else:
        norm = writers.node(f"{step.name}/norm", "BiasAdd", x, f"{step.name}/biases")
    return [norm, writers.node(step.name, step.activation or "Identity", f"{step.name}/norm")]


def _windows(step: Step) -> dict[str, bytes]:
    return {"strides": _ints(1, step.stride, step.stride, 1), "padding": writers.message((2, step.padding))}


def _ints(*values: int) -> bytes:
    return writers.message((1, writers.message(*((3, value) for value in values))))


# ---- a TensorFlow Lite model

OTHERS = {  # (TensorFlow's name, TensorFlow Lite's number)
    "neg": ("Neg", 59),
    "mul": ("Mul", 18),
    "sub": ("Sub", 41),
    "reverse": ("ReverseV2", 105),
    "gather": ("GatherV2", 36),
    "softmax": ("Softmax", 25),
    "arg_max": ("ArgMax", 56),
    "arg_min": ("ArgMin", 79),
    "transpose": ("Transpose", 39),
    "reshape": ("Reshape", 22),
    "squeeze": ("Squeeze", 43),
    "expand_dims": ("ExpandDims", 70),
    "slice": ("Slice", 65),
    "strided_slice": ("StridedSlice", 45),
    "cast": ("Cast", 53),
}
CODES = {
    "conv": 3,
    "depthwise": 4,
    "add": 0,
    "concat": 2,
    "mean": 1,
    "resize": 23,
    "dense": 9,
    **{op: code for op, (_, code) in OTHERS.items()},
}
KINDS = {"conv": 1, "depthwise": 2, "add": 11, "concat": 10, "mean": 5, "resize": 15, "dense": 8}
ACTIVATIONS = {"": 0, "Relu": 1, "Relu6": 3}


def lite(steps: Sequence[Step], folded: Arrays, *, name: str = "{}") -> bytes:
    """As TensorFlow's converter writes it: rates and activations are settings of convolutions, batch norms folded.

    `name`: what becomes of a layer's scope in the name of its weights, if not `scope/weights`.
    """
    dtype = 0
    tensors: list[writers.Flat] = [{0: np.array([1, SIDE, SIDE, 3], np.int32), 1: ("b", dtype), 3: "image"}]
    buffers: list[writers.Flat] = [{}]
    places = {"image": 0}

    def constant(name: str, array: Array, number: int) -> int:
        buffers.append({0: np.frombuffer(array.tobytes(), np.uint8)})
        tensors.append({0: np.array(array.shape, np.int32), 1: ("b", number), 2: ("I", len(buffers) - 1), 3: name})
        return len(tensors) - 1

    operators = []
    for step in steps:
        inputs = [places[name] for name in step.inputs]
        if step.op in ("conv", "depthwise", "dense"):
            leaf = "depthwise_weights" if step.op == "depthwise" else "weights"
            kernel = np.ascontiguousarray(folded[f"{step.name}/{leaf}"].transpose(3, 0, 1, 2))
            kernel = kernel[:, 0, 0] if step.op == "dense" else kernel
            stored = f"{step.name}/{leaf}" if name == "{}" else name.format(step.name)
            inputs += [constant(stored, kernel, 0), _biases(step, folded, constant)]
        if step.op == "resize":
            inputs.append(constant(f"{step.name}/size", np.array([step.size] * 2, np.int32), 2))
        settings = [
            constant(step.name, array, 2 * (array.dtype.kind == "i")) for array in map(_numbers, step.constants)
        ]
        inputs = [*inputs, *settings] if step.is_first else [*settings, *inputs]
        made = 2 if step.is_integer else dtype
        tensors.append({0: np.array([1, 1, 1, 1], np.int32), 1: ("b", made), 3: step.name})
        places[step.name] = len(tensors) - 1
        operators.append(_operator(step, inputs, places[step.name]))
    image, last = np.array([0], np.int32), np.array([places[steps[-1].name]], np.int32)
    graph = {0: tensors, 1: image, 2: last, 3: operators}
    codes = [{0: ("b", code)} for code in CODES.values()]
    return writers.flatbuffer({0: ("I", 3), 1: codes, 2: [graph], 4: buffers})


def _biases(step: Step, folded: Arrays, constant: object) -> int:
    place: int = constant(f"{step.name}/biases", folded[f"{step.name}/biases"], 0)  # type: ignore[operator]
    return place


def _operator(step: Step, inputs: Sequence[int], output: int) -> writers.Flat:
    code = list(CODES).index(step.op)
    parts = {0: ("I", code), 1: np.array(inputs, np.int32), 2: np.array([output], np.int32)}
    return parts if step.op in OTHERS else {**parts, 3: ("B", KINDS[step.op]), 4: _options(step)}


def _options(step: Step) -> dict[int, writers.Flat]:
    activation = ("b", ACTIVATIONS[step.activation])
    window = {0: ("b", int(step.padding == "VALID")), 1: ("i", step.stride), 2: ("i", step.stride)}
    options: dict[str, dict[int, writers.Flat]] = {
        "conv": {**window, 3: activation, 4: ("i", step.rate), 5: ("i", step.rate)},
        "depthwise": {**window, 3: ("i", 1), 4: activation, 5: ("i", step.rate), 6: ("i", step.rate)},
        "mean": {**window, 3: ("i", step.kernel), 4: ("i", step.kernel), 5: activation},
        "resize": {2: ("B", int(step.align_corners)), 3: ("B", int(step.half_pixel_centers))},
        "concat": {0: ("i", 3)},
        "add": {0: activation},
        "dense": {0: activation},
    }
    return options[step.op]
