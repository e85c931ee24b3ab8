"""What a network returns as one tensor [B, K, h, w]: C logits or probabilities; if panoptic, a height, two offsets."""

from collections.abc import Iterator

import torch
from torch import Tensor

from atrous.errors import ConfigError, ModelFileError
from atrous.layers.resize import resize
from atrous.types import Network, Outputs, Size

WINDOW_PIXELS = 2**21  # of all windows in one pass, about 8 of 513 x 513: more take memory and save hardly any time


def finite(outputs: Outputs) -> Outputs:
    """Raises ModelFileError where the likeliest class is NaN or infinite, which an arg-max would take for some class.

    So it does where a height or an offset is.
    """
    maps = [scores for scores in (outputs.semantic, outputs.classes) if scores is not None and scores.numel()]
    things = [values for values in (outputs.center, outputs.offset) if values is not None]
    if not all(values.isfinite().all() for values in (*(scores.amax(1) for scores in maps), *things)):
        raise ModelFileError(
            "the network's output is NaN or infinite: its weights are damaged, or too large for this precision"
        )
    return outputs


def likeliest(probabilities: Tensor) -> Tensor:
    """The arg-max of [B, C, H, W] in the smallest type, as `upsample_argmax` has it; a few rows at a time."""
    batch, num_classes, height, width = probabilities.shape
    kind = torch.uint8 if num_classes <= 256 else torch.int32
    labels = torch.empty(batch, height, width, dtype=kind, device=probabilities.device)
    step = max(1, WINDOW_PIXELS // (batch * width))
    for top in range(0, height, step):
        labels[:, top : top + step] = probabilities[:, :, top : top + step].argmax(1)
    return labels


def things_in(maps: Tensor) -> Outputs:
    """The heights and offsets in maps [B, 3, H, W] without classes; [B, 0, H, W]: neither."""
    return Outputs(center=maps[:, :1], offset=maps[:, 1:]) if maps.shape[1] else Outputs()


def mean_of(parts: Iterator[Tensor]) -> Tensor:
    """The mean of tensors of one shape; no more than two of them are held."""
    total, count = next(parts), 1
    for part in parts:
        total += part
        count += 1
    return total.div_(count)


def maps_of(network: Network, images: Tensor, scale: float = 1.0) -> Tensor:
    outputs = finite(network(images, scale))
    if outputs.semantic.ndim != 4:
        raise ConfigError(
            f"evaluate: a {network.facts.task} network has no class map, so mode=sliding, scales, flip, crf and "
            "probabilities per pixel do not apply to it"
        )
    if outputs.center is None or outputs.offset is None:
        return outputs.semantic.float()
    return torch.cat([outputs.semantic, outputs.center, outputs.offset], 1).float()


def with_probabilities(maps: Tensor, num_classes: int) -> Tensor:
    """Its logits as probabilities."""
    if maps.shape[1] == num_classes:
        return maps.softmax(1)
    return torch.cat([maps[:, :num_classes].softmax(1), maps[:, num_classes:]], 1)


def flipped_back(maps: Tensor, num_classes: int) -> Tensor:
    """The maps of a flipped image, of the image itself: offsets to the right become offsets to the left."""
    maps = maps.flip(-1)
    if maps.shape[1] > num_classes:
        maps[:, -1] *= -1
    return maps


def offsets_rescaled(maps: Tensor, num_classes: int, old: Size, new: Size) -> Tensor:
    """Offsets in pixels of an image of the size `old` in those of the size `new`."""
    if maps.shape[1] == num_classes or old == new:
        return maps
    factors = [(large - 1) / max(small - 1, 1) for large, small in zip(new, old, strict=True)]
    maps[:, -2:] *= torch.tensor(factors, device=maps.device).view(2, 1, 1)
    return maps


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    return resize(images, size, "half_pixel")
