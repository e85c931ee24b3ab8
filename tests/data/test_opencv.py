"""augment.resampling=opencv: the pixels of OpenCV's own resize and crop, in the geometry of the other ways."""

import builtins
import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from atrous import cli
from atrous.data import opencv
from atrous.data.augment_config import AugmentConfig
from atrous.data.transforms import augment
from atrous.data.windows import Window, resample_window, scaled_window
from atrous.types import Image, Sample
from tests.conftest import TINY
from tests.data.conftest import max_difference, noise_image
from tests.data.test_transforms import smooth_image

cv2 = pytest.importorskip("cv2", reason="the extra opencv is not installed")

sides = st.integers(1, 150)
factors = st.one_of(st.floats(0.25, 3), st.sampled_from([0.5, 0.75, 1.5, 2.0, 0.9995, 1.0003, 1.002]))
places = st.tuples(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True))


def resized_then_cropped(image: Image, window: Window) -> Image:
    pixels: Image = cv2.resize(image, window.scaled[::-1], interpolation=cv2.INTER_LINEAR)
    return pixels[window.top : window.top + window.height, window.left : window.left + window.width]


@settings(max_examples=150, deadline=None)
@given(sides, sides, factors, st.tuples(sides, sides), places, st.integers(0, 99))
def test_the_crop_is_that_of_the_whole_resize(
    height: int, width: int, scale: float, crop: tuple[int, int], place: tuple[float, float], seed: int
) -> None:
    image = noise_image(height, width, seed)
    window = scaled_window(image.shape[:2], scale, crop, place)
    pixels = resample_window(image, window, "opencv")
    assert pixels.shape == (window.height, window.width, 3) and pixels.dtype == np.uint8 and pixels.flags.writeable
    assert max_difference(pixels, resized_then_cropped(image, window)) <= 1


@pytest.mark.parametrize("scale", [0.35, 0.5, 0.7001, 1.0003, 1.001, 1.25, 1.4996, 2.0])
def test_the_same_far_from_the_corner_of_a_large_image(scale: float) -> None:
    """Here few scaled pixels begin where a source pixel does, and of some scales none."""
    image = noise_image(1090, 1927)
    for place in ((0.99, 0.99), (0.3, 0.8), (0.0, 0.5)):
        window = scaled_window(image.shape[:2], scale, (65, 129), place)
        assert max_difference(resample_window(image, window, "opencv"), resized_then_cropped(image, window)) <= 1


def test_where_nothing_begins_near_pillow_does_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    image = noise_image(300, 200)
    windows = [scaled_window((300, 200), scale, (50, 60), (0.9, 0.6)) for scale in (0.4, 0.77, 1.3, 1.9)]
    monkeypatch.setattr("atrous.data.windows.FAR", 0)
    monkeypatch.setattr(opencv, "resized", None)
    for window in windows:
        assert max_difference(resample_window(image, window, "opencv"), resized_then_cropped(image, window)) <= 1


@settings(max_examples=60, deadline=None)
@given(st.integers(60, 150), st.integers(60, 150), st.floats(0.5, 2), places)
def test_the_three_ways_agree_on_smooth_images(
    height: int, width: int, scale: float, place: tuple[float, float]
) -> None:
    """A pixel elsewhere would differ by 4 and more: the steepest of the waves has a slope of 11 a pixel."""
    image = smooth_image(height, width)
    window = scaled_window(image.shape[:2], scale, (48, 48), place)
    ways = [resample_window(image, window, way).astype(int) for way in ("exact", "fast", "opencv")]
    inner = (slice(2, -2), slice(2, -2))  # antialiasing reaches further beyond the border
    for one in ways[1:]:
        assert max_difference(one[inner], ways[0][inner]) <= 3
        assert abs(one[inner] - ways[0][inner]).mean() < 0.6


SHIFTS = ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0))


def agreement(shown: NDArray[np.bool_], labels: NDArray[np.uint8]) -> float:
    inner = (slice(1, -1), slice(1, -1))
    return float((shown[inner] == (labels[inner] == 1)).mean())


@pytest.mark.parametrize("rotate", [0, 30])
def test_labels_stay_on_what_they_label(rotate: int) -> None:
    """The image shows its labels in grey: a shift by a pixel, in any direction, makes both agree less."""
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 2, (12, 16), dtype=np.uint8).repeat(10, 0).repeat(10, 1)
    sample = Sample("a", np.stack([200 * labels + 20] * 3, -1), labels)
    config = AugmentConfig(crop=(100, 90), scale_step=0, resampling="opencv", rotate=rotate, rotate_probability=1)
    for seed in range(20):
        varied = augment(sample, config, np.random.default_rng(seed), fill=(20, 20, 20), ignore=0)
        assert varied.semantic is not None
        shown = varied.image[..., 0].astype(int)
        same = {shift: agreement(shown > 120, np.roll(varied.semantic, shift, (0, 1))) for shift in SHIFTS}
        in_place = same.pop((0, 0))
        assert in_place > 0.97 and in_place > max(same.values()) + 0.01


