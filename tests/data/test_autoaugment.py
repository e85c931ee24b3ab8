"""AutoAugment's operations against Pillow's where these agree, and by hand where deeplab2 has quirks."""

import numpy as np
import PIL.Image
import pytest
from PIL import ImageEnhance, ImageOps

from atrous.data.autoaugment import (
    POLICY,
    Step,
    apply,
    brightness,
    color,
    contrast,
    contrast_with_white,
    corrected_strength,
    distort,
    equalize,
    grey,
    sharpness,
    solarize,
    strength_of,
)
from tests.data.conftest import max_difference, noise_image

IMAGE = noise_image(40, 50)
PILLOW = PIL.Image.fromarray(IMAGE)


@pytest.mark.parametrize("factor", [0.1, 0.46, 1.0, 1.36, 1.9])
def test_enhancements_are_pillows(factor: float) -> None:
    """To the rounding: Pillow's greys are rounded, deeplab2's cut off."""
    pairs = [
        (brightness, ImageEnhance.Brightness, 1),
        (color, ImageEnhance.Color, 2),
        (contrast, ImageEnhance.Contrast, 2),
        (sharpness, ImageEnhance.Sharpness, 2),
    ]
    for ours, theirs, limit in pairs:
        assert max_difference(ours(IMAGE, factor), np.array(theirs(PILLOW).enhance(factor))) <= limit, ours.__name__


def test_equalizing_and_solarizing_are_pillows() -> None:
    for image in (IMAGE, IMAGE // 3 + 50, IMAGE[:3, :4], np.full_like(IMAGE, 7)):
        np.testing.assert_array_equal(equalize(image, 1.0), np.array(ImageOps.equalize(PIL.Image.fromarray(image))))
    np.testing.assert_array_equal(solarize(IMAGE, 179.0), np.array(ImageOps.solarize(PILLOW, 179)))
    np.testing.assert_array_equal(solarize(IMAGE, 256.0), IMAGE)


def test_greys_are_cut_off_as_tensorflow_does() -> None:
    image = np.array([[[255, 255, 255], [10, 20, 30], [0, 0, 0]]], np.uint8)
    assert grey(image).tolist() == [[255, 18, 0]]  # 0.9999 * 255.5 = 255.47; 18.149 * 255.5 / 255 = 18.18


def test_the_originals_contrast_blends_with_the_number_of_pixels() -> None:
    image = np.full((16, 16, 3), 100, np.uint8)
    assert (contrast_with_white(image, 0.0) == 1).all()  # 256 pixels / 256
    assert (contrast(image, 0.0) == 100).all()
    large = np.full((300, 300, 3), 100, np.uint8)
    assert (contrast_with_white(large, 0.5) == 177).all()  # white: (100 + 255) / 2


def test_strengths_by_hand() -> None:
    assert strength_of(Step("solarize", 0.2, 7), 1.0) == 179
    assert strength_of(Step("solarize", 0.2, 7), 0.2) == 35  # a smaller magnitude inverts more
    assert strength_of(Step("brightness", 0.2, 10), 1.0) == pytest.approx(1.9)
    assert strength_of(Step("brightness", 0.2, 10), 0.2) == pytest.approx(0.46)  # and darkens
    assert corrected_strength(Step("solarize", 0.2, 7), 0.2) == pytest.approx(256 - 0.2 * 77)
    assert corrected_strength(Step("brightness", 0.2, 10), 0.2) == pytest.approx(1.18)


def test_corrected_a_magnitude_of_nothing_changes_nothing_and_of_one_is_the_policy() -> None:
    for step in {step for pair in POLICY for step in pair if step.operation != "equalize"}:
        np.testing.assert_array_equal(apply(IMAGE, step, 0.0, exact=False), IMAGE)
        assert corrected_strength(step, 1.0) == pytest.approx(strength_of(step, 1.0))


def test_the_choice_of_the_pair_and_of_its_operations() -> None:
    np.testing.assert_array_equal(distort(IMAGE, 1.0, (0.0, 0.9, 0.9), exact=True), IMAGE)
    both = sharpness(IMAGE, 0.7 * 1.8 + 0.1)
    np.testing.assert_array_equal(distort(IMAGE, 1.0, (0.0, 0.3, 0.9), exact=True), both)
    np.testing.assert_array_equal(distort(IMAGE, 1.0, (0.0, 0.3, 0.1), exact=True), brightness(both, 1.9))
    np.testing.assert_array_equal(
        distort(IMAGE, 1.0, (0.7, 0.1, 0.5), exact=False), equalize(solarize(IMAGE, 179), 1.0)
    )
    never = distort(IMAGE, 1.0, (0.2, 0.0, 0.9), exact=True)  # its first operation has probability 0
    np.testing.assert_array_equal(never, IMAGE)


def test_tiny_images_are_not_sharpened() -> None:
    for shape in ((1, 1), (2, 9), (9, 2)):
        np.testing.assert_array_equal(sharpness(noise_image(*shape), 1.9), noise_image(*shape))
