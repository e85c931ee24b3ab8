"""From images of any size to labels and probabilities at that size: whole or in windows, at many scales, mirrored."""

import math
from collections.abc import Iterator
from itertools import product
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PILImage
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from atrous.layers.resize import resize, scale_dimension
from atrous.models.contract import Model, image_size
from atrous.ops import upsample_argmax
from atrous.postprocess.crf import CRF, CRFS, CRFName, refine
from atrous.settings import Settings
from atrous.types import Image

WINDOW_PIXELS = 2**21  # of all windows in one pass, some 8 of 513 x 513: more take memory, and hardly save time


class InferenceConfig(Settings):
    """The protocol of a prediction; it is stored beside every number that was got by it."""

    mode: Literal["whole", "sliding", "canvas"] = "whole"
    window: tuple[PositiveInt, PositiveInt] = (513, 513)  # sliding, canvas: height, width
    overlap: float = Field(1 / 3, ge=0, lt=1)  # sliding: share of a window that the next one covers again
    base_size: PositiveInt | None = None  # sliding: the longer side at scale 1; None: the image's own (semseg)
    scales: tuple[PositiveFloat, ...] = Field((1.0,), min_length=1)
    flip: bool = False  # also the mirrored image
    output_stride: Literal[8, 16, 32] | None = None  # None: as trained
    crf: CRFName | None = None  # a row of postprocess.crf.CRFS: its fully connected CRF comes last

    @property
    def is_single(self) -> bool:
        """One pass of the network an image: no probabilities need be averaged."""
        return self.mode != "sliding" and self.scales == (1.0,) and not self.flip and self.crf is None

    @property
    def _resized(self) -> str:
        return f"longer side {self.base_size}, " if self.base_size else ""

    def describe(self) -> dict[str, str]:
        height, width = self.window
        how = {
            "whole": "whole image",
            "sliding": f"{self._resized}windows of {height} x {width}, {self.overlap:.0%} overlap",
            "canvas": f"shrunk, where it is larger, onto a canvas of {height} x {width}",
        }
        crf = {"CRF": self.crf} if self.crf else {}
        return {
            "image": how[self.mode],
            "scales": ", ".join(f"{scale:g}" for scale in self.scales),
            "mirrored too": "yes" if self.flip else "no",
            **crf,
        }


def as_batch(image: Image, device: torch.device) -> Tensor:  # [1, 3, H, W]
    return torch.from_numpy(image).permute(2, 0, 1)[None].to(device)


@torch.inference_mode()
def predict_labels(model: Model, images: Tensor, config: InferenceConfig) -> Tensor:
    """The likeliest class of each pixel, [B, 3, H, W] -> [B, H, W]; [B, C, H, W] is not held where one pass will do."""
    if not config.is_single:
        return predict_probabilities(model, images, config).argmax(1)
    framed = _framed(model, images, config)
    logits = model(framed.images).semantic
    labels = upsample_argmax(logits, image_size(framed.images), align_corners=model.align_corners)
    labels = labels[:, : framed.height, : framed.width]
    if image_size(labels) == image_size(images):
        return labels
    return F.interpolate(labels[:, None].float(), image_size(images), mode="nearest-exact")[:, 0].to(labels.dtype)


@torch.inference_mode()
def predict_probabilities(model: Model, images: Tensor, config: InferenceConfig) -> Tensor:
    """Class probabilities [B, C, H, W], the mean of those at each scale, mirrored and not."""
    if config.mode == "sliding":
        probabilities = _sliding_views(model, images, config)
    else:
        framed = _framed(model, images, config)
        probabilities = _averaged(model, framed.images, config)[..., : framed.height, : framed.width]
    probabilities = _resize(probabilities, image_size(images))
    return probabilities if config.crf is None else _refined(probabilities, images, CRFS[config.crf])


class Framed(NamedTuple):
    """Images as the network is to see them: padded at the bottom and right."""

    images: Tensor  # [B, 3, H', W']
    height: int  # of the part that is image
    width: int


