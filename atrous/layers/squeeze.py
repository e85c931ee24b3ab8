"""Squeeze-and-excitation (Hu et al. 2018, arXiv:1709.01507), with MobileNetV3's gate (arXiv:1905.02244, 5.3)."""

from torch import Tensor, nn
from torch.nn import functional as F

from atrous.layers.aspp import Squeeze, gate


class SqueezeExcite(nn.Module):
    """[B, K, h, w] with each channel scaled by a factor 0..1 that depends on the means of all channels."""

    def __init__(self, channels: int, squeezed: int, gate: Squeeze = "hard_sigmoid") -> None:
        super().__init__()
        self.gate = gate
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.restore = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        means = x.mean((2, 3), keepdim=True)
        return x * gate(self.restore(F.relu(self.reduce(means))), self.gate)
