"""Which files belong together, and what is reported of those that don't."""

import os
from pathlib import Path
from typing import Literal
from unicodedata import normalize

import numpy as np
import PIL.Image
import pytest

import atrous.data
from atrous.data import camvid
from atrous.data.pairing import files_below, without_words
from tests.data.conftest import (
    LAYOUTS,
    complaint,
    names,
    save,
    semantic,
    write,
    write_camvid,
    write_folder,
    write_list,
    write_voc,
)


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


# Names that say more than that of the image


def add(root: Path, image: str, mask: str) -> None:
    """A further image of the training split, with its mask."""
    save(root / "images" / "train" / image, mode="RGB")
    save(root / "masks" / "train" / mask, np.full((4, 6), 1, np.uint8))


@pytest.mark.parametrize(
    ("image", "mask", "name"),
    [
        ("b.jpg", "b_mask.png", "b"),
        ("b.jpg", "b-mask.png", "b"),
        ("b.jpg", "b_label.png", "b"),
        ("b.jpg", "b_gt.png", "b"),
        ("b.jpg", "b_segmentation.PNG", "b"),
        ("b.jpg", "mask_b.png", "b"),
        ("b.jpg", "b.jpg.png", "b"),
        ("b.JPG", "b.jpg.png", "b"),
        ("b_sat.jpg", "b_mask.png", "b_sat"),
        ("image_7.jpg", "mask_7.png", "image_7"),
        ("image_7.jpg", "7.png", "image_7"),
        ("b_mask.jpg", "b_mask.png", "b_mask"),
        ("site/b.jpg", "site/b_mask.png", "site/b"),
    ],
)
def test_a_label_may_say_what_it_is(image: str, mask: str, name: str, tmp_path: Path) -> None:
    config = write_folder(tmp_path)
    add(tmp_path, image, mask)
    samples = {sample.name: semantic(sample) for sample in atrous.data.samples(config, "train")}
    assert samples.keys() == {"a", name}
    assert (samples[name] == 1).all()


def test_the_exact_name_is_preferred_and_the_other_file_is_named(tmp_path: Path) -> None:
    config = write_folder(tmp_path)
    save(tmp_path / "masks" / "train" / "a_mask.png")
    expected = f"labels in {tmp_path}/masks/train without an image in {tmp_path}/images/train (1): a_mask"
    assert complaint(config) == expected


def test_two_images_that_a_label_may_belong_to_get_none(tmp_path: Path) -> None:
    config = write_folder(tmp_path)
    add(tmp_path, "7_rgb.jpg", "7_mask.png")
    save(tmp_path / "images" / "train" / "7_sat.jpg", mode="RGB")
    assert "without a label in" in complaint(config)


def test_images_of_one_stem_are_told_apart_by_labels_that_name_their_suffix(tmp_path: Path) -> None:
    config = write_folder(tmp_path)
    add(tmp_path, "b.jpg", "b.jpg.png")
    add(tmp_path, "b.png", "b.png.png")
    assert names(config) == ["a", "b.jpg", "b.png"]


def test_words_are_left_out_at_either_end_of_the_name_alone() -> None:
    for name in ("a_mask", "a-Mask", "a.mask", "mask_a", "a_labels", "GT-a"):
        assert without_words(name, "masks?|labels?|gt") == "a"
    for name in ("amask", "a_mask_1", "mask", "labels/a", "a_"):
        assert without_words(name, "masks?|labels?|gt") == name


# Forms of Unicode


def renamed(path: Path, form: Literal["NFC", "NFD"]) -> Path:
    """The file under a name of one form, as archives of various systems have it."""
    return path.rename(path.with_name(normalize(form, "Zürich") + path.suffix))


