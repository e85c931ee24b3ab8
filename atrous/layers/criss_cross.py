"""Criss-cross attention (Huang et al. 2018, arXiv:1811.11721, 3.2): each pixel attends to its row and column."""

import torch
from torch import Tensor

from atrous.layers.self_attention import GatedAttention


def criss_cross(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """[B, K, h, w] twice and [B, C, h, w] -> [B, C, h, w]: the weighted mean of the values in a pixel's row and column.

    One softmax over the h + w - 1 positions: the pixel itself counts in its row only. Memory is O(h w (h + w)).
    """
    height = query.shape[2]
    itself = torch.eye(height, dtype=torch.bool, device=query.device)[:, None]  # [h, 1, h]
    columns = torch.einsum("bkyx,bkjx->byxj", query, key).masked_fill(itself, -torch.inf)  # [B, h, w, h]
    rows = torch.einsum("bkyx,bkyj->byxj", query, key)  # [B, h, w, w]
    weights = torch.cat([columns, rows], -1).softmax(-1).to(value.dtype)  # [B, h, w, h + w]
    of_column = torch.einsum("byxj,bcjx->bcyx", weights[..., :height], value)
    return of_column + torch.einsum("byxj,bcyj->bcyx", weights[..., height:], value)


class CrissCrossAttention(GatedAttention):
    """Applied twice, it lets every pixel reach every other (section 3.3)."""

    def __init__(self, channels: int, key_channels: int) -> None:
        super().__init__(channels, key_channels, criss_cross)
