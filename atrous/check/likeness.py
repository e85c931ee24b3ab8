"""Images that are the same: pixel for pixel, or but for compression and size; and neighbouring frames of a film.

Each image is known by its mean greys in 32 x 32 fields. A copy that was compressed or resized differs from its original
by a few grey levels everywhere; a neighbouring frame by many in a few fields, because things have moved.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from atrous.check.facts import THUMB, Facts, ImageFacts

Likeness: TypeAlias = Literal["same", "near", "frames"]

FAR = 5.0  # grey levels (root mean square) that a resized copy may differ by
FAR_SAME_SIZE = 3.0  # that a compressed copy may
FAR_FRAMES = 2.0  # that frames may which are nearly identical
MOVED = 6.5, 1.15  # largest and mean difference beyond which something moved between two images of one size
CONTRAST = 0.15  # a copy differs less than this share of the image's own contrast: fog resembles fog
NEW_SHAPE = 0.1  # the logarithm of width by height: a resized copy keeps the shape, but for rounding
FLAT = 2.0  # grey levels of contrast below which an image resembles anything flat
BLOCK = 512  # images that are compared with others at a time


class Alike(NamedTuple):
    """Two images, by their place among all; the first one comes first."""

    first: int
    second: int
    likeness: Likeness


def alike(facts: Sequence[Facts]) -> list[Alike]:
    """All images that equal an earlier one, then those that resemble one."""
    images = {index: one.image for index, one in enumerate(facts) if one.image is not None}
    same = list(_same(images))
    copies = {pair.second for pair in same}
    rest = {index: image for index, image in images.items() if index not in copies}
    near = [pair for first, second in _near(rest) for pair in _likeness(first, second, facts, rest)]
    return same + _earliest(near)


def _same(images: dict[int, ImageFacts]) -> Iterator[Alike]:
    first: dict[bytes, int] = {}
    for index, image in images.items():
        earlier = first.setdefault(image.digest, index)
        if earlier != index:
            yield Alike(earlier, index, "same")


def _earliest(pairs: Sequence[Alike]) -> list[Alike]:
    """Each image once, with the earliest one that it resembles; copies count before frames."""
    chosen: dict[int, Alike] = {}
    for pair in sorted(pairs, key=lambda pair: (pair.likeness == "frames", pair.second, pair.first)):
        chosen.setdefault(pair.second, pair)
    return sorted(chosen.values(), key=lambda pair: (pair.likeness, pair.second))


# ---- near ones


def _near(images: dict[int, ImageFacts]) -> Iterator[tuple[int, int]]:
    """Pairs of images that differ by at most `FAR`, in ascending order.

    The contrasts of two images differ by no more than the images do, so only those of similar contrast are compared.
    """
    indices = np.array(list(images), np.int64)
    if len(indices) < 2:
        return
    thumbs = np.stack([image.thumb for image in images.values()]).reshape(len(indices), -1).astype(np.float32)
    thumbs -= thumbs.mean(axis=1, keepdims=True)
    contrast = np.sqrt((thumbs**2).mean(axis=1))
    order = np.argsort(contrast, kind="stable")
    order = order[contrast[order] >= FLAT]
    indices, thumbs, contrast = indices[order], thumbs[order], contrast[order]
    for start in range(0, len(indices), BLOCK):
        block = thumbs[start : start + BLOCK]
        stop = int(np.searchsorted(contrast, contrast[start : start + BLOCK][-1] + FAR, side="right"))
        others = thumbs[start:stop]
        products = block @ others.T / THUMB**2
        squares = contrast[start : start + len(block), None] ** 2 + contrast[None, start:stop] ** 2 - 2 * products
        for one, other in zip(*np.nonzero(squares <= FAR**2), strict=True):
            if one < other:
                pair = sorted((int(indices[start + one]), int(indices[start + other])))
                yield pair[0], pair[1]


def _likeness(first: int, second: int, facts: Sequence[Facts], images: dict[int, ImageFacts]) -> Iterator[Alike]:
    one, other = images[first], images[second]
    difference = _centred(one.thumb) - _centred(other.thumb)
    mean, largest = float(np.sqrt((difference**2).mean())), float(abs(difference).max())
    if mean > CONTRAST * min(float(image.thumb.std()) for image in (one, other)):
        return
    is_sequence = _series(facts[first]) == _series(facts[second])
    if one.size != other.size:
        kind: Likeness | None = "near" if abs(_shape(one) - _shape(other)) < NEW_SHAPE else None
    elif (largest <= MOVED[0] and mean <= MOVED[1]) or (mean <= FAR_SAME_SIZE and not is_sequence):
        kind = "near"
    else:
        kind = "frames" if mean <= FAR_FRAMES and is_sequence else None
    if kind is not None:
        yield Alike(first, second, kind)


def _centred(thumb: NDArray[np.uint8]) -> NDArray[np.float32]:
    return thumb.astype(np.float32) - np.float32(thumb.mean())


def _shape(image: ImageFacts) -> float:
    height, width = image.size
    return float(np.log(width / height))


def _series(facts: Facts) -> str:
    """The name without its last number: the same for all frames of a film."""
    return re.sub(r"\d+(?=\D*$)", "#", Path(facts.name).name)
