"""Augmentation: cropping first against resizing first, one geometry for image and maps, independent random choices."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from atrous.data.augment_config import AugmentConfig
from atrous.data.choices import choose, random_angle, random_blur, random_scale
from atrous.data.colors import add_noise, blur, jitter_colors
from atrous.data.geometry import flip, pad_to
from atrous.data.transforms import augment, resized_size, scale_and_crop, stretched
from atrous.data.windows import Window, _near_start, resample_window, resize_then_crop, rotate_window, scaled_window
from atrous.types import Image, LabelMap, Sample
from tests.data.conftest import FILL, IGNORE, STILL, max_difference, noise_image
from tests.reference.transforms import nearest_by_definition, resize_rotate_crop

Array = np.ndarray[Any, Any]

PLAIN = AugmentConfig(crop=(7, 9), min_scale=1, max_scale=1, flip=0)

sides = st.integers(1, 90)
crops = st.tuples(st.integers(1, 60), st.integers(1, 60))
scales = st.one_of(st.sampled_from([0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0]), st.floats(0.3, 2.5))
places = st.tuples(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True))
seeds = st.integers(0, 2**32 - 1)


def aligned_sample(height: int, width: int, seed: int = 0) -> Sample:
    """The image's red is the label, its green the thing."""
    image = noise_image(height, width, seed) // 16
    return Sample("aligned", image, image[..., 0].copy(), image[..., 1].astype(np.int32))


def smooth_image(height: int, width: int) -> Image:
    y, x = np.mgrid[:height, :width]
    return np.stack([100 + 80 * np.sin(y / 9), 100 + 80 * np.cos(x / 7), 2 * y + x], -1).clip(0, 255).astype(np.uint8)


def off_border(side: int, scaled: int, start: int, length: int) -> Array:
    """Which centres are not exactly between two source pixels, where a resize may round either way."""
    centers: Array = (2 * np.arange(start, start + length) + 1) * side % (2 * scaled) != 0
    return centers


# scale and crop


@settings(max_examples=80, deadline=None)
@given(sides, sides, scales, crops, places, seeds)
def test_crop_first_equals_resize_then_crop_on_images(
    height: int, width: int, scale: float, crop: tuple[int, int], place: tuple[float, float], seed: int
) -> None:
    image = noise_image(height, width, seed)
    window = scaled_window(image.shape[:2], scale, crop, place)
    assert max_difference(resample_window(image, window), resize_then_crop(image, window)) <= 2


@settings(max_examples=80, deadline=None)
@given(sides, sides, scales, crops, places, seeds)
def test_a_fast_resampling_is_nearly_the_same(
    height: int, width: int, scale: float, crop: tuple[int, int], place: tuple[float, float], seed: int
) -> None:
    image = noise_image(height, width, seed)
    window = scaled_window(image.shape[:2], scale, crop, place)
    assert max_difference(resample_window(image, window, "fast"), resample_window(image, window)) <= 3


def test_a_fast_resampling_begins_where_a_source_pixel_does() -> None:
    """3 scaled pixels of 2 / 3 of a source pixel each are 2 of these; and where nothing near fits, none is chosen."""
    image = noise_image(700, 1900)
    for scale in (0.5, 0.75, 1.25, 1.5, 1.75, 2.0):
        window = scaled_window(image.shape[:2], scale, (65, 129), (0.9, 0.9))
        pixels = resample_window(image, window, "fast")
        assert pixels.shape == (65, 129, 3) and pixels.flags.writeable
        assert max_difference(pixels, resample_window(image, window)) <= 2, scale
    assert _near_start(2 / 3, 100) == 99 and _near_start(2.0, 57) == 57 and _near_start(0.7, -1) == 0
    assert _near_start(1 + 1 / 600, 2000) is not None and _near_start(0.5 + 1e-12 / 3, 7) == 6
    assert _near_start(1.01, 1000 * 100 + 50 - 300) is not None


