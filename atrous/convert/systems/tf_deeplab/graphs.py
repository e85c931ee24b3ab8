"""What the operations of a graph show of the flags that it was made with."""

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from atrous.convert.arrays import Array
from atrous.convert.flow.agreement import changes, sizes_of_images
from atrous.convert.flow.operations import SOFTMAX
from atrous.convert.flow.traced import CONVENTIONS
from atrous.convert.flow.values import Affine, Flow, Layer, Resize, Value, components, layer_key, value
from atrous.convert.system import Hints, Normalization, Pooling
from atrous.convert.systems.tf_deeplab.scopes import ROOTS
from atrous.types import Convention

NOMINAL = (2049, 2080)  # of images where a graph takes any size: larger than all windows, an odd and an even side
STRIDES = (8, 16, 32)
SCOPES = {root.scope for root in ROOTS.values()}
ASPP = re.compile(r"aspp([1-9])(?:_depthwise)?/\w*weights")
SUMMED = re.compile(r"logits/semantic(?:_(\d))?/weights")  # branches of DeepLab v2
GRID = re.compile(  # the layers whose rates a multi-grid multiplies
    r"\w+/block4/unit_(\d)/\w+/conv2/weights|\w+/exit_flow/block2/unit_1/\w+/separable_conv(\d)_depthwise/\w*weights"
)
BLOCK = re.compile(r"Mobilenet\w*/expanded_conv(?:_(\d+))?/.*weights")
CLASSIFIER = re.compile(r"\w+/(Logits/Conv2d_1c_1x1|logits)/weights")
IMAGE_POOLING = "image_pooling/weights"
IDENTITY = (np.ones(1), np.zeros(1))


def is_image(shape: tuple[Any, ...]) -> bool:
    return len(shape) == 4 and shape[0] >= 1 and shape[3] == 3 and all(isinstance(n, int) and n > 1 for n in shape[1:3])


def hints_of(flow: Flow) -> Hints:
    stride = _output_stride(flow)
    rates = _rates(flow, ASPP if "aspp0/weights" in flow.layers else SUMMED)
    grid, pooling = _multi_grid(flow, stride), _pooling(flow, stride)
    logits, decoder = (_convention(resizes) for resizes in _resizes(flow))
    return Hints(stride, rates or None, grid, pooling, logits, decoder, _block_rates(flow) or None)


def _runs(flow: Flow) -> dict[str, Layer]:
    """Each layer as it runs on the image at its own scale, if it does, else on the first."""
    sizes = sizes_of_images(flow)
    run = sizes.index(flow.size) if flow.size in sizes else 0
    return {name: layers[min(run, len(layers) - 1)] for name, layers in flow.layers.items()}


def _output_stride(flow: Flow) -> int | None:
    """The images' size over that of the backbone's smallest maps, but for those that are means of the whole image."""
    layers = {name: layer for name, layer in _runs(flow).items() if name.partition("/")[0] in SCOPES}
    trunk = [layer.input for name, layer in layers.items() if "squeeze_excite" not in name]
    heights = [x.size[0] for x in trunk if x.size and x.size != (1, 1)]
    whole = next((x.size[0] for x in trunk if x.size and x.kind == "image"), flow.size[0])
    return next((stride for stride in STRIDES if heights and math.ceil(whole / stride) == min(heights)), None)


def _rates(flow: Flow, branches: re.Pattern[str]) -> tuple[int, ...]:
    """Those of the branches of ASPP, in the order of their numbers."""
    rates = {
        int(match[1] or 0): layer.rate[0] for name, layer in _runs(flow).items() if (match := branches.fullmatch(name))
    }
    return tuple(rate for _, rate in sorted(rates.items()))


