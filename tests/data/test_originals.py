"""Augmentation in the style of the original programs, against what they compute, and against slow, obvious versions.

tests/goldens/opencv_transforms.npz holds what OpenCV 4.8.1 makes of six small images: semseg's cv2.resize with `fx`,
`fy`, then cv2.warpAffine (`moved`, `moved_label`), then cv2.GaussianBlur (`blurred`), on float32.
"""

import colorsys
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from atrous.data import originals
from atrous.data.augment_config import AugmentConfig, Style
from atrous.data.choices import Choice, choose, num_scales
from atrous.data.geometry import flip, pad_to
from atrous.data.original_styles import ranged_size
from atrous.data.strips import Strips, checksums
from atrous.data.transforms import STYLES, augment
from atrous.types import Sample
from tests.data.conftest import FILL, IGNORE, STILL, noise_image

GOLDENS = Path(__file__).parents[1] / "goldens"
OPENCV = 6  # cases
WHOLE: list[tuple[Style, dict[str, Any]]] = [  # the published settings of each original, on a small crop
    ("tf_deeplab", {}),
    ("deeplab2", {"padding": "random", "scale_step": 0.1, "autoaugment": 0.2}),
    ("semseg", {"padding": "around", "scale_step": 0, "rotate": 10, "blur": 0.5, "blur_kernel": "binomial"}),
    (
        "forma",
        {
            "affine": 0.05,
            "brightness": 0.2,
            "contrast": 0.3,
            "saturation": 0.5,
            "hue": 0.08,
            "blur": 0.1,
            "blur_kernel": "area",
            "noise": 0.01,
        },
    ),
]

Array = NDArray[Any]

sides = st.integers(1, 60)
seeds = st.integers(0, 2**32 - 1)


def config_of(style: Style, crop: tuple[int, int] = (25, 33), **changes: Any) -> AugmentConfig:  # noqa: ANN401
    return AugmentConfig(**{"style": style, "crop": crop, **dict(WHOLE)[style], **changes})


def styled(sample: Sample, choice: Choice, config: AugmentConfig) -> Sample:
    return STYLES[config.style](sample, choice, config, FILL, IGNORE)


def known(pixels: Array | None) -> Array:
    assert pixels is not None
    return pixels