@pytest.mark.parametrize(("image_form", "label_form"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
def test_forms_of_unicode_are_one_name(
    image_form: Literal["NFC", "NFD"], label_form: Literal["NFC", "NFD"], tmp_path: Path
) -> None:
    config = write_folder(tmp_path)
    renamed(tmp_path / "images" / "train" / "a.jpg", image_form)
    renamed(tmp_path / "masks" / "train" / "a.png", label_form)
    assert names(config) == [normalize("NFC", "Zürich")]


def test_forms_of_unicode_are_one_name_in_lists(tmp_path: Path) -> None:
    voc, lists = write_voc(tmp_path / "voc"), write_list(tmp_path / "list")
    renamed(tmp_path / "voc" / "JPEGImages" / "a.jpg", "NFD")
    renamed(tmp_path / "voc" / "SegmentationClass" / "a.png", "NFC")
    write(tmp_path / "voc" / "ImageSets" / "Segmentation" / "train.txt", normalize("NFD", "Zürich") + "\n")
    assert names(voc) == [normalize("NFC", "Zürich")]
    for kind in ("images", "labels"):
        renamed(tmp_path / "list" / kind / "a.png", "NFD")
        (tmp_path / "list" / kind).rename(tmp_path / "list" / normalize("NFD", f"{kind}_é"))
    line = normalize("NFC", "images_é/Zürich.png labels_é/Zürich.png\n")
    write(tmp_path / "list" / "train.txt", line)
    assert len(list(atrous.data.samples(lists, lists.train))) == 1


def test_folders_are_found_in_either_form(tmp_path: Path) -> None:
    decomposed, composed = (normalize(form, "Zürich") for form in ("NFD", "NFC"))
    config = write_folder(tmp_path / decomposed)
    for kind in ("images", "masks"):
        (tmp_path / decomposed / kind / "train").rename(tmp_path / decomposed / kind / decomposed)
    assert names(config.model_copy(update={"root": tmp_path / composed}), composed) == ["a"]


def test_two_files_that_differ_in_their_form_alone_are_refused(tmp_path: Path) -> None:
    config = write_folder(tmp_path)
    for form in ("NFC", "NFD"):
        add(tmp_path, normalize(form, "é.jpg"), normalize(form, "é.png"))
    assert "that have the same name, in two forms of Unicode (1): é" in complaint(config)


# Folders below the folder of a split


def test_images_in_folders_are_used_beside_loose_ones(tmp_path: Path) -> None:
    config = write_folder(tmp_path)
    add(tmp_path, "site_b/a.jpg", "site_b/a.png")
    add(tmp_path, "site_b/deep/er.jpg", "site_b/deep/er.png")
    assert names(config) == ["a", "site_b/a", "site_b/deep/er"]


def test_folders_named_like_images_are_folders(tmp_path: Path) -> None:
    config = write_folder(tmp_path)
    add(tmp_path, "b.png/c.jpg", "b.png/c.png")
    assert names(config) == ["a", "b.png/c"]


def test_what_systems_leave_in_folders_is_no_data(tmp_path: Path) -> None:
    config = write_folder(tmp_path)
    for junk in (".trash/x.jpg", "__MACOSX/._a.jpg", "@eaDir/a.jpg", "._a.jpg", ".hidden.png"):
        save(tmp_path / "images" / "train" / junk, mode="RGB")
    os.mkfifo(tmp_path / "images" / "train" / "pipe.png")
    assert names(config) == ["a"]


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    config = write_folder(tmp_path / "data")
    for kind, suffix in (("images", ".jpg"), ("masks", ".png")):
        save(tmp_path / "elsewhere" / kind / f"b{suffix}", mode="L")
        (tmp_path / "data" / kind / "train" / "linked").symlink_to(tmp_path / "elsewhere" / kind)
        (tmp_path / "elsewhere" / kind / "circle").symlink_to(tmp_path / "data" / kind / "train")
    assert names(config) == ["a", "linked/b"]


def test_a_broken_link_is_not_left_out(tmp_path: Path) -> None:
    config = write_folder(tmp_path)
    add(tmp_path, "b.jpg", "b.png")
    (tmp_path / "images" / "train" / "b.jpg").unlink()
    (tmp_path / "images" / "train" / "b.jpg").symlink_to(tmp_path / "nowhere.jpg")
    assert "images/train/b.jpg: No such file" in complaint(config)


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, scandir = write_folder(tmp_path), os.scandir
    add(tmp_path, "locked/b.jpg", "locked/b.png")

    def scan(path: str) -> object:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    assert f"{tmp_path}/images/train/locked" in complaint(config, error=PermissionError)


def test_files_are_sorted_by_their_path(tmp_path: Path) -> None:
    for name in ("b.png", "a/z.png", "c/a.PNG", "a.png", "c/note.txt"):
        save(tmp_path / name) if name.lower().endswith("png") else write(tmp_path / name, "")
    assert list(files_below(tmp_path, (".png",))) == ["a/z.png", "a.png", "b.png", "c/a.PNG"]


def test_polygons_are_refused_with_what_is_expected(tmp_path: Path) -> None:
    config = write_folder(tmp_path)
    (tmp_path / "masks" / "train" / "a.png").unlink()
    write(tmp_path / "masks" / "train" / "a.txt", "0 0.1 0.1 0.9 0.1 0.9 0.9")
    text = complaint(config)
    assert text.startswith(
        f"labels in {tmp_path}/masks/train are .txt files (1), such as a.txt, but masks are expected"
    )


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_gif_is_read_by_its_colours_whatever_the_order_of_its_palette(order: tuple[int, int], tmp_path: Path) -> None:
    """Masks of Carvana: black and white, `b_mask.gif`."""
    config = write_folder(tmp_path).model_copy(update={"names": {0: "background", 255: "car"}})
    (tmp_path / "masks" / "train" / "a.png").unlink()
    colors = np.array([(0, 0, 0), (255, 255, 255)], np.uint8)
    image = PIL.Image.fromarray(np.array([[order[0], order[1]] * 3] * 4, np.uint8), "P")
    image.putpalette(colors[list(order)].ravel().tolist())
    image.save(tmp_path / "masks" / "train" / "a_mask.gif")
    (sample,) = atrous.data.samples(config, "train")
    assert semantic(sample)[0].tolist() == [0, 1, 0, 1, 0, 1]
