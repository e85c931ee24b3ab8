"""PNG files that are written a few rows at a time are those that Pillow reads."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from atrous.wire import png


@pytest.mark.parametrize("largest", [255, 65_535])
@pytest.mark.parametrize("parts", [1, 3, 17])
def test_rows_become_a_picture(largest: int, parts: int, tmp_path: Path) -> None:
    labels = (
        np.random.default_rng(0).integers(0, largest + 1, (17, 23)).astype(np.uint8 if largest < 256 else np.uint16)
    )
    palette = np.arange(768, dtype=np.uint16).astype(np.uint8).reshape(256, 3) if largest < 256 else None
    with (tmp_path / "a.png").open("wb") as file:
        add = png.begin(file, labels.shape, palette)
        for rows in np.array_split(labels, parts):
            add(rows)
        add(labels[:0])
    with PIL.Image.open(tmp_path / "a.png") as picture:
        picture.verify()
    with PIL.Image.open(tmp_path / "a.png") as picture:
        assert picture.mode == ("P" if largest < 256 else "I;16")
        assert np.array_equal(np.asarray(picture), labels)
        if palette is not None:
            assert picture.getpalette() == palette.ravel().tolist()


def test_a_picture_with_rows_missing_is_not_completed(tmp_path: Path) -> None:
    with (tmp_path / "a.png").open("wb") as file:
        add = png.begin(file, (5, 4), None)
        add(np.zeros((3, 4), np.uint16))
        with pytest.raises(AssertionError, match="all rows"):
            add(np.zeros((0, 4), np.uint16))
