"""Grouping and merging: hand-drawn maps, and what the original program makes of the same network outputs."""

import pytest
import torch
from torch import Tensor

from atrous.errors import DataError
from atrous.postprocess.panoptic import Merging, find_centers, group_pixels, merge, peaks, score_map
from tests.reference.deeplab2 import PANOPTIC, golden

DATASETS = {  # classes, things, divisor, void
    "cityscapes_panoptic": (19, range(11, 19), 1000, 255_000),
    "coco_panoptic": (134, range(1, 81), 256, 0),
}
SKY, ROAD, CAR, PERSON = 0, 1, 2, 3
THINGS = torch.tensor([False, False, True, True])
HOW = Merging(divisor=100, void=-1)


def classes(text: str) -> Tensor:
    """A map drawn with one character a pixel, one word a row: `.` sky, `r` road, `c` car, `p` person."""
    return torch.tensor([[".rcp".index(letter) for letter in row] for row in text.split()])


def numbers(text: str) -> Tensor:
    return torch.tensor([[int(letter) for letter in row] for row in text.split()])


@pytest.mark.parametrize("is_full", [False, True])
def test_more_things_of_a_class_than_the_divisor_numbers_are_refused(is_full: bool) -> None:
    """Nine cars have numbers; the tenth would be the first of the next class. Those of other classes don't count."""
    count = 10 if is_full else 9
    semantic = torch.tensor([[CAR] * count + [PERSON] * 9])
    instances = torch.arange(1, count + 10)[None]
    how = Merging(divisor=10, void=-1)
    if is_full:
        with pytest.raises(DataError, match=r"^10 things of one class, but panoptic_divisor=10 leaves numbers up to 9"):
            merge(semantic, instances, THINGS, how)
        return
    assert merge(semantic, instances, THINGS, how).tolist() == [[*range(21, 30), *range(31, 40)]]
    unused = instances.where(instances != 18, 40)  # the last thing has another number, and those between no pixel
    assert merge(semantic, unused, torch.tensor([True, False, True, True]), how).max() == 39


@pytest.mark.parametrize("case", PANOPTIC)
def test_equals_the_original(case: str) -> None:
    outputs, options, settings = golden(case).outputs, golden(case).options, golden(case).evaluator
    num_classes, thing_ids, divisor, void = DATASETS[options["dataset"]]
    things = torch.zeros(num_classes, dtype=torch.bool)
    things[list(thing_ids)] = True
    semantic, offsets = outputs["semantic_pred"].long(), outputs["offset_map"].permute(2, 0, 1)

    own_peaks = peaks(
        outputs["center_heatmap"],
        threshold=float(settings["center_score_threshold"]),
        kernel=int(settings["nms_kernel"]),
    )
    assert torch.equal(own_peaks, outputs["instance_center_pred"])
    centers = find_centers(own_peaks, top_k=400)
    instances = group_pixels(centers, offsets, things[semantic])
    assert torch.equal(instances, outputs["instance_pred"].long())
    assert torch.equal(score_map(own_peaks, centers, instances), outputs["instance_scores"])
    panoptic = merge(semantic, instances, things, Merging(divisor, void, int(settings["stuff_area_limit"])))
    assert torch.equal(panoptic, outputs["panoptic_pred"].long())


def test_peaks_are_higher_than_their_surroundings_and_the_threshold() -> None:
    heatmap = torch.tensor([[0.1, 0.2, 0.0, 0.0], [0.0, 0.3, 0.0, 0.9], [0.05, 0.0, 0.0, 0.9]])
    expected = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, 0.3, 0.0, 0.9], [0.0, 0.0, 0.0, 0.9]])  # a plateau stays whole
    assert torch.equal(peaks(heatmap, threshold=0.1, kernel=3), expected)
    assert torch.equal(peaks(heatmap, threshold=0.9, kernel=3), torch.zeros(3, 4))  # above, not at, the threshold
    assert peaks(heatmap, threshold=0.0, kernel=1).count_nonzero() == 6


