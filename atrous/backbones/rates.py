"""How an output stride turns strides into rates: one pure function, shared by every backbone."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

AtrousRule = Literal["unit", "stage"]


class Placement(NamedTuple):
    """What replaces the stride that a unit was designed with."""

    stride: int
    rate: int  # of its filters up to and including the one that has, or had, the stride
    next_rate: int  # of the filters after it, and of the next unit


def strides_to_rates(strides: Sequence[int], output_stride: int, rule: AtrousRule) -> list[Placement]:
    """Place units so that the product of strides stops at `output_stride`; raises ValueError if it can't.

    By the rule "unit" the filter that loses its stride keeps its old rate and those after it take the new one,
    so that each sees the taps it was trained on (TF-slim, torchvision; arXiv:1706.05587, figure 3). By the rule "stage"
    it takes the new rate, too, like the rest of the stage that it opens (semseg).
    """
    plan, product, rate = [], 1, 1
    for stride in strides:
        if product < output_stride:
            product *= stride
            plan.append(Placement(stride, rate, rate))
        else:
            larger = rate * stride
            plan.append(Placement(1, rate if rule == "unit" else larger, larger))
            rate = larger
    if product != output_stride:
        raise ValueError(f"output stride {output_stride} is not reachable with strides {list(strides)}")
    return plan


def placed(plan: Sequence[Placement], rates: Sequence[int] | None) -> list[Placement]:
    """The plan with other rates, one for each unit, if there are any."""
    if rates is None:
        return list(plan)
    return [Placement(place.stride, rate, rate) for place, rate in zip(plan, rates, strict=True)]