def noise_sample(height: int, width: int, seed: int = 0) -> Sample:
    image = noise_image(height, width, seed)
    return Sample("noise", image, image[..., 0] // 16, image[..., 1].astype(np.int32))


# TensorFlow DeepLab


def tensorflow(name: str) -> Array:
    with np.load(GOLDENS / "tf_deeplab" / "ops.npz") as arrays:
        return np.asarray(arrays[name])


def tensorflow_sample() -> Sample:
    return Sample("golden", tensorflow("pp_image"), tensorflow("pp_label")[..., 0])


@pytest.mark.parametrize("style", ["tf_deeplab", "deeplab2"])
@pytest.mark.parametrize("scale", ["0.50", "0.75", "1.25", "2.00"])
def test_scaled_samples_are_tensorflows(scale: str, style: Style) -> None:
    """The image to half a grey level, which is the rounding to bytes; every label."""
    height, width = tensorflow(f"scale{scale}_label").shape[:2]
    config = config_of(style, crop=(height, width), autoaugment=0, scale_step=0)
    out = styled(tensorflow_sample(), STILL._replace(scale=float(scale)), config)
    assert np.abs(out.image - tensorflow(f"scale{scale}_image")).max() <= 0.5 + 1e-3
    np.testing.assert_array_equal(out.semantic, tensorflow(f"scale{scale}_label")[..., 0])


@pytest.mark.parametrize("style", ["tf_deeplab", "deeplab2"])
def test_samples_resized_to_a_range_are_tensorflows(style: Style) -> None:
    config = config_of(style, crop=(65, 65), autoaugment=0, resize_min=65, resize_max=65, resize_factor=16)
    out = styled(tensorflow_sample(), STILL, config)
    assert np.abs(out.image - tensorflow("pp_resized_image")).max() <= 0.5 + 1e-3
    np.testing.assert_array_equal(out.semantic, tensorflow("pp_resized_label")[..., 0])


def test_a_crop_is_part_of_tensorflows_scaled_sample() -> None:
    config, choice = config_of("tf_deeplab", crop=(30, 40)), STILL._replace(scale=2.0, place=(0.5, 0.9))
    out = styled(tensorflow_sample(), choice, config)
    part = (slice(30, 60), slice(31, 71))  # int(0.5 * 61), int(0.9 * 35)
    assert np.abs(out.image - tensorflow("scale2.00_image")[part]).max() <= 0.5 + 1e-3
    np.testing.assert_array_equal(out.semantic, tensorflow("scale2.00_label")[..., 0][part])
    mirrored = styled(tensorflow_sample(), choice._replace(flip=True), config)
    np.testing.assert_array_equal(mirrored.image, out.image[:, ::-1])
    np.testing.assert_array_equal(mirrored.semantic, known(out.semantic)[:, ::-1])


def test_ranges_are_tensorflows_in_float32() -> None:
    figures = json.loads((GOLDENS / "tf_deeplab" / "ops.json").read_text())["resize_to_range"]
    for height, width, least, most, factor, *expected in figures:
        config = AugmentConfig(**ranged("tf_deeplab", least, most, factor))
        assert list(ranged_size((height, width), config)) == expected, (height, width, least, most, factor)


def ranged(style: str, least: Any, most: Any, factor: Any) -> dict[str, Any]:  # noqa: ANN401
    padding = "random" if style == "deeplab2" else "bottom_right"
    return {
        "style": style,
        "padding": padding,
        "resize_min": least,
        "resize_max": most,
        "resize_factor": factor,
    }


def test_the_scales_of_each_original_by_hand() -> None:
    """In float32, 0.1 is 0.10000000149, so that deeplab2's 0.5 to 2 has 15 scales and 1 isn't among them."""
    steps: dict[str, Any] = {"min_scale": 0.5, "max_scale": 2.0, "scale_step": 0.1}
    assert [num_scales(config_of(style, **steps)) for style in ("tf_deeplab", "deeplab2")] == [16, 15]
    assert num_scales(config_of("deeplab2", min_scale=0.3, max_scale=1.7, scale_step=0.1)) == 15
    assert num_scales(config_of("deeplab2", min_scale=0.5, max_scale=1.5, scale_step=0.1)) == 10
    config, rng = config_of("deeplab2", **steps), np.random.default_rng(0)
    scales = sorted({choose(config, rng).scale for _ in range(500)})
    np.testing.assert_allclose(scales, np.linspace(0.5, 2, 15))


def test_a_scaled_side_is_cut_off_in_float32() -> None:
    assert originals.scaled_by_float32((375, 500), 0.5) == (187, 250)
    assert originals.scaled_by_float32((10, 1), 0.05) == (1, 1)
    assert int(47 * 1.7) == 79
    assert originals.scaled_by_float32((47, 10), 1.7)[1] == 17


# deeplab2


def test_each_side_has_a_range_of_its_own_by_hand() -> None:
    config = AugmentConfig(**ranged("deeplab2", (400, 400), (641, 801), None))
    assert ranged_size((500, 1000), config) == (400, 800)
    assert ranged_size((1000, 500), config) == (641, 320)  # 800 x 400 is too high
    twice = AugmentConfig(**ranged("deeplab2", 300, 600, None))
    assert ranged_size((256, 683), twice) == (225, 600)  # by way of 300 x 800; at once it would be 224.9
    both = AugmentConfig(**ranged("atrous", (400, 600), None, None) | {"padding": "random"})
    out = augment(noise_sample(10, 10), both, np.random.default_rng(0), fill=FILL, ignore=IGNORE)
    assert out.image.shape == (513, 513, 3)


def test_a_largest_size_alone_shrinks_and_never_enlarges() -> None:
    for style in ("deeplab2", "atrous"):
        config = AugmentConfig(**ranged(style, None, (100, 100), None))
        size = ranged_size if style == "deeplab2" else resized
        assert size((50, 200), config) == (25, 100)
        assert size((50, 60), config) == (50, 60)


def resized(size: tuple[int, ...], config: AugmentConfig) -> tuple[int, int]:
    from atrous.data.transforms import resized_size

    return resized_size(size, config)


@pytest.mark.parametrize(("style", "expected"), [("deeplab2", {0, 1, 2}), ("atrous", {0, 1, 2, 3})])
def test_random_padding_is_never_all_before_the_image_in_deeplab2(style: Style, expected: set[int]) -> None:
    config = AugmentConfig(style=style, padding="random", crop=(8, 10), min_scale=1, max_scale=1, flip=0)
    tops, lefts = set(), set()
    for seed in range(80):
        out = augment(noise_sample(5, 10), config, np.random.default_rng(seed), fill=FILL, ignore=IGNORE)
        rows, columns = np.nonzero(known(out.semantic) != IGNORE)
        tops.add(int(rows.min()))
        lefts.add(int(columns.min()))
        assert [int(np.ptp(rows)), int(np.ptp(columns))] == [4, 9]
    assert (tops, lefts) == (expected, {0})


# semseg


def opencv(case: int) -> tuple[Sample, Choice, dict[str, Array]]:
    with np.load(GOLDENS / "opencv_transforms.npz") as arrays:
        golden = {name: np.asarray(arrays[f"{case}_{name}"]) for name in ("moved", "moved_label", "blurred")}
        scale, aspect, angle = arrays[f"{case}_numbers"].tolist()
        sample = Sample("golden", np.asarray(arrays[f"{case}_image"]), np.asarray(arrays[f"{case}_label"]))
    return sample, STILL._replace(scale=scale, aspect=aspect, angle=angle), golden


@pytest.mark.parametrize("case", range(OPENCV))
def test_moved_and_blurred_samples_are_opencvs(case: int) -> None:
    sample, choice, golden = opencv(case)
    config = config_of("semseg", crop=golden["moved_label"].shape)
    for blur, image in ((0.0, golden["moved"]), (1.0, golden["blurred"])):
        out = styled(sample, choice._replace(blur=blur), config)
        assert np.abs(out.image - image).max() <= 0.5 + 2e-3
        np.testing.assert_array_equal(out.semantic, golden["moved_label"])


@settings(max_examples=60, deadline=None)
@given(sides, sides, st.tuples(st.integers(1, 40), st.integers(1, 40)), seeds)
def test_semsegs_crop_is_that_of_the_steps_on_whole_images(
    height: int, width: int, crop: tuple[int, int], seed: int
) -> None:
    sample, config = noise_sample(height, width, seed % 99), config_of("semseg", crop=crop, flip_vertical=0.3)
    choice = choose(config, np.random.default_rng(seed))
    everything = config.model_copy(update={"crop": scaled_size(sample, choice)})
    step = styled(sample, choice._replace(place=(0.0, 0.0)), everything)
    padded = pad_to(step, *crop, FILL, IGNORE, "around")
    top, left = (int(p * (side - c + 1)) for p, side, c in zip(choice.place, padded.image.shape[:2], crop, strict=True))
    part = (slice(top, top + crop[0]), slice(left, left + crop[1]))
    out = styled(sample, choice, config)
    np.testing.assert_array_equal(out.image, padded.image[part])
    np.testing.assert_array_equal(out.semantic, known(padded.semantic)[part])
    np.testing.assert_array_equal(out.instance, known(padded.instance)[part])


def scaled_size(sample: Sample, choice: Choice) -> tuple[int, int]:
    height, width = sample.image.shape[:2]
    stretch = choice.aspect**0.5
    return max(1, round(height * choice.scale / stretch)), max(1, round(width * choice.scale * stretch))


def test_semseg_flips_before_it_pads() -> None:
    """So an odd column of padding stays at the right."""
    out = styled(noise_sample(4, 4), STILL._replace(flip=True), config_of("semseg", crop=(4, 7)))
    assert (out.image[:, 0] == FILL).all()
    assert (out.image[:, 5:] == FILL).all()
    np.testing.assert_array_equal(out.image[:, 1:5], noise_sample(4, 4).image[:, ::-1])


def test_a_fixed_size_comes_first() -> None:
    config = config_of("semseg", crop=(8, 6), resize_to=(8, 6))
    sample = noise_sample(4, 3)
    out = styled(sample, STILL, config)
    np.testing.assert_array_equal(out.semantic, known(sample.semantic).repeat(2, 0).repeat(2, 1))
    ours = AugmentConfig(crop=(8, 6), resize_to=(8, 6), min_scale=1, max_scale=1, flip=0)
    same = augment(sample, ours, np.random.default_rng(0), fill=FILL, ignore=IGNORE)
    np.testing.assert_array_equal(same.semantic, out.semantic)
    assert np.abs(same.image.astype(int) - out.image).max() <= 1


# The fork "forma"


def test_ranges_of_the_fork_by_hand() -> None:
    """513 = 32 * 16 + 1 becomes 497 = 31 * 16 + 1, and sides are rounded up."""
    cases = [
        ((375, 500), 513, 513, 16, (385, 497)),  # 372.75 up to 373, then to 385
        ((375, 500), 300, None, None, (300, 400)),
        ((333, 500), 257, None, None, (257, 386)),  # 385.9 up
    ]
    for size, least, most, factor, expected in cases:
        assert ranged_size(size, AugmentConfig(**ranged("forma", least, most, factor))) == expected


def test_colours_are_those_of_hsv() -> None:
    image = noise_image(5, 7).astype(np.float32)
    for turns, factor in ((0.08, 1.0), (-0.3, 1.0), (0.0, 0.5), (0.0, 1.5)):
        expected = np.zeros_like(image)
        for place in np.ndindex(5, 7):
            hue, saturation, value = colorsys.rgb_to_hsv(*image[place].tolist())
            expected[place] = colorsys.hsv_to_rgb((hue + turns) % 1, min(1, saturation * factor), value)
        ours = originals.scale_saturation(originals.turn_hue(image, turns), factor)
        np.testing.assert_allclose(ours, expected, atol=0.05)


def test_greys_and_black_keep_their_colour() -> None:
    image = np.repeat(np.arange(0, 256, 15, dtype=np.float32).reshape(3, 6, 1), 3, -1)
    np.testing.assert_allclose(originals.turn_hue(image, 0.4), image, atol=1e-3)
    np.testing.assert_allclose(originals.scale_saturation(image, 1.7), image, atol=1e-3)


def test_contrast_is_about_the_mean_of_each_channel() -> None:
    image = np.array([[[0, 100, 50], [100, 100, 250]]], np.float32)
    np.testing.assert_allclose(originals.scale_contrast(image, 0.5)[0], [[25, 100, 100], [75, 100, 200]])


def test_an_area_blur_by_hand() -> None:
    image = np.array([0, 40, 80, 120], np.float32).reshape(1, 4, 1).repeat(3, 2)
    blurred = originals.blur_area(image, 2.0)[0, :, 0]  # means 20 and 100, a third of the way between them
    np.testing.assert_allclose(blurred, [20, 20 + 80 / 3, 20 + 160 / 3, 100], rtol=1e-5)
    np.testing.assert_allclose(originals.blur_area(image, 1.0), image)
    assert originals.blur_area(image, 99.0)[0, :, 0].tolist() == [60] * 4


def test_a_perturbation_by_hand() -> None:
    """x' = 2 x about the centre, in whole pixels; and a shift of one pixel, which the original has by mistake."""
    sample = noise_sample(5, 5)
    config = config_of("forma", crop=(5, 5), blur=0, brightness=0, contrast=0, saturation=0, hue=0, noise=0)
    wide = styled(sample, STILL._replace(affine=(1.0, 0, 0, 0, 0, 0)), config)
    labels = known(sample.semantic)
    expected = np.full((5, 5), 255, np.uint8)
    expected[:, 1:4] = labels[:, ::2]
    np.testing.assert_array_equal(wide.semantic, expected)
    np.testing.assert_array_equal(wide.image[:, 2], sample.image[:, 2])
    assert (wide.image[:, 0] == 128).all()  # grey, whatever the network's mean is
    down = styled(sample, STILL._replace(affine=(0, 0, 0, 0, 0, 1.0)), config)
    np.testing.assert_array_equal(known(down.semantic)[:4], labels[1:])
    assert (known(down.semantic)[4] == 255).all()


def test_brightness_and_noise_of_the_fork_change_nothing() -> None:
    sample = noise_sample(9, 9)
    config = config_of("forma", crop=(9, 9), affine=0, blur=0, contrast=0, saturation=0, hue=0)
    out = styled(sample, STILL._replace(brightness=1.2), config)
    assert np.abs(out.image.astype(int) - sample.image).max() <= 1


# All of them


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(WHOLE), sides, sides, st.tuples(st.integers(1, 40), st.integers(1, 40)), seeds)
def test_a_variation_depends_on_its_seed_alone_and_has_the_size_of_the_crop(
    style: tuple[Style, dict[str, Any]], height: int, width: int, crop: tuple[int, int], seed: int
) -> None:
    config, sample = config_of(style[0], crop=crop), noise_sample(height, width, seed % 7)
    one, other = (augment(sample, config, np.random.default_rng(seed), fill=FILL, ignore=IGNORE) for _ in range(2))
    for first, second, dtype in zip(one[1:4], other[1:4], ("uint8", "uint8", "int32"), strict=True):
        np.testing.assert_array_equal(first, second)
        assert known(first).shape[:2] == crop
        assert known(first).dtype == dtype
        assert known(first).flags.c_contiguous
    assert set(np.unique(known(one.semantic))) <= {*range(16), IGNORE}


@pytest.mark.parametrize("style", [name for name, _ in WHOLE])
def test_maps_follow_the_image(style: Style) -> None:
    """A scene of two flat halves: where the image is bright, so are both maps, but for the rim."""
    labels = np.zeros((40, 60), np.uint8)
    labels[12:, 20:] = 200
    sample = Sample("scene", np.repeat(labels[..., None], 3, -1), labels, labels.astype(np.int32))
    for seed in range(10):
        config = config_of(style, autoaugment=0, contrast=0) if style != "forma" else config_of(style, contrast=0)
        out = augment(sample, config, np.random.default_rng(seed), fill=(0, 0, 0), ignore=0)
        bright = out.image[..., 0] > 100
        np.testing.assert_array_equal(known(out.semantic) == 200, known(out.instance) == 200)
        is_beyond = (known(out.semantic) == 255) | (out.image[..., 0] == 128)
        assert ((bright != (known(out.semantic) == 200)) & ~is_beyond).mean() < 0.08, seed


def test_an_unlabelled_sample_is_varied_as_well() -> None:
    for style, _ in WHOLE:
        bare = Sample("bare", noise_image(20, 30))
        out = augment(bare, config_of(style), np.random.default_rng(3), fill=FILL, ignore=IGNORE)
        assert (out.semantic, out.instance) == (None, None)
        assert out.image.shape == (25, 33, 3)
        np.testing.assert_array_equal(bare.image, noise_image(20, 30))


