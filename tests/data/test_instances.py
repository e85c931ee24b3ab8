"""Instance maps: what their numbers mean, what is refused of them, and that augmentation keeps them true."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image as PILImage

import atrous.data
from atrous.data import folder, survey
from atrous.data.augment_config import AugmentConfig
from atrous.data.image_files import ImageFiles
from atrous.data.instances import count_pairs, numbers_of, runs_of, things_alone
from atrous.data.label_space import LabelSpace
from atrous.data.pairing import Pair
from atrous.data.pixels import Codes, upright
from atrous.data.survey import Split, Survey
from atrous.data.targets import thing_targets
from atrous.data.transforms import augment, scale_and_crop
from atrous.distributed import World
from atrous.errors import AtrousWarning, DataError
from atrous.types import Sample
from tests.data.conftest import FILL, STILL, complaint, row, save, write
from tests.reference import targets as reference

ALONE = World(0, 1, torch.device("cpu"))
SPACE = LabelSpace(names=("sky", "car", "person", "road"), things=(1, 2), panoptic_divisor=10)
PATH = Path("a.png")


@pytest.fixture(autouse=True)
def nothing_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atrous.errors._warned", set())


def things(semantic: list[int], instance: list[int], space: LabelSpace = SPACE) -> list[int]:
    numbers = things_alone(np.array([instance], np.int32), np.array([semantic], np.uint8), space, str(PATH))
    assert numbers.dtype == np.int32
    return list(map(int, numbers[0]))


def refusal(semantic: list[int], instance: list[int], space: LabelSpace = SPACE) -> str:
    with pytest.raises(DataError) as caught:
        things(semantic, instance, space)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- the numbers of one map


def test_numbers_of_stuff_and_of_ignored_pixels_have_no_meaning() -> None:
    with pytest.warns(AtrousWarning) as warned:
        assert things([1, 2, 2, 0, 3, 255], [4, 5, 0, 7, 1000000, 5]) == [4, 5, 0, 0, 0, 0]
    assert [str(one.message) for one in warned] == [
        "a.png: number 7, 1000000 lies on sky, road alone, and is left out: classes of stuff have no things"
    ]
    assert things([0, 255, 255], [0, 0, 9]) == [0, 0, 0]  # of ignored pixels, nothing is said


def test_a_thing_may_reach_into_ignored_pixels() -> None:
    assert things([1, 255, 1], [3, 3, 3]) == [3, 0, 3]


def test_a_thing_of_two_classes_is_refused_with_their_pixels() -> None:
    assert refusal([1, 1, 2, 0], [3, 3, 3, 0]) == (
        "a.png: thing 3 has pixels of 2 classes, but a thing has one: car (2 pixels), person (1 pixel)"
    )
    assert "car (1 pixel), road (1 pixel)" in refusal([1, 3], [3, 3])  # on stuff, too
    assert "sky (1 pixel), car (1 pixel), person (1 pixel); so have 1 more of its things" in refusal(
        [1, 2, 0, 1, 2], [3, 3, 3, 9, 9]
    )


def test_a_number_of_stuff_alone_may_lie_on_several_classes() -> None:
    with pytest.warns(AtrousWarning, match="number 7 lies on sky, road alone"):
        assert things([0, 3, 1], [7, 7, 1]) == [0, 0, 1]


def test_numbers_stay_below_the_divisor() -> None:
    assert things([1, 2], [1, 9]) == [1, 9]
    text = refusal([1, 2], [1, 10])
    assert text.startswith("a.png: a thing has the number 10, but they may be 1..9 (the panoptic divisor is 10)")


def test_more_things_than_there_is_room_for_are_counted() -> None:
    numbers = list(range(1, 13))
    assert refusal([1] * 12, numbers) == (
        "a.png: 12 things in an image, but there may be 9 (the panoptic divisor is 10); cut the image into parts"
    )


def test_a_map_without_things_is_one(tmp_path: Path) -> None:
    assert things([0, 3, 255], [0, 0, 0]) == [0, 0, 0]
    assert things([1, 1], [0, 0]) == [0, 0]
    assert things([], []) == []


@pytest.mark.parametrize("value", [-1, 2**24 + 1, 2**31 - 1])
def test_values_that_number_nothing_are_refused(value: int) -> None:
    with pytest.raises(DataError, match=rf"a\.png: {value} is no number of a thing"):
        numbers_of(Codes(np.array([[0, value]], np.int32)), PATH)


def test_a_map_in_colours_is_refused_with_what_to_do() -> None:
    with pytest.raises(DataError, match=r"a\.png: the instance map is RGB, but .*data\.format=coco_panoptic"):
        numbers_of(Codes(np.array([[0, 1]], np.uint32), is_colored=True), PATH)


maps = st.integers(0, 2**32 - 1).flatmap(
    lambda seed: st.tuples(st.just(seed), st.integers(1, 12), st.integers(1, 12), st.integers(1, 6))
)


@given(maps)
def test_pairs_are_counted_as_by_sorting_all_pixels(drawn: tuple[int, int, int, int]) -> None:
    seed, height, width, count = drawn
    rng = np.random.default_rng(seed)
    instance = rng.integers(0, count, (height, width)).astype(np.int32) * rng.choice([1, 65536])
    semantic = rng.integers(0, count, (height, width)).astype(np.uint8)
    pairs, pixels = count_pairs(instance, semantic)
    expected = np.unique(instance.astype(np.int64) * 256 + semantic, return_counts=True)
    assert (pairs.tolist(), pixels.tolist()) == tuple(one.tolist() for one in expected)
    runs = runs_of(instance)
    assert np.array_equal(np.repeat(runs.values, runs.lengths).reshape(instance.shape), instance)
    assert (runs.values[1:] != runs.values[:-1]).all()


# ---- beside an image and a mask


def write_things(
    root: Path, mask: NDArray[np.generic], instance: NDArray[np.generic] | None, split: str = "train"
) -> folder.Config:
    save(root / "images" / split / "a.png", np.zeros((*mask.shape[:2], 3), np.uint8))
    save(root / "masks" / split / "a.png", mask)
    if instance is not None:
        save(root / "instances" / split / "a.png", instance)
    write(root / "classes.yaml", "names: [sky, car, person, road]\nthings: [person, car]\n")
    return folder.Config(root=root)


def instance_of(config: folder.Config, split: str = "train") -> list[list[int]] | None:
    instance = atrous.data.samples(config, split)[0].instance
    return None if instance is None else instance.tolist()


def test_maps_of_8_and_16_bits_and_palettes_are_read(tmp_path: Path) -> None:
    mask = row(1, 1, 2, 0)
    for dtype, last in ((np.uint8, 255), (np.uint16, 999)):
        assert instance_of(write_things(tmp_path, mask, row(1, 2, last, 0, dtype=dtype))) == [[1, 2, last, 0]]
    picture = PILImage.fromarray(row(1, 2, 3, 0), "L")
    picture.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0, 0, 0, 200])
    picture.save(tmp_path / "instances" / "train" / "a.png")
    assert instance_of(folder.Config(root=tmp_path)) == [[1, 2, 3, 0]]


def test_a_map_of_another_size_is_refused_and_the_survey_says_so(tmp_path: Path) -> None:
    config = write_things(tmp_path, np.ones((2, 3), np.uint8), np.ones((3, 2), np.uint8))
    path = tmp_path / "instances" / "train" / "a.png"
    text = complaint(config)
    assert text == (
        f"sizes differ (width x height): image {tmp_path}/images/train/a.png is 3 x 2, its instance map {path} is 2 x 3"
    )
    assert surveyed(config).problems == (text,)


def test_labels_are_read_without_the_image(tmp_path: Path) -> None:
    config = write_things(tmp_path, row(1, 2), row(1, 2))
    (tmp_path / "images" / "train" / "a.png").write_bytes(b"")
    samples = atrous.data.samples(config, "train")
    assert isinstance(samples, ImageFiles)
    labels = samples.labels(0)
    assert labels.instance is not None and labels.instance.tolist() == [[1, 2]]
    assert labels.image.size == 0
    assert samples.without_instances().labels(0).instance is None


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("drawn_on", ["mask stored", "map stored", "both stored", "both upright"])
def test_maps_are_turned_with_the_photo(orientation: int, drawn_on: str, tmp_path: Path) -> None:
    """Each map was drawn on the photo as it is stored, or as it is shown: they needn't agree."""
    stored = np.arange(1, 7, dtype=np.uint8).reshape(2, 3)  # numbers of things, all of class 1
    photo = PILImage.fromarray(np.zeros((2, 3, 3), np.uint8))
    exif = photo.getexif()
    exif[0x112] = orientation
    (tmp_path / "a").mkdir()
    photo.save(tmp_path / "a" / "photo.png", exif=exif)
    shown = np.ascontiguousarray(upright(stored, orientation))
    is_ambiguous = orientation in (2, 3, 4)  # the size doesn't change: a map without EXIF was drawn on what is shown
    mask_shown = drawn_on in ("map stored", "both upright") or is_ambiguous
    map_shown = drawn_on in ("mask stored", "both upright") or is_ambiguous
    mask = save(tmp_path / "a" / "mask.png", np.ones_like(shown if mask_shown else stored))
    path = save(tmp_path / "a" / "map.png", shown if map_shown else stored)
    samples = ImageFiles([Pair("a", tmp_path / "a" / "photo.png", mask, path)], SPACE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("atrous.data.image_files.warn_once", lambda key, text: None)
        sample, labels = samples[0], samples.labels(0)
    assert sample.instance is not None and labels.instance is not None
    assert np.array_equal(sample.instance, shown)
    assert sorted(labels.instance.ravel().tolist()) == [1, 2, 3, 4, 5, 6]


def test_a_map_in_jpeg_is_refused(tmp_path: Path) -> None:
    config = write_things(tmp_path, np.ones((4, 6), np.uint8), None)
    save(tmp_path / "instances" / "train" / "a.jpg")
    assert "a.jpg: an instance map in JPEG or WebP, which change its numbers" in complaint(config)


# ---- counted before the first step


def surveyed(config: folder.Config, split: str = "train") -> Survey:
    return survey.count(atrous.data.samples(config, split), atrous.data.label_space(config), ALONE)


def test_things_and_crowds_are_counted(tmp_path: Path) -> None:
    config = write_things(tmp_path, row(0, 1, 1, 2, 2, 2, 255), row(0, 1, 2, 5, 0, 0, 0))
    total = surveyed(config)
    assert (total.things, total.crowd_pixels, total.masks_with_crowds) == ((0, 2, 1, 0), 2, 1)
    space = atrous.data.label_space(config)
    (line,) = [one for one in survey.remarks(total, space, Split("train", ())) if "crowd" in one]
    assert line == (
        "split 'train': 40 % of the pixels of car, person, in 1 mask, have no number: they are crowds, in which no "
        "thing is counted"
    )
    assert survey.to_tree(total, space)["things"] == {"car": 2, "person": 1}


def test_without_instance_maps_nothing_is_said_of_things(tmp_path: Path) -> None:
    config = write_things(tmp_path, row(0, 1, 2), None)
    total, space = surveyed(config), atrous.data.label_space(config)
    assert (total.things, total.crowd_pixels) == ((), 0)
    assert "things" not in survey.to_tree(total, space)


def test_maps_without_any_number_are_refused(tmp_path: Path) -> None:
    config = write_things(tmp_path, row(0, 1, 2), row(0, 0, 0))
    space, split = atrous.data.label_space(config), Split("train", (), "to learn from")
    with pytest.raises(DataError) as caught:
        survey.require_usable(surveyed(config), space, split, skip_errors=False)
    assert str(caught.value) == (
        "split 'train': nothing to learn from: no thing has a number; all 2 pixels of car, person in 1 mask are 0 in "
        "their instance maps"
    )


# ---- augmented

COLORS = np.random.default_rng(1).integers(0, 256, (60, 3), np.uint8)
CLASS_OF = np.array([0, *(1 + number % 2 for number in range(1, 60))], np.uint8)  # of a thing's number


def scene(seed: int, height: int, width: int) -> Sample:
    """Boxes over one another: the number of a pixel tells its class and its colour."""
    rng = np.random.default_rng(seed)
    instance = np.zeros((height, width), np.int32)
    for number in rng.permutation(np.arange(1, 60))[: rng.integers(1, 12)]:
        top, left = rng.integers(0, height), rng.integers(0, width)
        instance[top : top + rng.integers(1, 20), left : left + rng.integers(1, 20)] = number
    return Sample("scene", COLORS[instance], CLASS_OF[instance], instance)


def augmented(sample: Sample, seed: int, **values: object) -> Sample:
    config = AugmentConfig.model_validate({"crop": (25, 31), **values})
    return augment(sample, config, np.random.default_rng(seed), fill=FILL, ignore=255)


augmentations = st.fixed_dictionaries(
    {
        "crop": st.tuples(st.integers(1, 50), st.integers(1, 50)),
        "scale_step": st.sampled_from([0, 0.25]),
        "rotate": st.sampled_from([0, 30, 180]),
        "padding": st.sampled_from(["bottom_right", "around"]),
        "flip": st.sampled_from([0, 0.5, 1]),
        "blur": st.sampled_from([0, 1]),
        "resize_min": st.sampled_from([None, 20, 61]),
    }
)


@settings(max_examples=150)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 60), augmentations)
def test_numbers_are_neither_invented_nor_merged(seed: int, height: int, width: int, values: dict[str, object]) -> None:
    """Whatever is done to an image, a pixel keeps its own thing's number and class; padding has neither."""
    before = scene(seed, height, width)
    after = augmented(before, seed, **values)
    assert before.instance is not None and after.instance is not None and after.semantic is not None
    assert after.instance.dtype == np.int32
    assert after.instance.shape == after.semantic.shape == after.image.shape[:2]
    assert set(np.unique(after.instance)) <= {0, *np.unique(before.instance).tolist()}
    is_padding = after.semantic == 255
    assert not after.instance[is_padding].any()
    assert np.array_equal(after.semantic[~is_padding], CLASS_OF[after.instance[~is_padding]])


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 60), st.sampled_from([0, 1]))
def test_without_resampling_each_pixel_keeps_its_color(seed: int, height: int, width: int, flip: int) -> None:
    after = augmented(scene(seed, height, width), seed, min_scale=1, max_scale=1, flip=flip)
    assert after.instance is not None
    is_padding = after.semantic == 255
    assert np.array_equal(after.image[~is_padding], COLORS[after.instance[~is_padding]])


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.floats(1, 2), st.sampled_from([0, 40]))
def test_the_inside_of_a_thing_keeps_its_color(seed: int, scale: float, rotate: float) -> None:
    """Borders are mixed by interpolation; two pixels of the source away from them, colours are a thing's own.

    Where images shrink, thin things are lost from maps, but not quite from colours.
    """
    before = scene(seed, 60, 60)
    after = augmented(before, seed, min_scale=scale, max_scale=scale, scale_step=0, rotate=rotate, crop=(90, 90))
    assert after.instance is not None
    reach = 2 + int(np.ceil(2 * scale))
    numbers = np.where(after.semantic == 255, -1, after.instance)
    windows = np.lib.stride_tricks.sliding_window_view(numbers, (2 * reach + 1, 2 * reach + 1))
    inside = windows.reshape(*windows.shape[:2], -1)
    is_inside = (inside == inside[..., :1]).all(-1) & (inside[..., 0] >= 0)
    shown = after.image[reach:-reach, reach:-reach][is_inside].astype(int)
    assert np.abs(shown - COLORS[inside[..., 0][is_inside]].astype(int)).max(initial=0) <= 1


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.tuples(st.integers(2, 20), st.integers(2, 20)))
def test_targets_are_those_of_what_the_crop_shows(seed: int, crop: tuple[int, int]) -> None:
    """A centre is that of the visible part; a thing cropped away leaves nothing."""
    after = augmented(scene(seed, 30, 30), seed, crop=crop)
    assert after.instance is not None and after.semantic is not None
    semantic, instance = after.semantic.copy(), after.instance.copy()
    is_thing_class = torch.tensor([False, True, True])
    targets = thing_targets(
        torch.from_numpy(semantic)[None], torch.from_numpy(instance)[None], is_thing_class, sigma=1.0
    )
    classes, numbers = semantic.astype(np.int64), instance.astype(np.int64)
    np.testing.assert_allclose(targets.heatmap[0, 0], reference.heatmap(classes, numbers, [1, 2], 1.0), atol=1e-6)
    np.testing.assert_array_equal(targets.offset[0], reference.offset(classes, numbers, [1, 2]))
    assert int((targets.heatmap == 1).sum()) <= len(np.unique(numbers[numbers > 0]))


