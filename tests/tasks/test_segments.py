"""The segments of a map are the same however its ids are counted."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from atrous.data.label_space import LabelSpace
from atrous.tasks import segments as module
from atrous.tasks.contract import Labels
from atrous.tasks.segments import segments

SPACE = LabelSpace(names=("sky", "road", "car"), things=(2,), panoptic_divisor=10)


@given(st.integers(0, 12), st.integers(1, 12), st.integers(-15, 5), st.integers(6, 2**23), st.integers(0, 2**32 - 1))
def test_ids_are_counted_as_by_sorting(height: int, width: int, low: int, high: int, seed: int) -> None:
    panoptic = np.random.default_rng(seed).integers(low, high, (height, width), dtype=np.int32)
    ids, places, areas = module._counted(panoptic)
    expected = np.unique(panoptic, return_inverse=True, return_counts=True)
    for own, other in zip((ids, places.reshape(panoptic.shape), areas), expected, strict=True):
        assert np.array_equal(own.ravel(), np.asarray(other).ravel())


@pytest.mark.parametrize("limit", [0, 2**22])
def test_segments_of_a_map_drawn_by_hand(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(module, "SMALL_IDS", limit)
    panoptic = torch.tensor([[0, 0, 22], [10, 21, 22], [10, 2550, 22]])
    rows = [(row.id, row.category, row.area, row.box) for row in segments(Labels(panoptic=panoptic), SPACE)]
    assert rows == [
        (0, 0, 2, (0, 0, 1, 2)),
        (10, 1, 2, (1, 0, 2, 1)),
        (21, 2, 1, (1, 1, 1, 1)),
        (22, 2, 3, (0, 2, 3, 1)),
    ]
