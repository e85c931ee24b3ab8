"""InPlaceABN (Rota Bulo et al. 2017, arXiv:1712.02616) in plain PyTorch: its values, without its saving of memory."""

from atrous.layers.conv import TORCH_NORM, ConvNorm


def conv_abn(inp: int, out: int, kernel: int = 1, *, rate: int = 1) -> ConvNorm:
    """A convolution, batch norm, leaky ReLU of slope 0.01, as the programs of CCNet and OCNet have them in their heads.

    Where an InPlaceABN has learnt the scale g, the batch norm has |g| + eps.
    """
    return ConvNorm(inp, out, kernel, norm=TORCH_NORM, rate=rate, act="leaky_relu")