def test_a_thing_that_is_cropped_has_the_center_of_its_visible_part() -> None:
    instance = np.zeros((4, 10), np.int32)
    instance[1:3, 2:10], instance[0, 9] = 5, 6
    sample = Sample("a", np.zeros((4, 10, 3), np.uint8), (instance > 0).astype(np.uint8), instance)
    part = scale_and_crop(sample, STILL, (4, 4), FILL, 255)
    assert part.instance is not None and part.semantic is not None
    assert part.instance.tolist() == [[0, 0, 0, 0], [0, 0, 5, 5], [0, 0, 5, 5], [0, 0, 0, 0]]
    classes, numbers = (torch.from_numpy(one)[None] for one in (part.semantic, part.instance))
    targets = thing_targets(classes, numbers, torch.tensor([False, True]))
    # rows 1 and 2 have their mean at 1.5, columns 2 and 3 at 2.5: both are rounded to the even 2; thing 6 is gone
    assert (targets.heatmap[0, 0] == 1).nonzero().tolist() == [[2, 2]]


def test_the_survey_finds_things_that_no_map_has_checked() -> None:
    """Of samples from shards, or from a program of one's own."""
    samples = [
        Sample(name, np.zeros((1, 2, 3), np.uint8), np.array([classes], np.uint8), np.array([numbers], np.int32))
        for name, classes, numbers in (("a", [1, 0], [12, 0]), ("b", [1, 2], [3, 3]), ("c", [1, 2], [1, 2]))
    ]
    total = survey.count(samples, SPACE, ALONE)
    assert total.masks == 1
    assert [problem.partition(";")[0] for problem in total.problems] == [
        "a: a thing has the number 12, but they may be 1..9 (the panoptic divisor is 10)",
        "b: thing 3 has pixels of 2 classes, but a thing has one: car (1 pixel), person (1 pixel)",
    ]
