"""The labels of one image in official ids: maps, segments, and the PNGs that hold them."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PILImage

from atrous.data.pixels import stored
from atrous.errors import DataError
from atrous.submissions.contract import NO_CLASS, Answer
from atrous.tasks.contract import Labels
from atrous.tasks.segments import Segment, panoptic_array, segments

Numbers = NDArray[np.int64]
MAX_NUMBER = 2**24 - 1  # that three bytes of a PNG hold


def as_stored(labels: Labels, orientation: int) -> Labels:
    """Upright labels as the pixels lie in an image file of this orientation, as EXIF numbers it."""
    if orientation == 1:
        return labels
    maps = [None if one is None else stored(one.numpy(), orientation) for one in (labels.semantic, labels.panoptic)]
    semantic, panoptic = (None if one is None else torch.from_numpy(one.copy()) for one in maps)
    return labels._replace(semantic=semantic, panoptic=panoptic)


def class_map(answer: Answer, void: int | None) -> NDArray[np.uint8]:  # [H, W]
    """The official id of each pixel; `void` for pixels of no class. Raises DataError for these where it is None."""
    assert answer.labels.semantic is not None
    classes = answer.labels.semantic.numpy().astype(np.int64)
    is_class = (classes >= 0) & (classes < len(answer.official))
    ids = np.where(is_class, answer.official[np.where(is_class, classes, 0)], NO_CLASS)
    if void is None and (ids == NO_CLASS).any():
        raise DataError(f"{int((ids == NO_CLASS).sum())} pixels are of no class of the benchmark")
    return np.where(ids == NO_CLASS, void or 0, ids).astype(np.uint8)


def official_segments(answer: Answer) -> dict[int, Segment]:
    """By number in the model's panoptic map, ascending, with the category as an official id; without void."""
    return {
        segment.id: segment._replace(category=int(answer.official[segment.category]))
        for segment in segments(answer.labels, answer.space)
        if answer.official[segment.category] != NO_CLASS
    }


def is_thing(answer: Answer, number: int) -> bool:
    """Whether a segment of the model's panoptic map is a thing. Pixels of a thing class without a number are none."""
    category, place = divmod(number, answer.space.panoptic_divisor)
    return category in answer.space.things and place != 0


def things(answer: Answer) -> dict[int, Segment]:
    """Those of `official_segments` that are things."""
    return {number: segment for number, segment in official_segments(answer).items() if is_thing(answer, number)}


def score(answer: Answer, thing: Segment) -> float:
    """How certain a thing is. In a prediction without any scores all things are; a thing that lacks one is not."""
    if thing.score is None:
        return 1.0 if answer.labels.scores is None else 0.0
    return round(thing.score, 6)


def renumbered(answer: Answer, numbers: Mapping[int, int]) -> Numbers:  # [H, W]
    """The panoptic map with other numbers for its segments, and 0 for all that have none."""
    panoptic = panoptic_array(answer.labels).astype(np.int64)
    if not numbers:
        return np.zeros_like(panoptic)
    keys = np.array(sorted(numbers))
    places = np.searchsorted(keys, panoptic).clip(max=len(keys) - 1)
    values = np.array([numbers[int(key)] for key in keys])
    return np.where(keys[places] == panoptic, values[places], 0)


def png(pixels: NDArray[Any]) -> bytes:
    """Of [H, W] uint8 or bool, or of [H, W, 3] uint8."""
    content = io.BytesIO()
    PILImage.fromarray(pixels).save(content, "PNG")
    return content.getvalue()
