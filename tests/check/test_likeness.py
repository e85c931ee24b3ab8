"""Copies are told from their originals and from other photos, by content."""

import io
from collections.abc import Callable

import numpy as np
import PIL.Image
import pytest

from atrous.check.facts import Facts, _image_facts
from atrous.check.likeness import Alike, alike
from atrous.types import Image
from tests.check.broken import photo, scene


def facts(name: str, image: Image) -> Facts:
    return Facts(name, image=_image_facts(np.ascontiguousarray(image), None))


def original(seed: int = 0) -> Image:
    return photo(seed, scene(seed))


def as_jpeg(image: Image) -> Image:
    content = io.BytesIO()
    PIL.Image.fromarray(image).save(content, "JPEG", quality=50)
    return np.asarray(PIL.Image.open(content))


def brighter(image: Image) -> Image:
    return np.minimum(image, 235) + np.uint8(20)


def resized(image: Image) -> Image:
    return np.asarray(PIL.Image.fromarray(image).resize((60, 40), PIL.Image.Resampling.BICUBIC))


@pytest.mark.parametrize("change", [as_jpeg, resized, brighter])
def test_a_changed_copy_is_near_its_original(change: Callable[[Image], Image]) -> None:
    image = np.minimum(original(), 235)
    others = [facts(f"other {seed}", original(seed)) for seed in range(1, 30)]
    assert alike([facts("a", image), *others, facts("b", change(image))]) == [Alike(0, 30, "near")]


def test_a_copy_is_the_same_as_the_first_one() -> None:
    image = original()
    assert alike([facts(name, image) for name in "abc"]) == [Alike(0, 1, "same"), Alike(0, 2, "same")]


def test_photos_of_the_same_scene_are_no_copies() -> None:
    """The same labels, other pixels."""
    assert alike([facts(f"film_{seed}", photo(seed, scene(0))) for seed in range(20)]) == []


def test_flat_images_resemble_nothing() -> None:
    flat = np.full((40, 60, 3), 90, np.uint8)
    other = flat.copy()
    other[0, 0] = 91
    assert alike([facts("a", flat), facts("b", other)]) == []


def test_none_and_one_image_are_compared_with_nothing() -> None:
    assert alike([]) == alike([facts("a", original())]) == alike([Facts("b")]) == []
