"""Which images a page has, and how large they are."""

import base64
import io
import math

import numpy as np
import PIL.Image
import pytest

from atrous.report import pictures
from atrous.report.pictures import ImageScore, Panels, gallery, image_score, shrink, view, weight
from atrous.tasks.contract import Figures, Table
from atrous.types import Image

PIXELS = np.random.default_rng(0).integers(0, 256, (72, 96, 3), np.uint8)


@pytest.fixture(autouse=True)
def small_widths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "WIDTHS", (96, 64, 48, 32))


def panels(image: ImageScore) -> Panels:
    if image.sample == 13:
        return []  # it can't be read
    errors = np.zeros((72, 96, 3), np.uint8)
    errors[: image.sample] = 200
    return [("Image", PIXELS), ("Errors", errors)]


def images(count: int) -> list[ImageScore]:
    return [ImageScore(index, (index * 11 % count) / count, f"{index}.png") for index in range(count)]


def opened(uri: str) -> PIL.Image.Image:
    return PIL.Image.open(io.BytesIO(base64.b64decode(uri.partition(";base64,")[2])))


def test_all_images_that_fit_are_there_worst_first() -> None:
    result = gallery(images(20), panels, 10**8)
    assert result.num_images == 20
    assert [one.score for one in result.pictures] == sorted(index / 20 for index in range(20) if index != 13 * 11 % 20)
    assert result.pictures[0].views[0].size == (96, 72), "as large as they are"


def test_pictures_shrink_before_images_are_left_out() -> None:
    size = weight(pictures.drawn(images(20)[0], panels(images(20)[0]), 32))
    result = gallery(images(20), panels, 25 * size)
    assert len(result.pictures) == 19
    assert result.pictures[0].views[0].size == (32, 24)


@pytest.mark.parametrize("count", [21, 200, 2000])
def test_of_too_many_images_the_worst_and_some_of_the_best_are_there(count: int) -> None:
    size = weight(pictures.drawn(images(20)[0], panels(images(20)[0]), 32))
    limit = round(16.5 * size)
    result = gallery(images(count), panels, limit)
    assert result.num_images == count and 13 <= len(result.pictures) <= 16
    assert sum(weight(one) for one in result.pictures) <= limit
    scores = [one.score for one in result.pictures]
    assert scores == sorted(scores) and scores[0] == 0 and scores[-1] == (count - 1) / count
    assert sum(score > 0.9 for score in scores) >= 2


@pytest.mark.parametrize("limit", [-5, 0, 1, 1300])
def test_a_page_without_room_has_no_picture(limit: int) -> None:
    assert gallery(images(5), panels, limit).pictures == []


def test_there_may_be_no_image() -> None:
    assert gallery([], panels, 10**6) == ([], 0)
    assert gallery([ImageScore(13, 0.5, "broken")], panels, 10**6) == ([], 1)


def test_images_without_a_label_come_last() -> None:
    scores = [ImageScore(0, math.nan), ImageScore(1, 0.5), ImageScore(2, 0.0)]
    assert [image.sample for image in pictures.worst_first(scores)] == [2, 1, 0]


def test_the_score_of_an_image_knows_its_classes() -> None:
    table = Table(("IoU",), {"road": (0.5,), "car": (None,), "tree": (0.0,)})
    score = image_score(3, "a.png", Figures({"miou": 0.25}, {"miou": "mIoU"}, table))
    assert score == (3, 0.25, "a.png", {"road": 0.5, "tree": 0.0})
    blank = Table(("IoU",), {"road": (None,), "car": (None,)})
    score = image_score(3, "a.png", Figures({"miou": 0.0}, {"miou": "mIoU"}, blank))
    assert math.isnan(score.score) and score.classes == {}


def test_a_map_keeps_its_colours_and_a_photo_is_compressed() -> None:
    flat = np.zeros((100, 2000, 3), np.uint8)
    flat[:, ::2] = (255, 138, 76)
    small = view("Errors", flat, 320)
    assert small.uri.startswith("data:image/png") and small.size == (320, 16)
    assert {color for _, color in opened(small.uri).convert("RGB").getcolors() or []} <= {(0, 0, 0), (255, 138, 76)}
    photo = view("Image", PIXELS, 32)
    assert not photo.uri.startswith("data:image/png") and opened(photo.uri).size == photo.size == (32, 24)


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((1024, 2048), (640, 320)),
        ((48, 64), (64, 48)),
        ((3000, 640), (296, 1386)),
        ((1, 5000), (640, 1)),
        ((1, 1), (1, 1)),
    ],
)
def test_a_picture_is_bounded_in_width_and_area(shape: tuple[int, int], size: tuple[int, int]) -> None:
    image: Image = np.zeros((*shape, 3), np.uint8)
    assert shrink(image, 640, PIL.Image.Resampling.NEAREST).size == size
