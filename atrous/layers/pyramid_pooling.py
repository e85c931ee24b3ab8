"""Pyramid pooling (Zhao et al. 2016, arXiv:1612.01105, section 3.2)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atrous.layers.aspp import require_variance
from atrous.layers.conv import TORCH_NORM, Conv, ConvNorm
from atrous.layers.quantization import has_ranges
from atrous.layers.resize import Convention, resize
from atrous.ops import grid_means


class PyramidPooling(nn.Module):
    """[B, inp, h, w] -> [B, channels, h, w]: the map itself and its means over each grid of bins, resized to the map.

    The means have `inp` channels altogether, rounded down to equal shares, or `width` each. Without bins the map is
    returned unchanged.
    On a map of fewer pixels than bins, bins share pixels. Raises ConfigError when trained with one image per batch.
    """

    def __init__(
        self,
        inp: int,
        bins: Sequence[int],
        convention: Convention = "aligned_corners",
        width: int | None = None,
    ) -> None:
        super().__init__()
        self.bins, self.convention = tuple(bins), convention
        width = width or inp // max(1, len(self.bins))
        self.branches = nn.ModuleList([ConvNorm(inp, width, norm=TORCH_NORM) for _ in self.bins])
        self.channels = inp + width * len(self.bins)

    def forward(self, x: Tensor) -> Tensor:
        levels = [resize(means, x.shape[-2:], self.convention) for means in self.means(x)]
        return torch.cat([x, *levels], 1)

    def means(self, x: Tensor) -> list[Tensor]:
        """The levels, [B, width, bins, bins] each."""
        return [self._level(branch, bins, x) for branch, bins in zip(self.branches, self.bins, strict=True)]

    def _level(self, branch: nn.Module, bins: int, x: Tensor) -> Tensor:
        pooled = grid_means(x, bins)
        require_variance(branch.get_submodule("norm"), pooled)
        level: Tensor = branch(pooled)
        return level


class PyramidConv(nn.Module):
    """A pyramid and the convolution after it, whose norms are folded, without making the means as large as the map.

    Enlarging and convolving are linear: the means are multiplied by each tap of the kernel at their own size, and the
    products enlarged and moved to where the tap looks from. Equal to the two up to rounding.
    """

    def __init__(self, pyramid: PyramidPooling, head: ConvNorm) -> None:
        super().__init__()
        widths = [branch.get_parameter("conv.weight").shape[0] for branch in pyramid.branches]
        own, *others = torch.split(head.conv.weight.detach(), [pyramid.channels - sum(widths), *widths], 1)
        self.kernel, self.pyramid = head.conv.kernel_size[0], pyramid
        self.conv, self.act = _conv(own, head.conv.bias), nn.Sequential(*[*head][2:])
        self.taps = nn.ModuleList([_conv(_one_by_one(weight)) for weight in others])

    def forward(self, x: Tensor) -> Tensor:  # [B, inp, h, w] -> [B, out, h, w]
        (height, width), bins = x.shape[-2:], self.pyramid.bins
        products = [self._products(tap(means)) for tap, means in zip(self.taps, self.pyramid.means(x), strict=True)]
        rows = [
            torch.unflatten(self._shares(number, height, x) @ part.flatten(2), 2, part.shape[2:])
            for number, part in zip(bins, products, strict=True)
        ]
        columns = torch.cat([self._shares(number, width, x) for number in bins], 1)
        y = columns @ torch.cat(rows, 2)  # [B, h, w, out]
        activated: Tensor = self.act(self.conv(x) + y.permute(0, 3, 1, 2).to(x.dtype))
        return activated

    def _products(self, x: Tensor) -> Tensor:
        """[B, kernel * kernel * out, bins, bins] -> [B, kernel * bins, kernel * bins, out], in which they add up."""
        taps = torch.unflatten(x.float(), 1, (self.kernel, self.kernel, -1))  # [B, kernel, kernel, out, bins, bins]
        return taps.permute(0, 1, 4, 2, 5, 3).flatten(3, 4).flatten(1, 2)

    def _shares(self, bins: int, side: int, like: Tensor) -> Tensor:
        """[side, kernel * bins]: what each place takes of each bin, by each tap."""
        alone = torch.eye(bins, device=like.device)[None, :, None]
        shares = resize(alone, (1, side), self.pyramid.convention)[0, :, 0]  # [bins, side]
        around = F.pad(shares, (self.kernel // 2, self.kernel // 2))
        return torch.cat([around[:, tap : tap + side] for tap in range(self.kernel)]).mT


def joined(pyramid: nn.Module, head: nn.Module) -> PyramidConv | None:
    """Both as one, if all norms are folded and no convolution does more than convolve, such as round."""
    if not isinstance(pyramid, PyramidPooling) or not isinstance(head, ConvNorm) or not pyramid.bins:
        return None
    parts = [part for part in (head, *pyramid.branches) if isinstance(part, ConvNorm)]
    is_plain = all(type(part.conv) is Conv and isinstance(part.norm, nn.Identity) for part in parts)
    return PyramidConv(pyramid, head) if is_plain and not any(map(has_ranges, parts)) else None


def _one_by_one(weight: Tensor) -> Tensor:
    """The taps of a kernel, each a convolution of its own: [kernel * kernel * out, inp, 1, 1]."""
    return weight.permute(2, 3, 0, 1).flatten(0, 2)[..., None, None]


def _conv(weight: Tensor, bias: Tensor | None = None) -> Conv:
    out, inp, kernel, _ = weight.shape
    with torch.device("meta"):
        conv = Conv(inp, out, kernel, stride=1, rate=1, groups=1, padding="symmetric")
    conv.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    conv.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
    return conv
