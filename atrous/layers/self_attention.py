"""Self-attention over all pixels or over channels: DANet's (arXiv:1809.02983) and OCNet's (arXiv:1809.00916)."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atrous.layers.abn import conv_abn
from atrous.layers.resize import resize
from atrous.ops import at_least_0, is_exported


def attend(query: Tensor, key: Tensor, value: Tensor, *, scale: float, mask: Tensor | None = None) -> Tensor:
    """[B, K, h, w] twice and [B, C, h, w] -> [B, C, h, w]: values weighted by the softmax of scale * query . key.

    `mask` [hw, hw] is where a pixel attends.
    """
    q, k, v = (x.flatten(2).mT[:, None] for x in (query, key, value))  # [B, 1, hw, K]: one head
    mean = F.scaled_dot_product_attention(q, k, v, mask, scale=scale)  # [B, 1, hw, C]
    return mean[:, 0].mT.reshape(value.shape)


def attend_within(query: Tensor, key: Tensor, value: Tensor, parts: int, *, scale: float) -> Tensor:
    """`attend` within each of `parts` x `parts` rectangles; the first are a pixel larger where a side isn't divisible.

    A side with fewer pixels than parts has one part per pixel.
    """
    if parts == 1:
        return attend(query, key, value, scale=scale)
    if is_exported():  # one graph for all sizes
        return attend(query, key, value, scale=scale, mask=_same_part(query, parts))
    rows = zip(*(_split(x, parts) for x in (query, key, value)), strict=True)
    return torch.cat([torch.cat([attend(*cell, scale=scale) for cell in zip(*row, strict=True)], 3) for row in rows], 2)


def _same_part(x: Tensor, parts: int) -> Tensor:  # [hw, hw]
    """Whether two pixels are in one of the parts that `_split` makes."""
    row, column = (_part_of(side, parts, x) for side in x.shape[-2:])
    part = (row[:, None] * parts + column).flatten()
    return part[:, None] == part


def _part_of(side: int, parts: int, x: Tensor) -> Tensor:  # [side]
    places, length = torch.arange(side, device=x.device), side // parts
    rest = side - length * parts
    longer = (length + 1) * rest  # places in the first parts, which have one more
    others = rest + (places - longer) // (at_least_0(length - 1) + 1)
    return torch.where(places < longer, places // (length + 1), others)


def _split(x: Tensor, parts: int) -> list[tuple[Tensor, ...]]:  # rows of parts
    height, width = (min(parts, side) for side in x.shape[-2:])
    return [stripe.tensor_split(width, 3) for stripe in x.tensor_split(height, 2)]


class GatedAttention(nn.Module):
    """x + gamma * `attend` of query, key and value, in x's shape [B, channels, h, w].

    gamma starts at 0, so x passes unchanged until gamma is learnt.
    """

    def __init__(self, channels: int, key_channels: int, attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.attend = attend
        self.query = nn.Conv2d(channels, key_channels, 1)
        self.key = nn.Conv2d(channels, key_channels, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gamma * self.attend(self.query(x), self.key(x), self.value(x))


class PositionAttention(GatedAttention):
    """The mean of all pixels' values, weighted by similarity that is not scaled (DANet, section 3.2)."""

    def __init__(self, channels: int, key_channels: int) -> None:
        super().__init__(channels, key_channels, partial(attend, scale=1.0))


class ChannelAttention(nn.Module):
    """x + gamma * the mean of all channels; dissimilar ones weigh more (DANet, section 3.3). gamma starts at 0.

    The paper's softmax takes the largest product minus each; the largest is the same for a whole row and cancels out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        channels = x.flatten(2).to(self.gamma.dtype)  # [B, C, hw]
        device = "cpu" if x.is_meta else x.device.type  # meta has no autocast
        with torch.autocast(device, enabled=False):  # unscaled sums over all pixels need full precision
            weights = torch.softmax(-(channels @ channels.mT), -1)  # [B, C, C]
            return x + self.gamma * (weights @ channels).reshape(x.shape)


class ObjectContext(nn.Module):
    """[B, inp, h, w] -> [B, out, h, w]: the mean of the pixels similar to each, as a surrogate for its object.

    Query and key are one map, so similarity is mutual. `parts` is as in `attend_within`; `pool` is the side of the max
    pooling before (OCNet's `size`), with which attention costs pool^4 times less. The last 1x1 starts at 0.
    """

    def __init__(self, inp: int, mid: int, out: int, *, parts: int = 1, pool: int = 1) -> None:
        super().__init__()
        self.key = conv_abn(inp, mid)
        self.value = nn.Conv2d(inp, mid, 1)
        self.output = nn.Conv2d(mid, out, 1)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)  # type: ignore[arg-type]
        self.parts, self.pool, self.scale = parts, pool, mid**-0.5

    def forward(self, x: Tensor) -> Tensor:
        sides = [self.pool] * 2 if is_exported() else [min(self.pool, side) for side in x.shape[-2:]]
        pooled = x if self.pool == 1 else F.max_pool2d(x, sides)
        key = self.key(pooled)
        context = attend_within(key, key, self.value(pooled), self.parts, scale=self.scale)
        return resize(self.output(context), x.shape[-2:])
