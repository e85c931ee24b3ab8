"""Convolutions as oneDNN computes them fastest on a CPU: weights in its own order, the activation in the same pass."""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atrous.layers.conv import Clip, Conv, ConvNorm, padding_of
from atrous.layers.quantization import has_ranges

SIDE = 64  # pixels of a map that the order of the weights is chosen for; any other is computed, too
KINDS = (torch.float32, torch.bfloat16)
PLAIN: tuple[str, list[float]] = ("none", [])
ACTIVATIONS: dict[type[nn.Module], Callable[..., tuple[str, list[float]]]] = {  # oneDNN's names and numbers
    nn.ReLU: lambda act: ("relu", []),
    nn.ReLU6: lambda act: ("hardtanh", [0.0, 6.0]),
    nn.Hardtanh: lambda act: ("hardtanh", [act.min_val, act.max_val]),
    Clip: lambda act: ("hardtanh", [act.min_val, act.max_val]),
    nn.LeakyReLU: lambda act: ("leaky_relu", [act.negative_slope]),
    nn.Hardswish: lambda act: ("hardswish", []),
}


class PackedConv(nn.Module):
    """The convolution and activation of other modules, for prediction alone."""

    def __init__(self, conv: nn.Conv2d, act: nn.Module | None) -> None:
        super().__init__()
        assert not isinstance(conv.padding, str)
        self.conv = (conv.stride, [*conv.padding], conv.dilation, conv.groups)
        self.sized = isinstance(conv, Conv) and conv.sized
        self.kernel = conv.kernel_size
        self.attribute, self.scalars = PLAIN if act is None else ACTIVATIONS[type(act)](act)
        self.bias = None if conv.bias is None else conv.bias.detach()
        self.weight = _packed(conv)

    def forward(self, x: Tensor) -> Tensor:  # [B, K, h, w]
        stride, padding, rate, groups = self.conv
        spare = [0, 0]
        if self.sized:
            padding, spare = padding_of(x.shape[-2:], self.kernel, stride, rate)
        y: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, self.weight, self.bias, padding, stride, rate, groups, self.attribute, self.scalars, ""
        )
        return y[..., spare[0] :, spare[1] :] if any(spare) else y


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


def _packed(conv: nn.Conv2d) -> Tensor:
    weight = conv.weight.detach().contiguous(memory_format=torch.channels_last)
    size = [1, conv.in_channels, SIDE, SIDE]
    packed: Tensor = torch.ops.mkldnn._reorder_convolution_weight(
        weight, conv.padding, conv.stride, conv.dilation, conv.groups, size
    )
    return packed
