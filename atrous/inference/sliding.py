"""Images seen in overlapping windows, a few rows at a time."""

import math
from collections.abc import Callable, Iterator
from itertools import chain, islice, product
from typing import NamedTuple

import torch
from torch import Tensor

from atrous.inference import InferenceConfig
from atrous.inference.frames import at_its_size, pad, pad_to_grid
from atrous.inference.maps import WINDOW_PIXELS, likeliest, maps_of, mean_of, offsets_rescaled, resized, things_in
from atrous.inference.seen import Seen, larger
from atrous.inference.windows import Patch, View, Window, blended, grid_of, window_starts
from atrous.layers.resize import image_size
from atrous.ops import with_edge
from atrous.types import Network, Outputs, Size


def sliding_views(network: Network, images: Tensor, config: InferenceConfig) -> Tensor:
    """Mean maps [B, K, H, W] over scales, each computed in windows."""
    slide = _sliding if config.base_size is None else _sliding_around
    size, num_classes = image_size(images), network.facts.num_classes
    views = (_scaled(images, scaled_size(size, scale, config.base_size)) for scale in config.scales)
    return mean_of(
        offsets_rescaled(resized(slide(network, view, config), size), num_classes, image_size(view), size)
        for view in views
    )


def _scaled(images: Tensor, size: Size) -> Tensor:
    """Images of this size stay as they are, bytes if they were."""
    return images if image_size(images) == size else resized(images.float(), size)


def scaled_size(size: tuple[int, int], scale: float, base_size: int | None) -> tuple[int, int]:
    """Height and width at `scale`. `base_size` is the length of the longer side at scale 1, as in semseg."""
    factor = scale if base_size is None else max(1, round(scale * base_size)) / max(size)
    height, width = (max(1, round(factor * side)) for side in size)
    return height, width


def _sliding_around(network: Network, images: Tensor, config: InferenceConfig) -> Tensor:
    """`_sliding` over images that are first padded on all sides to at least a window's size.

    An odd pixel goes to the bottom or right. Thus the network sees only images of its training crop's size, as PSANet
    requires.
    """
    height, width = image_size(images)
    rows, columns = (max(0, window - side) for window, side in zip(config.window, (height, width), strict=True))
    top, left = rows // 2, columns // 2
    padded = pad(images, network, rows - top, columns - left, top, left)
    return _sliding(network, padded, config)[..., top : top + height, left : left + width]


class Source(NamedTuple):
    """Images of one size whose rows are asked for from the top: in memory, or in a file that is larger than it."""

    number: int
    size: Size
    read: Callable[[slice], Tensor]  # [number, 3, rows, W]; no row above those that were asked for last


def in_memory(images: Tensor) -> Source:
    return Source(len(images), image_size(images), lambda rows: images[..., rows, :])


def _sliding(network: Network, images: Tensor, config: InferenceConfig) -> Tensor:
    """Maps [B, K, H, W], averaged where windows overlap, and over each window and its flipped copy."""
    return _joined(patches_of(network, in_memory(images), config), image_size(images))


def _joined(patches: Iterator[Patch], size: Size) -> Tensor:
    total: Tensor | None = None
    for rows, columns, maps in patches:
        total = maps.new_empty(*maps.shape[:2], *size) if total is None else total
        total[:, :, rows, columns] = maps
    assert total is not None, "there is at least one window"
    return total


def one_slide(network: Network, images: Tensor, config: InferenceConfig) -> Seen:
    """The likeliest class of each pixel, [B, H, W]; only a patch of probabilities is held at a time.

    Of a panoptic network, the means of all maps.
    """
    size, num_classes, convention = image_size(images), network.facts.num_classes, network.facts.convention
    patches = patches_of(network, in_memory(images), config)
    first = next(patches)
    patches = chain([first], patches)
    if first.maps.shape[1] > num_classes:
        maps = _joined(patches, size)
        means = things_in(maps[:, num_classes:])._replace(semantic=maps[:, :num_classes])
        return Seen(means, size, size, size, convention, is_mean=True)
    labels = torch.cat([labels for _, labels in _label_rows(patches, size[1])], 1)
    return Seen(Outputs(), size, size, size, convention, is_mean=False, labels=labels)


@torch.inference_mode()
def label_rows(network: Network, source: Source, config: InferenceConfig) -> Iterator[tuple[slice, Tensor]]:
    """Rows with the likeliest classes of their pixels, [B, rows, W], from the top, as soon as windows cover them.

    Their pixels may still be read while they are out. Memory is needed for the pixels of two rows of windows, and for
    what the network returned for one, at its own grid.
    """
    yield from _label_rows(patches_of(network, source, config), source.size[1])


def _label_rows(patches: Iterator[Patch], width: int) -> Iterator[tuple[slice, Tensor]]:
    parts: list[Tensor] = []
    for rows, columns, maps in patches:
        parts.append(likeliest(maps))
        if columns.stop == width:
            yield rows, torch.cat(parts, 2)
            parts.clear()


def patches_of(network: Network, source: Source, config: InferenceConfig) -> Iterator[Patch]:
    """The images in patches, from the top and from the left, each as soon as all windows over it are seen.

    What the network returned is kept at its own, coarse grid; of probabilities there never is more than a patch.
    """
    windows: list[Window] = []
    top = 0
    for views in _passes(source, network, config):
        first = views[0].rows.start
        if first > top:
            yield from blended(windows, slice(top, first), source.size, network, config)
            windows = [window for window in windows if window.view.rows.stop > first]
            top = first
        windows += _in_one_pass(network, views, source, config)
    yield from blended(windows, slice(top, source.size[0]), source.size, network, config)


def _passes(source: Source, network: Network, config: InferenceConfig) -> Iterator[list[View]]:
    """All windows, and their flipped copies if the protocol has them, in passes of at most WINDOW_PIXELS."""
    grid = grid_of(network, config)
    rows, columns = (
        [slice(start, start + min(window, side)) for start in window_starts(side, window, config.overlap, grid)]
        for side, window in zip(source.size, config.window, strict=True)
    )
    views = (View(*parts) for parts in product(rows, columns, (False, True) if config.flip else (False,)))
    pixels = source.number * math.prod(min(pair) for pair in zip(source.size, config.window, strict=True))
    at_once = max(1, WINDOW_PIXELS // pixels)
    while batch := list(islice(views, at_once)):
        yield batch


def _in_one_pass(network: Network, views: list[View], source: Source, config: InferenceConfig) -> list[Window]:
    """What the network sees in windows, all of one size."""
    top, bottom = views[0].rows.start, max(view.rows.stop for view in views)
    images = source.read(slice(top, min(bottom, source.size[0])))
    windows = torch.cat([_shown(images, view, top, network) for view in views])
    padded = at_its_size(pad_to_grid(windows, network) if config.pad_to_grid else windows, network)
    maps, frame = maps_of(network, padded), image_size(padded)
    if network.facts.convention == "legacy":
        maps, frame = with_edge(maps), larger(frame)
    return [Window(view, own, frame) for view, own in zip(views, torch.split(maps, source.number), strict=True)]


def _shown(images: Tensor, view: View, top: int, network: Network) -> Tensor:
    """The view of images whose rows begin at `top`."""
    window = images[..., view.rows.start - top : view.rows.stop - top, view.columns]
    height, width = image_size(window)
    bottom, right = view.rows.stop - view.rows.start - height, view.columns.stop - view.columns.start - width
    window = pad(window, network, bottom, right)
    return window.flip(-1) if view.is_flipped else window