def _multi_grid(flow: Flow, stride: int | None) -> tuple[int, ...] | None:
    """The factors on the rates of the last stage's units, if they are whole."""
    rates = {
        match[1] or match[2]: layer.rate[0] for name, layer in _runs(flow).items() if (match := GRID.fullmatch(name))
    }
    base = STRIDES[-1] // stride if stride else 0
    if not (rates and base) or any(rate % base for rate in rates.values()):
        return None
    return tuple(rates[unit] // base for unit in sorted(rates))


def _pooling(flow: Flow, stride: int | None) -> Pooling | None:
    """The window of the image-level features, in pixels of the image."""
    layer = _runs(flow).get(IMAGE_POOLING)
    if layer is None or stride is None:
        return None
    x = layer.input
    if x.op == "mean":
        return Pooling()
    if x.key not in flow.pools:
        return None
    pool = flow.pools[x.key]
    height, width = ((side - 1) * stride + 1 for side in pool.kernel)
    return Pooling((height, width), pool.stride)


def _resizes(flow: Flow) -> tuple[list[Resize], list[Resize]]:
    """Of logits, which no layer takes, and of a decoder's features."""
    maps = [one for one in flow.resizes if one.input.kind == "feature" and changes(one)]
    taken = {x.key for x in components(*(layer.input for layers in flow.layers.values() for layer in layers))}
    logits = [one for one in maps if one.input.key not in taken]
    pooled = layer_key(IMAGE_POOLING)
    return logits, [
        one for one in maps if one.input.key in taken and pooled not in {x.key for x in components(one.input)}
    ]


def _convention(resizes: Sequence[Resize]) -> Convention:
    """The one that all share; aligned corners else, from which the model's are then compared."""
    texts = {one.convention for one in resizes}
    return next((name for name, text in CONVENTIONS.items() if texts == {text}), "aligned_corners")


def _block_rates(flow: Flow) -> tuple[int, ...]:
    """Of the kernel in each block of a MobileNet that isn't 1x1."""
    rates: dict[int, int] = {}
    for name, layer in _runs(flow).items():
        if match := BLOCK.fullmatch(name):
            index = int(match[1] or 0)
            rates[index] = max(rates.get(index, 1), layer.rate[0] if layer.kernel != (1, 1) else 1)
    return tuple(rate for _, rate in sorted(rates.items()))


# ---- kernels


def without_holes(kernel: Array) -> tuple[Array, int]:
    """A kernel [h, w, ...] that a converter wrote with zeros between its numbers, and the rate that these stand for."""
    side, count = kernel.shape[0], np.count_nonzero(kernel)
    possible = (
        rate for rate in range(side // 2, 1, -1) if (side - 1) % rate == 0 and kernel.shape[1] == side and count
    )
    rate = next((rate for rate in possible if np.count_nonzero(kernel[::rate, ::rate]) == count), 1)
    return kernel[::rate, ::rate], rate


# ---- images, before the first layer


def normalization_of(flow: Flow, stored: tuple[float, float] | None = None) -> Normalization | None:
    """(shift, scale) of each channel; `stored`: those with which pixels become the graph's numbers in 8 bits."""
    pixels = _image(flow)
    if pixels is None or pixels.affine is None:
        return stored and ((stored[0],), (stored[1],))
    factor, summand = pixels.affine
    if stored is None and _is_identity(pixels.affine):
        return None
    shift, scale = stored or (0.0, 1.0)
    shifts, scales = np.broadcast_arrays(shift - summand * scale / factor, scale / factor)
    return tuple(shifts.tolist()), tuple(scales.tolist())


def left_out(flow: Flow, *said: str, is_stored: bool = False) -> tuple[str, ...]:
    """What an image goes through in a graph and not in our model, after what else is `said`."""
    x = _image(flow)
    num_computed = sum(layer.pads is None for layer in _runs(flow).values())
    if num_computed:
        said = (*said, f"the padding of {num_computed} layers, which the graph computes, is TensorFlow's SAME")
    said = (*said, *_bare_outputs(flow))
    if x is None:
        return said
    reasons = {
        "images reach the graph normalised, as its backbone's": x.affine is not None
        and _is_identity(x.affine)
        and not is_stored,
        "images are normalised as its backbone's: what the graph does with them is computed": x.affine is None,
        f"what the graph does with images before its first layer is left out: {', '.join(x.prepared)}": x.prepared
        and _num_runs(flow) == 1,
    }
    return (*said, *(text for text, applies in reasons.items() if applies))


def _bare_outputs(flow: Flow) -> Iterator[str]:
    """A network of another task may end as a classifier does, but for the softmax."""
    for name in filter(CLASSIFIER.fullmatch, flow.layers):
        if value(SOFTMAX, Value("", key=layer_key(name))).key not in flow.keys:
            yield "its outputs are taken for the logits of classes, though no softmax follows them in the graph"


def _num_runs(flow: Flow) -> int:
    """Several: of an image at several scales, or flipped."""
    return max(len(layers) for layers in flow.layers.values())


def _is_identity(affine: Affine) -> bool:
    return all(np.array_equal(one, neutral) for one, neutral in zip(affine, IDENTITY, strict=True))


def _image(flow: Flow) -> Value | None:
    """As the first layer takes it."""
    inputs = (layer.input for layers in flow.layers.values() for layer in layers)
    return next((x for x in inputs if x.kind == "image"), None)
