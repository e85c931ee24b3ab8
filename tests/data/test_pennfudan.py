"""Masks in which each object has a number: what they mean, and the database itself."""

import re
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

import atrous.data
from atrous.data import pennfudan
from atrous.data.contract import DataConfig
from atrous.data.pennfudan import Config
from atrous.errors import AtrousWarning, ConfigError
from atrous.types import Sample
from tests.conftest import SHARED
from tests.data.conftest import complaint, names, row, save, write_pennfudan

DATABASE = SHARED / "data" / "PennFudanPed"


def one_row(root: Path, *values: int, dtype: type[np.generic] = np.uint8, **settings: int) -> Config:
    """Two images of one row, both with this mask; the second is for validation."""
    for name in ("a", "b"):
        save(root / "PNGImages" / f"{name}.png", np.zeros((1, len(values), 3), np.uint8))
        save(root / "PedMasks" / f"{name}_mask.png", row(*values, dtype=dtype))
    return Config(root=root, num_val=1, **settings)


def first(config: DataConfig) -> Sample:
    return atrous.data.samples(config, "train")[0]


def maps(config: DataConfig) -> tuple[list[int], list[int]]:
    """The classes and the numbers of one row."""
    sample = first(config)
    assert sample.semantic is not None
    assert sample.instance is not None
    assert sample.semantic.dtype == np.uint8
    assert sample.instance.dtype == np.int32
    return sample.semantic[0].tolist(), sample.instance[0].tolist()


def test_zero_is_the_background_and_a_number_a_person(tmp_path: Path) -> None:
    assert maps(one_row(tmp_path, 0, 1, 1, 2, 0, 7)) == ([0, 1, 1, 1, 0, 1], [0, 1, 1, 2, 0, 7])


def test_numbers_may_have_16_bits(tmp_path: Path) -> None:
    assert maps(one_row(tmp_path, 0, 255, 256, 999, dtype=np.uint16)) == ([0, 1, 1, 1], [0, 255, 256, 999])


def test_pixels_of_the_ignored_number_are_of_no_person(tmp_path: Path) -> None:
    config = one_row(tmp_path, 0, 1, 255, 255, ignore=255)
    assert maps(config) == ([0, 1, 255, 255], [0, 1, 0, 0])
    assert atrous.data.label_space(config).ignore == 255
    assert maps(one_row(tmp_path, 0, 1, 3, ignore=3)) == ([0, 1, 255], [0, 1, 0])


@pytest.mark.parametrize("wrong", [0, -1, 2**16])
def test_the_ignored_number_is_that_of_an_object(wrong: int) -> None:
    with pytest.raises(ValidationError, match=r"must be in 1\.\.65535"):
        Config(ignore=wrong)


def test_the_label_space_has_one_class_of_things_and_other_names(tmp_path: Path) -> None:
    space = atrous.data.label_space(one_row(tmp_path, 0, 1))
    assert (space.names, space.things, space.ignore) == (("background", "pedestrian"), (1,), 255)
    assert space.background == (0,)
    renamed = atrous.data.label_space(Config(root=tmp_path, names=("slide", "cell")))
    assert (renamed.names, renamed.things, renamed.colors) == (("slide", "cell"), (1,), pennfudan.COLORS)
    assert atrous.data.label_space(Config(root=tmp_path, names={1: "cell", 0: "slide"})) == renamed


@pytest.mark.parametrize("wrong", [("a",), ("a", "b", "c"), {0: "a", 255: "b"}, {}])
def test_there_are_two_names(wrong: tuple[str, ...] | dict[int, str], tmp_path: Path) -> None:
    config = one_row(tmp_path, 0, 1).model_copy(update={"names": wrong})
    text = complaint(config, error=ConfigError)
    assert text.startswith("data.names: pixels are background or of an object, so there are two names")


@pytest.mark.parametrize(
    ("things", "reason"),
    [(("background",), "those of cell, the only class"), ((), "got none"), (("cel",), "did you mean cell")],
)
def test_only_what_is_numbered_is_a_thing(things: tuple[str, ...], reason: str, tmp_path: Path) -> None:
    config = Config(root=write_pennfudan(tmp_path).root, num_val=1, names=("background", "cell"), things=("cell",))
    assert atrous.data.label_space(config).things == (1,)
    assert reason in complaint(config.model_copy(update={"things": things}), error=ConfigError)


def test_names_must_differ(tmp_path: Path) -> None:
    assert "is repeated" in complaint(
        one_row(tmp_path, 0, 1).model_copy(update={"names": ("a", "a")}), error=ConfigError
    )


