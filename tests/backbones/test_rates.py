import pytest
from hypothesis import given
from hypothesis import strategies as st

from atrous.backbones.rates import AtrousRule, strides_to_rates

UNITS = [4, 1, 1, 2, 1, 2, 1, 2, 1]  # stem, then c2..c5 of two units each


@pytest.mark.parametrize("rule", ["unit", "stage"])
def test_nothing_is_atrous_at_the_full_stride(rule: AtrousRule) -> None:
    assert strides_to_rates(UNITS, 32, rule) == [(stride, 1, 1) for stride in UNITS]


def test_by_unit_the_filter_that_loses_its_stride_keeps_its_rate() -> None:
    assert strides_to_rates(UNITS, 16, "unit")[-3:] == [(1, 1, 1), (1, 1, 2), (1, 2, 2)]
    assert strides_to_rates(UNITS, 8, "unit")[-4:] == [(1, 1, 2), (1, 2, 2), (1, 2, 4), (1, 4, 4)]


def test_by_stage_the_filter_that_loses_its_stride_takes_the_new_rate() -> None:
    assert strides_to_rates(UNITS, 16, "stage")[-3:] == [(1, 1, 1), (1, 2, 2), (1, 2, 2)]
    assert strides_to_rates(UNITS, 8, "stage")[-4:] == [(1, 2, 2), (1, 2, 2), (1, 4, 4), (1, 4, 4)]


@given(st.lists(st.sampled_from([1, 2]), max_size=12), st.sampled_from([4, 8]))
def test_stride_times_rate_stays_the_same(more: list[int], output_stride: int) -> None:
    strides = [2, 1, 2, 1, 2, *more]
    units, stages = (strides_to_rates(strides, output_stride, rule) for rule in ("unit", "stage"))
    designed, reached = 1, 1
    for stride, unit, stage in zip(strides, units, stages, strict=True):
        assert unit.stride == stage.stride
        assert unit.rate == designed // reached
        designed, reached = designed * stride, reached * unit.stride
        assert unit.next_rate == stage.next_rate == stage.rate == designed // reached
    assert reached == output_stride


@pytest.mark.parametrize("output_stride", [2, 64])
def test_an_unreachable_stride_is_refused(output_stride: int) -> None:
    with pytest.raises(ValueError, match=f"output stride {output_stride} is not reachable"):
        strides_to_rates(UNITS, output_stride, "unit")