def test_an_even_kernel_keeps_the_size() -> None:
    assert peaks(torch.rand(5, 7), threshold=0.1, kernel=4).shape == (5, 7)


def test_centers_are_in_reading_order_and_limited() -> None:
    places = torch.tensor([[0.0, 0.5, 0.0], [0.9, 0.0, 0.7]])
    assert find_centers(places).tolist() == [[0, 1], [1, 0], [1, 2]]
    assert find_centers(places, top_k=3).tolist() == [[0, 1], [1, 0], [1, 2]]
    assert find_centers(places, top_k=2).tolist() == [[1, 0]]  # higher than the second, as in the original
    assert find_centers(places, top_k=0).tolist() == [[0, 1], [1, 0], [1, 2]]
    assert find_centers(torch.zeros(2, 3)).shape == (0, 2)


def test_a_pixel_belongs_to_the_center_that_it_points_to() -> None:
    centers = torch.tensor([[0, 0], [0, 3]])
    offsets = torch.zeros(2, 1, 4)
    is_thing = torch.tensor([[True, True, False, True]])
    assert group_pixels(centers, offsets, is_thing).tolist() == [[1, 1, 0, 2]]
    offsets[1, 0, 0] = 3.0  # the first pixel points to the second centre
    assert group_pixels(centers, offsets, is_thing).tolist() == [[2, 1, 0, 2]]
    assert not group_pixels(centers[:0], offsets, is_thing).any()


def test_things_are_numbered_within_their_class_as_they_appear() -> None:
    semantic = classes("..cc pp.c")
    instances = numbers("0033 1102")
    assert merge(semantic, instances, THINGS, HOW).tolist() == [[0, 0, 201, 201], [301, 301, 0, 202]]


def test_the_class_of_a_thing_is_that_of_most_of_its_pixels() -> None:
    assert merge(classes("ccp"), numbers("111"), THINGS, HOW).tolist() == [[201, 201, 201]]
    assert merge(classes("pcp"), numbers("111"), THINGS, HOW).tolist() == [[301, 301, 301]]
    assert merge(classes("pc"), numbers("11"), THINGS, HOW).tolist() == [[201, 201]]  # a tie: the smaller class


def test_small_stuff_is_void() -> None:
    semantic, instances = classes("...rr"), numbers("00000")
    assert merge(semantic, instances, THINGS, HOW._replace(stuff_area=3)).tolist() == [[0, 0, 0, -1, -1]]
    assert merge(semantic, instances, THINGS, HOW._replace(stuff_area=2)).tolist() == [[0, 0, 0, 100, 100]]
    at_limit = HOW._replace(stuff_area=2, is_limit_void=True)
    assert merge(semantic, instances, THINGS, at_limit).tolist() == [[0, 0, 0, -1, -1]]
    unlimited = HOW._replace(stuff_area=0, is_limit_void=True)
    assert merge(semantic, instances, THINGS, unlimited).tolist() == [[0, 0, 0, 100, 100]]


def test_without_a_center_things_are_void_or_one() -> None:
    semantic, instances = classes("cc.p"), numbers("0000")
    assert merge(semantic, instances, THINGS, HOW).tolist() == [[-1, -1, 0, -1]]
    as_one = HOW._replace(is_thing_without_center=True)
    assert merge(semantic, instances, THINGS, as_one).tolist() == [[201, 201, 0, 201]]


def test_a_label_space_without_things_gives_stuff_alone() -> None:
    nothing = torch.zeros(4, dtype=torch.bool)
    assert merge(classes(".rcp"), numbers("0000"), nothing, HOW).tolist() == [[0, 100, 200, 300]]


def test_instance_numbers_need_not_follow_one_another() -> None:
    assert merge(classes("c.c"), numbers("709"), THINGS, HOW).tolist() == [[201, 0, 202]]