def test_the_last_images_are_for_validation(tmp_path: Path) -> None:
    config = write_pennfudan(tmp_path, count=5)
    assert names(config, "val") == ["FudanPed00005"]
    assert names(config, "train") == [f"FudanPed0000{index}" for index in (1, 2, 3, 4)]
    more = config.model_copy(update={"num_val": 4})
    assert names(more, "val") == [f"FudanPed0000{index}" for index in (2, 3, 4, 5)]


@pytest.mark.parametrize("number", [5, 6, 40])
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_that_would_be_empty_is_refused(number: int, split: str, tmp_path: Path) -> None:
    config = write_pennfudan(tmp_path, count=5).model_copy(update={"num_val": number})
    text = complaint(config, split)
    assert text == f"data.num_val={number} leaves no image for training: {tmp_path} has 5; set a smaller number"


@pytest.mark.parametrize("folder", pennfudan.IMAGES)
def test_the_folder_of_images_has_either_name(folder: str, tmp_path: Path) -> None:
    assert len(names(write_pennfudan(tmp_path, images=folder))) == 2


def test_a_folder_without_masks_is_refused_with_what_is_expected(tmp_path: Path) -> None:
    (tmp_path / "PNGImages").mkdir()
    assert "which has PNGImages/ (or Images/) and PedMasks/; it holds the folders PNGImages" in complaint(
        Config(root=tmp_path)
    )
    write_pennfudan(tmp_path / "PennFudanPed")
    assert f"set data.root={tmp_path / 'PennFudanPed'}" in complaint(Config(root=tmp_path))


def test_an_image_without_a_mask_is_named(tmp_path: Path) -> None:
    config = write_pennfudan(tmp_path)
    (tmp_path / "PedMasks" / "FudanPed00002_mask.png").unlink()
    assert "without a label" in complaint(config)
    assert complaint(config).endswith("(1): FudanPed00002")


def test_a_mask_in_colours_is_refused(tmp_path: Path) -> None:
    config = write_pennfudan(tmp_path)
    path = save(tmp_path / "PedMasks" / "FudanPed00001_mask.png", np.full((4, 6, 3), 9, np.uint8))
    assert complaint(config).startswith(f"{path}: the instance map is RGB, but numbers of things are expected")


def test_a_palette_mask_is_read_by_its_numbers(tmp_path: Path) -> None:
    config = write_pennfudan(tmp_path)
    before = first(config)
    save(tmp_path / "PedMasks" / "FudanPed00001_mask.png", before.instance.astype(np.uint8), mode="P")  # type: ignore[union-attr]
    assert np.array_equal(first(config).instance, before.instance)  # type: ignore[arg-type]


def test_a_number_that_the_divisor_has_no_room_for_is_refused(tmp_path: Path) -> None:
    text = complaint(one_row(tmp_path, 0, 1, 1000, dtype=np.uint16))
    assert re.search(r"a_mask.png: a thing has the number 1000, but they may be 1..999", text)


def test_an_image_without_people_is_a_sample_too(tmp_path: Path) -> None:
    assert maps(one_row(tmp_path, 0, 0)) == ([0, 0], [0, 0])


def test_sizes_that_differ_are_refused(tmp_path: Path) -> None:
    config = write_pennfudan(tmp_path)
    save(tmp_path / "PedMasks" / "FudanPed00001_mask.png", np.zeros((6, 4), np.uint8))
    assert complaint(config).startswith("sizes differ (width x height): image ")


def test_a_mask_of_black_and_white_is_one_object_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr("atrous.errors._warned", set())
    assert maps(one_row(tmp_path, 0, 255, 0, 255)) == ([0, 1, 0, 1], [0, 255, 0, 255])
    (warning,) = [str(one.message) for one in recwarn if one.category is AtrousWarning]
    assert "a_mask.png has only the values 0 and 255, and so counts as one object" in warning
    first(one_row(tmp_path, 0, 255, 1))
    assert len([one for one in recwarn if one.category is AtrousWarning]) == 1


def test_a_semantic_model_reads_the_classes_alone(tmp_path: Path) -> None:
    samples = atrous.data.samples(write_pennfudan(tmp_path), "train", needs=("semantic",))
    assert samples[0].semantic is not None
    assert samples[0].instance is None


@pytest.mark.skipif(not DATABASE.is_dir(), reason=f"no Penn-Fudan database in {DATABASE}")
def test_the_database_itself_can_be_read() -> None:
    config = Config(root=DATABASE)
    train, val = (atrous.data.samples(config, split) for split in ("train", "val"))
    assert (len(train), len(val)) == (130, 40)
    assert (train[0].name, val[-1].name) == ("FudanPed00001", "PennPed00096")
    people = [int(part[index].instance.max()) for part in (train, val) for index in range(len(part))]  # type: ignore[union-attr]
    assert sum(people) == 423  # as many as its readme counts, with those added later
    assert people[0] == 2
    assert set(np.unique(train[0].semantic)) == {0, 1}  # type: ignore[arg-type]
