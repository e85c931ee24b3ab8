"""What a network saw in images, and what decoders take from that at the images' size."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from atrous.inference.maps import likeliest
from atrous.layers.resize import image_size, resize
from atrous.ops import upsample_argmax, with_edge
from atrous.types import Convention, Outputs, Size

POINTS = 2**16  # that are looked up in a map at a time


class Seen(NamedTuple):
    """What a network saw in images, and where the images lie in its maps. Whoever decodes them upsamples."""

    outputs: Outputs  # of one pass, at the network's own grid; of several, probabilities at the images' size
    frame: Size  # of the images as the network saw them, padded
    content: Size  # of the images within the frame, without padding
    size: Size  # of the images
    convention: Convention
    is_mean: bool  # `outputs.semantic` holds probabilities [B, C, H, W], the mean of several passes; not logits
    labels: Tensor | None = None  # [B, H, W], in place of `outputs`, if the likeliest classes are known already


@torch.inference_mode()
def labels_at_image(seen: Seen) -> Tensor:
    """The likeliest class of each pixel, [B, H, W]; a single pass never holds [B, C, H, W]."""
    if seen.labels is not None:
        return seen.labels
    if seen.is_mean:
        return likeliest(seen.outputs.semantic)
    labels = _upsampled(seen)[:, : seen.content[0], : seen.content[1]]
    if image_size(labels) == seen.size:
        return labels
    return F.interpolate(labels[:, None].float(), seen.size, mode="nearest-exact")[:, 0].to(labels.dtype)


def _upsampled(seen: Seen) -> Tensor:
    """The likeliest class of each pixel of the frame, [B, H', W'], from logits."""
    maps, (height, width) = seen.outputs.semantic, seen.frame
    if seen.convention == "legacy":
        return upsample_argmax(with_edge(maps), larger(seen.frame))[:, :height, :width]
    return upsample_argmax(maps, seen.frame, align_corners=seen.convention == "aligned_corners")


@torch.inference_mode()
def maps_at_content(seen: Seen) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The classes [B, H, W], heights [B, 1, H, W] and offsets [B, 2, H, W] of the content, in its own pixels."""
    height, width = seen.content
    classes = likeliest(seen.outputs.semantic) if seen.is_mean else _upsampled(seen)[:, :height, :width]
    center, offset = (
        None if x is None else resize(x.float(), seen.frame, seen.convention)[..., :height, :width]
        for x in (seen.outputs.center, seen.outputs.offset)
    )
    return classes, center, offset


@torch.inference_mode()
def probabilities_at(seen: Seen, index: int, places: Tensor, classes: Tensor) -> Tensor:
    """The probability of a class at each place [P, 2] (y, x) of one image's content, [P]; [C, H, W] is never held."""
    maps = seen.outputs.semantic[index]
    if seen.is_mean:
        return maps[classes, places[:, 0], places[:, 1]]
    is_aligned = seen.convention != "half_pixel"
    maps, frame = (with_edge(maps[None])[0], larger(seen.frame)) if seen.convention == "legacy" else (maps, seen.frame)
    sides = torch.tensor(frame, device=places.device)
    relative = places / (sides - 1).clamp_min(1) if is_aligned else (places + 0.5) / sides
    parts = [places.new_zeros(0, dtype=torch.float32)]
    for points, own in zip(torch.split(relative.float(), POINTS), torch.split(classes, POINTS), strict=True):
        grid = (2 * points - 1).flip(-1)[None, None]  # x, y from -1 to 1
        logits = F.grid_sample(maps[None].float(), grid, padding_mode="border", align_corners=is_aligned)[0, :, 0]
        parts.append(logits.softmax(0).gather(0, own[None])[0])
    return torch.cat(parts)


def larger(size: Size) -> Size:
    return size[0] + 1, size[1] + 1


def at_image(labels: Tensor, seen: Seen) -> Tensor:
    """A label map of the content [B, H, W] at the images' size: each pixel takes the nearest label."""
    if image_size(labels) == seen.size:
        return labels
    return F.interpolate(labels[:, None].double(), seen.size, mode="nearest-exact")[:, 0].to(labels.dtype)
