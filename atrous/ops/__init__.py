"""Fast kernels, each next to the plain reference that it is tested against."""

from atrous.ops.boundary import boundary, boundary_reference, boundary_width
from atrous.ops.confusion import confusion_counts
from atrous.ops.exported import at_least_0, grid_means, is_exported, window_means
from atrous.ops.grouping import nearest_center, nearest_center_reference
from atrous.ops.legacy import with_edge
from atrous.ops.nearest import resize_nearest
from atrous.ops.overlaps import Overlaps, overlaps, overlaps_reference, sums
from atrous.ops.permutohedral import Lattice, gaussian_filter_reference, permutohedral_filter, permutohedral_lattice
from atrous.ops.point_wise_attention import (
    Direction,
    point_wise_attention,
    point_wise_attention_loop,
    point_wise_attention_reference,
)
from atrous.ops.tiles import upsample_part
from atrous.ops.upsample import (
    upsample_argmax,
    upsample_argmax_reference,
    upsample_cross_entropy,
    upsample_cross_entropy_reference,
)
from atrous.ops.upsample_dice import upsample_dice, upsample_dice_reference
from atrous.ops.upsample_lovasz import upsample_lovasz, upsample_lovasz_reference

__all__ = [
    "Direction",
    "Lattice",
    "Overlaps",
    "at_least_0",
    "boundary",
    "boundary_reference",
    "boundary_width",
    "confusion_counts",
    "gaussian_filter_reference",
    "grid_means",
    "is_exported",
    "nearest_center",
    "nearest_center_reference",
    "overlaps",
    "overlaps_reference",
    "permutohedral_filter",
    "permutohedral_lattice",
    "point_wise_attention",
    "point_wise_attention_loop",
    "point_wise_attention_reference",
    "resize_nearest",
    "sums",
    "upsample_argmax",
    "upsample_argmax_reference",
    "upsample_cross_entropy",
    "upsample_cross_entropy_reference",
    "upsample_dice",
    "upsample_dice_reference",
    "upsample_lovasz",
    "upsample_lovasz_reference",
    "upsample_part",
    "window_means",
    "with_edge",
]