@settings(max_examples=40, deadline=None)
@given(sides, sides, scales, crops, places, seeds, st.sampled_from([np.uint8, np.int32]))
def test_crop_first_equals_resize_then_crop_on_maps(
    height: int, width: int, scale: float, crop: tuple[int, int], place: tuple[float, float], seed: int, dtype: type
) -> None:
    labels: Array = noise_image(height, width, seed)[..., 0].astype(dtype)
    window = scaled_window(labels.shape[:2], scale, crop, place)
    fast, slow = resample_window(labels, window), resize_then_crop(labels, window)
    assert fast.dtype == slow.dtype == dtype
    assert fast.tolist() == nearest_by_definition(labels, window)
    rows = off_border(height, window.scaled[0], window.top, window.height)
    columns = off_border(width, window.scaled[1], window.left, window.width)
    np.testing.assert_array_equal(fast[rows][:, columns], slow[rows][:, columns])


def test_crop_first_is_as_close_on_a_large_image() -> None:
    image = noise_image(700, 1900)
    for scale in (0.5, 0.75, 1.25, 2.0):
        window = scaled_window(image.shape[:2], scale, (65, 129), (0.99, 0.99))
        assert max_difference(resample_window(image, window), resize_then_crop(image, window)) <= 2, scale


@settings(max_examples=60, deadline=None)
@given(sides, sides, scales, crops, places)
def test_window_lies_inside_the_scaled_image(
    height: int, width: int, scale: float, crop: tuple[int, int], place: tuple[float, float]
) -> None:
    window = scaled_window((height, width), scale, crop, place)
    assert window.scaled == (max(1, int(height * scale)), max(1, int(width * scale)))
    assert (window.height, window.width) == (min(crop[0], window.scaled[0]), min(crop[1], window.scaled[1]))
    assert 0 <= window.top <= window.scaled[0] - window.height
    assert 0 <= window.left <= window.scaled[1] - window.width


def test_all_crop_positions_are_equally_likely() -> None:
    chances = np.arange(0.5, 300) / 300
    tops = [scaled_window((10, 9), 1.0, (8, 4), (chance, 0)) for chance in chances]
    lefts = [scaled_window((10, 9), 1.0, (8, 4), (0, chance)) for chance in chances]
    assert np.bincount([window.top for window in tops]).tolist() == [100] * 3
    assert np.bincount([window.left for window in lefts]).tolist() == [50] * 6
    assert {window.left for window in tops} == {window.top for window in lefts} == {0}


def test_shrinking_averages_the_image_and_picks_labels() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    image[:, ::2] = 200  # finer than the result can resolve
    window = scaled_window(image.shape[:2], 0.5, (4, 4), (0, 0))
    assert np.abs(resample_window(image, window)[:, 1:-1].astype(int) - 100).max() <= 1
    assert set(np.unique(resample_window(image[..., 0], window))) <= {0, 200}


def test_scale_one_is_a_plain_crop_and_a_copy() -> None:
    image = noise_image(9, 11)
    window = Window((9, 11), 2, 3, 4, 5)
    cut = resample_window(image, window)
    np.testing.assert_array_equal(cut, image[2:6, 3:8])
    assert not np.shares_memory(cut, image)


def test_labels_stay_on_their_pixels_when_doubled() -> None:
    sample = aligned_sample(6, 8)._replace(name="doubled")
    out = scale_and_crop(sample, STILL._replace(scale=2.0), (12, 16), FILL, IGNORE)
    assert sample.semantic is not None
    np.testing.assert_array_equal(out.semantic, sample.semantic.repeat(2, 0).repeat(2, 1))


# resizing to a range


def test_sizes_resized_to_a_range_by_hand() -> None:
    size = (375, 500)
    assert resized_size(size, AugmentConfig()) == size
    assert resized_size(size, AugmentConfig(resize_min=750)) == (750, 1000)
    assert resized_size(size, AugmentConfig(resize_min=750, resize_max=900)) == (
        675,
        900,
    )  # the longer side decides
    limited = AugmentConfig(resize_min=750, resize_max=900, resize_factor=16)
    assert resized_size(size, limited) == (673, 897)  # 897 = 56 * 16 + 1 <= 900; 672 is rounded up
    assert resized_size((10, 1000), AugmentConfig(resize_min=1, resize_max=1)) == (1, 1)  # no side becomes 0


@settings(max_examples=80, deadline=None)
@given(sides, sides, st.integers(1, 99), st.integers(1, 99), st.integers(1, 32))
def test_sizes_resized_to_a_range_are_in_it(height: int, width: int, least: int, most: int, factor: int) -> None:
    plain = resized_size((height, width), AugmentConfig(resize_min=least, resize_max=most))
    assert max(plain) <= most
    assert min(plain) <= least
    assert min(plain) == least or max(plain) == most
    rounded = resized_size((height, width), AugmentConfig(resize_min=least, resize_max=most, resize_factor=factor))
    assert all((side - 1) % factor == 0 for side in rounded)
    assert max(rounded) <= most - (most - 1) % factor


