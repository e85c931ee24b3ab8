"""Pictures of label maps, by hand where the colour of a pixel is known in advance."""

import io
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from atrous import visualize
from atrous.errors import ConfigError, DataError
from atrous.visualize import Tag

PALETTE = np.stack([np.arange(256), 255 - np.arange(256), np.full(256, 7)], axis=1).astype(np.uint8)
IMAGE = np.full((4, 6, 3), 100, np.uint8)
HALVES = np.array([[1, 1, 1, 2, 2, 2]] * 4, np.uint8)  # two classes, one upright border

label_maps = arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)))


@settings(max_examples=25, deadline=None)
@given(label_maps)
def test_colorize_looks_colours_up_for_any_integer_type(labels: NDArray[np.uint8]) -> None:
    expected = PALETTE[labels]
    np.testing.assert_array_equal(visualize.colorize(labels, PALETTE), expected)
    np.testing.assert_array_equal(visualize.colorize(labels.astype(np.int32), PALETTE), expected)


def test_labels_beyond_the_palette_have_distinct_colours() -> None:
    labels = np.arange(256, 256 + 20_000).reshape(100, 200)
    colors = visualize.colorize(labels, PALETTE).reshape(-1, 3)
    assert len(np.unique(colors, axis=0)) == labels.size


def test_neighbouring_labels_beyond_the_palette_look_different() -> None:
    colors = visualize.colorize(np.arange(256, 1256)[None], PALETTE)[0].astype(int)
    assert np.abs(np.diff(colors, axis=0)).max(1).min() >= 50


def test_an_overlay_mixes_image_and_colour() -> None:
    mixed = visualize.overlay(IMAGE, HALVES, PALETTE, alpha=0.25)
    np.testing.assert_allclose(mixed[0, 0], 0.75 * 100 + 0.25 * PALETTE[1], atol=1)
    np.testing.assert_allclose(mixed[0, 5], 0.75 * 100 + 0.25 * PALETTE[2], atol=1)


def test_an_overlay_has_one_bright_pixel_between_classes() -> None:
    mixed = visualize.overlay(IMAGE, HALVES, PALETTE).astype(int)
    plain = visualize.overlay(IMAGE, np.ones_like(HALVES), PALETTE).astype(int)
    lighter = (mixed.sum(-1) > plain.sum(-1) + 100).all(0)
    assert lighter.tolist() == [False, False, True, False, False, False]


def test_an_overlay_of_alpha_0_is_the_image_and_of_alpha_1_the_colours() -> None:
    one_class = np.full((4, 6), 3, np.uint8)
    np.testing.assert_array_equal(visualize.overlay(IMAGE, HALVES, PALETTE, alpha=0), IMAGE)
    np.testing.assert_array_equal(visualize.overlay(IMAGE, one_class, PALETTE, alpha=1), PALETTE[one_class])


@settings(max_examples=25, deadline=None)
@given(label_maps, st.integers(0, 255))
def test_ignored_pixels_keep_the_image(labels: NDArray[np.uint8], ignore: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*labels.shape, 3), np.uint8)
    mixed = visualize.overlay(image, labels, PALETTE, ignore=ignore)
    np.testing.assert_array_equal(mixed[labels == ignore], image[labels == ignore])
    assert mixed.dtype == np.uint8 and mixed.shape == image.shape


