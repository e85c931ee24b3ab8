"""Convolutions that compute as 8-bit integers do, simulated in floats (Jacob et al. 2018, arXiv:1712.05877).

A convolution's input is rounded to 256 levels of one range, 0 among them, and its weights to 255 levels around 0, each
output channel for itself. That is the same before a batch norm is folded into the weights and after, since the norm
scales whole channels: networks train as they are, and no correction is needed when statistics change. All else (sums,
activations, attention, resizing, the first convolution) stays in floats.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

LEVELS = 255  # steps of an input's range; weights have 127 on each side of 0
WEIGHT_LEVELS = 127
RATE = 0.01  # of the newest batch in a range, as PyTorch's moving averages have it
SMALLEST = 1e-12  # step
COLORS = 3  # of an image
ROUNDING = ("quantize_per_tensor", "fake_quantize_per_tensor_affine")  # operators
NEARLY_ZERO = 1e-30  # added to anything that matters, it changes nothing
NAME = "input_range"  # of a convolution's part, and so in the names of its buffers
RESULT = "result_range"  # the same, for runtimes whose integer convolutions give bytes


class Range(nn.Module):
    """The range of a convolution's input: a moving average of each training batch's least and greatest value."""

    low: Tensor
    high: Tensor
    count: Tensor  # batches seen
    active: Tensor  # whether values are rounded

    def __init__(self) -> None:
        super().__init__()
        for name in ("low", "high"):
            self.register_buffer(name, torch.zeros(()))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("active", torch.zeros((), dtype=torch.bool))
        self.observes = True  # in training mode

    @property
    def rounds(self) -> Tensor:
        """Not where nothing was seen, as in a head that only a training runs."""
        return self.active & (self.count > 0)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.observes:
            self.observe(x.detach())
        step, zero = self.steps()
        rounded = torch.fake_quantize_per_tensor_affine(x.float(), step, zero, 0, LEVELS)
        return torch.where(self.rounds, rounded.to(x.dtype), x)

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        low, high = x.float().aminmax()
        rate = torch.where(self.count == 0, 1.0, RATE)
        self.low.lerp_(low.clamp(max=0), rate)
        self.high.lerp_(high.clamp(min=0), rate)
        self.count += 1

    @torch.no_grad()
    def set(self, low: float, high: float) -> None:
        """Round to this range from now on."""
        self.low.fill_(min(low, 0.0))
        self.high.fill_(max(high, 0.0))
        self.count.fill_(max(int(self.count), 1))
        self.active.fill_(True)

    def steps(self) -> tuple[Tensor, Tensor]:
        """The distance of two levels, and the level that 0 is on."""
        step = ((self.high - self.low).float() / LEVELS).clamp(min=SMALLEST)
        return step, (-self.low / step).round().clamp(0, LEVELS).to(torch.int32)


def steps_of(low: float, high: float) -> tuple[float, int]:
    """The distance of two levels, and the level that 0 is on, of a range."""
    one = Range()
    one.set(low, high)
    step, zero = one.steps()
    return float(step), int(zero)


def weight_steps(weight: Tensor) -> Tensor:
    """The distance of two levels in each output channel."""
    return weight.detach().abs().flatten(1).amax(1).clamp(min=SMALLEST * WEIGHT_LEVELS) / WEIGHT_LEVELS


def rounded(weight: Tensor) -> Tensor:
    """To the nearest levels; the gradient passes as if nothing had been done."""
    weight = weight.float()
    zeros = torch.zeros(len(weight), dtype=torch.int32, device=weight.device)
    return torch.fake_quantize_per_channel_affine(weight, weight_steps(weight), zeros, 0, -WEIGHT_LEVELS, WEIGHT_LEVELS)


# ---- of a whole network


def add_ranges(model: nn.Module) -> None:
    """Let each convolution have a range, in place. Values are rounded once the ranges are active.

    A copy of the model has ranges, too. Their buffers are part of its state.
    """
    for part in convolutions(model):
        example = part.weight
        part.add_module(NAME, Range().to(example.device).train(part.training))
        part.forward = partial(_in_8_bits, part)  # type: ignore[method-assign]


def convolutions(model: nn.Module) -> list[nn.Conv2d]:
    """All but those that see the image itself: its bytes, once normalised, may lie just between two levels, where the
    last bit of a float decides."""
    return [part for part in model.modules() if isinstance(part, nn.Conv2d) and part.in_channels != COLORS]


def _in_8_bits(part: nn.Conv2d, *inputs: Any) -> Tensor:  # noqa: ANN401 - as the part's
    """Another view of the part computes: the part itself keeps its weights, for other threads and in case of errors."""
    x, *others = inputs
    own = part.get_submodule(NAME)
    assert isinstance(own, Range)
    weight = torch.where(own.rounds, rounded(part.weight).to(part.weight.dtype), part.weight)
    return called(part, {"weight": weight}, own(x), *others)


def called(part: nn.Conv2d, weights: Mapping[str, Tensor], *inputs: Any) -> Tensor:  # noqa: ANN401
    """What the part computes with other weights."""
    view = copy.copy(part)
    view._parameters = cast(Any, {**part._parameters, **weights})
    return type(part).forward(view, *inputs)


def add_results(model: nn.Module) -> None:
    """Let each convolution that has a range have one of its result, too, in place. It rounds nothing here."""
    for part in convolutions(model):
        part.add_module(RESULT, Range().to(part.weight.device).eval())


def ranges(model: nn.Module, kind: str = NAME) -> Iterator[tuple[str, Range]]:
    """By the names of the convolutions."""
    for name, part in model.named_modules():
        if isinstance(part, Range) and name.rpartition(".")[2] == kind:
            yield name.removesuffix(f".{kind}"), part


def has_ranges(model: nn.Module) -> bool:
    return next(ranges(model), None) is not None


def rounds(model: nn.Module) -> bool:
    """Whether it computes as with 8-bit integers."""
    return any(bool(one.rounds) for _, one in ranges(model))


def activate(model: nn.Module, *, is_active: bool) -> None:
    for _, one in ranges(model):
        one.active.fill_(is_active)


def is_of_range(name: str) -> bool:
    """Whether a weight, by its name, is a part of a range."""
    return not {NAME, RESULT}.isdisjoint(name.split("."))


def without_ranges(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in weights.items() if not is_of_range(name)}


def remove_ranges(model: nn.Module) -> None:
    """Let each convolution compute in floats, in place."""
    for part in convolutions(model):
        if NAME in part._modules:
            del part._modules[NAME], part.__dict__["forward"]
            part._modules.pop(RESULT, None)


# ---- for other programs


Form = Literal["operators", "products", "plain"]  # how an integer convolution is written


def in_levels(x: Tensor, step: float, zero: int) -> Tensor:
    """Rounded to bytes and back, in two operators that runtimes know."""
    operators, levels = torch.ops.quantized_decomposed, (step, zero, 0, LEVELS, torch.uint8)
    y: Tensor = operators.dequantize_per_tensor(operators.quantize_per_tensor(x, *levels), *levels)
    return y


class Int8Conv(nn.Module):
    """A convolution with its weights stored as integers, in operators that runtimes turn into integer arithmetic."""

    weight: Tensor
    bias: Tensor
    weight_step: Tensor
    bias_step: Tensor
    zeros: Tensor

    def __init__(self, part: nn.Conv2d) -> None:
        super().__init__()
        own = part.get_submodule(NAME)
        assert isinstance(own, Range)
        step, zero = own.steps()
        self.step, self.zero = float(step), int(zero)
        self.form: Form = "operators"
        result = part._modules.get(RESULT)
        self.result = (float(result.low), float(result.high)) if isinstance(result, Range) else None
        self.conv = _stripped(part)
        steps = weight_steps(part.weight)
        bias = torch.zeros_like(steps) if part.bias is None else part.bias.detach()
        # A channel of tiny weights would need a greater bias than 32 bits hold.
        steps = torch.maximum(steps, bias.abs() / (2**30 * self.step))
        self.register_buffer("weight_step", steps)
        self.register_buffer("bias_step", steps * self.step)
        self.register_buffer("zeros", torch.zeros(len(steps), dtype=torch.int64))
        levels = (part.weight.detach() / steps.view(-1, 1, 1, 1)).round().clamp(-WEIGHT_LEVELS, WEIGHT_LEVELS)
        self.register_buffer("weight", levels.to(torch.int8))
        self.register_buffer("bias", (bias / self.bias_step).round().to(torch.int32))

    def forward(self, x: Tensor, *others: Any) -> Tensor:  # noqa: ANN401 - as the part's
        weights = self.dequantized() if self.form == "operators" else self.products()
        if self.form == "plain":
            x = torch.fake_quantize_per_tensor_affine(x, self.step, self.zero, 0, LEVELS)
        else:
            x = in_levels(x, self.step, self.zero)
        return called(self.conv, weights, x, *others)

    def dequantized(self) -> dict[str, Tensor]:
        """As ONNX has it: an operator of its own."""
        dequantize = torch.ops.quantized_decomposed.dequantize_per_channel
        limits = -WEIGHT_LEVELS, WEIGHT_LEVELS, torch.int8
        weight = dequantize(self.weight, self.weight_step, self.zeros, 0, *limits)
        limits = -(2**31), 2**31 - 1, torch.int32
        return {"weight": weight, "bias": dequantize(self.bias, self.bias_step, self.zeros, 0, *limits)}

    def products(self) -> dict[str, Tensor]:
        """As OpenVINO and plain PyTorch have it."""
        return {"weight": self.weight.float() * self.weight_step.view(-1, 1, 1, 1), "bias": self.bias * self.bias_step}


def _stripped(part: nn.Conv2d) -> nn.Conv2d:
    """The settings of a convolution, without its weights."""
    part = copy.copy(part)
    part._parameters = cast(Any, {"weight": None, "bias": None})
    part._modules = {name: child for name, child in part._modules.items() if name not in (NAME, RESULT)}
    part.__dict__.pop("forward", None)
    return part


def to_integers(model: nn.Module) -> None:
    """Put integer convolutions in the place of those with an active range, in place. Batch norms are folded before."""
    import torch.ao.quantization.fx._decomposed  # noqa: F401 - defines the operators

    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d) and rounds(child):
                setattr(parent, name, Int8Conv(child).eval())


class _Moved(TorchDispatchMode):
    """Adds a share of a step to all that is rounded."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        if func.name().partition("::")[2] in ROUNDING:
            x, step, *others = args
            args = (x + self.share * step, step, *others)
        return func(*args, **(kwargs or {}))


def moved(share: float) -> AbstractContextManager[object]:
    """Within it, integer convolutions round as if each value were greater by this share of the distance of two levels:
    how far their outputs move tells what values at the edge between two levels may do."""
    return _Moved(share)


def write_as(model: nn.Module, form: Form) -> None:
    """Let integer convolutions be written in operators that a runtime reads, in place.

    `products` is for OpenVINO, which does not read the operator that makes floats of integers. Where the sum of a
    convolution without a bias and another one is taken (a shortcut), in a graph for any size, its low-precision passes
    compute something else (seen in 2026.4): there no bias is 0 throughout.
    """
    for part in model.modules():
        if isinstance(part, Int8Conv):
            part.form = form
            if form == "products" and not part.bias.any():
                part.bias[0], part.bias_step[0] = 1, NEARLY_ZERO
