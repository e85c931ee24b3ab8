"""Which files belong together, and what is reported of those that don't."""

from pathlib import Path

import pytest

from atrous.data import camvid
from tests.data.conftest import LAYOUTS, complaint, names, save, write_camvid, write_folder


@pytest.mark.parametrize("layout", ["camvid", "folder"])
def test_images_and_labels_without_each_other_are_refused(layout: str, tmp_path: Path) -> None:
    config = LAYOUTS[layout](tmp_path)
    images = {"camvid": tmp_path / "train", "folder": tmp_path / "images" / "train"}[layout]
    labels = {"camvid": tmp_path / "trainannot", "folder": tmp_path / "masks" / "train"}[layout]
    for number in range(7):
        save(images / f"odd{number}.png")
    expected = f"images in {images} without a label in {labels} (7): odd0, odd1, odd2, odd3, odd4, ..."
    assert complaint(config) == expected
    for number in range(7):
        (images / f"odd{number}.png").unlink()
    save(labels / "left.png")
    assert complaint(config) == f"labels in {labels} without an image in {images} (1): left"


def test_two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    config = write_camvid(tmp_path)
    save(tmp_path / "train" / "a.JPG", mode="RGB")
    text = complaint(config)
    assert text.startswith(
        f"files in {tmp_path / 'train'} that differ from another file only in their suffix (2): a.JPG, a.png"
    )


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    for name in ("val", "valannot"):
        (tmp_path / name).mkdir()
    text = complaint(camvid.Config(root=tmp_path), "val")
    assert text.startswith(f"no image in {tmp_path / 'val'}, or below it: the suffix must be one of .png, .jpg, ")


def test_a_split_without_a_folder_of_labels_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "train" / "a.png")
    save(tmp_path / "valannot" / "a.png")
    text = complaint(camvid.Config(root=tmp_path), error=FileNotFoundError)
    assert text == f"labels: no such folder: {tmp_path / 'trainannot'}"


def test_lossy_labels_are_refused(tmp_path: Path) -> None:
    config = write_folder(tmp_path)
    (tmp_path / "masks" / "train" / "a.png").unlink()
    save(tmp_path / "masks" / "train" / "a.jpg")
    assert "are JPEG or WebP, which change label values; save them as PNG (1): a.jpg" in complaint(config)


def test_suffixes_may_differ_in_kind_and_case(tmp_path: Path) -> None:
    config = write_folder(tmp_path)
    for name in ("b.JPEG", "c.bmp", "d.tif", "e.webp", "f.x.PNG"):
        save(tmp_path / "images" / "train" / name, mode="RGB")
        save(tmp_path / "masks" / "train" / f"{Path(name).stem}.PNG")
    assert names(config) == ["a", "b", "c", "d", "e", "f.x"]