def test_pictures_are_the_same_in_strips_of_any_height(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for labels in (rng.integers(0, 3, (23, 9), np.uint8), rng.integers(0, 400, (23, 9), np.int32)):
        image = rng.integers(0, 256, (23, 9, 3), np.uint8)
        whole = visualize.overlay(image, labels, PALETTE, ignore=1), visualize.error_map(labels, labels[::-1], 2)
        for size in (1, 18, 50):
            monkeypatch.setattr(visualize, "_STRIP", size)
            parts = visualize.overlay(image, labels, PALETTE, ignore=1), visualize.error_map(labels, labels[::-1], 2)
            for one, other in zip(whole, parts, strict=True):
                np.testing.assert_array_equal(one, other)
        monkeypatch.undo()


def test_an_overlay_of_another_size_or_an_impossible_alpha_is_refused() -> None:
    with pytest.raises(DataError, match=r"the image and the labels must have the same size .*, got 4x6 and 6x4"):
        visualize.overlay(IMAGE, HALVES.T, PALETTE)
    with pytest.raises(ConfigError, match=r"alpha must be between .*, got 1\.5"):
        visualize.overlay(IMAGE, HALVES, PALETTE, alpha=1.5)


def test_an_error_map_shows_right_wrong_and_ignored_pixels() -> None:
    truth = np.array([[0, 1, 255, 255]], np.uint8)
    prediction = np.array([[0, 0, 255, 1]], np.int64)
    colors = visualize.error_map(prediction, truth, 255)[0].tolist()
    assert colors == [list(c) for c in (visualize.RIGHT, visualize.WRONG, visualize.IGNORED, visualize.IGNORED)]


def test_an_error_map_of_different_sizes_is_refused() -> None:
    with pytest.raises(DataError, match=r"the prediction and the truth must have .*, got 1x4 and 4x1"):
        visualize.error_map(np.zeros((1, 4), int), np.zeros((4, 1), int), 255)


def test_a_png_of_labels_can_be_read_back() -> None:
    cases: list[tuple[int, type[Any], str]] = [
        (255, np.uint8, "P"),
        (200, np.int32, "P"),
        (256, np.int32, "I;16"),
        (65535, int, "I;16"),
    ]
    for high, dtype, mode in cases:
        labels = np.linspace(0, high, 35).astype(dtype).reshape(5, 7)
        with PIL.Image.open(io.BytesIO(visualize.palette_png(labels, PALETTE))) as picture:
            assert picture.mode == mode
            np.testing.assert_array_equal(np.asarray(picture), labels)
            if mode == "P":
                np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), PALETTE[labels])


def test_labels_that_a_png_cannot_hold_are_refused() -> None:
    for label, span in ((-1, r"-1\.\.0"), (65536, r"0\.\.65536")):
        with pytest.raises(DataError, match=rf"^labels must be in 0\.\.65535 .*, got {span}$"):
            visualize.palette_png(np.array([[0, label]]), PALETTE)


def test_a_caption_is_below_the_whole_picture_and_inside_its_width() -> None:
    sheet = visualize.captioned(
        IMAGE.repeat(20, 0).repeat(20, 1), ["a line", "a second line that is far too wide for it"]
    )
    assert sheet.shape[1] == 120 and sheet.shape[0] > 80
    assert (sheet[:80] == 100).all()
    assert (sheet[80:] < 128).any()


def test_pictures_side_by_side_are_complete() -> None:
    low, high = np.full((20, 40, 3), 200, np.uint8), np.full((50, 30, 3), (9, 8, 7), np.uint8)
    sheet = np.asarray(visualize.side_by_side([("low", low), ("a caption far wider than its picture", high)]))
    assert sheet.shape[0] > 50 and sheet.shape[1] > 70
    assert (sheet == 200).all(-1).sum() >= low.shape[0] * low.shape[1]
    rows, columns = np.nonzero((sheet == (9, 8, 7)).all(-1))
    assert [int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1, len(rows)] == [50, 30, 1500]
    above = sheet[: rows.min(), columns.max() + 1 :]
    assert (above == 255).all(), "the caption must not leave its panel"


def test_no_picture_cannot_be_side_by_side() -> None:
    with pytest.raises(ValueError, match="at least one picture"):
        visualize.side_by_side([])


def test_a_legend_shows_every_colour() -> None:
    for count in (0, 1, 24, 25, 150):
        sheet = visualize.legend([f"class {index}" for index in range(count)], PALETTE)
        colors = np.unique(sheet.astype(int) @ (65536, 256, 1))
        assert np.isin(PALETTE[:count].astype(int) @ (65536, 256, 1), colors).all(), count
        assert sheet.shape[0] < 600


def test_a_legend_with_too_few_colours_is_refused() -> None:
    with pytest.raises(ValueError, match="2 names but only 1 colors"):
        visualize.legend(["a", "b"], [(0, 0, 0)])


# ---- what isn't coloured


@settings(max_examples=25, deadline=None)
@given(label_maps)
def test_background_keeps_the_image_to_the_pixel(labels: NDArray[np.uint8]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*labels.shape, 3), np.uint8)
    mixed = visualize.overlay(image, labels, PALETTE, background=(0, 1, 200))
    bare = np.isin(labels, (0, 1, 200))
    np.testing.assert_array_equal(mixed[bare], image[bare])


