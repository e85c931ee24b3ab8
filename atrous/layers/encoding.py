"""Soft assignment of features to learnt codewords, and sums of residuals (Zhang et al. 2018, arXiv:1803.08904)."""

import math

import torch
from torch import Tensor, nn


def encode(x: Tensor, codewords: Tensor, scales: Tensor) -> Tensor:
    """[B, D, N] features, [K, D] codewords, [K] scales -> [B, K, D]: for each codeword, the weighted sum of residuals.

    The weights of a feature are a softmax over codewords of the squared distances times the scales, which are negative.
    Squares are expanded, so that the residuals, [B, K, D, N], are never stored.
    """
    squares = x.square().sum(1, keepdim=True)  # [B, 1, N]
    distances = squares - 2 * (codewords @ x) + codewords.square().sum(1)[:, None]  # [B, K, N]
    weights = torch.softmax(scales[:, None] * distances, 1)
    return weights @ x.mT - weights.sum(2)[..., None] * codewords


class Encoding(nn.Module):
    """A map [B, D, h, w] -> sums of residuals [B, K, D], which grow with the map, in the parameters' precision."""

    def __init__(self, channels: int, num_codewords: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(num_codewords * channels)
        self.codewords = nn.Parameter(torch.empty(num_codewords, channels).uniform_(-bound, bound))
        self.scales = nn.Parameter(torch.empty(num_codewords).uniform_(-1, 0))

    def forward(self, x: Tensor) -> Tensor:
        device = "cpu" if x.is_meta else x.device.type  # meta has no autocast
        with torch.autocast(device, enabled=False):  # differences of expanded squares need full precision
            return encode(x.flatten(2).to(self.codewords.dtype), self.codewords, self.scales)
