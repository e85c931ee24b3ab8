"""Outlines as pixels, against COCO's own program, Pillow, and maps counted by hand."""

import re

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import ImageDraw

from atrous.data import polygons
from atrous.data.polygons import Region, Shape, as_points, coco_counts, coco_polygons, coco_rle, paint
from atrous.errors import DataError

SIZE = (10, 12)  # rows, columns
COCO = {  # what pycocotools 2.0 (frPyObjects) makes of x, y, x, y, ... in an image of SIZE
    "triangle": ([1, 1, 8.5, 2.2, 3, 9.7], ";284L2ON1N2O1OW1"),
    "bow, which crosses itself": ([0, 0, 10, 8, 10, 0, 0, 8], "083N2N2Ne00[O2N2N2c0"),
    "star": ([5, 0, 8, 10, 0, 3.5, 10, 3.5, 2, 10], ">191I02OM22O0O11OO30K24OM02Oo0"),
    "beyond three sides": ([-4.3, 3, 6, -5.5, 17.2, 4, 6, 21.7], "0h3"),
    "around the image": ([-50, -50, 60, -50, 60, 60, -50, 60], "0h3"),
    "outside": ([20, 20, 30, 20, 30, 30], "h3"),
    "thinner than a pixel": ([2, 2, 9, 2.1, 2, 2.2], "h3"),
    "given twice": ([3, 3, 3, 3, 8, 3, 8, 8, 3, 8], "Q1550000000U1"),
    "wound back": ([2, 2, 8, 2, 8, 8, 8, 2], "h3"),
    "fractions": ([0.5, 0.5, 9.49, 0.51, 9.5, 9.5, 0.49, 9.51], "5514000000000000004L?"),
}


def pixels(region: Region, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    return paint([Shape(1, region)], size)[0]


@pytest.mark.parametrize("name", COCO)
def test_polygons_are_those_of_cocos_own_program(name: str) -> None:
    numbers, counts = COCO[name]
    expected = pixels(coco_rle(coco_counts(counts), SIZE))
    assert np.array_equal(pixels(coco_polygons([as_points(numbers)], SIZE)), expected)


def test_a_square_in_cocos_convention_covers_the_pixels_between_its_corners() -> None:
    square = pixels(coco_polygons([as_points([[2, 3], [5, 3], [5, 7], [2, 7]])], SIZE))
    expected = np.zeros(SIZE, np.uint8)
    expected[3:7, 2:5] = 1
    assert np.array_equal(square, expected)


def test_a_square_in_pillows_convention_covers_its_corners_too() -> None:
    corners = as_points([[2, 3], [5, 3], [5, 7], [2, 7]])
    expected = np.zeros(SIZE, np.uint8)
    expected[3:8, 2:6] = 1
    assert np.array_equal(pixels(polygons.polygon(corners, SIZE)), expected)
    assert np.array_equal(pixels(polygons.rectangle(corners[[2, 0]], SIZE)), expected)


def test_what_an_outline_encloses_twice_is_a_hole() -> None:
    twice_around = as_points([[0, 0], [9, 0], [9, 9], [0, 9], [0, 0], [3, 3], [6, 3], [6, 6], [3, 6], [3, 3]])
    for region in (coco_polygons([twice_around], SIZE), polygons.polygon(twice_around, SIZE)):
        assert pixels(region)[1, 1] == 1
        assert pixels(region)[4, 4] == 0


def test_parts_of_one_object_are_joined() -> None:
    parts = [
        as_points([0, 0, 3, 0, 3, 3, 0, 3]),
        as_points([2, 2, 6, 2, 6, 6, 2, 6]),
        as_points([40, 40, 50, 40, 45, 50]),
    ]
    assert pixels(coco_polygons(parts, SIZE)).sum() == 9 + 16 - 1


def test_a_circle_holds_what_is_within_its_radius() -> None:
    circle = pixels(polygons.circle(np.array([5.0, 5.0]), 3, SIZE))
    y, x = np.indices(SIZE)
    distance = np.hypot(y - 5, x - 5)
    assert circle[distance <= 2.5].all()
    assert not circle[distance > 4].any()
    with pytest.raises(DataError, match="a circle with a radius of 1e"):
        polygons.circle(np.array([5.0, 5.0]), 1e9, SIZE)


def test_later_shapes_cover_earlier_ones() -> None:
    square = np.ones((3, 3), bool)
    shapes = [Shape(1, Region(0, 0, square), 1), Shape(2, Region(1, 1, square), 2), Shape(255, Region(3, 3, square))]
    semantic, instance = paint(shapes, (6, 6), background=7)
    assert semantic.tolist()[2] == [1, 2, 2, 2, 7, 7]
    assert instance.tolist()[3] == [0, 2, 2, 0, 0, 0]
    assert semantic[5, 5] == 255


Corners = st.lists(st.tuples(st.integers(-30, 40), st.integers(-30, 40)), min_size=3, max_size=8)


@given(Corners)
def test_the_box_of_a_polygon_holds_what_pillow_draws_on_the_whole_image(corners: list[tuple[int, int]]) -> None:
    canvas = PIL.Image.new("L", SIZE[::-1])
    ImageDraw.Draw(canvas).polygon(corners, fill=1, outline=1)
    assert np.array_equal(pixels(polygons.polygon(as_points(corners), SIZE)), np.asarray(canvas))


@given(Corners)
def test_what_lies_outside_changes_nothing_inside(corners: list[tuple[int, int]]) -> None:
    """An image is a window: a larger one has the same pixels there."""
    points = np.abs(as_points(corners))
    large = pixels(coco_polygons([points], (90, 92)), (90, 92))
    assert np.array_equal(pixels(coco_polygons([points], SIZE)), large[:10, :12])


@pytest.mark.parametrize("far", [1e5, 1e9, 1e15])
def test_corners_far_away_cost_nothing_and_bend_nothing(far: float) -> None:
    wedge = as_points([[0, 0], [far, 0], [far, far]])  # all that is right of the diagonal
    y, x = np.indices(SIZE)
    for region in (polygons.polygon(wedge, SIZE), coco_polygons([wedge], SIZE)):
        assert np.array_equal(pixels(region)[x > y], np.ones((x > y).sum()))
        assert not pixels(region)[x < y - 1].any()


def test_runs_go_down_the_columns() -> None:
    assert pixels(coco_rle([1, 2, 3], (3, 2)), (3, 2)).tolist() == [[0, 0], [1, 0], [1, 0]]
    assert pixels(coco_rle(coco_counts("123"), (3, 2)), (3, 2)).tolist() == [[0, 0], [1, 0], [1, 0]]


def test_runs_in_a_box_go_along_the_rows_and_end_with_the_image() -> None:
    region = polygons.box_rle([1, 3, 2], 2, 1, (2, 3), (3, 3))
    assert pixels(region, (3, 3)).tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 1]]
    assert not pixels(polygons.box_rle([0, 6], 9, 9, (2, 3), (3, 3)), (3, 3)).any()


