"""What one of our models computes: recorded while it runs on tensors without memory."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from atrous import models
from atrous.convert.flow.agreement import Expectation
from atrous.convert.flow.values import (
    Flow,
    Layer,
    Pads,
    Resize,
    Value,
    activated,
    added,
    averaged,
    empty_flow,
    image,
    joined,
    layer_output,
    multiplied,
    padding_at,
    pooled,
    scaled,
    shifted,
    strided,
    value,
)
from atrous.convert.layouts import Rules
from atrous.layers.conv import Conv
from atrous.layers.resize import scale_dimension
from atrous.models import Model, ModelConfig
from atrous.types import Convention, Size

CLIPS = {(0, 6): "relu6", (-6, 6): "clip6", (-1, 1): "clip1"}
ALIGNED, HALF_PIXEL, LEGACY = (f"bilinear, {rule}" for rule in ("aligned corners", "half-pixel centres", "legacy"))
CONVENTIONS: dict[Convention, str] = {
    "aligned_corners": ALIGNED,
    "half_pixel": HALF_PIXEL,
    "legacy": LEGACY,
}
TRANSPARENT = (
    "alias",
    "view",
    "detach",
    "clone",
    "native_batch_norm",
    "_to_copy",
    "squeeze",
    "unsqueeze",
    "sub",
    "div",
)
ONE_SCALE = {"image_pyramid": (1.0,)}  # the layers of other scales are the same
EDGE = "replication_pad2d"  # the last row and column repeated: `resize` so makes TensorFlow 1's of aligned corners
SPATIAL = 2  # the first axis of a map's height and width


Names: TypeAlias = Callable[[nn.Module, Rules], Mapping[str, str]]


def expectation(
    config: ModelConfig, names_of: Names, rules: Rules, size: Size, scales: tuple[float, ...] = (1.0,)
) -> Expectation:
    """What a model computes of one image of this `size`, under the names that its weights have elsewhere, and of the
    same image at other `scales`."""
    assert config.num_classes is not None
    with torch.device("meta"):
        model = models.build(config.model_copy(update=ONE_SCALE), config.num_classes).eval()
    names = names_of(model, rules)
    flow, logits = traced(model, names, size)
    scaled = tuple(traced(model, names, size, scale)[0] for scale in scales if scale != 1)
    return Expectation(
        flow, logits, CONVENTIONS[config.convention], dict(_epsilons(model, names)), scaled, model.num_classes
    )


def _epsilons(model: Model, names: Mapping[str, str]) -> Iterator[tuple[str, float]]:
    for path, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            yield names[f"{path}.running_var"], module.eps


def traced(model: Model, names: Mapping[str, str], size: Size, scale: float = 1.0) -> tuple[Flow, Value]:
    """What a model on the meta device computes of an image of this `size` at a `scale`, and its logits."""
    height, width = (scale_dimension(side, scale) for side in size)
    outputs, recorder = _run(model, names, (height, width), scale)
    logits = outputs.semantic if outputs.classes is None else outputs.classes
    return recorder.flow, recorder.values[id(logits)]


def recorded(backbone: nn.Module, names: Mapping[str, str], size: Size) -> tuple[Flow, dict[str, Value]]:
    """What a backbone on the meta device computes, and its features."""
    features, recorder = _run(backbone, names, size)
    return recorder.flow, {name: recorder.values[id(x)] for name, x in features.items()}


def _run(network: nn.Module, names: Mapping[str, str], size: Size, *scale: float) -> tuple[Any, "_Recorder"]:
    """What a network on the meta device returns, and the record of it."""
    recorder = _Recorder(network, names, size)
    with torch.no_grad(), recorder:
        images = torch.empty(1, 3, *size, device="meta")
        recorder.values[id(images)] = image(size)
        recorder.alive.append(images)
        return network(images, *scale), recorder


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees each operation that PyTorch runs, below autograd."""

    def __init__(self, model: nn.Module, names: Mapping[str, str], size: Size) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flow = empty_flow(size)
        self.layers = {
            id(module.weight): (names.get(f"{path}.weight", path), module)
            for path, module in model.named_modules()
            if isinstance(module, nn.Conv2d)
        }
        self.values: dict[int, Value] = {}  # by the identity of tensors, which are kept `alive`
        self.alive: list[Tensor] = []

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        outputs = func(*args, **(kwargs or {}))
        output = outputs[0] if isinstance(outputs, tuple) else outputs
        if isinstance(output, Tensor) and self._is_known(args):
            self.values[id(output)] = self._value(func.__name__.partition(".")[0].rstrip("_"), args, output)
            self.flow.keys.add(self.values[id(output)].key)
            self.alive.append(output)
        return outputs

    def _is_known(self, args: tuple[Any, ...]) -> bool:
        first = args[0] if args else None
        first = first[0] if isinstance(first, list) else first
        return id(first) in self.values

    def _value(self, op: str, args: tuple[Any, ...], output: Tensor) -> Value:
        if op == "convolution":
            name, module = self.layers[id(args[1])]
            x = self.values[id(args[0])]
            return layer_output(self.flow, name, _layer(module, x))
        inputs = [self.values[id(x)] for x in (args[0] if op == "cat" else args[:2]) if id(x) in self.values]
        y = OPS[op](self.flow, inputs, args) if op in OPS else inputs[0] if op in TRANSPARENT else value(op, *inputs)
        return y._replace(size=(output.shape[-2], output.shape[-1])) if output.ndim == 4 else y


