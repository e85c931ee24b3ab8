"""What a Python program may hold an image in."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from atrous.data.image_like import is_one_image, read_image, several
from atrous.errors import DataError
from tests.data.conftest import noise_image, save

PIXELS = noise_image(4, 6)
GREY = PIXELS[..., 0]


def png(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    buffer = io.BytesIO()
    PILImage.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_the_same_image_is_read_from_everything_that_holds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.png", PIXELS)
    monkeypatch.setenv("HOME", str(tmp_path))
    read_only = PIXELS.copy()
    read_only.setflags(write=False)
    with path.open("rb") as file:
        holders: dict[str, Any] = {
            "path": path,
            "text": str(path),
            "home": "~/a.png",
            "bytes": png(PIXELS),
            "bytearray": bytearray(png(PIXELS)),
            "memoryview": memoryview(png(PIXELS)),
            "BytesIO": io.BytesIO(png(PIXELS)),
            "file": file,
            "array": PIXELS,
            "read-only array": read_only,
            "array of another order": np.asfortranarray(PIXELS),
            "reversed array": PIXELS[::-1][::-1],
            "PIL image": PILImage.fromarray(PIXELS),
            "RGBA": PILImage.fromarray(PIXELS).convert("RGBA"),
            "tensor": torch.from_numpy(PIXELS).permute(2, 0, 1),
            "contiguous tensor": torch.from_numpy(PIXELS).permute(2, 0, 1).contiguous(),
        }
        for name, holder in holders.items():
            assert is_one_image(holder), name
            image = read_image(holder)
            assert np.array_equal(image, PIXELS), name
            assert image.flags.writeable and image.flags.c_contiguous, name
            torch.from_numpy(image)  # a warning of PyTorch is an error here


def test_a_file_that_was_read_to_its_end_is_read_from_its_start() -> None:
    file = io.BytesIO(png(PIXELS))
    file.read()
    assert np.array_equal(read_image(file), PIXELS)


def test_grey_images_are_as_bright_in_every_channel() -> None:
    expected = np.repeat(GREY[..., None], 3, axis=2)
    for holder in (GREY, GREY[..., None], torch.from_numpy(GREY.copy()), torch.from_numpy(GREY.copy())[None]):
        assert np.array_equal(read_image(holder), expected)


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: None, "can't be read from None; give a path"),
    (lambda: 3.5, "can't be read from a float; give a path"),
    (lambda: object(), "can't be read from an object; give a path"),
    (lambda: io.StringIO("text"), "a text file; open it with mode 'rb'"),
    (lambda: "https://example.org/a.jpg", "https://example.org/a.jpg: a URL, not a file; download it"),
    (lambda: "data:image/png;base64,iVBORw0KGgo=", "a URL, not a file"),
    (lambda: Path("https://example.org/a.jpg"), "a URL, not a file"),
    (lambda: "a\0.png", "embedded null byte"),
    (lambda: "", "cannot read image '': Is a directory"),
    (lambda: PILImage.new("RGB", (0, 5)), "the image has no pixels: it is 0 x 5"),
    (lambda: np.array(3, np.uint8), "got [] of uint8"),
    (lambda: ["a.png"], "can't be read from a list; give a path"),
    (lambda: b"", "the file is empty"),
    (lambda: b"no image", "in memory (BytesIO): not an image"),
    (lambda: "a" * 5000, "File name too long"),
    (lambda: PIXELS / 255.0, "(array * 255).round()"),
    (lambda: PIXELS.astype(np.float32), "got [4, 6, 3] of float32; images are in 0..255: array.round()"),
    (lambda: PIXELS.astype(np.uint16), "(array >> 8).astype(np.uint8)"),
    (lambda: GREY > 9, "got [4, 6] of bool"),
    (lambda: np.dstack([PIXELS, GREY]), "leave out the fourth band: array[..., :3]"),
    (lambda: PIXELS.transpose(2, 0, 1), "bands come last: array.transpose(1, 2, 0)"),
    (lambda: PIXELS[None], "several images are given as a list: list(array)"),
    (lambda: PIXELS[:0], "got [0, 6, 3] of uint8"),
    (lambda: torch.zeros(3, 4, 6), "got [3, 4, 6] of torch.float32; images are in 0..255: (tensor * 255).round()"),
    (lambda: torch.full((3, 4, 6), 99.0), "tensor.round().clamp(0, 255)"),
    (lambda: torch.from_numpy(PIXELS), "bands come first: tensor.permute(2, 0, 1)"),
    (lambda: torch.zeros(2, 3, 4, 6, dtype=torch.uint8), "several images are given as a list: list(tensor)"),
    (lambda: torch.zeros(4, 4, 6, dtype=torch.uint8), "leave out the fourth band: tensor[:3]"),
    (lambda: PILImage.new("F", (2, 2)), "its pixels are floats"),
]


def test_what_would_be_a_wrong_image_is_refused_with_what_to_do() -> None:
    for make, words in REFUSED:
        with pytest.raises(DataError) as caught:
            read_image(make())
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_pil_image_of_a_damaged_file_is_the_files_fault(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", noise_image(64, 64))
    path.write_bytes(path.read_bytes()[:-2000])
    with PILImage.open(path) as image, pytest.raises(DataError, match="cannot read the image: "):
        read_image(image)


def test_a_closed_pil_image_is_refused(tmp_path: Path) -> None:
    image = PILImage.open(save(tmp_path / "a.png"))
    image.close()
    with pytest.raises(DataError, match="cannot read the image: "):
        read_image(image)


def test_of_many_images_the_one_that_fails_is_counted(tmp_path: Path) -> None:
    assert len(several(iter([PIXELS, GREY]))) == 2
    assert several([]) == []
    with pytest.raises(DataError, match=r"^image 1 of the list \(counted from 0\): an image can't be read from None"):
        several([PIXELS, None])
    for wrong in ({"image": PIXELS}, {1, 2}, 5):
        with pytest.raises(DataError, match=r"or a list of these$"):
            several(wrong)