def _framed(model: Model, images: Tensor, config: InferenceConfig) -> Framed:
    if config.mode == "canvas":
        return on_canvas(images, model, config.window)
    return Framed(pad_to_grid(images, model), *image_size(images))


def on_canvas(images: Tensor, model: Model, canvas: tuple[int, int]) -> Framed:
    """At the top left of a canvas of the model's mean colour; what is larger is shrunk, nothing is enlarged.

    How the originals' networks of a fixed input size are fed.
    """
    size = image_size(images)
    factor = min(1.0, *(room / side for room, side in zip(canvas, size, strict=True)))
    height, width = (max(1, round(side * factor)) for side in size)
    if (height, width) != size:
        images = _shrunk(images, height, width)
    return Framed(_pad(images, model, canvas[0] - height, canvas[1] - width), height, width)


def _shrunk(images: Tensor, height: int, width: int) -> Tensor:
    """By Pillow itself: PyTorch's smoothing differs in the last bit, which a comparison of logits shows."""
    resized = [
        PILImage.fromarray(image).resize((width, height), PILImage.Resampling.BILINEAR) for image in _as_bytes(images)
    ]
    return torch.from_numpy(np.stack([np.asarray(image) for image in resized])).permute(0, 3, 1, 2).to(images.device)


def _as_bytes(images: Tensor) -> NDArray[np.uint8]:  # [B, 3, H, W] -> [B, H, W, 3]
    pixels: NDArray[np.uint8] = images.float().round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return pixels


def pad_to_grid(images: Tensor, model: Model) -> Tensor:
    """Pad at the bottom and right, with the model's mean colour, to sides of k * output stride + 1.

    On such sides the first and last cells of the output grid lie on the first and last pixels, which is what upsampling
    with aligned corners takes for granted: the originals asked their users for `crop_size = k * output_stride + 1`.
    Upsampling by outer edges stretches the grid over any size: its networks (torchvision) see images as they are.
    """
    if not model.align_corners:
        return images
    stride = model.config.output_stride
    bottom, right = (math.ceil((side - 1) / stride) * stride + 1 - side for side in image_size(images))
    return _pad(images, model, bottom, right)


def _pad(images: Tensor, model: Model, bottom: int, right: int, top: int = 0, left: int = 0) -> Tensor:
    if right == bottom == top == left == 0:
        return images
    mean = torch.tensor(model.mean, device=images.device).view(1, 3, 1, 1)
    return F.pad(images.float() - mean, (left, right, top, bottom)) + mean


def _averaged(model: Model, images: Tensor, config: InferenceConfig) -> Tensor:
    """Mean probabilities [B, C, H, W] over scales and mirrorings, each of one pass over the whole of the images."""
    total = torch.zeros(images.shape[0], model.num_classes, *image_size(images), device=images.device)
    views = list(product(config.scales, (False, True) if config.flip else (False,)))
    for scale, is_mirrored in views:
        total += _view(model, images, scale, is_mirrored=is_mirrored)
    return total / len(views)


def _view(model: Model, images: Tensor, scale: float, *, is_mirrored: bool) -> Tensor:
    """Probabilities [B, C, H, W] of one pass, in TensorFlow DeepLab's order of resizings.

    The logits of a scale below 1 are brought to the grid of scale 1 before they are brought to the image's size.
    """
    size, convention = image_size(images), model.config.convention
    finest = max(1.0, scale) / model.config.logits_stride
    grid = [scale_dimension(side, finest) for side in size]
    view = images if scale == 1 else resize(images.float(), [scale_dimension(side, scale) for side in size])
    logits = model(view.flip(-1) if is_mirrored else view, scale).semantic.float()
    logits = resize(logits.flip(-1) if is_mirrored else logits, grid, convention)
    return resize(logits, size, convention).softmax(1)


def _refined(probabilities: Tensor, images: Tensor, crf: CRF) -> Tensor:
    refined = [refine(one.cpu(), image, crf) for one, image in zip(probabilities, _as_bytes(images), strict=True)]
    return torch.stack(refined).to(probabilities.device)


