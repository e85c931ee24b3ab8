"""The pairs of a true and a predicted segment that share pixels: what the measures of panoptic maps count.

A panoptic map holds class * divisor + number. Void is every pixel whose class is ignored or not a class. Pixels of the
truth with number 0 in a class of things are a crowd: several things that nobody told apart.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from atrous.ops import Overlaps, boundary, overlaps, sums


class Extent(NamedTuple):
    """Of each pair, pixels [N]: of whole segments, or of those near their edges."""

    shared: Tensor
    truth: Tensor  # of the true segment
    prediction: Tensor  # of the predicted one
    void: Tensor  # of the predicted one that lie in void

    def iou(self, *, without_void: bool) -> Tensor:
        """[N] float64; `without_void`, what is predicted in void isn't in the union."""
        union = self.truth + self.prediction - self.shared - (self.void if without_void else 0)
        return self.shared.double() / union.clamp_min(1)


class Pairs(NamedTuple):
    """N pairs of segments of C classes, by ascending number of the true segment, then of the predicted one."""

    things: Tensor  # [C] bool
    true_class: Tensor  # [N], the number of classes for void
    predicted_class: Tensor  # [N], likewise
    true_segment: Tensor  # [N] counted from 0, as are the predicted ones
    predicted_segment: Tensor  # [N]
    predicted_id: Tensor  # [N] the number in the predicted map
    is_void: Tensor  # [N] bool, of the truth
    is_crowd: Tensor  # [N] bool
    whole: Extent
    edge: Extent | None  # of boundaries, where these are asked for

    @property
    def num_classes(self) -> int:
        return len(self.things)

    def iou(self, *, without_void: bool = True) -> Tensor:
        """[N] float64, of the boundaries where it is less there (arXiv:2103.16562, section 4)."""
        whole = self.whole.iou(without_void=without_void)
        return whole if self.edge is None else torch.minimum(whole, self.edge.iou(without_void=without_void))


def segment_pairs(
    prediction: Tensor,  # [H, W]
    truth: Tensor,  # [H, W]
    things: Tensor,  # [C] bool
    *,
    divisor: int,
    ignore: int,
    crowd_is_void: bool = False,
    boundary_width: int | None = None,
) -> Pairs:
    """Raises ValueError if the maps differ in size."""
    fine = _fine_overlaps(prediction, truth, boundary_width)
    ids, place = torch.unique(torch.stack([fine.truth // 2, fine.prediction // 2]), dim=1, return_inverse=True)
    num_classes = len(things)
    true_class, predicted_class = (_classes(side, divisor, num_classes, ignore) for side in ids)
    has_things = torch.cat([things, things.new_zeros(1)]).to(ids.device)  # void has none
    is_crowd = has_things[true_class] & (ids[0] % divisor == 0)
    if crowd_is_void:
        true_class, is_crowd = torch.where(is_crowd, num_classes, true_class), torch.zeros_like(is_crowd)
    is_void = true_class == num_classes
    true_segment, predicted_segment = (torch.unique(side, return_inverse=True)[1] for side in ids)

    def extent(of_truth: Tensor, of_prediction: Tensor) -> Extent:
        """Of the pixels that count on each side, by fine pair."""
        counted = (of_truth & of_prediction, of_truth, of_prediction)
        shared, true, predicted = (sums(place, fine.pixels * flags, ids.shape[1]) for flags in counted)
        of_pairs = ((true_segment, true), (predicted_segment, predicted), (predicted_segment, predicted * is_void))
        return Extent(shared, *(sums(segment, pixels, len(shared))[segment] for segment, pixels in of_pairs))

    everywhere = torch.ones_like(fine.truth, dtype=torch.bool)
    whole = extent(everywhere, everywhere)
    edge = None if boundary_width is None else extent(fine.truth % 2 == 1, fine.prediction % 2 == 1)
    return Pairs(
        things,
        true_class,
        predicted_class,
        true_segment,
        predicted_segment,
        predicted_id=ids[1],
        is_void=is_void,
        is_crowd=is_crowd,
        whole=whole,
        edge=edge,
    )


def _fine_overlaps(prediction: Tensor, truth: Tensor, boundary_width: int | None) -> Overlaps:
    """Of numbers that are doubled, and odd near the edges of their segments."""
    if boundary_width is None:
        coarse = overlaps(prediction, truth)
        return Overlaps(2 * coarse.truth, 2 * coarse.prediction, coarse.pixels)
    return overlaps(*(2 * ids.long() + boundary(ids, boundary_width) for ids in (prediction, truth)))


def _classes(ids: Tensor, divisor: int, num_classes: int, ignore: int) -> Tensor:
    """The class of each number; `num_classes` for void."""
    classes = ids // divisor
    return torch.where((classes >= num_classes) | (classes == ignore), num_classes, classes).long()
