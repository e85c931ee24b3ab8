"""The augmentation of semseg: its blur, its padding, and its order, against steps on whole images."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atrous.data.augment_config import AugmentConfig, Kernel
from atrous.data.choices import choose
from atrous.data.colors import blur
from atrous.data.geometry import pad_to
from atrous.data.transforms import augment, scale_and_crop
from atrous.data.windows import resample_window, scaled_window
from atrous.types import Sample
from tests.data.conftest import FILL, IGNORE, STILL, max_difference, noise_image
from tests.reference.transforms import binomial_by_definition, in_the_order_of_semseg

SEMSEG = AugmentConfig(crop=(25, 33), scale_step=0, rotate=10, blur=0.5, blur_kernel="binomial", padding="around")
KERNELS: list[Kernel] = ["gaussian", "binomial"]


def noise_sample(height: int, width: int) -> Sample:
    image = noise_image(height, width, height * width)
    return Sample("noise", image, image[..., 0] // 16, image[..., 1].astype(np.int32))


# The blur


def test_the_binomial_blur_is_the_weighted_mean_of_5x5() -> None:
    image = noise_image(9, 11)
    assert max_difference(blur(image, 1.0, "binomial"), binomial_by_definition(image)) <= 1
    assert max_difference(blur(image, 1.0, "binomial"), image) > 20


def test_a_point_becomes_the_kernel() -> None:
    point = np.zeros((7, 7, 3), np.uint8)
    point[3, 3] = 255
    spread = blur(point, 0.7, "binomial")
    assert spread[3, :, 0].tolist() == pytest.approx([0, 6, 24, 36, 24, 6, 0], abs=1)
    np.testing.assert_array_equal(blur(point, 0.0, "binomial"), point)


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    place=st.tuples(st.floats(0, 0.99), st.floats(0, 0.99)),
    radius=st.floats(0.3, 4),
    kernel=st.sampled_from(KERNELS),
)
def test_a_blurred_crop_is_the_crop_of_the_blurred_image(
    height: int, width: int, place: tuple[float, float], radius: float, kernel: Kernel
) -> None:
    whole = noise_sample(height, width)
    window = scaled_window((height, width), 1.0, (13, 17), place)
    expected = resample_window(blur(whole.image, radius, kernel), window)
    out = scale_and_crop(whole, STILL._replace(blur=radius, place=place), (13, 17), FILL, IGNORE, kernel=kernel)
    np.testing.assert_array_equal(out.image[: window.height, : window.width], expected)
    still = scale_and_crop(whole, STILL._replace(place=place), (13, 17), FILL, IGNORE)
    np.testing.assert_array_equal(out.semantic, still.semantic)
    np.testing.assert_array_equal(out.instance, still.instance)


@pytest.mark.parametrize("kernel", KERNELS)
def test_padding_is_not_blurred(kernel: Kernel) -> None:
    out = scale_and_crop(noise_sample(6, 8), STILL._replace(blur=1.5), (10, 12), FILL, IGNORE, None, kernel, "around")
    assert (out.image[:2] == FILL).all()
    assert (out.image[8:] == FILL).all()
    assert (out.image[:, :2] == FILL).all()
    assert (out.image[:, 10:] == FILL).all()


# The padding


@pytest.mark.parametrize(
    ("size", "to", "top", "left"),
    [((2, 3), (5, 8), 1, 2), ((4, 4), (4, 7), 0, 1), ((4, 4), (5, 4), 0, 0), ((4, 4), (6, 2), 1, 0)],
)
def test_padding_around_puts_an_odd_pixel_at_the_bottom_and_right(
    size: tuple[int, int], to: tuple[int, int], top: int, left: int
) -> None:
    padded = pad_to(noise_sample(*size), *to, FILL, IGNORE, "around")
    assert padded.semantic is not None
    assert padded.instance is not None
    part = (slice(top, top + size[0]), slice(left, left + size[1]))
    before = noise_sample(*size)
    np.testing.assert_array_equal(padded.image[part], before.image)
    np.testing.assert_array_equal(padded.semantic[part], before.semantic)
    np.testing.assert_array_equal(padded.instance[part], before.instance)
    outside = np.ones(padded.semantic.shape, bool)
    outside[part] = False
    assert (padded.image[outside] == FILL).all()
    assert (padded.semantic[outside] == IGNORE).all()
    assert (padded.instance[outside] == 0).all()
    assert padded.image.shape[:2] == (max(size[0], to[0]), max(size[1], to[1]))


# The order


def smooth(height: int, width: int) -> Sample:
    y, x = np.mgrid[:height, :width]
    image = np.stack([100 + 80 * np.sin(y / 5), 100 + 80 * np.cos(x / 4), y + x], -1).clip(0, 255).astype(np.uint8)
    return Sample("smooth", image, (x * 8 // width + 8 * (y * 4 // height)).astype(np.uint8))


@pytest.mark.parametrize("seed", range(12))
def test_augmentation_equals_the_steps_on_whole_images(seed: int) -> None:
    whole, rng = smooth(40, 60), np.random.default_rng(seed)
    choice = choose(SEMSEG, np.random.default_rng(seed))
    out = augment(whole, SEMSEG, rng, fill=FILL, ignore=IGNORE)
    expected = in_the_order_of_semseg(whole, choice, SEMSEG.crop, FILL, IGNORE)
    assert out.semantic is not None
    assert expected.semantic is not None
    odd = 1 if choice.flip else 0  # an odd column of padding may be on the other side
    for shift in range(-odd, odd + 1):
        image, labels = (np.roll(pixels, shift, 1) for pixels in (expected.image, expected.semantic))
        if (labels == out.semantic).mean() > 0.98 and np.abs(image.astype(int) - out.image).mean() < 1:
            return
    pytest.fail(f"{choice}: image and labels differ from the slow version")


def test_the_seeds_of_that_test_meet_every_step() -> None:
    choices = [choose(SEMSEG, np.random.default_rng(seed)) for seed in range(12)]
    assert {choice.flip for choice in choices} == {bool(choice.blur) for choice in choices} == {True, False}
    assert {bool(choice.angle) for choice in choices} == {choice.scale < 0.8 for choice in choices} == {True, False}
    assert all(0.5 <= choice.scale <= 2 and abs(choice.angle) <= 10 for choice in choices)
