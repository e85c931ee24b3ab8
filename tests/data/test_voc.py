"""PASCAL VOC's own files, and its lists."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import atrous.data
from atrous.data import voc
from atrous.data.label_space import voc_colors
from tests.conftest import SHARED
from tests.data.conftest import complaint, names, save, semantic, write, write_voc

DEVKIT = SHARED / "data" / "VOCdevkit"


@pytest.mark.skipif(not DEVKIT.is_dir(), reason=f"no PASCAL VOC in {DEVKIT}")
def test_voc_itself_can_be_read() -> None:
    for root in (DEVKIT, DEVKIT / "VOC2012"):
        config = voc.Config(root=root)
        assert [len(atrous.data.samples(config, split)) for split in ("train", "val")] == [311, 312]
        sample = atrous.data.samples(config, "val")[0]
        with PIL.Image.open(DEVKIT / "VOC2012" / "SegmentationClass" / f"{sample.name}.png") as label:
            colors = np.asarray(label.convert("RGB"))
        assert np.array_equal(voc_colors(256)[semantic(sample)], colors)
        assert voc.NAMES.index("person") in semantic(sample)


def test_samples_are_in_the_order_of_the_list(tmp_path: Path) -> None:
    assert names(write_voc(tmp_path)) == ["c", "a"]


def test_any_list_and_folder_of_labels_can_be_chosen(tmp_path: Path) -> None:
    config = write_voc(tmp_path / "VOC2012").model_copy(update={"root": tmp_path, "labels": "SegmentationClassAug"})
    write(tmp_path / "VOC2012" / "ImageSets" / "Segmentation" / "train_aug.txt", "\ufeffb\r\n\r\n")
    save(tmp_path / "VOC2012" / "SegmentationClassAug" / "b.png", np.full((4, 6), 20, np.uint8))
    (sample,) = atrous.data.samples(config, "train_aug")
    assert sample.name == "b"
    assert (semantic(sample) == 20).all()


def test_wrong_lists_are_refused(tmp_path: Path) -> None:
    config = write_voc(tmp_path)
    save(tmp_path / "JPEGImages" / "d.jpg", mode="RGB")
    path = tmp_path / "ImageSets" / "Segmentation" / "train.txt"
    cases = [
        ("a\nzz\n", f"names in {path} without an image in {tmp_path}/JPEGImages (1): zz"),
        ("a\nd\n", f"names in {path} without a label in {tmp_path}/SegmentationClass (1): d"),
        ("a\nb\na\n", f"names in {path} that are repeated (1): a"),
        ("\n", f"{path} lists no image"),
    ]
    for lines, text in cases:
        write(path, lines)
        assert complaint(config) == text


def test_a_root_that_is_not_a_devkit_is_refused(tmp_path: Path) -> None:
    expected = f"data.root: {tmp_path} is not a dataset of data.format=voc, which has [VOC2012/]ImageSets/Segmentation/"
    (tmp_path / "JPEGImages").mkdir()
    assert complaint(voc.Config(root=tmp_path)) == f"{expected}; it holds the folders JPEGImages"
