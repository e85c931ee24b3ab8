"""The values that cross from one part of Atrous to another.

The letters of every shape comment: B batch, C classes, K channels, H W image pixels (height, width), h w pixels of the
network's own output grid. Coordinates are (y, x), sizes (height, width), images RGB in 0..255.
"""

from collections.abc import Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Image: TypeAlias = NDArray[np.uint8]  # [H, W, 3]
LabelMap: TypeAlias = NDArray[np.integer[Any]]  # [H, W]
Size: TypeAlias = tuple[int, int]  # height, width
Color: TypeAlias = tuple[int, int, int]  # RGB
RGB: TypeAlias = tuple[float, float, float]  # in 0..255: the mean or standard deviation of a network's images

# aligned_corners: the centres of the corner pixels coincide (TensorFlow DeepLab, semseg)
# half_pixel: the outer edges of the corner pixels coincide (TensorFlow 2, OpenCV)
# legacy: source = target * in / out: the centres of the first pixels coincide (TensorFlow 1 without align_corners)
Convention: TypeAlias = Literal["aligned_corners", "half_pixel", "legacy"]


NO_IMAGE: Image = np.empty((0, 0, 3), np.uint8)


class Sample(NamedTuple):
    """One image and its labels, on the CPU, as read from disk or augmented."""

    name: str  # unique in its split; names the mask that is written for it
    image: Image  # [H, W, 3]
    semantic: NDArray[np.uint8] | None = None  # [H, W] train ids, or the label space's ignore value
    instance: NDArray[np.int32] | None = None  # [H, W] 0: no thing, 1..: things, numbered over all classes
    category: int | None = None  # the class of the whole image
    landmarks: NDArray[np.float32] | None = None  # [K, 2] (x, y) of a body's joints, in pixels of the image
    variation: NDArray[np.float64] | None = None  # [6] colours, blur and noise that are left to the device


class Batch(NamedTuple):
    names: tuple[str, ...]
    images: Tensor  # [B, 3, H, W] uint8
    semantic: Tensor | None = None  # [B, H, W] uint8
    instance: Tensor | None = None  # [B, H, W] int32
    category: Tensor | None = None  # [B] int64
    variation: Tensor | None = None  # [B, 6] float64, see `data.batch_transforms`

    def to(self, device: torch.device) -> "Batch":
        """The batch on `device`, its images in channels-last order."""
        images = self.images.to(device, memory_format=torch.channels_last, non_blocking=True)
        labels = (self.semantic, self.instance, self.category, self.variation)
        return Batch(self.names, images, *(x if x is None else x.to(device, non_blocking=True) for x in labels))

    def split(self, parts: int) -> "list[Batch]":
        """The batch in parts whose numbers of images differ by one at most."""
        number = len(self.names)
        bounds = [number * part // parts for part in range(parts + 1)]
        return [self._part(slice(start, end)) for start, end in pairwise(bounds)]

    def _part(self, images: slice) -> "Batch":
        labels = (self.semantic, self.instance, self.category, self.variation)
        return Batch(self.names[images], self.images[images], *(x if x is None else x[images] for x in labels))


NO_MAP = torch.empty(0)
NO_HEADS: Mapping[str, Tensor] = MappingProxyType({})


class Outputs(NamedTuple):
    """What every model returns, in training or not, at its own output grid."""

    semantic: Tensor = NO_MAP  # [B, C, h, w] logits; empty where a network has only `classes`
    classes: Tensor | None = None  # [B, C] logits of the whole image
    center: Tensor | None = None  # [B, 1, h, w]
    offset: Tensor | None = None  # [B, 2, h, w] (dy, dx), in pixels of the image
    heads: Mapping[str, Tensor] = NO_HEADS  # logits that only the loss reads, by the names in `loss.weights`


class Facts(NamedTuple):
    """All that inference may know of a network, whatever computes it."""

    task: str  # a row of TASKS
    num_classes: int
    mean: RGB  # what images are padded with: it becomes 0 after normalisation
    output_stride: int  # images are padded to sides of k * output_stride + 1 where corners are aligned
    logits_stride: int  # image pixels between neighbouring logits
    convention: Convention  # by which its maps are resized to the image's size
    size: Size | None = None  # the only size that it takes; None: any
    frames: int = 1  # images that one pass needs
    on_grid: bool = False  # it takes only sides of k * output_stride + 1, as an exported graph does
    int8: bool = False  # an exported graph whose convolutions compute in 8-bit integers


class Network(Protocol):
    """Takes RGB in 0..255, [B, 3, H, W], and returns `Outputs` at its own grid. A Model is one, and so is an opened
    file of another runtime. `scale` is the factor by which the images were resized.
    """

    @property
    def facts(self) -> Facts: ...
    def __call__(self, images: Tensor, scale: float = 1.0) -> Outputs: ...


@runtime_checkable
class Labelling(Protocol):
    """A network that gives the likeliest classes at the images' size by itself, where one pass will do."""

    def labels(self, images: Tensor) -> Tensor: ...  # [B, 3, H, W] -> [B, H, W]
