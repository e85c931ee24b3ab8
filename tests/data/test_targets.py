"""Targets of things: hand-drawn maps, and the plain version."""

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from atrous.data.targets import ThingTargets, thing_targets
from tests.reference import targets as reference

THINGS = torch.tensor([False, True, True])


def drawn(semantic: str, instance: str, **values: float) -> ThingTargets:
    """One image, drawn with a digit a pixel; `x` is ignored."""
    classes, numbers = (
        torch.tensor([[[255 if letter == "x" else int(letter) for letter in row] for row in text.split()]])
        for text in (semantic, instance)
    )
    return thing_targets(classes.byte(), numbers.int(), THINGS, **values)  # type: ignore[arg-type]


def rows(tensor: Tensor) -> list[list[float]]:
    values: list[list[float]] = tensor.tolist()
    return values


def test_a_center_is_the_rounded_mean_and_offsets_lead_to_it() -> None:
    targets = drawn("0111 0111 0000", "0111 0111 0000", sigma=1.0)
    # rows 0 and 1 have their mean at 0.5, which is rounded to the even 0; columns 1 to 3 at 2
    assert rows(targets.offset[0, 0]) == [[0, 0, 0, 0], [0, -1, -1, -1], [0, 0, 0, 0]]
    assert rows(targets.offset[0, 1]) == [[0, 1, 0, -1], [0, 1, 0, -1], [0, 0, 0, 0]]
    assert targets.heatmap[0, 0, 0, 2] == 1
    assert math.isclose(targets.heatmap[0, 0, 1, 3].item(), math.exp(-1), rel_tol=1e-6)


def test_where_gaussians_overlap_the_higher_one_counts() -> None:
    targets = drawn("1001", "1002", sigma=1.0)
    heights = [1, math.exp(-0.5), math.exp(-0.5), 1]
    assert np.allclose(targets.heatmap.flatten(), heights, rtol=1e-6)


def test_crowds_and_ignored_pixels_are_not_learnt() -> None:
    targets = drawn("0112x", "01001")
    assert targets.heatmap_weight.flatten().tolist() == [1, 1, 0, 0, 0]  # stuff counts, crowds do not
    assert targets.offset_weight.flatten().tolist() == [0, 1, 0, 0, 0]


def test_small_things_weigh_more() -> None:
    targets = drawn("1120", "1110", small_area=2, small_weight=3.0)  # two pixels of class 1, one of class 2
    assert targets.semantic_weight.flatten().tolist() == [1, 1, 3, 1]


def test_a_number_in_two_classes_means_two_things() -> None:
    targets = drawn("1102", "7707", sigma=0.5)
    assert rows(targets.offset[0, 1]) == [[0, -1, 0, 0]]
    assert targets.heatmap[0, 0, 0, 3] == 1


def test_numbers_on_stuff_mean_nothing() -> None:
    targets = drawn("001", "121")
    assert targets.offset_weight.flatten().tolist() == [0, 0, 1]


def test_without_things_there_is_nothing_to_find() -> None:
    targets = drawn("00 00", "00 00")
    assert not targets.heatmap.any()
    assert not targets.offset.any()
    assert bool((targets.semantic_weight == 1).all())


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1.0, 2.5]))
def test_equals_the_plain_version(seed: int, sigma: float) -> None:
    generator = np.random.default_rng(seed)
    semantic = np.kron(generator.integers(0, 3, (2, 4, 5)), np.ones((1, 3, 3), np.int64))
    instance = np.kron(generator.integers(0, 3, (2, 4, 5)), np.ones((1, 3, 3), np.int64))
    targets = thing_targets(torch.from_numpy(semantic), torch.from_numpy(instance), THINGS, sigma=sigma)
    for image, own in enumerate(semantic):
        expected = reference.heatmap(own, instance[image], [1, 2], sigma)
        assert np.allclose(targets.heatmap[image, 0], expected, atol=1e-6)
        assert np.array_equal(targets.offset[image], reference.offset(own, instance[image], [1, 2]))
