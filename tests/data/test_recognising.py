"""data.format=auto: what folders are taken for, and what is said."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import atrous.data
from atrous import config as configs
from atrous.data.contract import DataConfig
from atrous.data.recognising import recognised
from atrous.errors import AtrousWarning, ConfigError, DataError
from tests.conftest import RECIPE, SHARED
from tests.data.conftest import LAYOUTS, save, write, write_camvid, write_coco, write_labelme

DATA = SHARED / "data"
REAL = {
    "PennFudanPed": "pennfudan",
    "VOCdevkit": "voc",
    "VOCdevkit/VOC2012": "voc",
    "ade20k_samples": "ade20k",
    "camvid": "camvid",
    "cityscapes": "cityscapes",
    "coco_panoptic_samples": "coco_panoptic",
    "coco_stuff_samples": "folder",
    "deeplab2_testdata/data": "cityscapes",
    "labelme_examples/semantic_segmentation": "labelme",
    "labelme_examples/semantic_segmentation/data_annotated": "labelme",
    "labelme_examples/instance_segmentation/data_dataset_coco": "coco_instances",
    "labelme_examples/instance_segmentation/data_dataset_voc": "voc",
}


@pytest.mark.parametrize("folder", REAL)
def test_real_folders_are_recognised(folder: str) -> None:
    if not (DATA / folder).is_dir():
        pytest.skip(f"no {DATA / folder}")
    assert recognised(DATA / folder, atrous.data.FORMATS) == REAL[folder]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_recognised(layout: str, tmp_path: Path) -> None:
    LAYOUTS[layout](tmp_path)
    assert recognised(tmp_path, atrous.data.FORMATS) == layout


def said(*overrides: str) -> tuple[DataConfig, str]:
    with pytest.warns(AtrousWarning) as warnings:
        config = configs.load(RECIPE, overrides)
    (text,) = {str(warning.message) for warning in warnings}
    return config.data, text


def test_what_is_seen_is_said_in_one_line(tmp_path: Path) -> None:
    write_camvid(tmp_path)
    data, text = said("data.format=auto", f"data.root={tmp_path}", "data.names=[road, sky]")
    assert text == f"{tmp_path} is data.format=camvid; train: 2 images, no val (splits: train); 2 classes: road, sky"
    assert (data.format, data.names) == ("camvid", ("road", "sky"))


def test_settings_of_the_layout_that_is_recognised_may_follow(tmp_path: Path) -> None:
    write_coco(tmp_path)
    data, _ = said("data.format=auto", f"data.root={tmp_path}", "data.images=train2017")
    assert data.model_dump()["images"] == "train2017"
    with pytest.raises(ConfigError, match=r"data.labels"):
        configs.load(RECIPE, ["data.format=auto", f"data.root={tmp_path}", "data.labels=a"])


def test_a_yaml_may_name_the_folder_alone(tmp_path: Path) -> None:
    write_camvid(tmp_path / "streets")
    path = write(tmp_path / "mine.yaml", f"model: {{name: deeplab_v3plus}}\ndata: {{root: {tmp_path / 'streets'}}}\n")
    with pytest.warns(AtrousWarning, match="train: 2 images"):
        assert configs.load(str(path)).data.format == "camvid"


def test_a_folder_that_may_be_several_is_asked_about(tmp_path: Path) -> None:
    write_coco(tmp_path)
    write_labelme(tmp_path)
    complaint = f"data.root: {tmp_path} may be coco_instances or labelme; set data.format to one of them"
    with pytest.raises(DataError, match=f"^{complaint}$"):
        recognised(tmp_path, atrous.data.FORMATS)


def test_a_folder_that_says_what_it_is_is_that(tmp_path: Path) -> None:
    """Others keep masks in annotations/, too."""
    for kind in ("images", "annotations"):
        save(tmp_path / kind / "training" / "a.png", mode="RGB" if kind == "images" else None)
    assert recognised(tmp_path, atrous.data.FORMATS) == "ade20k"
    write(tmp_path / "classes.yaml", "names: [a, b]")
    assert recognised(tmp_path, atrous.data.FORMATS) == "folder"


def empty(root: Path) -> None:
    (root / "photos").mkdir(parents=True)


def photos_alone(root: Path) -> None:
    save(root / "a.jpg", np.zeros((4, 6, 3), np.uint8))


def other_files(root: Path) -> None:
    for name in ("a.json", "b.xml", "c.txt", "d.tfrecord", "e.tar"):
        write(root / name, "\0\1 a b c \xff")


@pytest.mark.parametrize("write_files", [empty, photos_alone, other_files])
def test_other_folders_are_none(write_files: Callable[[Path], None], tmp_path: Path) -> None:
    write_files(tmp_path / "deep" / "deeper" / "data")
    with pytest.raises(DataError, match=r"has no layout that is known \(see docs/data.md, Layouts\); it holds"):
        recognised(tmp_path / "deep" / "deeper" / "data", atrous.data.FORMATS)


def test_a_folder_above_or_below_is_pointed_to(tmp_path: Path) -> None:
    write_camvid(tmp_path / "a" / "streets")
    for folder in (tmp_path / "a", tmp_path / "a" / "streets" / "train"):
        with pytest.raises(DataError, match=rf"; set data.root={tmp_path / 'a' / 'streets'}$"):
            recognised(folder, atrous.data.FORMATS)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        recognised(tmp_path / "nowhere", atrous.data.FORMATS)


PIPES = ("a.json", "instances_train.json", "panoptic_train.json", "annotations.xml", "index.json", "train.txt")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_no_dataset(tmp_path: Path) -> None:
    """To open one would wait for its other end, in the folder itself and in those around it."""
    for place in (tmp_path, tmp_path / "below"):
        place.mkdir(exist_ok=True)
        for name in PIPES:
            os.mkfifo(place / name)
    with pytest.raises((DataError, OSError)) as caught:
        layout = recognised(tmp_path, atrous.data.FORMATS)
        atrous.data.samples(atrous.data.FORMATS[layout].config(format=layout, root=tmp_path), "train")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("layout", [name for name, row in atrous.data.FORMATS.items() if row.is_root])
def test_no_layout_waits_for_a_pipe(tmp_path: Path, layout: str) -> None:
    for name in PIPES:
        os.mkfifo(tmp_path / name)
    row = atrous.data.FORMATS[layout]
    assert row.is_root is not None
    assert row.is_root(row.config(format=layout, root=tmp_path), tmp_path) in (True, False)
