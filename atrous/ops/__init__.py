"""Fast kernels, each beside the plain version that it is tested against."""

from atrous.ops.confusion import confusion_counts
from atrous.ops.permutohedral import Lattice, gaussian_filter_reference, permutohedral_filter, permutohedral_lattice
from atrous.ops.upsample import (
    upsample_argmax,
    upsample_argmax_reference,
    upsample_cross_entropy,
    upsample_cross_entropy_reference,
)

__all__ = [
    "Lattice",
    "confusion_counts",
    "gaussian_filter_reference",
    "permutohedral_filter",
    "permutohedral_lattice",
    "upsample_argmax",
    "upsample_argmax_reference",
    "upsample_cross_entropy",
    "upsample_cross_entropy_reference",
]
