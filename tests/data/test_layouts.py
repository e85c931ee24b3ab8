"""What every layout does alike, on a small dataset of each."""

import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

import atrous.data
from atrous.data import AnyDataConfig
from atrous.data.contract import DataConfig
from atrous.errors import ConfigError
from tests.data.conftest import LAYOUTS, complaint, semantic, write_camvid

NUMBERED = {
    "cityscapes",
    "coco_instances",
    "coco_panoptic",
    "cvat",
    "labelme",
    "mapillary",
    "pennfudan",
}  # layouts whose small dataset tells things apart


def test_every_format_that_reads_files_is_tested_here() -> None:
    assert {*LAYOUTS, "synthetic", "mix"} == set(atrous.data.FORMATS)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_samples_have_the_shapes_and_types_of_the_contract(layout: str, tmp_path: Path) -> None:
    config = LAYOUTS[layout](tmp_path)
    samples = atrous.data.samples(config, config.train)
    assert len({sample.name for sample in samples}) == len(samples)
    for sample in samples:
        assert sample.image.shape == (*semantic(sample).shape, 3)
        assert sample.image.dtype == semantic(sample).dtype == np.uint8
        assert sample.image.flags.writeable
        if sample.instance is not None:
            assert sample.instance.shape == semantic(sample).shape
            assert sample.instance.dtype == np.int32


@pytest.mark.parametrize("layout", ["coco_instances", "cvat", "labelme"])
def test_layouts_of_outlines_tell_objects_apart(layout: str, tmp_path: Path) -> None:
    """The same car in each, three pixels wide: labelme's outline includes its corners."""
    config = LAYOUTS[layout](tmp_path)
    (sample,) = atrous.data.samples(config, config.train, needs=("semantic", "instance"))
    car = np.zeros((8, 12), np.int32)
    car[1:5, 2:6] = layout == "labelme"
    car[1:4, 2:5] = 1
    assert sample.instance is not None
    assert np.array_equal(sample.instance, car)
    assert np.array_equal(semantic(sample), car)
    (sample,) = atrous.data.samples(config, config.train, needs=("semantic",))
    assert sample.instance is None
    space = atrous.data.label_space(config)
    assert [space.names[index] for index in space.things] == ["car", "person"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_samples_are_small_to_send_to_a_worker(layout: str, tmp_path: Path) -> None:
    config = LAYOUTS[layout](tmp_path)
    samples = atrous.data.samples(config, config.train)
    list(samples)
    sent = pickle.dumps(samples)
    assert len(sent) < 5000
    assert np.array_equal(pickle.loads(sent)[0].image, samples[0].image)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_root_must_be_set_and_exist(layout: str, tmp_path: Path) -> None:
    config = LAYOUTS[layout](tmp_path / "data")
    unset = complaint(config.model_copy(update={"root": None}), error=ConfigError)
    assert unset == f"data.root is missing: set it to the folder of the dataset (data.format={layout})"
    missing = config.model_copy(update={"root": tmp_path / "nowhere"})
    assert f"data.root: no such folder: {tmp_path / 'nowhere'}" in complaint(missing, error=FileNotFoundError)


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "list"])  # a list file is its split
def test_an_unknown_split_is_refused_with_those_that_exist(layout: str, tmp_path: Path) -> None:
    config = LAYOUTS[layout](tmp_path)
    assert re.search(rf"^no split 'trian'.*; splits: {config.train}", complaint(config, "trian"))


@pytest.mark.parametrize("layout", ["camvid", "folder", "list", "voc"])
def test_names_and_ignore_of_the_config_take_precedence(layout: str, tmp_path: Path) -> None:
    names, ignore = ("floor", "wall", "roof"), 255 if layout == "list" else 11
    config = LAYOUTS[layout](tmp_path).model_copy(update={"names": names, "ignore": ignore})
    space = atrous.data.label_space(config)
    assert (space.names, space.ignore) == (names, ignore)
    assert len(list(atrous.data.samples(config, config.train))) in (1, 2)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_hidden_files_and_files_that_are_not_images_are_left_out(layout: str, tmp_path: Path) -> None:
    config = LAYOUTS[layout](tmp_path)
    count = len(atrous.data.samples(config, config.train))
    for path in [path for path in tmp_path.rglob("*") if path.is_dir()]:
        for junk in ("._x.png", ".DS_Store", "Thumbs.db", "notes.md"):
            (path / junk).write_bytes(b"junk")
        (path / ".cache").mkdir()
    assert len(atrous.data.samples(config, config.train)) == count
    if layout != "list":
        assert ".cache" not in complaint(config, "trian").partition("; splits: ")[2]


@pytest.mark.parametrize("layout", [*LAYOUTS, "synthetic"])
def test_the_format_chooses_the_config(layout: str) -> None:
    config = TypeAdapter[DataConfig](AnyDataConfig).validate_python({"format": layout})
    assert type(config) is atrous.data.FORMATS[layout].config
    assert config.format == layout


def test_an_unknown_format_or_key_is_refused() -> None:
    for wrong in ({"format": "camwid"}, {}, {"format": "voc", "color": 1}, {"format": ["voc"]}):
        with pytest.raises(ValidationError):
            TypeAdapter(AnyDataConfig).validate_python(wrong)


def test_slices_stay_lazy(tmp_path: Path) -> None:
    samples = atrous.data.samples(write_camvid(tmp_path), "train")
    (tmp_path / "train" / "a.png").write_bytes(b"")
    assert [sample.name for sample in samples[1:]] == ["b"]