def test_the_resized_image_is_what_is_scaled() -> None:
    """Twice as large by the range, half as large by the scale: the same pixels."""
    config = AugmentConfig(crop=(9, 8), min_scale=0.5, max_scale=0.5, flip=0, resize_min=16)
    sample = aligned_sample(9, 8)
    out = augment(sample, config, np.random.default_rng(0), fill=FILL, ignore=IGNORE)
    np.testing.assert_array_equal(out.image, sample.image)
    np.testing.assert_array_equal(out.semantic, sample.semantic)
    np.testing.assert_array_equal(out.instance, sample.instance)


@settings(max_examples=30, deadline=None)
@given(sides, sides, crops, st.integers(1, 99), st.integers(1, 20), seeds)
def test_a_resized_sample_has_the_crop_size_too(
    height: int, width: int, crop: tuple[int, int], least: int, factor: int, seed: int
) -> None:
    config = AugmentConfig(crop=crop, rotate=20, resize_min=least, resize_max=2 * least, resize_factor=factor)
    out = augment(aligned_sample(height, width), config, np.random.default_rng(seed), fill=FILL, ignore=IGNORE)
    assert describe(out.image) == ((*crop, 3), "uint8")
    assert describe(out.semantic) == (crop, "uint8")


# rotation


def half_plane(size: int) -> LabelMap:
    labels = np.zeros((size, size), np.uint8)
    labels[:, size // 2 :] = 1  # the right half
    return labels


def test_quarter_turns_of_a_half_plane_are_exact_and_counter_clockwise() -> None:
    whole = Window((8, 8), 0, 0, 8, 8)
    for angle, turns in ((90, 1), (180, 2), (-90, 3)):
        rotated = rotate_window(half_plane(8), whole, angle, IGNORE)
        np.testing.assert_array_equal(rotated, np.rot90(half_plane(8), turns))
        assert angle != 90 or rotated[0].tolist() == [1] * 8  # right goes up


def test_rotated_crop_is_the_crop_of_the_rotated() -> None:
    labels = noise_image(8, 8)[..., 0]
    part = rotate_window(labels, Window((8, 8), 1, 2, 5, 4), 90, IGNORE)
    np.testing.assert_array_equal(part, np.rot90(labels)[1:6, 2:6])


def test_rotation_keeps_the_size_and_fills_what_it_uncovers() -> None:
    rotated = rotate_window(np.zeros((4, 8), np.int32), Window((4, 8), 0, 0, 4, 8), 90, 7)
    np.testing.assert_array_equal(rotated, [[7, 7, 0, 0, 0, 0, 7, 7]] * 4)
    rotated = rotate_window(np.zeros((4, 8, 3), np.uint8), Window((4, 8), 0, 0, 4, 8), 90, FILL)
    assert rotated[:, 0].tolist() == [list(FILL)] * 4
    assert not rotated[:, 3].any()


def test_a_window_that_sees_nothing_is_filled() -> None:
    corner = Window((4, 200), 0, 0, 4, 20)
    assert (rotate_window(np.zeros((4, 200), np.uint8), corner, 90, IGNORE) == IGNORE).all()
    assert (rotate_window(np.zeros((8, 400, 3), np.uint8), corner, -90, FILL) == FILL).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(20, 90), st.integers(20, 90), st.floats(0.4, 1), st.floats(-30, 30), places)
def test_rotated_window_equals_the_slow_path_when_shrinking(
    height: int, width: int, scale: float, angle: float, place: tuple[float, float]
) -> None:
    image = smooth_image(height, width)
    window = scaled_window(image.shape[:2], scale, (31, 29), place)
    fast, slow = rotate_window(image, window, angle, FILL), resize_rotate_crop(image, window, angle, FILL)
    unlike = np.abs(fast.astype(int) - slow.astype(int)).max(-1) > 2
    assert unlike.mean() < 0.01  # a pixel of the rim may be inside or outside


