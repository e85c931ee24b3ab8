"""Residuals summed one pixel and one codeword at a time (arXiv:1803.08904)."""

import torch
from torch import Tensor


def encode(x: Tensor, codewords: Tensor, scales: Tensor) -> Tensor:
    sums = torch.zeros(len(x), *codewords.shape, dtype=x.dtype)
    for image, features in enumerate(x):  # [D, N]
        for feature in features.T:
            residuals = [feature - codeword for codeword in codewords]
            closeness = [scale * (r * r).sum() for r, scale in zip(residuals, scales, strict=True)]
            whole = sum(value.exp() for value in closeness)
            for k, residual in enumerate(residuals):
                sums[image, k] += closeness[k].exp() / whole * residual
    return sums
