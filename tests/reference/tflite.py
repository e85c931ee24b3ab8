"""A TensorFlow Lite graph in floats, operator by operator: what its rounding to 8 bits hides."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from atrous.convert.readers.tflite import Operator, TfLite, dequantised
from atrous.convert.readers.tflite import Tensor as Stored
from atrous.layers.conv import same_padding
from tests.reference.legacy import legacy

LOWEST = {"uint8": 0, "int8": -128}
CLIPS = {"RELU": (0.0, float("inf")), "RELU6": (0.0, 6.0), "NONE": (float("-inf"), float("inf"))}


def run(model: TfLite, image: Tensor) -> Tensor:  # [1, 3, H, W] in the graph's real numbers -> its only output
    values: dict[int, Tensor] = {model.inputs[0]: image}
    for operator in model.operators:
        inputs = [_value(model, values, index) for index in operator.inputs if index >= 0]
        output = model.tensors[operator.outputs[0]]
        y = OPS[operator.op](operator, inputs, output)
        values[operator.outputs[0]] = _clipped(operator, y, output)
    return values[model.outputs[0]]


def _value(model: TfLite, values: dict[int, Tensor], index: int) -> Any:  # noqa: ANN401 - a map, or a constant
    return values[index] if index in values else dequantised(model.tensors[index])


def _clipped(operator: Operator, y: Tensor, output: Stored) -> Tensor:
    """By the activation, or by what 8 bits can stand for where a converter has left it out."""
    if y.dtype == torch.int64:
        return y
    y = y.clamp(*CLIPS[operator.options.activation])
    is_cut = output.scale.size == 1 and output.zero_point.tolist() == [LOWEST.get(output.dtype)]
    if is_cut and operator.op in ("CONV_2D", "DEPTHWISE_CONV_2D", "ADD"):
        top = 255 * float(output.scale[0])
        y = y.clamp(0, 6 if abs(top - 6) < 0.1 or "Relu6" in output.name else None)
    return y


def _padded(operator: Operator, x: Tensor, kernel: tuple[int, int], value: float = 0.0) -> Tensor:
    options = operator.options
    if options.padding == "VALID":
        return x
    axes = zip(x.shape[-2:], kernel, options.stride, options.dilation, strict=True)
    (top, bottom), (left, right) = (same_padding(*axis) for axis in axes)
    return F.pad(x, (left, right, top, bottom), value=value)


def _conv(operator: Operator, inputs: list[Any], output: Stored) -> Tensor:
    x, weights, *bias = inputs
    groups = 1
    kernel = torch.from_numpy(weights)
    if operator.op == "DEPTHWISE_CONV_2D":
        kernel, groups = kernel.permute(3, 0, 1, 2), x.shape[1]
    else:
        kernel = kernel.permute(0, 3, 1, 2)
    shift = torch.from_numpy(bias[0]) if bias else None
    x = _padded(operator, x, (kernel.shape[2], kernel.shape[3]))
    options = operator.options
    return F.conv2d(x, kernel, shift, options.stride, dilation=options.dilation, groups=groups)


def _resize(operator: Operator, inputs: list[Any], output: Stored) -> Tensor:
    size = (int(inputs[1][0]), int(inputs[1][1]))
    options = operator.options
    if options.align_corners or options.half_pixel_centers:
        return F.interpolate(inputs[0], size, mode="bilinear", align_corners=options.align_corners)
    return torch.from_numpy(legacy(inputs[0].numpy(), size))


OPS: dict[str, Callable[[Operator, list[Any], Stored], Tensor]] = {
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _conv,
    "ADD": lambda operator, inputs, output: inputs[0] + inputs[1],
    "AVERAGE_POOL_2D": lambda operator, inputs, output: F.avg_pool2d(
        inputs[0], operator.options.kernel, operator.options.stride
    ),
    "MEAN": lambda operator, inputs, output: inputs[0].mean((2, 3), keepdim=True),
    "RESIZE_BILINEAR": _resize,
    "CONCATENATION": lambda operator, inputs, output: torch.cat(inputs, 1),
    "QUANTIZE": lambda operator, inputs, output: inputs[0],
    "DEQUANTIZE": lambda operator, inputs, output: torch.as_tensor(inputs[0]),
    "TILE": lambda operator, inputs, output: inputs[0].expand(-1, -1, *(int(n) for n in inputs[1][1:3])),
    "RESHAPE": lambda operator, inputs, output: inputs[0],  # of labels, to one row
    "ARG_MAX": lambda operator, inputs, output: inputs[0].argmax(1),
}


@torch.no_grad()
def labels(model: TfLite, image: Tensor) -> Tensor:  # [H, W]
    y = run(model, image)
    return y[0] if y.dtype == torch.int64 else y[0].argmax(0)


def real_numbers(model: TfLite, pixels: np.ndarray[Any, Any]) -> Tensor:  # [H, W, 3] bytes -> [1, 3, H, W]
    """What the pixels stand for as 8-bit inputs."""
    image = model.tensors[model.inputs[0]]
    stored = pixels.astype(np.float64) + (LOWEST.get(image.dtype) or 0)
    real = (stored - float(image.zero_point[0])) * float(image.scale[0])
    return torch.from_numpy(real.astype(np.float32)).permute(2, 0, 1)[None]
