"""What the network sees of images: padded to its grid, or on a canvas."""

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PILImage
from torch import Tensor
from torch.nn import functional as F

from atrous.inference import InferenceConfig
from atrous.layers.resize import image_size
from atrous.types import Image, Network


def as_batch(image: Image, device: torch.device) -> Tensor:  # [1, 3, H, W]
    return torch.from_numpy(image).permute(2, 0, 1)[None].to(device)


class Frame(NamedTuple):
    """Images as they are shown to the network: padded at the bottom and right."""

    images: Tensor  # [B, 3, H', W']
    height: int  # of the image, without padding
    width: int


def frame_of(network: Network, images: Tensor, config: InferenceConfig) -> Frame:
    """What one pass over whole images shows to the network."""
    if config.mode == "canvas":
        return on_canvas(images, network, config.window)
    return Frame(pad_to_grid(images, network) if config.pad_to_grid else images, *image_size(images))


def on_canvas(images: Tensor, network: Network, canvas: tuple[int, int]) -> Frame:
    """Images at the top left of a canvas of the network's mean colour, shrunk if they are larger, never enlarged.

    This is how the originals feed networks of a fixed input size.
    """
    size = image_size(images)
    factor = min(1.0, *(room / side for room, side in zip(canvas, size, strict=True)))
    height, width = (max(1, round(side * factor)) for side in size)
    if (height, width) != size:
        images = _shrunk(images, height, width)
    return Frame(pad(images, network, canvas[0] - height, canvas[1] - width), height, width)


def _shrunk(images: Tensor, height: int, width: int) -> Tensor:
    """Resized by Pillow itself: PyTorch's antialiasing differs in the last bit, which a comparison of logits shows."""
    resized = [
        PILImage.fromarray(image).resize((width, height), PILImage.Resampling.BILINEAR) for image in as_bytes(images)
    ]
    return torch.from_numpy(np.stack([np.asarray(image) for image in resized])).permute(0, 3, 1, 2).to(images.device)


def as_bytes(images: Tensor) -> NDArray[np.uint8]:  # [B, 3, H, W] -> [B, H, W, 3]
    pixels: NDArray[np.uint8] = images.float().round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return pixels


def pad_to_grid(images: Tensor, network: Network) -> Tensor:
    """Pad at the bottom and right, with the network's mean colour, to sides of k * output stride + 1.

    With these sides the first and last cells of the output grid lie on the first and last pixels, as upsampling with
    aligned corners assumes: the originals asked their users for `crop_size = k * output_stride + 1`. Upsampling by half
    pixels stretches the grid over any size, so networks that use it (torchvision) see images as they are.
    """
    if network.facts.convention != "aligned_corners":
        return images
    stride = network.facts.output_stride
    bottom, right = (math.ceil((side - 1) / stride) * stride + 1 - side for side in image_size(images))
    return pad(images, network, bottom, right)


def at_its_size(images: Tensor, network: Network) -> Tensor:
    """Smaller images padded at the bottom and right, with the network's mean colour, if it takes one size only."""
    if network.facts.size is None:
        return images
    bottom, right = (max(0, only - side) for only, side in zip(network.facts.size, image_size(images), strict=True))
    return pad(images, network, bottom, right)


def pad(images: Tensor, network: Network, bottom: int, right: int, top: int = 0, left: int = 0) -> Tensor:
    if right == bottom == top == left == 0:
        return images
    mean = torch.tensor(network.facts.mean, device=images.device).view(1, 3, 1, 1)
    height, width = image_size(images)
    padded = F.pad(images, (left, right, top, bottom)).float()  # bytes take a quarter of the memory
    padded[..., top : top + height, left : left + width] -= mean
    return padded.add_(mean)
