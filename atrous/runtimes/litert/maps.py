"""Operators of PyTorch over maps [B, C, H, W]: convolution, pooling, resizing."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from atrous.errors import ConfigError
from atrous.runtimes.litert.axes import integers, permuted, reduced
from atrous.runtimes.litert.elements import binary, raised
from atrous.runtimes.litert.graph import NHWC, Array, Graph, Option, Order, Shape, Value, arranged, in_memory, viewed
from atrous.runtimes.litert.integers import Levels
from atrous.runtimes.litert.products import matmul

MULTIPLIER = "depthMultiplier"
SYMMETRIC = 1  # MirrorPadMode


def conv2d(
    graph: Graph,
    x: Value,
    weight: Tensor | Levels,
    bias: Tensor | Levels | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Value:
    if isinstance(weight, Value) or isinstance(bias, Value):
        raise ConfigError("litert: LiteRT has no convolution with computed weights, which this model uses")
    batch, channels, *size = graph.shape(x)
    stride, padding, dilation = (pair(values) for values in (stride, padding, dilation))
    out, _, *kernel = weight.shape
    is_depthwise = groups == channels and groups > 1
    extents = [rate * (side - 1) + 1 for rate, side in zip(dilation, kernel, strict=True)]
    sides = [
        (old + 2 * pad - extent) // step + 1
        for old, pad, extent, step in zip(size, padding, extents, stride, strict=True)
    ]
    order = (1, 2, 3, 0) if is_depthwise else (0, 2, 3, 1)
    inputs = [arranged(graph, x, NHWC), *_weights(graph, weight, bias, order)]
    options: dict[str, Option] = {
        **_steps(stride, padding),
        "dilationHFactor": dilation[0],
        "dilationWFactor": dilation[1],
        **({MULTIPLIER: out // channels} if is_depthwise else {}),
    }
    op = "DEPTHWISE_CONV_2D" if is_depthwise else "CONV_2D"
    return Value(graph.add(op, inputs, (batch, *sides, out), "float32", **options), NHWC)


def _weights(graph: Graph, weight: Tensor | Levels, bias: Tensor | Levels | None, order: Order) -> tuple[int, int]:
    """With these axes, the channels of the result last or first; in integers, each channel has a scale."""
    if isinstance(weight, Levels) and isinstance(bias, Levels):
        axis = order.index(0)
        return weight.permute(*order).constant(graph, axis), bias.constant(graph, 0)
    assert isinstance(weight, Tensor) and not isinstance(bias, Levels)
    shift = torch.zeros(len(weight)) if bias is None else bias
    return graph.constant(_floats(weight.permute(*order))), graph.constant(_floats(shift))


def _floats(values: Tensor) -> Array:
    return values.detach().float().numpy(force=True)


def _steps(stride: Sequence[int], padding: Sequence[int]) -> dict[str, Option]:
    return {"strideH": stride[0], "strideW": stride[1], "pads": (padding[0], padding[1])}


def pair(values: Sequence[int] | int) -> tuple[int, int]:
    if isinstance(values, int):
        return values, values
    return (values[0], values[0]) if len(values) == 1 else (values[0], values[1])


def max_pool(
    graph: Graph,
    x: Value,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] | int = 0,
    dilation: Sequence[int] | int = 1,
    ceil_mode: bool = False,
) -> Value:
    if pair(dilation) != (1, 1):
        raise ConfigError("litert: LiteRT has no max pooling with holes, which this model uses")
    return _pooled("MAX_POOL_2D", graph, x, pair(kernel), pair(stride or kernel), pair(padding), ceil_mode)


def _pooled(op: str, graph: Graph, x: Value, kernel: Shape, stride: Shape, padding: Shape, ceil_mode: bool) -> Value:
    batch, channels, *size = graph.shape(x)
    sides = []
    for old, window, step, pad in zip(size, kernel, stride, padding, strict=True):
        side = (old + 2 * pad - window) // step + 1
        rest = (old + 2 * pad - window) % step
        has_more = ceil_mode and rest > 0 and side * step < old + pad  # no window begins in the padding
        sides.append(side + has_more)
    options = {**_steps(stride, padding), "filterHeight": kernel[0], "filterWidth": kernel[1]}
    tensor = graph.add(op, [arranged(graph, x, NHWC)], (batch, *sides, channels), graph.dtype(x), **options)
    return Value(tensor, NHWC)


def mean_pool(
    graph: Graph,
    x: Value,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] | int = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: int | None = None,
) -> Value:
    """The mean of windows; where they count fewer cells than they have, it is corrected by a constant map."""
    shapes = pair(kernel), pair(stride or kernel), pair(padding)
    y = _pooled("AVERAGE_POOL_2D", graph, x, *shapes, ceil_mode)
    ones = torch.ones(1, 1, *graph.shape(x)[-2:])
    true = F.avg_pool2d(ones, *shapes, ceil_mode, count_include_pad, divisor)
    full = F.avg_pool2d(ones, *shapes, ceil_mode, True, math.prod(shapes[0]))
    correction = true / full
    return y if bool((correction == 1).all()) else binary("MUL", graph, y, correction)


def adaptive_mean_pool(graph: Graph, x: Value, size: Sequence[int]) -> Value:
    """The means of a grid of bins: a product with their shares where bins differ in size."""
    batch, channels, *old = graph.shape(x)
    new = pair(size)
    if new == (1, 1):
        return reduced("MEAN", graph, x, [2, 3], keepdim=True)
    if all(side % bins == 0 for side, bins in zip(old, new, strict=True)):
        return mean_pool(graph, x, [side // bins for side, bins in zip(old, new, strict=True)])
    cells = math.prod(old)
    shares = F.adaptive_avg_pool2d(torch.eye(cells).view(1, cells, *old), new).view(cells, -1).mT
    flat = permuted(graph, viewed(graph, x, (batch, channels, cells)), (0, 2, 1))
    means = matmul(graph, shares.expand(batch, -1, -1), flat)  # [B, bins, C]
    return viewed(graph, permuted(graph, means, (0, 2, 1)), (batch, channels, *new))


def bilinear(
    graph: Graph, x: Value, size: Sequence[int] | None, align_corners: bool, factors: Sequence[float] | None = None
) -> Value:
    return _resized(
        "RESIZE_BILINEAR", graph, x, size, factors, alignCorners=align_corners, halfPixelCenters=not align_corners
    )


def with_edge(graph: Graph, x: Value, pads: Sequence[int]) -> Value:
    """A border that repeats the outermost pixels; where it is one pixel wide, a mirror does so."""
    left, right, top, bottom = pads
    if max(pads) > 1 or min(pads) < 0:
        raise ConfigError(f"litert: this model repeats edges by {tuple(pads)} pixels, and LiteRT by one at most")
    batch, channels, height, width = graph.shape(x)
    table = graph.constant(np.array([(0, 0), (top, bottom), (left, right), (0, 0)], np.int32))
    shape = (batch, height + top + bottom, width + left + right, channels)
    tensor = graph.add("MIRROR_PAD", [arranged(graph, x, NHWC), table], shape, graph.dtype(x), mode=SYMMETRIC)
    return Value(tensor, NHWC)


def nearest(graph: Graph, x: Value, size: Sequence[int] | None, factors: Sequence[float] | None = None) -> Value:
    return _resized("RESIZE_NEAREST_NEIGHBOR", graph, x, size, factors, alignCorners=False, halfPixelCenters=False)


def nearest_exact(graph: Graph, x: Value, size: Sequence[int] | None, factors: Sequence[float] | None = None) -> Value:
    return _resized("RESIZE_NEAREST_NEIGHBOR", graph, x, size, factors, alignCorners=False, halfPixelCenters=True)


def _resized(
    op: str, graph: Graph, x: Value, size: Sequence[int] | None, factors: Sequence[float] | None, **options: Option
) -> Value:
    batch, channels, *old = graph.shape(x)
    new = size or [int(side * factor) for side, factor in zip(old, factors or (), strict=True)]
    is_exact = size or [side * factor for side, factor in zip(old, factors or (), strict=True)] == new
    if not is_exact and not options["alignCorners"]:
        raise ConfigError(f"litert: this model resizes a map of {old[0]} x {old[1]} by {factors}, which isn't whole")
    if tuple(new) == tuple(old):
        return x
    inputs = [arranged(graph, x, NHWC), integers(graph, new)]
    return Value(graph.add(op, inputs, (batch, *new, channels), graph.dtype(x), **options), NHWC)


def expanded(graph: Graph, x: Value, sizes: Sequence[int], **_: object) -> Value:
    x = raised(graph, x, len(sizes))
    shape = [old if new == -1 else new for old, new in zip(graph.shape(x), sizes, strict=True)]
    target, old = in_memory(shape, x.order), graph.tensors[x.tensor].shape
    if target == old:
        return x
    if x.order == NHWC and old[1:3] == (1, 1) and (old[0], old[3]) == (target[0], target[3]):
        return bilinear(graph, x, shape[2:], True)  # the same, by an operator that XNNPACK has
    return Value(graph.add("BROADCAST_TO", [x.tensor, integers(graph, target)], target, graph.dtype(x)), x.order)
