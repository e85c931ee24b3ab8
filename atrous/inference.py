"""From images of any size to labels and probabilities at that size: whole or in windows, at many scales, mirrored."""

import math
from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from atrous.models.contract import Model
from atrous.ops import upsample_argmax
from atrous.types import Image, Settings


class InferenceConfig(Settings):
    """The protocol of a prediction; it is stored beside every number that was got by it."""

    mode: Literal["whole", "sliding"] = "whole"
    window: tuple[PositiveInt, PositiveInt] = (513, 513)  # sliding: height, width
    overlap: float = Field(1 / 3, ge=0, lt=1)  # sliding: share of a window that the next one covers again
    scales: tuple[PositiveFloat, ...] = Field((1.0,), min_length=1)
    flip: bool = False  # also the mirrored image
    output_stride: Literal[8, 16, 32] | None = None  # None: as trained

    @property
    def is_single(self) -> bool:
        """One pass of the network an image: no probabilities need be averaged."""
        return self.mode == "whole" and self.scales == (1.0,) and not self.flip

    def describe(self) -> dict[str, str]:
        how = (
            "whole image"
            if self.mode == "whole"
            else f"windows of {self.window[0]} x {self.window[1]}, {self.overlap:.0%} overlap"
        )
        return {
            "image": how,
            "scales": ", ".join(f"{scale:g}" for scale in self.scales),
            "mirrored too": "yes" if self.flip else "no",
        }


def as_batch(image: Image, device: torch.device) -> Tensor:  # [1, 3, H, W]
    return torch.from_numpy(image).permute(2, 0, 1)[None].to(device)


@torch.inference_mode()
def predict_labels(model: Model, images: Tensor, config: InferenceConfig) -> Tensor:
    """The likeliest class of each pixel, [B, 3, H, W] -> [B, H, W]; [B, C, H, W] is not held where one pass will do."""
    if not config.is_single:
        return predict_probabilities(model, images, config).argmax(1)
    height, width = images.shape[-2:]
    padded = pad_to_grid(images, model)
    logits = model(padded).semantic
    labels = upsample_argmax(logits, (padded.shape[-2], padded.shape[-1]), align_corners=model.align_corners)
    return labels[:, :height, :width]


@torch.inference_mode()
def predict_probabilities(model: Model, images: Tensor, config: InferenceConfig) -> Tensor:
    """Class probabilities [B, C, H, W], the mean of those at each scale, mirrored and not."""
    size = (images.shape[-2], images.shape[-1])
    total = torch.zeros(images.shape[0], model.num_classes, *size, device=images.device)
    for view, is_mirrored in _views(images, config):
        probabilities = _sliding(model, view, config) if config.mode == "sliding" else _whole(model, view)
        probabilities = probabilities.flip(-1) if is_mirrored else probabilities
        total += _resize(probabilities, size)
    return total / (len(config.scales) * (2 if config.flip else 1))


def pad_to_grid(images: Tensor, model: Model) -> Tensor:
    """Pad at the bottom and right, with the model's mean colour, to sides of k * output stride + 1.

    On such sides the first and last cells of the output grid lie on the first and last pixels, which is what upsampling
    with aligned corners takes for granted: the originals asked their users for `crop_size = k * output_stride + 1`.
    """
    height, width = images.shape[-2:]
    stride = model.config.output_stride
    right, bottom = _padding(width, stride), _padding(height, stride)
    if right == bottom == 0:
        return images
    mean = torch.tensor(model.mean, device=images.device).view(1, 3, 1, 1)
    return F.pad(images.float() - mean, (0, right, 0, bottom)) + mean


def _padding(side: int, stride: int) -> int:
    return math.ceil((side - 1) / stride) * stride + 1 - side


def _views(images: Tensor, config: InferenceConfig) -> Iterator[tuple[Tensor, bool]]:
    """The images at each scale, and mirrored after each where that is asked for."""
    for scale in config.scales:
        size = (max(1, round(images.shape[-2] * scale)), max(1, round(images.shape[-1] * scale)))
        view = _resize(images.float(), size)
        yield view, False
        if config.flip:
            yield view.flip(-1), True


def _resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    if (images.shape[-2], images.shape[-1]) == size:
        return images
    return F.interpolate(images, size, mode="bilinear", align_corners=False)


def _whole(model: Model, images: Tensor) -> Tensor:
    """Probabilities [B, C, H, W] of one pass over the whole of the images."""
    height, width = images.shape[-2:]
    padded = pad_to_grid(images, model)
    logits = model(padded).semantic.float()
    logits = F.interpolate(logits, padded.shape[-2:], mode="bilinear", align_corners=model.align_corners)
    return logits[..., :height, :width].softmax(1)


def _sliding(model: Model, images: Tensor, config: InferenceConfig) -> Tensor:
    """Probabilities [B, C, H, W], averaged where windows overlap."""
    height, width = images.shape[-2:]
    total = torch.zeros(images.shape[0], model.num_classes, height, width, device=images.device)
    count = torch.zeros(height, width, device=images.device)
    for y in window_starts(height, config.window[0], config.overlap):
        for x in window_starts(width, config.window[1], config.overlap):
            part = (..., slice(y, y + config.window[0]), slice(x, x + config.window[1]))
            total[part] += _whole(model, images[part])
            count[part] += 1
    return total / count


def window_starts(length: int, window: int, overlap: float) -> list[int]:
    """Where windows begin along a side: the last ends with it, and one that is longer than the side starts at 0."""
    step = max(1, math.ceil(window * (1 - overlap)))
    count = max(0, math.ceil((length - window) / step)) + 1
    return [max(0, min(index * step, length - window)) for index in range(count)]