@settings(max_examples=40, deadline=None)
@given(st.floats(1, 2), st.floats(-30, 30), places)
def test_rotated_window_is_near_the_slow_path_when_growing(
    scale: float, angle: float, place: tuple[float, float]
) -> None:
    image = smooth_image(60, 70)
    window = scaled_window(image.shape[:2], scale, (33, 41), place)
    fast, slow = rotate_window(image, window, angle, FILL), resize_rotate_crop(image, window, angle, FILL)
    unlike = np.abs(fast.astype(int) - slow.astype(int)).max(-1) > 4  # the slow path interpolates twice
    assert unlike.mean() < 0.03


@settings(max_examples=40, deadline=None)
@given(st.floats(-180, 180), places)
def test_rotated_labels_equal_the_slow_path(angle: float, place: tuple[float, float]) -> None:
    labels = noise_image(12, 15)[..., 0].repeat(5, 0).repeat(5, 1)
    window = scaled_window(labels.shape[:2], 1.0, (33, 41), place)
    fast = rotate_window(labels, window, angle, IGNORE)
    assert (fast != resize_rotate_crop(labels, window, angle, IGNORE)).mean() < 0.01


@pytest.mark.parametrize("scale", [0.5, 0.8, 1.0, 1.7])
def test_image_and_labels_turn_together(scale: float) -> None:
    labels = np.zeros((60, 80), np.uint8)
    labels[20:45, 30:70] = 200
    sample = Sample("block", np.stack([labels] * 3, -1), labels, labels.astype(np.int32))
    out = scale_and_crop(sample, STILL._replace(scale=scale, angle=20.0, place=(0.5, 0.5)), (50, 50), (0, 0, 0), 0)
    assert out.semantic is not None
    assert 0.1 < (out.semantic > 0).mean() < 0.9
    np.testing.assert_array_equal(out.semantic, out.instance)
    assert ((out.image[..., 0] > 100) != (out.semantic > 100)).mean() < 0.03


# padding and flipping


def test_padding_goes_to_the_bottom_and_right() -> None:
    sample = aligned_sample(2, 3)
    padded = pad_to(sample, 3, 5, FILL, IGNORE)
    assert padded.semantic is not None
    assert padded.instance is not None
    np.testing.assert_array_equal(padded.image[:2, :3], sample.image)
    np.testing.assert_array_equal(padded.semantic[:2, :3], sample.semantic)
    outside = np.ones((3, 5), bool)
    outside[:2, :3] = False
    assert (padded.image[outside] == FILL).all()
    assert (padded.semantic[outside] == IGNORE).all()
    assert (padded.instance[outside] == 0).all()
    assert [padded.semantic.dtype.name, padded.instance.dtype.name] == ["uint8", "int32"]


def test_padding_never_cuts() -> None:
    for size, shape in (((1, 1), (4, 6)), ((4, 6), (4, 6)), ((2, 9), (4, 9)), ((7, 3), (7, 6))):
        padded = pad_to(aligned_sample(4, 6), *size, FILL, IGNORE)
        assert padded.image.shape == (*shape, 3)
        assert padded.semantic is not None
        assert padded.semantic.shape == shape


def test_a_flip_changes_image_and_maps_and_twice_changes_nothing() -> None:
    sample = aligned_sample(3, 4)
    flipped = flip(sample)
    np.testing.assert_array_equal(flipped.image[:, 0], sample.image[:, 3])
    np.testing.assert_array_equal(flipped.semantic, flipped.image[..., 0])
    np.testing.assert_array_equal(flipped.instance, flipped.image[..., 1])
    np.testing.assert_array_equal(flip(flipped).image, sample.image)


# colour, blur, noise


def test_neutral_factors_leave_the_image_unchanged() -> None:
    image = noise_image(3, 4)
    np.testing.assert_array_equal(jitter_colors(image), image)


def test_colours_by_hand() -> None:
    image = np.array([[[10, 20, 30], [100, 150, 200]]], np.uint8)
    cases: list[tuple[dict[str, float], list[list[int]]]] = [
        ({"brightness": 2.0}, [[20, 40, 60], [200, 255, 255]]),
        ({"brightness": 0.0}, [[0, 0, 0], [0, 0, 0]]),
        ({"contrast": 0.0}, [[79, 79, 79], [79, 79, 79]]),  # the mean grey: (18.15 + 140.75) / 2
        ({"saturation": 0.0}, [[18, 18, 18], [141, 141, 141]]),  # 0.299 R + 0.587 G + 0.114 B
        ({"hue": 1 / 3}, [[30, 10, 20], [200, 100, 150]]),  # red becomes green
        ({"hue": -1 / 3}, [[20, 30, 10], [150, 200, 100]]),
    ]
    for change, expected in cases:
        assert jitter_colors(image, **change)[0].tolist() == expected, change


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 255), st.floats(0, 2), st.floats(-0.5, 0.5))
def test_grey_stays_grey(level: int, saturation: float, hue: float) -> None:
    image = np.full((2, 3, 3), level, np.uint8)
    assert max_difference(jitter_colors(image, saturation=saturation, hue=hue), image) <= 1