def test_a_thing_on_background_is_outlined_on_its_own_side_all_around() -> None:
    labels = np.zeros((7, 7), np.uint8)
    labels[1:6, 1:6] = 2
    mixed = visualize.overlay(np.full((7, 7, 3), 100, np.uint8), labels, PALETTE, background=(0,)).astype(int)
    ring = np.zeros((7, 7), bool)
    ring[1:6, 1:6] = True
    ring[2:5, 2:5] = False
    inside = mixed[3, 3].sum()
    assert (mixed[ring].sum(-1) > inside + 100).all()
    assert (mixed[2:5, 2:5].sum(-1) == inside).all()


def test_smaller_pictures_and_labels_keep_the_same_view() -> None:
    image = np.zeros((5, 7, 3), np.uint8)
    image[:2, :2] = 200
    labels = np.arange(35, dtype=np.uint8).reshape(5, 7)
    small = visualize.shrunk(image, 2)
    assert small.shape == (3, 4, 3) and small[0, 0].tolist() == [200] * 3 and small[1, 1].tolist() == [0] * 3
    assert visualize.thinned(labels, 2).tolist() == [[8, 10, 12, 13], [22, 24, 26, 27], [29, 31, 33, 34]]
    assert visualize.thinned(labels, 1) is labels and visualize.shrunk(image, 1) is image


# ---- legends


@pytest.mark.parametrize("shape", [(40, 20), (300, 900), (1, 1), (2400, 1600)])
def test_a_legend_is_beneath_the_whole_image_and_shows_every_colour(shape: tuple[int, int]) -> None:
    image = np.full((*shape, 3), 100, np.uint8)
    colors = {f"class {index}": (10 * index, 0, 255 - index) for index in range(20)}
    sheet = visualize.with_legend(image, colors)
    np.testing.assert_array_equal(sheet[: shape[0], : shape[1]], image)
    below = sheet[shape[0] :]
    for color in colors.values():
        assert (below == color).all(-1).sum() >= 100
    assert (below.sum(-1) < 200).any(), "the names"


def test_a_legend_of_hostile_names_is_drawn() -> None:
    names = ["a\nb", "\x1b[31m", "\udce9", "x" * 5000, "", "\u202eevil"]
    sheet = visualize.with_legend(IMAGE, dict.fromkeys(names, (9, 8, 7)))
    assert sheet.shape[1] < 600


def test_the_text_of_a_legend_grows_with_the_image() -> None:
    heights = [
        visualize.with_legend(np.zeros((side, side, 3), np.uint8), {"a": (1, 2, 3)}).shape[0] - side
        for side in (100, 4200)
    ]
    assert heights == [22, 90]


def test_a_name_takes_the_first_text_that_fits_and_covers_no_other() -> None:
    image = np.zeros((60, 400, 3), np.uint8)
    wide, narrow, tiny = (
        Tag(("pedestrian 97%", "pedestrian"), (30, x), (60, w)) for x, w in ((60, 100), (200, 60), (300, 9))
    )
    twin = wide._replace(middle=(33, 65))

    def inked(*tags: Tag) -> NDArray[np.bool_]:
        return np.asarray(visualize.tagged(image, tags).any((0, 2)))

    assert np.ptp(np.flatnonzero(inked(wide))) > np.ptp(np.flatnonzero(inked(narrow))) > 40
    assert not inked(tiny).any()
    assert np.array_equal(inked(wide, twin), inked(wide))
    assert not image.any()


@pytest.mark.parametrize(("side", "width"), [(400, 1), (1600, 2), (3200, 3)])
def test_lines_are_wider_in_images_that_are_looked_at_shrunk(side: int, width: int) -> None:
    """However the image is cut into strips."""
    labels = np.zeros((side, side), np.uint8)
    labels[side // 2 :] = 1
    picture = visualize.overlay(np.zeros((side, side, 3), np.uint8), labels, np.zeros((256, 3), np.uint8), alpha=0.5)
    assert [int(bright.sum()) for bright in (picture[:, 0, 0] > 0, picture[:, -1, 0] > 0)] == [width, width]


@pytest.mark.parametrize("shape", [(0, 5, 3), (5, 0, 3), (1, 1, 3)])
def test_an_image_without_room_has_no_names(shape: tuple[int, int, int]) -> None:
    image = np.zeros(shape, np.uint8)
    assert np.array_equal(visualize.tagged(image, [Tag(("car",), (0, 0), (1, 1))]), image)
