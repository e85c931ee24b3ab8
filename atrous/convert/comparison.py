"""A converted model beside its original: the share of pixels to which both give the same label."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atrous.convert.conversion import Conversion
from atrous.convert.originals import Maps, Original
from atrous.errors import ConversionError
from atrous.inference.frames import as_batch, frame_of
from atrous.inference.seen import Seen, labels_at_image
from atrous.layers.resize import image_size
from atrous.ops import upsample_part, with_edge
from atrous.segmenter import Segmenter, read_image
from atrous.types import Convention, Outputs, Size

THRESHOLD = 0.999  # of a graph that computes in floats, as the model does
TIE = 2e-5  # as a part of the largest logit: two logits that float32 adds up in another order differ by 7e-6 each


class Agreement(NamedTuple):
    name: str  # of the image
    num_equal: int
    num_pixels: int
    num_ties: int = 0  # of labels that differ where two classes have the same logit, but for rounding

    @property
    def share(self) -> float:
        """Of the labels that are no ties."""
        return self.num_equal / max(self.num_pixels - self.num_ties, 1)

    def line(self) -> str:
        ties = f", but for {self.num_ties} where two classes tie" if self.num_ties else ""
        return f"{self.name}: {percent(self.share)} of {self.num_pixels} labels are the original's{ties}"


def percent(share: float) -> str:
    """Rounded down: 100 % is all of them."""
    return f"{np.floor(share * 1e4) / 100:.2f} %"


def compare(result: Conversion, original: Original, images: Iterable[Path]) -> list[Agreement]:
    """Of each image, on the pixels that are its own. Raises ConversionError where the original makes no label map."""
    return [_of_image(result, original, path) for path in images]


def total(agreements: Sequence[Agreement]) -> Agreement:
    return Agreement(
        f"all {len(agreements)} images",
        sum(one.num_equal for one in agreements),
        sum(one.num_pixels for one in agreements),
        sum(one.num_ties for one in agreements),
    )


@torch.inference_mode()
def _of_image(result: Conversion, original: Original, path: Path) -> Agreement:
    segmenter, model = result.segmenter, result.segmenter.model
    images = as_batch(read_image(path), torch.device("cpu"))
    frame = frame_of(model, images, segmenter.inference)
    seen = frame.images.round() if original.takes_bytes else frame.images
    maps = original.run(_as_graph_takes(result, seen))
    size, content = image_size(seen), (frame.height, frame.width)
    outputs = model(seen)
    ours = _labels(segmenter, outputs, size, content)
    theirs = _labels_in(maps, segmenter, size, content) if outputs.classes is None else _class_in(maps, segmenter)
    if theirs is None:
        shapes = ", ".join(str(list(array.shape)) for array in maps)
        problem = f"its outputs are neither labels nor logits of {model.num_classes} classes: {shapes}"
        raise ConversionError(f"--check: {result.source.label}: {problem}")
    num_ties = 0 if outputs.classes is not None else ties(outputs.semantic, size, model.facts.convention, ours, theirs)
    return Agreement(path.name, int((ours == theirs).sum()), ours.numel(), num_ties)


def ties(logits: Tensor, frame: Size, convention: Convention, ours: Tensor, theirs: Tensor) -> int:
    """How many labels [H, W] differ where two classes tie; `logits` [1, C, h, w] are resized to `frame` for them.

    That takes place for a row at a time: [C, H, W] may be large.
    """
    is_legacy = convention == "legacy"
    maps, size = (with_edge(logits), (frame[0] + 1, frame[1] + 1)) if is_legacy else (logits, frame)
    room, differing = TIE * float(logits.abs().max()), (ours != theirs) & (theirs < logits.shape[1])
    count = 0
    for row in differing.any(1).nonzero().flatten().tolist():
        columns = differing[row].nonzero().flatten()
        part = slice(row, row + 1), slice(0, frame[1])
        line = upsample_part(maps, size, *part, align_corners=convention != "half_pixel")[0, :, 0, columns]
        first, second = (line.gather(0, labels[row, columns][None].long()) for labels in (ours, theirs))
        count += int((first - second <= room).sum())
    return count


def _as_graph_takes(result: Conversion, images: Tensor) -> NDArray[np.float32]:
    """[1, H, W, 3]: what the first layer takes, without what the graph itself does before it."""
    normalized = result.segmenter.model.normalized(images.float())
    shift, scale = result.source.normalization or ((0.0,), (1.0,))
    own = normalized * torch.tensor(scale).view(-1, 1, 1) + torch.tensor(shift).view(-1, 1, 1)
    numbers: NDArray[np.float32] = own.permute(0, 2, 3, 1).contiguous().numpy().astype(np.float32)
    return numbers


def _labels(segmenter: Segmenter, outputs: Outputs, frame: Size, content: Size) -> Tensor:
    convention = segmenter.model.facts.convention
    if outputs.classes is not None:
        return outputs.classes.argmax(1)
    return labels_at_image(Seen(outputs, frame, content, content, convention, is_mean=False))[0].long()


def _labels_in(maps: Maps, segmenter: Segmenter, frame: Size, content: Size) -> Tensor | None:
    """The first that holds labels, in rows or in one, or a number for each class."""
    num_classes = segmenter.model.num_classes
    for array in maps:
        if array.ndim == 4 and num_classes in (array.shape[1], array.shape[3]):
            return _labels(segmenter, Outputs(_first_channels(array, num_classes)), frame, content)
        if array.size == frame[0] * frame[1]:
            plain = torch.from_numpy(np.asarray(array).astype(np.int64)).reshape(frame)
            return plain[: content[0], : content[1]]
    return None


def _class_in(maps: Maps, segmenter: Segmenter) -> Tensor | None:
    """Of a whole image: from the first that holds a number for each class, whatever its axes."""
    numbers = (np.asarray(array, np.float32) for array in maps if array.size == segmenter.model.num_classes)
    return next((torch.from_numpy(one).reshape(1, -1).argmax(1) for one in numbers), None)


def _first_channels(array: NDArray[Any], num_classes: int) -> Tensor:
    """[1, C, h, w] of either order, in floats: a graph's 8 bits are in the order of the numbers they stand for."""
    maps = torch.from_numpy(np.asarray(array).astype(np.float32))
    return maps if array.shape[3] != num_classes else maps.permute(0, 3, 1, 2)
