"""Where windows lie."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from atrous.inference import InferenceConfig
from atrous.inference.windows import window_starts


@given(window=st.integers(1, 1500))
@settings(max_examples=300)
def test_a_third_of_overlap_is_a_stride_of_two_thirds(window: int) -> None:
    """In whole numbers: 465 * (1 - 1 / 3) is a little more than 310."""
    starts = window_starts(10 * window, window, InferenceConfig().overlap)
    assert starts[1] == -(-2 * window // 3)
    assert len(starts) == math.ceil(9 * window / starts[1]) + 1


def test_windows_of_the_published_protocols() -> None:
    for length, window, expected in (
        (2048, 713, [0, 476, 952, 1335]),
        (1024, 713, [0, 311]),
        (512, 473, [0, 39]),
        (473, 473, [0]),
        (512, 465, [0, 47]),
    ):
        assert window_starts(length, window, 1 / 3) == expected


@given(length=st.integers(1, 300), window=st.integers(1, 200), overlap=st.floats(0, 0.9))
@settings(max_examples=60)
def test_windows_cover_every_pixel_and_stay_inside(length: int, window: int, overlap: float) -> None:
    starts = window_starts(length, window, overlap)
    covered = {pixel for start in starts for pixel in range(start, min(start + window, length))}
    assert covered == set(range(length))
    assert len(set(starts)) == len(starts)
    assert all(start == 0 or start + window <= length for start in starts)
