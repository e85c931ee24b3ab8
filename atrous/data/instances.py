"""Instance maps: the number of the thing that each pixel belongs to, checked against the classes of its pixels."""

from collections.abc import Collection
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from atrous.data.label_space import LabelSpace
from atrous.data.pixels import Codes
from atrous.errors import DataError, listing, warn_once

LARGEST = 2**24  # of the numbers that a map may hold before they are checked: with a class they fit 32 bits


def numbers_of(codes: Codes, path: Path) -> NDArray[np.int32]:
    """What an instance file holds as numbers of things, 0 for none. Raises DataError for colours and odd numbers."""
    if codes.is_colored:
        raise DataError(
            f"{path}: the instance map is RGB, but numbers of things are expected: one channel of 8 or 16 bits, "
            "0 where no thing is (segments in RGB with a JSON are data.format=coco_panoptic)"
        )
    low, high = (int(codes.values.min()), int(codes.values.max())) if codes.values.size else (0, 0)
    if low < 0 or high > LARGEST:
        raise DataError(f"{path}: {low if low < 0 else high} is no number of a thing; expected 0 (none), 1, 2, 3, ...")
    return codes.values.astype(np.int32)


def things_alone(
    instance: NDArray[np.int32], semantic: NDArray[np.uint8], space: LabelSpace, source: str
) -> NDArray[np.int32]:
    """The numbers on pixels of thing classes, 0 elsewhere: numbers of stuff and of ignored pixels have no meaning.

    Raises DataError, beginning with `source`, for a thing whose pixels have two classes, or a number that the panoptic
    divisor has no room for.
    """
    runs = _runs_of_pairs(instance, semantic)
    pairs, pixels = _counted(runs)
    is_numbered = (pairs >> 8 > 0) & (pairs & 255 != space.ignore)
    _require_one_class(pairs[is_numbered], pixels[is_numbered], space, source)
    numbers = (runs.values >> 8).astype(np.int32) * _is_thing(space.things)[runs.values & 255]
    _require_room(numbers, space, source)
    return np.repeat(numbers, runs.lengths).reshape(instance.shape)


def _require_room(numbers: NDArray[np.int32], space: LabelSpace, source: str) -> None:
    room, largest = space.panoptic_divisor - 1, int(numbers.max(initial=0))
    if largest <= room:
        return
    count = np.count_nonzero(np.unique(numbers))
    if count > room:
        raise DataError(
            f"{source}: {count} things in an image, but there may be {room} (the panoptic divisor is {room + 1}); cut "
            "the image into parts"
        )
    raise DataError(
        f"{source}: a thing has the number {largest}, but they may be 1..{room} (the panoptic divisor is {room + 1}); "
        "number the things of an image 1, 2, 3, ..."
    )


@lru_cache(maxsize=8)
def _is_thing(things: Collection[int]) -> NDArray[np.int32]:  # [256] 0 or 1, by label
    mask = np.zeros(256, np.int32)
    mask[list(things)] = 1
    return mask


def _require_one_class(pairs: NDArray[Any], pixels: NDArray[Any], space: LabelSpace, source: str) -> None:
    """Refuse a number that a class of things shares with another class, be it of stuff; say if stuff has numbers."""
    is_of_things = _is_thing(space.things)[pairs & 255] > 0
    of_things = np.unique(pairs[is_of_things] >> 8)
    numbers, counts = np.unique(pairs >> 8, return_counts=True)
    wrong = np.intersect1d(numbers[counts > 1], of_things)
    if not wrong.size:
        _warn_of_stuff(pairs[~is_of_things], space, source)
        return
    rows = [(int(pair & 255), int(count)) for pair, count in zip(pairs, pixels, strict=True) if pair >> 8 == wrong[0]]
    classes = listing(f"{_name(label, space)} ({count} pixel{'s'[: count - 1]})" for label, count in rows)
    others = f"; so have {wrong.size - 1} more of its things" if wrong.size > 1 else ""
    raise DataError(
        f"{source}: thing {wrong[0]} has pixels of {len(rows)} classes, but a thing has one: {classes}{others}"
    )


def _warn_of_stuff(pairs: NDArray[Any], space: LabelSpace, source: str) -> None:
    """Some programs number stuff as well; but it may also be that a thing is missing in the mask."""
    if pairs.size:
        classes = listing(_name(label, space) for label in np.unique(pairs & 255).tolist())
        warn_once(
            "numbers of stuff",
            f"{source}: number {listing(np.unique(pairs >> 8))} has pixels of {classes} alone, and so counts for "
            "nothing: a thing is of a class of things",
        )


def _name(label: int, space: LabelSpace) -> str:
    return space.names[label] if label < space.num_classes else str(label)


def count_pairs(instance: NDArray[np.int32], semantic: NDArray[np.uint8]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Each pair that occurs, as number * 256 + label, in ascending order, and its pixels."""
    return _counted(_runs_of_pairs(instance, semantic))


class Runs(NamedTuple):
    """Equal pixels in a row, R times. There are few of them: to sort or look up each takes a tenth of the time."""

    values: NDArray[Any]  # [R]
    lengths: NDArray[np.intp]  # [R]


def runs_of(values: NDArray[Any]) -> Runs:
    flat = values.ravel()
    starts = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts = np.concatenate([np.zeros(min(1, flat.size), np.intp), starts])
    return Runs(flat[starts], np.diff(starts, append=flat.size))


def _runs_of_pairs(instance: NDArray[np.int32], semantic: NDArray[np.uint8]) -> Runs:
    pairs = instance.astype(np.uint32)
    pairs <<= 8
    pairs |= semantic
    return runs_of(pairs)


def _counted(runs: Runs) -> tuple[NDArray[Any], NDArray[Any]]:
    values, places = np.unique(runs.values, return_inverse=True)
    return values.astype(np.int64), np.bincount(places, runs.lengths, len(values)).astype(np.int64)
