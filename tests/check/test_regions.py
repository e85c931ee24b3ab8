"""Regions, specks and smoothed edges, drawn by hand, and against slow, obvious versions."""

import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray

from atrous.check.regions import Box, box_of, climbing, dilated, interior, region_numbers, smoothness, snapped, specks


def flooded(labels: NDArray[np.uint8]) -> list[int]:
    """The sizes of all regions, one pixel after another."""
    left, sizes = {tuple(place) for place in np.argwhere(labels >= 0).tolist()}, []
    while left:
        heap, size = [left.pop()], 0
        while heap:
            y, x = heap.pop()
            size += 1
            for place in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                if place in left and labels[place] == labels[y, x]:
                    left.remove(place)
                    heap.append(place)
        sizes.append(size)
    return sorted(sizes)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (17, 23), (40, 40)])
@pytest.mark.parametrize("classes", [1, 2, 5])
def test_regions_are_those_of_a_flood(shape: tuple[int, int], classes: int) -> None:
    labels = np.random.default_rng(classes).integers(0, classes, shape, np.uint8)
    numbers, sizes = region_numbers(labels)
    assert sorted(sizes[sizes > 0].tolist()) == flooded(labels)
    assert all(len(np.unique(labels[numbers == number])) == 1 for number in np.unique(numbers))


def test_a_snake_is_one_region() -> None:
    labels = np.zeros((9, 9), np.uint8)
    labels[1::4, :8] = labels[3::4, 1:] = 1
    labels[2::4, 7] = labels[4::4, 1] = 1
    assert sorted(region_numbers(labels)[1][region_numbers(labels)[1] > 0].tolist()) == flooded(labels)


def test_specks_lie_within_one_other_label() -> None:
    labels = np.zeros((12, 12), np.uint8)
    labels[2, 2:4] = 1  # a speck
    labels[6:] = 2
    labels[6, 5] = 1  # between two labels: a jag
    labels[9:11, 8:12] = 3  # 8 pixels: a region
    labels[11, 0] = 4  # a speck in the corner
    assert specks(labels) == [Box(2, 2, 3, 4), Box(11, 0, 12, 1)]
    assert specks(labels, ignored=(4,)) == [Box(2, 2, 3, 4)]


def test_a_diagonal_line_is_no_row_of_specks() -> None:
    assert specks(np.eye(20, dtype=np.uint8)) == []


def test_a_map_without_regions_of_few_pixels_has_no_speck() -> None:
    assert specks(np.zeros((3, 3), np.uint8)) == []
    assert specks(np.zeros((1, 1), np.uint8)) == []


def disk(value: int) -> NDArray[np.uint8]:
    y, x = np.mgrid[:80, :80]
    return np.where((y - 40) ** 2 + (x - 40) ** 2 < 900, value, 0).astype(np.uint8)


def test_drawn_edges_are_sharp_and_resized_ones_smooth() -> None:
    assert smoothness(disk(200)) == 0
    resized = np.asarray(PIL.Image.fromarray(disk(200)).resize((60, 60), PIL.Image.Resampling.BILINEAR))
    assert smoothness(resized) > 0.3
    nearest = np.asarray(PIL.Image.fromarray(disk(200)).resize((60, 60), PIL.Image.Resampling.NEAREST))
    assert smoothness(nearest) == 0


def test_nothing_is_said_of_few_edges_or_of_neighbouring_classes() -> None:
    few = np.zeros((8, 8), np.uint8)
    few[:, 4:] = (9, 20, 20, 20)
    assert smoothness(few[:2]) == 0
    assert smoothness(disk(1)) == 0  # between 0 and 1 there is no room


def test_snapping_restores_what_was_smoothed() -> None:
    labels = disk(200)
    smooth = np.asarray(PIL.Image.fromarray(labels).resize((160, 160), PIL.Image.Resampling.BILINEAR))
    is_sure = np.isin(smooth, (0, 200)) & (~dilated(climbing(smooth)) | dilated(interior(smooth)))
    result = snapped(smooth, smooth[..., None], is_sure)
    truth = np.asarray(PIL.Image.fromarray(labels).resize((160, 160), PIL.Image.Resampling.NEAREST))
    assert set(np.unique(result)) == {0, 200}
    assert (result != truth).mean() < 0.01
    assert (result[is_sure] == smooth[is_sure]).all()


def test_snapping_without_a_sure_pixel_changes_nothing() -> None:
    codes = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert (snapped(codes, codes[..., None], np.zeros((3, 4), bool)) == codes).all()


def test_interior_dilation_and_boxes_by_hand() -> None:
    mask = np.zeros((5, 6), np.uint8)
    mask[1:4, 1:4] = 1
    assert np.argwhere(interior(mask) & (mask == 1)).tolist() == [[2, 2]]
    assert not interior(np.zeros((2, 9), np.uint8)).any()
    mask[4, 5] = 1
    opened = dilated(interior(mask) & (mask == 1))
    assert opened[1:4, 1:4].all() and opened.sum() == 9
    assert box_of(mask == 1) == Box(1, 1, 5, 6)
    assert box_of(mask == 7) is None
