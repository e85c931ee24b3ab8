"""Attention pixel by pixel and channel by channel, as the papers' formulas are written."""

import math

import torch
from torch import Tensor


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Softmax over all pixels of scale * query . key; shapes as `layers.self_attention.attend` has them."""
    mean = torch.empty_like(value)
    batch, _, height, width = query.shape
    for b, y, x in torch.cartesian_prod(*(torch.arange(size) for size in (batch, height, width))).tolist():
        energies = torch.exp(scale * (query[b, :, y, x, None, None] * key[b]).sum(0))  # [h, w]
        mean[b, :, y, x] = (value[b] * energies).sum((1, 2)) / energies.sum()
    return mean


def channel_attention(x: Tensor) -> Tensor:
    """arXiv:1809.02983, section 3.3, as written: softmax of the largest product of a row minus each of its products."""
    mean = torch.zeros_like(x)
    for b in range(len(x)):
        for i in range(x.shape[1]):
            products = torch.stack([(x[b, i] * x[b, j]).sum() for j in range(x.shape[1])])
            energies = torch.exp(products.max() - products - 50)  # 50: both sides of the fraction, neither overflows
            mean[b, i] = torch.stack([e * one for e, one in zip(energies, x[b], strict=True)]).sum(0) / energies.sum()
    return mean


def criss_cross(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax over the pixels of a pixel's row and column, each once (arXiv:1811.11721, section 3.2)."""
    mean = torch.empty_like(value)
    batch, _, height, width = query.shape
    for b, y, x in torch.cartesian_prod(*(torch.arange(size) for size in (batch, height, width))).tolist():
        cross = sorted({(y, column) for column in range(width)} | {(row, x) for row in range(height)})
        assert len(cross) == height + width - 1
        energies = [math.exp(float(query[b, :, y, x] @ key[b, :, row, column])) for row, column in cross]
        weighted = [energy * value[b, :, row, column] for energy, (row, column) in zip(energies, cross, strict=True)]
        mean[b, :, y, x] = torch.stack(weighted).sum(0) / sum(energies)
    return mean