def test_contrast_keeps_the_mean_grey() -> None:
    image = noise_image(40, 40) // 2 + 64
    soft = jitter_colors(image, contrast=0.5)
    assert abs(float(soft.mean()) - float(image.mean())) < 1
    assert float(soft.std()) == pytest.approx(float(image.std()) / 2, rel=0.02)


def test_blur_spreads_a_point_and_keeps_a_plane() -> None:
    point = np.zeros((21, 21, 3), np.uint8)
    point[10, 10] = 255
    spread = blur(point, 1.5)
    profile = spread[..., 0].astype(float).sum(0)
    assert spread[10, 10, 0] < 60
    assert float(profile @ (np.arange(21) - 10) ** 2 / profile.sum()) ** 0.5 == pytest.approx(1.5, abs=0.25)
    plane = np.full((9, 9, 3), 77, np.uint8)
    assert max_difference(blur(plane, 1.5), plane) <= 1
    np.testing.assert_array_equal(blur(point, 0), point)


def test_noise_has_its_sigma_and_is_clipped() -> None:
    grey = np.full((100, 100, 3), 128, np.uint8)
    noisy = add_noise(grey, 10, np.random.default_rng(0)).astype(float)
    assert noisy.mean() == pytest.approx(128, abs=0.25)  # rounded, not truncated
    assert noisy.std() == pytest.approx(10, abs=0.3)
    black = add_noise(np.zeros((50, 50, 3), np.uint8), 10, np.random.default_rng(0))
    assert black.max() < 60  # clipped, not wrapped
    np.testing.assert_array_equal(add_noise(grey, 0, np.random.default_rng(0)), grey)


def test_an_area_blur_by_hand() -> None:
    image = np.array([0, 40, 80, 120], np.uint8).reshape(1, 4, 1).repeat(3, 2)
    assert blur(image, 2.0, "area")[0, :, 0].tolist() == [20, 40, 80, 100]  # means 20 and 100, half pixels between
    np.testing.assert_array_equal(blur(image, 1.0, "area"), image)
    assert blur(image, 50.0, "area")[0, :, 0].tolist() == [60] * 4


def test_a_vertical_flip_turns_image_and_maps_upside_down() -> None:
    config = PLAIN.model_copy(update={"flip_vertical": 1.0, "crop": (5, 6)})
    sample = aligned_sample(5, 6)
    out = augment(sample, config, np.random.default_rng(0), fill=FILL, ignore=IGNORE)
    np.testing.assert_array_equal(out.image, sample.image[::-1])
    np.testing.assert_array_equal(out.semantic, out.image[..., 0])
    np.testing.assert_array_equal(out.instance, out.image[..., 1])


def test_a_grey_image_has_its_grey() -> None:
    config = PLAIN.model_copy(update={"grayscale": 1.0, "crop": (5, 6)})
    out = augment(aligned_sample(5, 6), config, np.random.default_rng(0), fill=FILL, ignore=IGNORE).image
    np.testing.assert_array_equal(out, jitter_colors(aligned_sample(5, 6).image, saturation=0))
    assert max_difference(out[..., :2], out[..., 1:]) <= 1


def test_an_aspect_keeps_the_area() -> None:
    assert stretched((100, 100), 4.0) == (50, 200)
    assert stretched((100, 50), 1.0) == (100, 50)
    config = AugmentConfig(crop=(99, 99), min_scale=1, max_scale=1, flip=0, aspect=(4, 4))
    out = augment(aligned_sample(40, 20), config, np.random.default_rng(0), fill=FILL, ignore=IGNORE)
    rows, columns = np.nonzero(np.asarray(out.semantic) != IGNORE)
    assert (rows.max() + 1, columns.max() + 1) == (20, 40)


