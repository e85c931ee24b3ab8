"""Whole images at several scales, flipped: the mean of several passes."""

from itertools import product

from torch import Tensor

from atrous.inference import InferenceConfig
from atrous.inference.maps import flipped_back, maps_of, mean_of, offsets_rescaled, with_probabilities
from atrous.layers.resize import image_size, resize, scale_dimension
from atrous.types import Network, Size


def averaged(network: Network, images: Tensor, config: InferenceConfig) -> Tensor:
    """Mean maps [B, K, H, W] over scales and flips, each from one pass over whole images."""
    views = product(config.scales, (False, True) if config.flip else (False,))
    return mean_of(_view(network, images, scale, is_flipped=is_flipped) for scale, is_flipped in views)


def _view(network: Network, images: Tensor, scale: float, *, is_flipped: bool) -> Tensor:
    """Maps [B, K, H, W] of one pass, with the resizing steps in TensorFlow DeepLab's order.

    Logits of a scale below 1 are resized to the grid of scale 1 first, and then to the image's size.
    """
    size, convention, num_classes = image_size(images), network.facts.convention, network.facts.num_classes
    finest = max(1.0, scale) / network.facts.logits_stride
    grid = [scale_dimension(side, finest) for side in size]
    view = images if scale == 1 else resize(images.float(), _view_size(size, scale, network))
    maps = maps_of(network, view.flip(-1) if is_flipped else view, scale)
    maps = resize(flipped_back(maps, num_classes) if is_flipped else maps, grid, convention)
    return with_probabilities(
        offsets_rescaled(resize(maps, size, convention), num_classes, image_size(view), size), num_classes
    )


def _view_size(size: Size, scale: float, network: Network) -> Size:
    """The size of images at a scale; for a network that takes only sizes on its grid, the nearest of these."""
    height, width = (scale_dimension(side, scale) for side in size)
    if not network.facts.on_grid:
        return height, width
    stride = network.facts.output_stride
    rows, columns = (max(1, round((side - 1) / stride)) * stride + 1 for side in (height, width))
    return rows, columns
