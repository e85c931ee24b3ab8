"""Windows over images: where they lie, and how much each counts where they overlap."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from atrous.inference import InferenceConfig
from atrous.inference.maps import flipped_back, with_probabilities
from atrous.ops import upsample_part
from atrous.types import Network, Size


class View(NamedTuple):
    """The part of the images that the network sees; it may reach beyond their bottom and right."""

    rows: slice
    columns: slice
    is_flipped: bool


class Window(NamedTuple):
    """What the network saw in a view."""

    view: View
    maps: Tensor  # [B, K, h, w] logits, heights, offsets at the network's own grid
    frame: Size  # of the view, padded


class Patch(NamedTuple):
    """A part of the images with its maps, the means over all windows that lie over it."""

    rows: slice
    columns: slice
    maps: Tensor  # [B, K, rows, columns]


def blended(
    windows: list[Window], rows: slice, size: Size, network: Network, config: InferenceConfig
) -> Iterator[Patch]:
    """Rows of the images, in patches as wide as a window."""
    weigh, grid = _WEIGHTS[config.blend], grid_of(network, config)
    overlaps = [window - window_step(window, config.overlap, grid) for window in config.window]
    for left in range(0, size[1], config.window[1]):
        columns = slice(left, min(left + config.window[1], size[1]))
        num_maps = windows[0].maps.shape[:2]
        total = windows[0].maps.new_zeros(*num_maps, rows.stop - rows.start, columns.stop - columns.start)
        count = total.new_zeros(total.shape[-2:])
        for window in windows:
            own = View(_common(rows, window.view.rows), _common(columns, window.view.columns), window.view.is_flipped)
            if own.rows.start < own.rows.stop and own.columns.start < own.columns.stop:
                place = ..., _moved(own.rows, -rows.start), _moved(own.columns, -columns.start)
                weights = weigh(window.view, own, size, overlaps).to(total.device)
                total[place].addcmul_(_maps_in(window, own, network), weights)
                count[place] += weights
        yield Patch(rows, columns, total.div_(count))


def _common(one: slice, other: slice) -> slice:
    return slice(max(one.start, other.start), min(one.stop, other.stop))


def _moved(part: slice, distance: int) -> slice:
    return slice(part.start + distance, part.stop + distance)


def _maps_in(window: Window, part: View, network: Network) -> Tensor:
    """The maps of a window, with probabilities, where `part` lies in the images: [B, K, rows, columns]."""
    num_classes, is_aligned = network.facts.num_classes, network.facts.convention != "half_pixel"
    rows, columns = _moved(part.rows, -window.view.rows.start), _moved(part.columns, -window.view.columns.start)
    if part.is_flipped:
        end = window.view.columns.stop - window.view.columns.start
        columns = slice(end - columns.stop, end - columns.start)
    maps = upsample_part(window.maps, window.frame, rows, columns, align_corners=is_aligned)
    maps = flipped_back(maps, num_classes) if part.is_flipped else maps
    return with_probabilities(maps, num_classes)


# ---- how much a window counts, [rows, columns], at each pixel of a part of it


def _same_weights(view: View, part: View, size: Size, overlaps: list[int]) -> Tensor:
    return torch.ones(())


def _smooth_weights(view: View, part: View, size: Size, overlaps: list[int]) -> Tensor:
    """1 in the middle; 0 in the outer quarter of an overlap, where the network sees least of what is around."""
    rows = ramp(view.rows, part.rows, size[0], overlaps[0])
    return rows[:, None] * ramp(view.columns, part.columns, size[1], overlaps[1])


_WEIGHTS = {"equal": _same_weights, "smooth": _smooth_weights}


def ramp(window: slice, part: slice, side: int, overlap: int) -> Tensor:
    """Weights along one side, a raised cosine: they add up to 1 with the next window's. The image's edges are none."""
    place = torch.arange(part.start - window.start, part.stop - window.start) + 0.5
    length = window.stop - window.start
    width = min(overlap, length // 2)
    from_start = place if window.start > 0 else torch.full_like(place, math.inf)
    from_end = length - place if window.stop < side else torch.full_like(place, math.inf)
    distance = torch.minimum(from_start, from_end)
    weights: Tensor = ((distance / max(width, 1) * 2 - 0.5).clamp(0, 1) * (math.pi / 2)).sin().square()
    return weights


def grid_of(network: Network, config: InferenceConfig) -> int:
    """Pixels between the places where windows may start: those of cells, in a blend without seams."""
    return network.facts.output_stride if config.blend == "smooth" else 1


def window_step(window: int, overlap: float, grid: int = 1) -> int:
    step = max(1, math.ceil(window * (1 - overlap) - 1e-6))  # 465 * (1 - 1 / 3) is 310.00000000000006
    return step // grid * grid or step


def window_starts(length: int, window: int, overlap: float, grid: int = 1) -> list[int]:
    """Where windows start along a side. The last one ends with it; a window longer than the side starts at 0.

    With a `grid`, all start at multiples of it, as cells of the network do that sees the whole side; the last one may
    then reach beyond the side.
    """
    step, last = window_step(window, overlap, grid), -(-max(0, length - window) // grid) * grid
    count = max(0, math.ceil((length - window) / step)) + 1
    return [min(index * step, last) for index in range(count)]
