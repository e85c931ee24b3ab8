"""Convolution, batch norm and activation, with the padding rules of the originals by name."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import Function
from torch.nn import functional as F

from atrous.ops import is_exported

Padding = Literal["same", "symmetric", "valid"]  # TensorFlow's, which depends on the input's size | equal | none
Rate = int | tuple[int, int]  # for both axes | (height, width)
Activation = Literal["relu", "relu6", "clip6", "hard_swish", "leaky_relu", "none"]


class _Clip(Function):
    """In place. Its slope follows from its result, which the next convolution keeps anyway; PyTorch's own hardtanh
    keeps a copy of its input, a quarter of all that a MobileNet keeps for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:  # noqa: ANN401
        ctx.mark_dirty(x)
        F.hardtanh_(x, low, high)
        ctx.save_for_backward(x)
        ctx.limits = low, high
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        (result,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(gradient, result, *ctx.limits), None, None


class Clip(nn.Hardtanh):
    """Values within the limits; in place, it keeps less for the backward pass."""

    def forward(self, x: Tensor) -> Tensor:
        is_learning = self.inplace and self.training and torch.is_grad_enabled() and x.requires_grad
        if is_exported():
            return x.clamp(self.min_val, self.max_val)  # an operator that every target has
        if not is_learning or torch.compiler.is_compiling():
            return super().forward(x)
        return cast(Tensor, _Clip.apply(x, self.min_val, self.max_val))  # type: ignore[no-untyped-call]


ACTIVATIONS: dict[Activation, Callable[..., nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": partial(Clip, 0.0, 6.0),
    "clip6": partial(Clip, -6.0, 6.0),
    "hard_swish": nn.Hardswish,
    "leaky_relu": partial(nn.LeakyReLU, 0.01),
}


NO_ACTIVATION: Activation = "none"


class Norm(NamedTuple):
    """The numbers of a batch norm. Weights are valid only with the `eps` that they were trained with."""

    eps: float = 1e-5
    momentum: float = 0.1  # as PyTorch defines it: 1 minus TensorFlow's decay


TORCH_NORM = Norm()  # PyTorch's default: torchvision's and semseg's networks, heads trained in PyTorch
# TensorFlow's decays of 0.997 and 0.9997 need 10,000 steps or more; 0.95, that of its ResNets, does not.
SLIM_NORM = Norm(eps=1e-3, momentum=0.05)  # of TF-slim's MobileNets, Xceptions and NAS nets
HEAD_NORM = Norm(eps=1.001e-5, momentum=0.05)  # of TensorFlow DeepLab's heads: its fused batch norm raises 1e-5


def same_padding(size: int, kernel: int, stride: int, rate: int) -> tuple[int, int]:
    """Zeros that TensorFlow's SAME adds before and after `size` pixels: (0, 1) for a 3x3 at stride 2 on even sizes."""
    extent = rate * (kernel - 1) + 1
    steps = -(-size // stride)
    total = max((steps - 1) * stride + extent - size, 0)
    return total // 2, total - total // 2


def padding_of(
    size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], rate: Sequence[int]
) -> tuple[list[int], list[int]]:
    """The padding of both sides of each axis by which a convolution does what SAME does, and the first outputs to drop.

    Where SAME needs one more zero after than before, padding both sides by a whole stride and dropping the first output
    is up to four times as fast as F.pad, which copies the input.
    """
    pads = [same_padding(*numbers) for numbers in zip(size, kernel, stride, rate, strict=True)]
    spare = [after - before for before, after in pads]
    around = [before + more * step for (before, _), more, step in zip(pads, spare, stride, strict=True)]
    return around, spare


class Conv(nn.Conv2d):
    """A convolution without bias, initialised as by He et al. (arXiv:1502.01852) from its fan-out."""

    def __init__(
        self, inp: int, out: int, kernel: int, *, stride: int, rate: Rate, groups: int, padding: Padding
    ) -> None:
        self.sized = padding == "same" and (stride > 1 or kernel % 2 == 0)  # else SAME is symmetric for every size
        rates = (rate, rate) if isinstance(rate, int) else rate
        is_padded = padding != "valid" and not self.sized
        height, width = ((one * (kernel - 1) + 1) // 2 if is_padded else 0 for one in rates)
        super().__init__(inp, out, kernel, stride, (height, width), rates, groups, bias=False)

    def reset_parameters(self) -> None:
        if self.weight.is_meta:  # random numbers that nobody stores would take most of a large network's time
            return
        fan_out = self.weight[0, 0].numel() * self.out_channels // self.groups
        nn.init.normal_(self.weight, std=math.sqrt(2 / fan_out))

    def forward(self, x: Tensor) -> Tensor:  # [B, K, h, w]
        if not self.sized:
            return super().forward(x)
        around, spare = padding_of(x.shape[-2:], self.kernel_size, self.stride, self.dilation)
        y = F.conv2d(x, self.weight, self.bias, self.stride, around, self.dilation, self.groups)
        return y[..., spare[0] :, spare[1] :]


class ConvNorm(nn.Sequential):
    """Convolution (`conv`), batch norm (`norm`), activation."""

    def __init__(
        self,
        inp: int,
        out: int,
        kernel: int = 1,
        *,
        norm: Norm | None,  # None: without a batch norm
        stride: int = 1,
        rate: Rate = 1,
        groups: int = 1,
        act: Activation = "relu",
        padding: Padding = "symmetric",
    ) -> None:
        super().__init__()
        self.conv = Conv(inp, out, kernel, stride=stride, rate=rate, groups=groups, padding=padding)
        self.norm: nn.Module = (
            nn.Identity() if norm is None else nn.BatchNorm2d(out, eps=norm.eps, momentum=norm.momentum)
        )
        if act != "none":
            self.act = ACTIVATIONS[act](inplace=True)


class SeparableConv(nn.Sequential):
    """A depthwise convolution (`depthwise`) and a 1x1 (`pointwise`), each with batch norm and activation.

    If it is `bare`, the depthwise convolution has neither.
    """

    def __init__(
        self,
        inp: int,
        out: int,
        kernel: int = 3,
        *,
        norm: Norm,
        stride: int = 1,
        rate: Rate = 1,
        act: Activation = "relu",
        padding: Padding = "symmetric",
        bare: bool = False,
    ) -> None:
        super().__init__()
        inner, inner_act = (None, NO_ACTIVATION) if bare else (norm, act)
        self.depthwise = ConvNorm(
            inp, inp, kernel, norm=inner, stride=stride, rate=rate, groups=inp, act=inner_act, padding=padding
        )
        self.pointwise = ConvNorm(inp, out, norm=norm, act=act)


def classifier(inp: int, num_classes: int, kernel: int = 1, rate: int = 1) -> nn.Conv2d:
    """The convolution that makes logits: small weights and bias 0, so that all classes are equally likely at first."""
    conv = nn.Conv2d(inp, num_classes, kernel, padding=rate * (kernel - 1) // 2, dilation=rate)
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv
