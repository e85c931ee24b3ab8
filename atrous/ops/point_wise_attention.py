"""Point-wise spatial attention (Zhao et al., ECCV 2018: PSANet, section 3): every position gathers from every other.

An over-complete mask gives each position, the anchor, the weights of its neighbours by their distance. Laid out anchor
by anchor in memory, the weight of position q is a fixed step after that of q - 1, and that of the next anchor a step
before: one strided view of the mask is the attention itself, without an index. Where a smaller mask has no weight, that
view reads weights of other anchors, never memory beyond the mask, and they are set to 0.
"""

from itertools import product
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from atrous.ops.exported import is_exported

Size = tuple[int, int]  # rows, columns
Direction = Literal["collect", "distribute"]
# collect: the mask of a position weights what it receives from every other one
# distribute: it weights what it gives to every other one


def point_wise_attention(
    features: Tensor, mask: Tensor, mask_size: Size | None, direction: Direction, *, softmax: bool = True
) -> Tensor:
    """What each position of `features` [B, K, h, w] receives from all: [B, K, h, w].

    `mask` is [B, rows * columns, h, w], fastest in channels-last memory; its middle channel is the position itself, and
    positions that it does not reach have weight 0 before the softmax, which is over the sources of each target.
    `mask_size` None: a compact mask [B, h * w, h, w], whose channels are the positions. Computed in at least float32.
    One [B, h * w, h * w] is in memory, and its gradient in the backward pass. Raises ValueError for shapes that don't
    fit.
    """
    if is_exported():
        return point_wise_attention_reference(features, mask, mask_size, direction, softmax=softmax)
    _require_fit(features, mask, mask_size)
    dtype = torch.promote_types(torch.promote_types(features.dtype, mask.dtype), torch.float32)
    received: Tensor = _PointWiseAttention.apply(features.to(dtype), mask, mask_size, direction, softmax)  # type: ignore[no-untyped-call]
    return received.to(features.dtype)


def _require_fit(features: Tensor, mask: Tensor, mask_size: Size | None) -> None:
    height, width = features.shape[-2:]
    channels = mask.shape[1]
    if mask.shape[-2:] != features.shape[-2:]:
        raise ValueError(
            f"mask and features must be maps of one size, got {list(mask.shape[-2:])} and {[height, width]}"
        )
    if mask_size is None:
        if channels != height * width:
            raise ValueError(
                f"a compact mask of a {height} x {width} map must have {height * width} channels, got {channels}"
            )
        return
    rows, columns = mask_size
    if rows * columns != channels or rows % 2 == 0 or columns % 2 == 0:
        raise ValueError(
            f"a mask of {rows} x {columns} must have odd sides and {rows * columns} channels, got {channels}"
        )


class _PointWiseAttention(Function):
    """The attention's rows are anchors. Only the result, and its gradient, are normalised, not the attention."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        features: Tensor,
        mask: Tensor,
        mask_size: Size | None,
        direction: Direction,
        softmax: bool,
    ) -> Tensor:
        x = features.flatten(2)  # [B, K, hw]
        weights = _spread(mask, mask_size, x.dtype)  # [B, hw, hw]
        sources = 2 if direction == "collect" else 1
        total = _exponentials_(weights, sources) if softmax else None  # [B, 1, hw]
        z = _product(x, weights.mT if direction == "collect" else weights)
        z = z if total is None else z.div_(total)
        ctx.save_for_backward(x, weights, total, z)
        ctx.mask_size, ctx.direction, ctx.mask_type = mask_size, direction, mask.dtype
        return z.view_as(features)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, received: Tensor) -> tuple[Tensor, Tensor, None, None, None]:  # noqa: ANN401
        x, weights, total, z = ctx.saved_tensors
        dz = received.flatten(2) if total is None else received.flatten(2) / total
        is_collect = ctx.direction == "collect"
        dx = _product(dz, weights if is_collect else weights.mT)
        guard = _guard(received.shape, ctx.mask_size)
        memory = torch.zeros(weights.numel() + 2 * guard, dtype=x.dtype, device=x.device)
        slope = memory[guard : guard + weights.numel()].view_as(weights)
        torch.bmm(*((dz.mT, x) if is_collect else (x.mT, dz)), out=slope)
        if total is not None:
            mean = (dz * z).sum(1)
            slope.sub_(mean[:, :, None] if is_collect else mean[:, None]).mul_(weights)
        dmask = _gathered(slope, received.shape, ctx.mask_size)
        return dx.view_as(received), dmask.to(ctx.mask_type), None, None, None


def _product(a: Tensor, b: Tensor) -> Tensor:
    """In the precision of its factors: autocast does not apply to `out=`."""
    return torch.bmm(a, b, out=a.new_empty((len(a), a.shape[1], b.shape[2])))


def _exponentials_(weights: Tensor, dim: int) -> Tensor:
    """Overwrites weights by the numerators of their softmax over `dim`, and returns the denominators [B, 1, hw]."""
    weights.sub_(weights.amax(dim, keepdim=True)).exp_()
    return weights.sum(dim)[:, None]


def _spread(mask: Tensor, mask_size: Size | None, dtype: torch.dtype) -> Tensor:
    """[B, rows * columns, h, w] -> [B, hw, hw]: for each anchor the weights of all positions, in new memory."""
    batch, _, height, width = mask.shape
    by_anchor = mask.permute(0, 2, 3, 1)
    if mask_size is None:
        copy = by_anchor.to(dtype, memory_format=torch.contiguous_format, copy=True)
        return copy.flatten(1, 2)
    by_anchor = by_anchor.contiguous()
    result = torch.empty((batch, height, width, height, width), dtype=dtype, device=mask.device)
    _shift(by_anchor, mask_size, result, -1, mask_size)
    return result.view(batch, height * width, height * width)


def _gathered(slope: Tensor, shape: torch.Size, mask_size: Size | None) -> Tensor:
    """The adjoint of `_spread`; in memory there must be `_guard` finite numbers before and after `slope`."""
    batch, _, height, width = shape
    if mask_size is None:
        return slope.view(batch, height, width, -1).permute(0, 3, 1, 2)
    result = slope.new_empty((batch, height, width, *mask_size))
    _shift(slope, (height, width), result, 1, mask_size)
    return result.flatten(3).permute(0, 3, 1, 2)


def _guard(shape: torch.Size, mask_size: Size | None) -> int:
    """How far, in memory, the mask of a corner reaches beyond the map."""
    return 0 if mask_size is None else mask_size[0] // 2 * shape[-1] + mask_size[1] // 2


def _shift(source: Tensor, grid: Size, result: Tensor, step: int, mask_size: Size) -> None:
    """Each anchor's map in `source`, of size `grid`, moved by `step` times its place, into `result` [B, h, w, *new].

    For an anchor in the middle of a mask the map does not move. Zeros where a moved map has no value.
    """
    _, height, width, *new = result.shape
    area, half = grid[0] * grid[1], (mask_size[0] // 2, mask_size[1] // 2)
    strides = (height * width * area, width * area + step * grid[1], area + step, grid[1], 1)
    first = int(source.storage_offset()) - step * (half[0] * grid[1] + half[1])
    view = source.as_strided(result.shape, strides, first)
    rows = _inside(height, new[0], step, half[0], grid[0], result)
    columns = _inside(width, new[1], step, half[1], grid[1], result)
    torch.mul(view, 1 if rows is None else rows[:, None, :, None], out=result)
    if columns is not None:
        result.mul_(columns[:, None, :])


def _inside(anchors: int, new: int, step: int, half: int, old: int, like: Tensor) -> Tensor | None:
    """[anchors, new]: 1 where a map of `old` places, moved by its anchor, has a value, else 0; None: 1 everywhere."""
    first, last = sorted((-step * half, step * (anchors - 1 - half)))
    if first >= 0 and last + new <= old:
        return None
    moves = step * (torch.arange(anchors, device=like.device) - half)
    places = moves[:, None] + torch.arange(new, device=like.device)
    return ((places >= 0) & (places < old)).to(like.dtype)


# ---- references for tests


def point_wise_attention_reference(
    features: Tensor, mask: Tensor, mask_size: Size | None, direction: Direction, *, softmax: bool = True
) -> Tensor:
    """Like `point_wise_attention`, by an index of [h * w, h * w] into the channels."""
    _require_fit(features, mask, mask_size)
    if mask_size is None:
        weights = mask.flatten(2)  # [B, others, anchors]
    else:
        index, inside = _channels(features.shape[-2:], mask_size, mask.device)
        weights = mask.flatten(2).gather(1, index.expand(mask.shape[0], -1, -1)) * inside.to(mask.dtype)
    return _received(features, weights if direction == "collect" else weights.mT, softmax)


def _channels(size: torch.Size, mask_size: Size, device: torch.device) -> tuple[Tensor, Tensor]:
    """Which channel of an anchor is for another position, and whether it has one: [others, anchors]."""
    (rows, in_rows), (columns, in_columns) = (
        _steps(side, mask_side, device) for side, mask_side in zip(size, mask_size, strict=True)
    )
    index = rows[:, None, :, None] * mask_size[1] + columns[:, None]  # [h, w, h, w]
    inside = in_rows[:, None, :, None] & in_columns[:, None]
    return index.flatten(2).flatten(0, 1), inside.flatten(2).flatten(0, 1)


def _steps(side: int, mask_side: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Along one axis: where in an anchor's mask another position is, and whether it is in it: [others, anchors]."""
    places = torch.arange(side, device=device)
    steps = places[:, None] - places + mask_side // 2
    return steps.clamp(0, mask_side - 1), (steps >= 0) & (steps < mask_side)


def point_wise_attention_loop(
    features: Tensor, mask: Tensor, mask_size: Size | None, direction: Direction, *, softmax: bool = True
) -> Tensor:
    """Like `point_wise_attention`, anchor by anchor, as the original defines it."""
    _require_fit(features, mask, mask_size)
    height, width = mask.shape[-2:]
    anchors = zip(product(range(height), range(width)), mask.flatten(2).unbind(2), strict=True)
    by_anchor = torch.stack([_of_anchor(own, anchor, (height, width), mask_size) for anchor, own in anchors], 1)
    by_anchor = by_anchor.flatten(2)  # [B, anchors, others]
    return _received(features, by_anchor.mT if direction == "collect" else by_anchor, softmax)


def _of_anchor(mask: Tensor, anchor: Size, size: Size, mask_size: Size | None) -> Tensor:
    """[B, channels] -> [B, h, w]: the weights that one anchor gives to all positions."""
    if mask_size is None:
        return mask.reshape(-1, *size)
    others = mask.new_zeros(len(mask), *size)
    to, of = zip(*map(_overlap, anchor, size, mask_size), strict=True)
    others[:, *to] = mask.reshape(-1, *mask_size)[:, *of]
    return others


def _overlap(anchor: int, side: int, mask_side: int) -> tuple[slice, slice]:
    """The positions that a mask reaches from `anchor`, and their places in the mask."""
    half = mask_side // 2
    first, last = max(0, anchor - half), min(side, anchor + half + 1)
    return slice(first, last), slice(first - anchor + half, last - anchor + half)


def _received(features: Tensor, weights: Tensor, softmax: bool) -> Tensor:  # [B, K, h, w], [B, sources, targets]
    weights = weights.softmax(1) if softmax else weights
    return (features.flatten(2) @ weights).view_as(features)
