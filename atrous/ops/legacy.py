"""TensorFlow 1's resizing without `align_corners`, source = target * in / out, in terms of aligned corners.

With a row and a column more on both sides, (in + 1 - 1) / (out + 1 - 1) is in / out: the map's last row and column,
repeated, give what is wanted, and one row and one column of the result too many.
"""

from torch import Tensor
from torch.nn import functional as F


def with_edge(maps: Tensor) -> Tensor:  # [B, K, h, w] -> [B, K, h + 1, w + 1]
    return F.pad(maps, (0, 1, 0, 1), mode="replicate")
