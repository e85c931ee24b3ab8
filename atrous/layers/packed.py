"""Convolutions as oneDNN computes them fastest on a CPU: weights in its own order, the activation in the same pass."""

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atrous.layers.conv import Clip, Conv, ConvNorm, padding_of
from atrous.layers.quantization import has_ranges

MAX_RATE = 6  # of depthwise convolutions that oneDNN has kernels for; others take up to 15 times as long
KINDS = (torch.float32, torch.bfloat16)
Pair = tuple[int, int]
PLAIN: tuple[str, list[float]] = ("none", [])
ACTIVATIONS: dict[type[nn.Module], Callable[..., tuple[str, list[float]]]] = {  # oneDNN's names and numbers
    nn.ReLU: lambda act: ("relu", []),
    nn.ReLU6: lambda act: ("hardtanh", [0.0, 6.0]),
    nn.Hardtanh: lambda act: ("hardtanh", [act.min_val, act.max_val]),
    Clip: lambda act: ("hardtanh", [act.min_val, act.max_val]),
    nn.LeakyReLU: lambda act: ("leaky_relu", [act.negative_slope]),
    nn.Hardswish: lambda act: ("hardswish", []),
}


class Settings(NamedTuple):
    """Of a convolution, in oneDNN's order."""

    stride: Pair
    padding: Pair
    rate: Pair
    groups: int


def _pair(sides: Iterable[int]) -> Pair:
    height, width = sides
    return height, width


class PackedConv(nn.Module):
    """The convolution and activation of other modules, for prediction alone."""

    def __init__(self, conv: nn.Conv2d, act: nn.Module | None) -> None:
        super().__init__()
        assert not isinstance(conv.padding, str)
        self.conv = Settings(_pair(conv.stride), _pair(conv.padding), _pair(conv.dilation), conv.groups)
        self.sized = isinstance(conv, Conv) and conv.sized
        self.kernel = conv.kernel_size
        self.phases = self.conv.rate if _has_phases(conv) else None
        self.attribute, self.scalars = PLAIN if act is None else ACTIVATIONS[type(act)](act)
        self.bias = None if conv.bias is None else conv.bias.detach()
        self.weight = conv.weight.detach().contiguous(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:  # [B, K, h, w]
        if self.phases is not None:
            near = self.conv._replace(rate=(1, 1), padding=_pair(side // 2 for side in self.kernel))
            return joined(self._convolved(split(x, self.phases), near), self.phases, x.shape)
        if not self.sized:
            return self._convolved(x, self.conv)
        around, spare = padding_of(x.shape[-2:], self.kernel, self.conv.stride, self.conv.rate)
        return self._convolved(x, self.conv._replace(padding=_pair(around)))[..., spare[0] :, spare[1] :]

    def _convolved(self, x: Tensor, conv: Settings) -> Tensor:
        """The order of weights that is best depends on the map's size, and is that of the first map."""
        stride, padding, rate, groups = conv
        weight = self.weight  # read once: another thread may set it meanwhile
        if not weight.is_mkldnn:
            weight = torch.ops.mkldnn._reorder_convolution_weight(weight, padding, stride, rate, groups, list(x.shape))
            self.weight = weight
        y: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, weight, self.bias, padding, stride, rate, groups, self.attribute, self.scalars, ""
        )
        return y


def _has_phases(conv: nn.Conv2d) -> bool:
    """Whether it is computed by phases: a depthwise convolution at a great rate that keeps the size."""
    is_depthwise = conv.groups == conv.in_channels == conv.out_channels and tuple(conv.stride) == (1, 1)
    keeps = [rate * (side // 2) for rate, side in zip(conv.dilation, conv.kernel_size, strict=True)]
    is_odd = all(side % 2 for side in conv.kernel_size)
    return is_depthwise and is_odd and [*conv.padding] == keeps and max(conv.dilation) > MAX_RATE


def split(x: Tensor, rate: Pair) -> Tensor:
    """[B, K, h, w] -> [B * rate * rate, K, h / rate, w / rate]: every rate-th row and column, from each beginning on.

    A convolution at this rate is one at rate 1 in each of these parts. Zeros follow where the sides are no multiples.
    """
    (batch, channels, height, width), (down, across) = x.shape, rate
    x = F.pad(x, (0, -width % across, 0, -height % down)).permute(0, 2, 3, 1)
    parts = x.reshape(batch, -1, down, (width + across - 1) // across, across, channels).permute(0, 2, 4, 1, 3, 5)
    return parts.reshape(batch * down * across, *parts.shape[3:]).permute(0, 3, 1, 2)


def joined(parts: Tensor, rate: Pair, shape: Sequence[int]) -> Tensor:
    """The reverse: [B, K, h, w]."""
    (batch, channels, height, width), (down, across) = shape, rate
    _, _, rows, columns = parts.shape
    x = parts.permute(0, 2, 3, 1).reshape(batch, down, across, rows, columns, channels).permute(0, 3, 1, 4, 2, 5)
    whole = x.reshape(batch, rows * down, columns * across, channels).permute(0, 3, 1, 2)
    return whole[:, :, :height, :width].contiguous(memory_format=torch.channels_last)


def pack(module: nn.Module) -> None:
    """Replace the convolutions in `module`, each with the activation of its ConvNorm once its norm is folded."""
    for part in list(module.modules()):
        act = _activation_of(part)
        for name, child in list(part.named_children()):
            if can_be_packed(child):
                assert isinstance(child, nn.Conv2d)
                setattr(part, name, PackedConv(child, act if name == "conv" else None))
                if act is not None:
                    part.act = nn.Identity()


def _activation_of(part: nn.Module) -> nn.Module | None:
    """What a ConvNorm does right after its convolution."""
    if not isinstance(part, ConvNorm) or not isinstance(part.norm, nn.Identity) or not can_be_packed(part.conv):
        return None
    act = dict(part.named_children()).get("act")
    return act if type(act) in ACTIVATIONS else None


def can_be_packed(conv: nn.Module) -> bool:
    """Whether it is a plain convolution that oneDNN computes here. Others may do more in their `forward`, or round."""
    if type(conv) not in (nn.Conv2d, Conv) or has_ranges(conv):
        return False
    assert isinstance(conv, nn.Conv2d)
    is_plain = conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    return is_plain and conv.weight.device.type == "cpu" and works(conv.weight.dtype)


@cache
def works(kind: torch.dtype) -> bool:
    """Whether PyTorch offers this, which it doesn't promise, and the results are right."""
    if not torch.backends.mkldnn.is_available() or kind not in KINDS:  # type: ignore[no-untyped-call]
        return False
    generator = torch.Generator().manual_seed(0)
    conv = nn.Conv2d(8, 16, 3, padding=2, dilation=2).to(kind)
    images = torch.randn(1, 8, 9, 11, generator=generator).to(kind).contiguous(memory_format=torch.channels_last)
    try:
        with torch.inference_mode():
            ours, theirs = PackedConv(conv, nn.ReLU())(images).float(), F.relu(conv(images)).float()
    except (RuntimeError, AttributeError, TypeError):
        return False
    return ours.shape == theirs.shape and bool((ours - theirs).abs().max() < 0.02 * theirs.abs().max())