def test_a_perturbation_keeps_the_centre_and_stretches_by_hand() -> None:
    """Twice the step in x about the centre: every second column, the rest beyond the image."""
    labels = noise_image(8, 8)[..., 0] // 16
    sample = Sample("square", np.repeat(labels[..., None], 3, -1), labels, labels.astype(np.int32))
    out = scale_and_crop(sample, STILL._replace(affine=(1.0, 0, 0, 0, 0, 0)), (8, 8), (0, 0, 0), IGNORE)
    expected = np.full((8, 8), IGNORE, np.uint8)
    expected[:, 2:6] = labels[:, [1, 3, 5, 7]]
    np.testing.assert_array_equal(out.semantic, expected)
    moved = scale_and_crop(sample, STILL._replace(affine=(0, 0, 0.25, 0, 0, 0)), (8, 8), (0, 0, 0), IGNORE)
    np.testing.assert_array_equal(np.asarray(moved.semantic)[:, :6], labels[:, 2:])  # a quarter of the crop
    assert (np.asarray(moved.semantic)[:, 6:] == IGNORE).all()
    np.testing.assert_array_equal(np.asarray(moved.instance)[:, :6], labels[:, 2:])


@settings(max_examples=30, deadline=None)
@given(st.floats(0.3, 2), st.floats(-30, 30), places, seeds)
def test_image_and_maps_are_perturbed_together(
    scale: float, angle: float, place: tuple[float, float], seed: int
) -> None:
    labels = np.zeros((60, 80), np.uint8)
    labels[20:45, 30:70] = 200
    sample = Sample("block", np.stack([labels] * 3, -1), labels, labels.astype(np.int32))
    affine = tuple(np.random.default_rng(seed).uniform(-0.15, 0.15, 6).tolist())
    choice = STILL._replace(scale=scale, angle=angle, place=place, affine=affine)
    out = scale_and_crop(sample, choice, (50, 50), (0, 0, 0), 0)
    np.testing.assert_array_equal(out.semantic, out.instance)
    assert ((out.image[..., 0] > 100) != (np.asarray(out.semantic) > 100)).mean() < 0.05


def test_autoaugment_comes_before_padding_and_leaves_labels_alone() -> None:
    config = AugmentConfig(crop=(30, 30), min_scale=1, max_scale=1, flip=0, autoaugment=1)
    plain, changed = config.model_copy(update={"autoaugment": 0.0}), 0
    for seed in range(20):
        out, before = (
            augment(aligned_sample(20, 30), each, np.random.default_rng(seed), fill=FILL, ignore=IGNORE)
            for each in (config, plain)
        )
        np.testing.assert_array_equal(out.semantic, before.semantic)
        assert (out.image[20:] == FILL).all()
        changed += bool((out.image != before.image).any())
    assert 5 < changed < 18


# random choices


def draws(change: Callable[[AugmentConfig, np.random.Generator], float], config: AugmentConfig) -> list[float]:
    rng = np.random.default_rng(0)
    return [change(config, rng) for _ in range(400)]


def test_scales_are_evenly_distributed_over_the_discrete_set() -> None:
    values, counts = np.unique(draws(random_scale, AugmentConfig()), return_counts=True)
    assert values.tolist() == [0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0]
    assert counts.min() > 30


def test_the_discrete_sets_of_scales_by_hand() -> None:
    cases = [
        ((0.5, 2.0, 0.4), [0.5, 1.0, 1.5, 2.0]),
        ((0.5, 0.7, 0.1), [0.5, 0.6, 0.7]),
        ((1.0, 1.0, 0.25), [1.0]),
    ]
    for (low, high, step), expected in cases:
        config = AugmentConfig(min_scale=low, max_scale=high, scale_step=step)
        assert sorted(set(draws(random_scale, config))) == pytest.approx(expected)


def test_scale_step_zero_is_continuous() -> None:
    values = draws(random_scale, AugmentConfig(scale_step=0))
    assert len(set(values)) == len(values)
    assert 0.5 <= min(values) < 0.55
    assert 1.95 < max(values) <= 2.0


def test_angles_and_blurs_have_their_probability_and_range() -> None:
    angles = draws(random_angle, AugmentConfig(rotate=10, rotate_probability=0.5))
    assert 150 < sum(angle == 0 for angle in angles) < 250
    assert -10 <= min(angles) < -9 < 9 < max(angles) <= 10
    radii = draws(random_blur, AugmentConfig(blur=0.25, blur_radius=(1, 2)))
    assert 60 < sum(radius > 0 for radius in radii) < 140
    assert all(radius == 0 or 1 <= radius <= 2 for radius in radii)


