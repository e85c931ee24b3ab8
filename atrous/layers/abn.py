"""InPlaceABN (Rota Bulo et al. 2017, arXiv:1712.02616) in plain PyTorch: the same values, without saving memory."""

from atrous.layers.conv import TORCH_NORM, ConvNorm


def conv_abn(inp: int, out: int, kernel: int = 1, *, rate: int = 1) -> ConvNorm:
    """A convolution, batch norm and leaky ReLU of slope 0.01, as in the heads of CCNet's and OCNet's programs.

    An InPlaceABN that has learnt the scale g is a batch norm with |g| + eps.
    """
    return ConvNorm(inp, out, kernel, norm=TORCH_NORM, rate=rate, act="leaky_relu")