def _sliding_views(model: Model, images: Tensor, config: InferenceConfig) -> Tensor:
    """Mean probabilities [B, C, H, W] over scales, each in windows."""
    total = torch.zeros(images.shape[0], model.num_classes, *image_size(images), device=images.device)
    for scale in config.scales:
        view = _resize(images.float(), scaled_size(image_size(images), scale, config.base_size))
        found = _sliding(model, view, config) if config.base_size is None else _sliding_around(model, view, config)
        total += _resize(found, image_size(images))
    return total / len(config.scales)


def scaled_size(size: tuple[int, int], scale: float, base_size: int | None) -> tuple[int, int]:
    """Height and width at `scale`; with `base_size`, that is the length of the longer side at scale 1, as in semseg."""
    factor = scale if base_size is None else max(1, round(scale * base_size)) / max(size)
    height, width = (max(1, round(factor * side)) for side in size)
    return height, width


def _resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    return resize(images, size, "half_pixel")


def _sliding_around(model: Model, images: Tensor, config: InferenceConfig) -> Tensor:
    """`_sliding` of images that are at least as large as a window: what is missing is added on all sides alike.

    An odd pixel is added at the bottom or right. A network thus sees no size but that of its training crops, which
    PSANet is bound to.
    """
    height, width = image_size(images)
    rows, columns = (max(0, window - side) for window, side in zip(config.window, (height, width), strict=True))
    top, left = rows // 2, columns // 2
    padded = _pad(images, model, rows - top, columns - left, top, left)
    return _sliding(model, padded, config)[..., top : top + height, left : left + width]


class View(NamedTuple):
    """What of the images the network sees."""

    rows: slice
    columns: slice
    is_mirrored: bool


def _sliding(model: Model, images: Tensor, config: InferenceConfig) -> Tensor:
    """Probabilities [B, C, H, W], averaged where windows overlap, and over each window and its mirror image."""
    total = torch.zeros(images.shape[0], model.num_classes, *image_size(images), device=images.device)
    count = torch.zeros(image_size(images), device=images.device)
    for views in _passes(images, config):
        windows = [_mirrored(images[..., view.rows, view.columns], view) for view in views]
        for view, found in zip(views, _in_one_pass(model, windows), strict=True):
            total[..., view.rows, view.columns] += _mirrored(found, view)
            count[view.rows, view.columns] += 1
    return total / count


def _passes(images: Tensor, config: InferenceConfig) -> list[list[View]]:
    """All windows, and their mirror images where asked for, as many to a pass as WINDOW_PIXELS allows."""
    rows, columns = (
        [slice(start, start + min(window, side)) for start in window_starts(side, window, config.overlap)]
        for side, window in zip(image_size(images), config.window, strict=True)
    )
    views = [View(*parts) for parts in product(rows, columns, (False, True) if config.flip else (False,))]
    pixels = len(images) * math.prod(min(pair) for pair in zip(image_size(images), config.window, strict=True))
    at_once = max(1, WINDOW_PIXELS // pixels)
    return [views[start : start + at_once] for start in range(0, len(views), at_once)]


def _mirrored(x: Tensor, view: View) -> Tensor:
    return x.flip(-1) if view.is_mirrored else x


def _in_one_pass(model: Model, windows: list[Tensor]) -> Iterator[Tensor]:
    """Probabilities [B, C, h, w] of each of the windows of one size; only one is held at the size of the image."""
    height, width = image_size(windows[0])
    padded = pad_to_grid(torch.cat(windows), model)
    for logits in model(padded).semantic.float().split(len(windows[0])):
        yield resize(logits, image_size(padded), model.config.convention)[..., :height, :width].softmax(1)


def window_starts(length: int, window: int, overlap: float) -> list[int]:
    """Where windows begin along a side: the last ends with it, and one that is longer than the side starts at 0."""
    step = max(1, math.ceil(window * (1 - overlap) - 1e-6))  # 465 * (1 - 1 / 3) is 310.00000000000006
    count = max(0, math.ceil((length - window) / step)) + 1
    return [max(0, min(index * step, length - window)) for index in range(count)]