@pytest.mark.parametrize("counts", [[1, 2], [7], [-1, 7], [1, 2, 3, 4], [1.5, 4.5], [], [True, 5], ["6"], [10**30]])
def test_runs_that_do_not_fill_the_image_are_refused(counts: list[int]) -> None:
    with pytest.raises(DataError, match="run lengths don't add up to the 6 pixels"):
        coco_rle(counts, (3, 2))


@pytest.mark.parametrize("text", ["\x00", "é", "o" * 40, " 1"])
def test_damaged_run_lengths_are_refused(text: str) -> None:
    with pytest.raises(DataError, match="compressed run lengths are damaged"):
        coco_counts(text)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ([[0, 0], [1]], "not pairs of numbers"),
        ([0, 1, 2], "not pairs of numbers"),
        ([["a", "b"]], "not pairs of numbers"),
        ([[0, 0, 0]], "not pairs of numbers"),
        (None, "not pairs of numbers"),
        ({"x": 1}, "not pairs of numbers"),
        ([[0, float("nan")]], "infinite"),
        ([[0, float("inf")]], "infinite"),
        ([[0, 1e300]], "infinite"),
        ([10**400, 1], "not pairs of numbers"),
    ],
)
def test_points_that_are_none_are_refused(values: object, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        as_points(values)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_polygon_takes_three_points(number: int) -> None:
    points = np.zeros((number, 2))
    complaint = re.escape(f"a polygon of {number} point{'s' if number != 1 else ''}; it takes three")
    for draw in (polygons.polygon, lambda points, size: coco_polygons([points], size)):
        with pytest.raises(DataError, match=complaint):
            draw(points, SIZE)


@pytest.mark.parametrize("size", [(60_000, 60_000), (-5, 5), (-5, -5), (0, 4)])
def test_sizes_that_no_image_has_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(DataError, match="an image of"):
        polygons.require_pixels(size)