def stored(pixels: Array, path: Path) -> Any:  # noqa: ANN401 - it stands for an array
    """The pixels in a file, read where they are sliced, as those of shards are."""
    path.write_bytes(pixels.tobytes())
    return Strips(path, path.name, 0, pixels.shape, pixels.dtype, tuple(checksums(pixels)))


@pytest.mark.parametrize("style", [name for name, _ in WHOLE])
def test_pixels_that_are_not_read_yet_are_varied_alike(style: Style, tmp_path: Path) -> None:
    sample = noise_sample(30, 40)
    late = sample._replace(
        image=stored(sample.image, tmp_path / "image"), semantic=stored(known(sample.semantic), tmp_path / "labels")
    )
    out, expected = (
        augment(each, config_of(style), np.random.default_rng(1), fill=FILL, ignore=IGNORE) for each in (late, sample)
    )
    np.testing.assert_array_equal(out.image, expected.image)
    np.testing.assert_array_equal(out.semantic, expected.semantic)


def test_a_step_that_an_original_lacks_is_refused_in_one_line() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        (
            {"style": "tf_deeplab", "rotate": 10, "hue": 0.1, "padding": "around"},
            r"=tf_deeplab needs augment\.rotate=0 augment\.hue=0 augment\.padding=bottom_right; or set style=atrous",
        ),
        ({"style": "tf_deeplab", "padding": "around"}, "style=tf_deeplab needs augment.padding=bottom_right;"),
        ({"style": "tf_deeplab", "resize_min": (3, 4)}, "needs one resize_min for both sides"),
        ({"style": "tf_deeplab", "resize_max": 4}, "needs one resize_min for both sides"),
        ({"style": "semseg"}, "style=semseg needs augment.padding=around;"),
        ({"style": "semseg", "padding": "around", "blur": 0.5}, "style=semseg needs augment.blur_kernel=binomial;"),
        ({"style": "semseg", "padding": "around", "resize_min": 9}, "needs augment.resize_min=none"),
        ({"style": "deeplab2", "padding": "random", "hue": 0.1}, "style=deeplab2 needs augment.hue=0"),
        ({"style": "forma", "flip_vertical": 0.1}, "style=forma needs augment.flip_vertical=0"),
        ({"style": "forma", "aspect": (0.5, 2)}, "needs augment.aspect=1,1;"),
        ({"style": "forma", "colors_on": "device"}, "style=forma needs augment.colors_on=cpu"),
        ({"style": "tf_deeplab", "resampling": "fast"}, "style=tf_deeplab needs augment.resampling=exact"),
        ({"style": "deeplab"}, "atrous"),
    ]
    for change, message in cases:
        with pytest.raises(ValidationError, match=message):
            AugmentConfig(**change)


def test_flipping_is_the_last_step_of_geometry_elsewhere() -> None:
    sample = noise_sample(8, 9)
    for style in ("tf_deeplab", "deeplab2"):
        config = (
            config_of(style, crop=(6, 12), autoaugment=0) if style == "deeplab2" else config_of(style, crop=(6, 12))
        )
        plain, mirrored = (styled(sample, STILL._replace(flip=flag), config) for flag in (False, True))
        np.testing.assert_array_equal(mirrored.image, flip(plain).image)