def _layer(conv: nn.Conv2d, x: Value) -> Layer:
    kernel, stride, rate = ((pair[0], pair[1]) for pair in (conv.kernel_size, conv.stride, conv.dilation))
    around: Pads | None = tuple((int(side), int(side)) for side in conv.padding)  # type: ignore[assignment]
    if isinstance(conv, Conv) and conv.sized:
        around = padding_at(x.size, kernel, stride, rate)
    return Layer(kernel, stride, rate, around, x)


def _add(flow: Flow, inputs: list[Value], args: tuple[Any, ...]) -> Value:
    return added(*inputs) if len(inputs) == 2 else shifted(inputs[0], float(args[1]))


def _mul(flow: Flow, inputs: list[Value], args: tuple[Any, ...]) -> Value:
    return multiplied(*inputs) if len(inputs) == 2 else scaled(inputs[0], float(args[1]))


def _clip(flow: Flow, inputs: list[Value], args: tuple[Any, ...]) -> Value:
    low, high = args[1:3]
    return activated(CLIPS.get((low, high), f"clip {low:g} {high:g}"), inputs[0])


def _resize(flow: Flow, inputs: list[Value], args: tuple[Any, ...]) -> Value:
    size = (int(args[1][-2]), int(args[1][-1]))
    if inputs[0].op == EDGE:
        x = inputs[0].inputs[0]
        flow.resizes.append(Resize("", x, LEGACY, (size[0] - 1, size[1] - 1)))
        return x
    flow.resizes.append(Resize("", inputs[0], ALIGNED if len(args) > 2 and args[2] else HALF_PIXEL, size))
    return inputs[0]


def _max_pool(flow: Flow, inputs: list[Value], args: tuple[Any, ...]) -> Value:
    kernel, stride, before = (_pair(one) for one in (*args[1:3], args[3] if len(args) > 3 else 0))
    assert inputs[0].size is not None
    steps = [
        -(-(side + 2 * pad - one) // step)
        for side, pad, one, step in zip(inputs[0].size, before, kernel, stride, strict=True)
    ]
    after = [
        max(n * step + one - side - pad, 0)
        for n, step, one, side, pad in zip(steps, stride, kernel, inputs[0].size, before, strict=True)
    ]
    return pooled(flow, inputs[0], "max", kernel, stride, ((before[0], after[0]), (before[1], after[1])))


def _average_pool(flow: Flow, inputs: list[Value], args: tuple[Any, ...]) -> Value:
    kernel, stride = _pair(args[1]), _pair(args[2])
    return pooled(flow, inputs[0], "mean", kernel, stride, ((0, 0), (0, 0)))


def _pair(sizes: Any) -> tuple[int, int]:  # noqa: ANN401
    return (sizes, sizes) if isinstance(sizes, int) else (sizes[0], sizes[-1])


def _slice(flow: Flow, inputs: list[Value], args: tuple[Any, ...]) -> Value:
    """A convolution that pads by TensorFlow's SAME drops a first row; only steps matter."""
    axis, step = (args[1] if len(args) > 1 else 0), (args[4] if len(args) > 4 else 1)
    return strided(inputs[0], axis - SPATIAL, step) if axis >= SPATIAL else inputs[0]


OPS: dict[str, Callable[[Flow, list[Value], tuple[Any, ...]], Value]] = {
    "relu": lambda flow, inputs, args: activated("relu", inputs[0]),
    "hardswish": lambda flow, inputs, args: activated("hard_swish", inputs[0]),
    "sigmoid": lambda flow, inputs, args: activated("sigmoid", inputs[0]),
    "cat": lambda flow, inputs, args: joined(*inputs),
    "mean": lambda flow, inputs, args: averaged(inputs[0]),
    "hardtanh": _clip,
    "add": _add,
    "mul": _mul,
    "upsample_bilinear2d": _resize,
    "expand": _resize,
    "max_pool2d_with_indices": _max_pool,
    "avg_pool2d": _average_pool,
    "slice": _slice,
}