SETTINGS: list[tuple[dict[str, Any], set[str]]] = [  # a setting and the choices that it may change
    ({"crop": (3, 3)}, set()),
    ({"min_scale": 0.6, "max_scale": 3.0, "scale_step": 0.0}, {"scale"}),
    ({"resize_min": 9, "resize_max": 20, "resize_factor": 4}, set()),
    ({"flip": 1.0}, {"flip"}),
    ({"rotate": 10.0, "rotate_probability": 1.0}, {"angle"}),
    ({"brightness": 0.5}, {"brightness"}),
    ({"contrast": 0.5}, {"contrast"}),
    ({"saturation": 0.5}, {"saturation"}),
    ({"hue": 0.1}, {"hue"}),
    ({"blur": 1.0, "blur_radius": (1.0, 3.0)}, {"blur"}),
    ({"blur": 1.0, "blur_kernel": "area"}, {"blur"}),
    ({"noise": 20.0}, set()),
    ({"aspect": (0.5, 2.0)}, {"aspect"}),
    ({"flip_vertical": 1.0}, {"flip_vertical"}),
    ({"affine": 0.1}, {"affine"}),
    ({"grayscale": 1.0}, {"saturation"}),
    ({"autoaugment": 1.0, "padding": "random", "colors_on": "device"}, set()),
]


def test_a_setting_changes_no_choice_but_its_own() -> None:
    for change, own in SETTINGS:
        plain, other = np.random.default_rng(5), np.random.default_rng(5)
        pairs = [
            (
                choose(AugmentConfig(flip=0), plain)._asdict(),
                choose(AugmentConfig(**{"flip": 0, **change}), other)._asdict(),
            )
            for _ in range(5)
        ]
        changed = {key for before, after in pairs for key in before if before[key] != after[key]}
        assert changed == own, change


def test_augment_draws_as_many_random_numbers_for_all_settings() -> None:
    busy = AugmentConfig(crop=(9, 8), rotate=10, brightness=0.3, hue=0.1, blur=1, noise=9)
    first, second = np.random.default_rng(1), np.random.default_rng(1)
    augment(aligned_sample(12, 13), busy, first, fill=FILL, ignore=IGNORE)
    augment(aligned_sample(30, 7), PLAIN, second, fill=FILL, ignore=IGNORE)
    assert first.random() == second.random()


# all together


def describe(pixels: Array | None) -> tuple[tuple[int, ...], str]:
    assert pixels is not None
    return pixels.shape, pixels.dtype.name


@settings(max_examples=40, deadline=None)
@given(sides, sides, crops, seeds, st.booleans())
def test_output_has_exactly_the_crop_size(
    height: int, width: int, crop: tuple[int, int], seed: int, labelled: bool
) -> None:
    config = AugmentConfig(crop=crop, rotate=45, brightness=0.5, saturation=0.5, hue=0.5, blur=0.5, noise=5)
    sample = aligned_sample(height, width) if labelled else Sample("bare", noise_image(height, width))
    out = augment(sample, config, np.random.default_rng(seed), fill=FILL, ignore=IGNORE)
    assert out.name == sample.name
    assert describe(out.image) == ((*crop, 3), "uint8")
    if not labelled:
        assert [out.semantic, out.instance] == [None, None]
        return
    assert describe(out.semantic) == (crop, "uint8")
    assert describe(out.instance) == (crop, "int32")
    assert set(np.unique(np.asarray(out.semantic))) <= {*range(16), IGNORE}


def test_image_and_maps_stay_aligned_without_resampling() -> None:
    config = AugmentConfig(crop=(7, 9), min_scale=1, max_scale=1, flip=0.5)
    rng = np.random.default_rng(0)
    flips = set()
    for seed in range(20):
        sample = aligned_sample(11, 5, seed)
        out = augment(sample, config, rng, fill=FILL, ignore=IGNORE)
        assert out.semantic is not None
        known = out.semantic != IGNORE
        flips.add(bool(known[0, 0]))  # a flip moves the padding to the left
        assert known.sum() == 7 * 5
        np.testing.assert_array_equal(out.image[..., 0][known], out.semantic[known])
        np.testing.assert_array_equal(out.image[..., 1][known], np.asarray(out.instance)[known])
        assert (out.image[~known] == FILL).all()
    assert flips == {True, False}


