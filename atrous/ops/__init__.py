"""Fast kernels, each beside the plain version that it is tested against."""

from atrous.ops.confusion import confusion_counts
from atrous.ops.upsample import (
    upsample_argmax,
    upsample_argmax_reference,
    upsample_cross_entropy,
    upsample_cross_entropy_reference,
)

__all__ = [
    "confusion_counts",
    "upsample_argmax",
    "upsample_argmax_reference",
    "upsample_cross_entropy",
    "upsample_cross_entropy_reference",
]
