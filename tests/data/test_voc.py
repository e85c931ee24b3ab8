"""PASCAL VOC's own files, and its lists."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import atrous.data
from atrous.data import voc
from atrous.data.label_space import voc_colors
from tests.conftest import SHARED
from tests.data.conftest import complaint, names, row, save, semantic, write, write_voc
from tests.data.test_mat import write_mat

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


def test_objects_are_told_apart_where_they_are_labelled(tmp_path: Path) -> None:
    config = write_voc(tmp_path)
    save(tmp_path / "SegmentationClass" / "a.png", np.array([[0, 15, 15, 255, 7, 0]] * 4, np.uint8))
    save(tmp_path / "SegmentationObject" / "a.png", np.array([[0, 1, 2, 255, 3, 0]] * 4, np.uint8))
    first, second = atrous.data.samples(config, "train")
    assert first.instance is None
    assert second.instance is not None
    assert second.instance[0].tolist() == [0, 1, 2, 0, 3, 0]
    assert atrous.data.label_space(config).things == tuple(range(1, 21))


def write_sbd(root: Path) -> voc.Config:
    """VOC's c and a are for training, b for validation; SBD labels a, b and d."""
    config = write_voc(root / "VOC2012")
    write(root / "VOC2012" / "ImageSets" / "Segmentation" / "val.txt", "b\n")
    save(root / "VOC2012" / "JPEGImages" / "d.jpg", mode="RGB")
    write(root / "sbd" / "train.txt", "a\nd\n")
    write(root / "sbd" / "val.txt", "b\n")
    labels = np.array([[0, 15, 15, 20, 0, 0]] * 4, np.uint8)
    write_mat(root / "sbd" / "cls" / "d.mat", "GTcls", labels)
    write_mat(root / "sbd" / "inst" / "d.mat", "GTinst", np.array([[0, 1, 2, 3, 0, 0]] * 4, np.uint8))
    return config.model_copy(update={"root": root, "sbd": root / "sbd"})


def test_train_aug_is_joined_from_vocs_labels_and_sbds_own(tmp_path: Path) -> None:
    config = write_sbd(tmp_path)
    assert names(config, "train_aug") == ["c", "a", "d"]
    sample = atrous.data.samples(config, "train_aug")[2]
    assert semantic(sample)[0].tolist() == [0, 15, 15, 20, 0, 0]
    assert sample.instance is not None
    assert sample.instance[0].tolist() == [0, 1, 2, 3, 0, 0]
    assert names(config, "train") == ["c", "a"]


def test_what_sbd_lacks_is_named(tmp_path: Path) -> None:
    config = write_sbd(tmp_path)
    write(tmp_path / "sbd" / "train.txt", "d\ne\n")
    assert "without a label in" in complaint(config, "train_aug")
    assert complaint(config, "train_aug").endswith("(1): e")
    elsewhere = config.model_copy(update={"sbd": tmp_path / "nowhere"})
    assert complaint(elsewhere, "train_aug", FileNotFoundError).startswith("data.sbd: no such folder")
    write(tmp_path / "sbd" / "train.txt", "d\n")
    (tmp_path / "sbd" / "cls" / "d.mat").write_bytes(b"no")
    assert "not a MATLAB file of version 5, or damaged" in complaint(config, "train_aug")


def test_what_labelme_exports_needs_no_lists(tmp_path: Path) -> None:
    save(tmp_path / "JPEGImages" / "a.jpg", row(0, 1))
    save(tmp_path / "JPEGImages" / "unlabelled.jpg", row(0, 1))
    save(tmp_path / "SegmentationClass" / "a.png", row(0, 2))
    write(tmp_path / "class_names.txt", "_background_\ncar\ntv/monitor\n")
    config = voc.Config(root=tmp_path)
    assert names(config, ".") == ["a"]
    assert atrous.data.label_space(config).names == ("_background_", "car", "tv/monitor")
    assert complaint(config).startswith("no split 'train'")