def test_the_result_depends_on_the_seed_alone() -> None:
    config = AugmentConfig(crop=(20, 20), rotate=10, brightness=0.2, blur=0.5, noise=3)
    images = [
        augment(aligned_sample(30, 40), config, np.random.default_rng(seed), fill=FILL, ignore=IGNORE).image
        for seed in (3, 3, 4)
    ]
    np.testing.assert_array_equal(images[0], images[1])
    assert (images[0] != images[2]).any()


def test_the_source_is_unchanged_and_the_result_can_become_tensors() -> None:
    sample = aligned_sample(7, 9)
    before = sample.image.copy()
    for config in (PLAIN, AugmentConfig(crop=(5, 6), flip=1, rotate=30, rotate_probability=1, hue=0.1, blur=1)):
        out = augment(sample, config, np.random.default_rng(0), fill=FILL, ignore=IGNORE)
        tensors = [torch.from_numpy(pixels) for pixels in (out.image, out.semantic, out.instance)]
        assert all(tensor.is_contiguous() for tensor in tensors)
        out.image[:] = 0
    np.testing.assert_array_equal(sample.image, before)


# errors


def test_maps_of_another_size_are_refused_with_the_name() -> None:
    sample = Sample("street_7", noise_image(8, 9), np.zeros((9, 8), np.uint8))
    with pytest.raises(
        ValueError, match=r"street_7: the label map is 9 x 8, the image 8 x 9; their sizes must be equal"
    ):
        augment(sample, PLAIN, np.random.default_rng(0), fill=FILL, ignore=IGNORE)
    sample = Sample("street_8", noise_image(8, 9), instance=np.zeros((8, 8), np.int32))
    with pytest.raises(ValueError, match=r"street_8: the instance map is 8 x 8"):
        augment(sample, PLAIN, np.random.default_rng(0), fill=FILL, ignore=IGNORE)


def test_settings_are_read_from_text_and_wrong_ones_are_refused() -> None:
    config = AugmentConfig.model_validate({"crop": "769,1025", "blur_radius": "[0.5, 2]", "rotate": "10"})
    assert (config.crop, config.blur_radius, config.rotate) == ((769, 1025), (0.5, 2.0), 10.0)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"crop": (0, 513)}, "greater than 0"),
        ({"crop": (513,)}, "crop"),
        ({"min_scale": 0}, "greater than 0"),
        ({"min_scale": 3}, r"min_scale must not exceed max_scale, got 3\.0 and 2\.0"),
        ({"max_scale": float("inf")}, "finite"),
        ({"resize_min": 0}, "greater than 0"),
        ({"resize_factor": 16}, "resize_factor needs resize_min, the length of the shorter side, or resize_max"),
        ({"resize_min": (16,)}, "resize_min"),
        ({"resize_to": (16, 16), "resize_min": 16}, "resize_to sets both sides"),
        ({"aspect": (2, 1)}, r"aspect must be \(smallest, largest\), got \(2\.0, 1\.0\)"),
        ({"autoaugment": 2}, "less than or equal to 1"),
        ({"affine": -0.1}, "greater than or equal to 0"),
        ({"colors_on": "device", "blur_kernel": "area"}, "blur_kernel=area is computed on the CPU"),
        ({"scale_step": 1.75}, r"scale_step must be 0 or at most max_scale - min_scale = 1\.5, got 1\.75"),
        ({"scale_step": -0.25}, "greater than or equal to 0"),
        ({"flip": 1.5}, "less than or equal to 1"),
        ({"flip": float("nan")}, "finite"),
        ({"rotate": 181}, "less than or equal to 180"),
        ({"rotate_probability": -1}, "greater than or equal to 0"),
        ({"brightness": 2}, "less than or equal to 1"),
        ({"hue": 0.6}, r"less than or equal to 0\.5"),
        ({"blur_radius": (2, 1)}, r"blur_radius must be \(smallest, largest\), got \(2\.0, 1\.0\)"),
        ({"noise": 256}, "less than or equal to 255"),
        ({"flipp": 0.5}, "flipp"),
    ]
    for change, message in cases:
        with pytest.raises(ValidationError, match=message):
            AugmentConfig(**change)
