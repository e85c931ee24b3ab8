"""The segments of a panoptic map: what each is, where it lies, how certain it is."""

import io
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PILImage
from torch import Tensor

from atrous.data.label_space import LabelSpace
from atrous.errors import DataError
from atrous.tasks.contract import Labels
from atrous.types import Sample

SMALL_IDS = 2**22  # a table of so many entries takes less time than sorting the pixels of a photo


class Segment(NamedTuple):
    id: int  # what its pixels hold in the panoptic map: category * divisor + number of the thing, 0 for stuff
    category: int  # index of the class
    score: float | None  # of a thing, 0 to 1; a little more where its centre stands higher than it was taught
    area: int  # pixels
    box: tuple[int, int, int, int]  # y, x of the first pixel, height, width


def panoptic_array(labels: Labels) -> NDArray[np.int32]:
    assert labels.panoptic is not None
    return labels.panoptic.cpu().numpy().astype(np.int32)


def is_segment(panoptic: NDArray[np.int32], space: LabelSpace) -> NDArray[np.bool_]:
    """False for void: what is no class, and the class that is ignored."""
    category: NDArray[np.int32] = panoptic // space.panoptic_divisor
    is_class: NDArray[np.bool_] = (category >= 0) & (category < space.num_classes) & (category != space.ignore)
    return is_class


def segments(labels: Labels, space: LabelSpace) -> tuple[Segment, ...]:
    """By ascending id, without void."""
    panoptic = panoptic_array(labels)
    certain = {} if labels.scores is None else {int(key): score for key, score in labels.scores.cpu().tolist()}
    ids, places, areas = _counted(panoptic)
    order = np.argsort(places.ravel(), kind="stable")  # the pixels of the first segment, of the second, ...
    starts = np.cumsum(areas) - areas
    boxes = _boxes(order, starts, panoptic.shape[1]) if ids.size else {}
    known = is_segment(ids, space)
    return tuple(
        Segment(int(key), int(key) // space.panoptic_divisor, certain.get(int(key)), int(areas[index]), boxes[index])
        for index, key in enumerate(ids)
        if known[index]
    )


def _counted(panoptic: NDArray[np.int32]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """The ids in a map, the place of each pixel's id among them [H, W], and the pixels of each.

    As `np.unique` has it, without sorting the pixels where ids are small; 16 bits are sorted in linear time.
    """
    if not panoptic.size or panoptic.min() < 0 or panoptic.max() >= SMALL_IDS:
        return np.unique(panoptic, return_inverse=True, return_counts=True)
    areas = np.bincount(panoptic.ravel())
    ids = np.flatnonzero(areas)
    places = np.zeros(len(areas), np.uint16 if len(ids) < 2**16 else np.int64)
    places[ids] = np.arange(len(ids))
    return ids, places[panoptic], areas[ids]


def _boxes(order: NDArray[np.intp], starts: NDArray[np.intp], width: int) -> Mapping[int, tuple[int, int, int, int]]:
    ys, xs = np.divmod(order, width)
    top, bottom, left, right = (
        reduce.reduceat(values, starts).tolist() for values in (ys, xs) for reduce in (np.minimum, np.maximum)
    )
    rows = zip(top, bottom, left, right, strict=True)
    return {index: (y, x, last_y - y + 1, last_x - x + 1) for index, (y, last_y, x, last_x) in enumerate(rows)}


def thing_mask(space: LabelSpace) -> Tensor:  # [C] bool
    mask = torch.zeros(space.num_classes, dtype=torch.bool)
    mask[list(space.things)] = True
    return mask


def void_of(space: LabelSpace) -> int:
    return space.ignore * space.panoptic_divisor


def true_panoptic(sample: Sample, space: LabelSpace) -> Tensor:
    """[H, W] class * divisor + number of the thing, 0 for stuff and crowds. Raises DataError for too many things."""
    assert sample.semantic is not None
    assert sample.instance is not None
    semantic, instance = torch.from_numpy(sample.semantic).long(), torch.from_numpy(sample.instance).long()
    if instance.numel() and int(instance.max()) >= space.panoptic_divisor:
        raise DataError(
            f"{sample.name}: thing {int(instance.max())}, but panoptic_divisor={space.panoptic_divisor} leaves numbers "
            f"up to {space.panoptic_divisor - 1}"
        )
    is_class = semantic < space.num_classes
    is_thing = thing_mask(space)[semantic.where(is_class, 0)] & is_class
    return semantic * space.panoptic_divisor + instance.where(is_thing, 0)


def number_png(numbers: NDArray[np.integer[Any]]) -> bytes:
    """COCO's panoptic PNG of [H, W] numbers below 2^24: red + 256 green + 65536 blue."""
    colors = np.stack([numbers & 255, numbers >> 8 & 255, numbers >> 16], -1).astype(np.uint8)
    content = io.BytesIO()
    PILImage.fromarray(colors).save(content, "PNG")
    return content.getvalue()
