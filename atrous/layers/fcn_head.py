"""The head of a fully convolutional network, as main head and as auxiliary head (arXiv:1612.01105, section 3.3)."""

from torch import nn

from atrous.layers.conv import TORCH_NORM, ConvNorm, classifier


class FCNHead(nn.Sequential):
    """[B, inp, h, w] -> logits [B, num_classes, h, w]: convolution to `mid` channels, dropout of whole maps, 1x1."""

    def __init__(
        self, inp: int, mid: int, num_classes: int, *, kernel: int = 3, logits_kernel: int = 1, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.conv: nn.Module = ConvNorm(inp, mid, kernel, norm=TORCH_NORM)
        self.dropout = nn.Dropout2d(dropout)
        self.classify = classifier(mid, num_classes, logits_kernel)
