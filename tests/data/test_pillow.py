"""Files that Pillow would wait for, take for something else, or explain badly."""

import logging
import os
import re
import socket
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from atrous import errors
from atrous.data.pixels import read_image, read_label
from atrous.errors import AtrousWarning, ConfigError, DataError
from tests.data.conftest import save
from tests.data.test_pixels import GREY, write_tiff


@pytest.fixture(autouse=True)
def unwarned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "_warned", set())


def refusal(path: Path) -> str:
    with pytest.raises(DataError, match=rf"^cannot read image {re.escape(str(path))}: ") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)
    return str(caught.value).partition(f"{path}: ")[2]


def test_what_is_no_file_is_refused_instead_of_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    os.mkfifo("pipe.png")
    Path("link.png").symlink_to("pipe.png")
    Path("device.png").symlink_to("/dev/zero")
    Path("nowhere.png").symlink_to("missing")
    Path("folder.png").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.png")
        reasons = {
            "pipe.png": "it is a named pipe, not a file",
            "link.png": "it is a named pipe, not a file",
            "device.png": "it is a device, not a file",
            "socket.png": "it is a socket, not a file",
            "nowhere.png": "No such file or directory",
            "folder.png": "Is a directory",
        }
        for name, reason in reasons.items():
            assert refusal(Path(name)) == reason
    with pytest.raises(DataError, match=r"cannot read label pipe\.png: it is a named pipe"):
        read_label(Path("pipe.png"))
    Path("real.png").symlink_to(save(tmp_path / "a.png"))
    assert read_image("real.png").shape == (4, 6, 3)


def test_animations_and_files_of_several_pages_are_refused(tmp_path: Path) -> None:
    frames = [PIL.Image.fromarray(np.full((4, 6, 3), value, np.uint8)) for value in (0, 99, 200)]
    for suffix in ("gif", "png", "webp"):
        frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
        assert refusal(tmp_path / f"a.{suffix}").startswith("it is an animation of 3 frames, not one picture; save the")
        frames[0].save(tmp_path / f"one.{suffix}")
        assert read_image(tmp_path / f"one.{suffix}").shape == (4, 6, 3)
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    assert refusal(tmp_path / "a.tif") == "it has 3 pages, not one picture; save each page as a file of its own"
    with pytest.raises(DataError, match="it has 3 pages"):
        read_label(tmp_path / "a.tif")
    frames[0].save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=frames[1:])  # a phone's photo
    assert read_image(tmp_path / "a.jpg").shape == (4, 6, 3)


def test_smaller_copies_in_a_tiff_are_no_pages(tmp_path: Path) -> None:
    large, small = (PIL.Image.fromarray(np.full(size, 7, np.uint8)) for size in ((40, 60), (4, 6)))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    large.save(tmp_path / "a.tif", save_all=True, append_images=[small])
    with PIL.Image.open(tmp_path / "a.tif") as image:
        assert getattr(image, "n_frames") == 2  # noqa: B009 - of a TIFF
        image.seek(1)
        is_marked = image.tag_v2.get(254) == 1  # type: ignore[attr-defined]
    if not is_marked:
        pytest.skip("this Pillow does not write the tag of a smaller copy")
    assert read_image(tmp_path / "a.tif").shape == (40, 60, 3)


def test_tiffs_of_other_bands_and_numbers_are_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    eight = np.repeat(GREY[..., None], 8, axis=2)
    cases = {
        "eight.tif": (write_tiff(tmp_path / "eight.tif", eight.astype(np.uint8), 1, t338=[0] * 7), "8 bands of 8 bits"),
        "deep.tif": (write_tiff(tmp_path / "deep.tif", eight.astype(np.uint16), 1, ">", t338=[0] * 7), "8 bands of 16"),
        "five.tif": (
            write_tiff(tmp_path / "five.tif", eight[..., :5].astype(np.uint8), 2, t338=[0, 0]),
            "5 bands of 8",
        ),
        "float.tif": (
            write_tiff(tmp_path / "float.tif", eight[..., :3].astype(np.float32), 2),
            "3 bands of 32 bits (floats)",
        ),
        "signed.tif": (write_tiff(tmp_path / "signed.tif", (GREY // 2).astype(np.int8), 1), "its pixels are signed"),
        "negative.tif": (write_tiff(tmp_path / "negative.tif", GREY.astype(np.uint16), 0), "0 is white in it, with 16"),
    }
    for name, (path, words) in cases.items():
        text = refusal(path)
        assert words in text and "save" in text, name
    assert capfd.readouterr() == ("", ""), "Pillow's own log is not for the terminal"


def test_bands_beside_the_colours_are_said(tmp_path: Path) -> None:
    four = np.dstack([np.full((3, 4, 3), 9), np.full((3, 4, 1), 200)]).astype(np.uint8)
    with pytest.warns(AtrousWarning, match=r"what it holds besides colours is left out \(bands: 1\)"):
        assert (read_image(write_tiff(tmp_path / "a.tif", four, 2, t338=0)) == 9).all()


def test_a_pointer_of_git_lfs_is_told_from_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    assert refusal(path) == "not an image, but a pointer of Git LFS; fetch the file with `git lfs pull`"


def test_the_limit_of_pixels_is_set_by_an_environment_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.png", np.zeros((4, 6), np.uint8))
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 10)
    text = refusal(path)
    assert text.startswith("its 24 pixels are more than the limit of 20, since a small file could fill the memory; ")
    assert text.endswith("to read it, set the environment variable ATROUS_MAX_PIXELS=24")
    monkeypatch.setenv("ATROUS_MAX_PIXELS", "24")
    assert read_image(path).shape == (4, 6, 3)
    monkeypatch.setenv("ATROUS_MAX_PIXELS", "2_3")
    assert "more than the limit of 23" in refusal(path)
    for text in ("many", "-1", "0", "1e9"):
        monkeypatch.setenv("ATROUS_MAX_PIXELS", text)
        with pytest.raises(ConfigError, match=rf"^ATROUS_MAX_PIXELS={text}: .* whole number of pixels"):
            read_image(path)


def test_pillow_has_somewhere_to_log_to() -> None:
    assert any(isinstance(handler, logging.NullHandler) for handler in logging.getLogger("PIL").handlers)
