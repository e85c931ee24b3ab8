"""Masks in COCO's text form, against what pycocotools 2.0.11 writes."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from atrous.submissions import rle

Mask = NDArray[np.bool_]
y, x = np.mgrid[:40, :50]
WRITTEN_BY_PYCOCOTOOLS: dict[str, Mask] = {
    "j`05P16K4M2N2N2O0O2O000O2O00000001N10001N101N2N2N3L5Ja>": (y - 20) ** 2 + (x - 25) ** 2 < 150,
    "dX1`<X6" + 1293 * "0" + r"\Vm0": np.pad(np.ones((400, 648), bool), ((100, 100), (2, 50))),
    "<": np.zeros((3, 4), bool),
    "0<": np.ones((3, 4), bool),
    "0150000000": np.eye(5, dtype=bool),
    "1": np.zeros((1, 1), bool),
    "01112OO3OO1N0000O01002OO1O04O10K12OO1OO10O010O00101211": np.random.default_rng(0).random((9, 11)) > 0.5,
}


@pytest.mark.parametrize("text", WRITTEN_BY_PYCOCOTOOLS, ids=range(len(WRITTEN_BY_PYCOCOTOOLS)))
def test_texts_are_those_of_pycocotools(text: str) -> None:
    mask = WRITTEN_BY_PYCOCOTOOLS[text]
    assert rle.encode(mask) == {"size": list(mask.shape), "counts": text}


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_a_mask_is_read_back(height: int, width: int, share: float, seed: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < share
    assert np.array_equal(decoded(rle.encode(mask)), mask)


def decoded(code: dict[str, Any]) -> Mask:
    """As the description of the format says it: written anew, and slowly."""
    height, width = code["size"]
    counts: list[int] = []
    value = shift = 0
    for character in code["counts"]:
        bits = ord(character) - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (1 << shift) if bits & 16 else 0
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    runs = [np.full(count, index % 2, bool) for index, count in enumerate(counts)]
    mask: Mask = np.concatenate(runs).reshape(width, height).T
    return mask