def test_labels_and_things_are_those_of_the_exact_way() -> None:
    rng = np.random.default_rng(5)
    maps: dict[str, Any] = {
        "semantic": rng.integers(0, 19, (90, 120), dtype=np.uint8),
        "instance": rng.integers(0, 999, (90, 120), dtype=np.int32),
    }
    sample = Sample("a", noise_image(90, 120), **maps)
    for seed in range(20):
        one, other = (
            augment(
                sample,
                AugmentConfig(crop=(65, 65), scale_step=0, resampling=way),
                np.random.default_rng(seed),
                fill=(1, 2, 3),
                ignore=255,
            )
            for way in ("exact", "opencv")
        )
        np.testing.assert_array_equal(one.semantic, other.semantic)
        np.testing.assert_array_equal(one.instance, other.instance)


def test_it_gives_the_same_each_time_and_leaves_the_number_of_threads_alone() -> None:
    image, before = noise_image(700, 900), cv2.getNumThreads()
    window = scaled_window((700, 900), 1.3, (400, 500), (0.4, 0.7))
    try:
        results = []
        for number in (0, 1, 2):
            cv2.setNumThreads(number)
            set_to = cv2.getNumThreads()
            results.append(resample_window(image, window, "opencv"))
            assert cv2.getNumThreads() == set_to
        for result in results[1:]:
            np.testing.assert_array_equal(result, results[0])
    finally:
        cv2.setNumThreads(before)


def test_only_one_thread_resizes(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers, inner, before = [], cv2.resize, cv2.getNumThreads()

    def noted(*given: Any, **options: Any) -> Any:  # noqa: ANN401
        numbers.append(cv2.getNumThreads())
        return inner(*given, **options)

    monkeypatch.setattr(cv2, "resize", noted)
    try:
        cv2.setNumThreads(2)
        opencv.resized(noise_image(50, 60), (1.5, 1.25))
    finally:
        cv2.setNumThreads(before)
    assert numbers == [1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_does_not_wait_for_the_threads_of_its_parent() -> None:
    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(2)
        cv2.resize(noise_image(900, 900), (1800, 1800))  # starts them
        child = os.fork()
        if child == 0:
            opencv.resized(noise_image(900, 900), (1.5, 1.5))
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    finally:
        cv2.setNumThreads(before)


# ---- without the package


@pytest.fixture
def hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenCV as if it weren't installed."""
    find, load = importlib.util.find_spec, builtins.__import__

    def loaded(name: str, *given: Any) -> Any:  # noqa: ANN401
        if name == "cv2":
            raise ModuleNotFoundError(name)
        return load(name, *given)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "cv2" else find(name, *rest))
    monkeypatch.setattr(builtins, "__import__", loaded)


@pytest.mark.usefixtures("hidden")
@pytest.mark.parametrize("show", [True, False])
def test_a_missing_package_is_told_in_one_line_before_the_work(
    tmp_path: Path, show: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "synthetic/deeplab_v3plus_tiny", *TINY, "augment.resampling=opencv", "--workers", "0"]
    place = ["--show-augmentation", str(tmp_path / "a.png")] if show else ["--out", str(tmp_path / "run")]
    assert cli.run([*arguments, *place]) == 2
    error = capsys.readouterr().err
    assert error.startswith("atrous: augment.resampling=opencv: OpenCV is not installed; pip install 'atrous[opencv]'")
    assert error.count("\n") == 1
    assert not (tmp_path / "a.png").exists() and not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.usefixtures("hidden")
def test_the_other_ways_need_no_opencv() -> None:
    window = scaled_window((70, 90), 1.3, (40, 50), (0.4, 0.7))
    for way in ("exact", "fast"):
        assert resample_window(noise_image(70, 90), window, way).shape == (40, 50, 3)


@pytest.mark.slow
def test_a_training_with_it_runs(tmp_path: Path) -> None:
    arguments = ["train", "synthetic/deeplab_v3plus_tiny", *TINY, "augment.resampling=opencv", "--workers", "1"]
    assert cli.run([*arguments, "--out", str(tmp_path / "run"), "--device", "cpu"]) == 0
    assert (tmp_path / "run/best.safetensors").exists()
