"""data.map: classes as fewer ones."""

from pathlib import Path

import numpy as np
import pytest

import atrous.data
from atrous.data.contract import DataConfig
from atrous.data.label_space import LabelSpace
from atrous.data.merging import merger
from atrous.data.synthetic import Config as Street
from atrous.errors import ConfigError
from tests.data.conftest import (
    first_rows,
    semantic,
    write_ade20k,
    write_camvid,
    write_cityscapes,
    write_labelme,
    write_mapillary,
)

SPACE = LabelSpace(
    names=("road", "car", "person", "rider"), colors=((1, 1, 1), (2, 2, 2), (3, 3, 3), (4, 4, 4)), things=(1, 2, 3)
)
ATR = (  # the classes of the human-parsing data set, in its order
    *("background", "hat", "hair", "sunglass", "upper-clothes", "skirt", "pants", "dress", "belt", "left-shoe"),
    *("right-shoe", "face", "left-leg", "right-leg", "left-arm", "right-arm", "bag", "scarf"),
)
HUMAN = {  # as TensorFlow DeepLab's fork for human parsing merges them
    "background": ("background",),
    "body": ("hat", "sunglass", "bag"),
    "garment": ("upper-clothes", "dress", "skirt", "pants", "belt", "scarf"),
    "skin": ("face", "left-leg", "right-leg"),
    "hair": ("hair",),
    "arms": ("left-arm", "right-arm"),
    "shoe": ("left-shoe", "right-shoe"),
}


def test_a_class_that_is_not_listed_stays() -> None:
    one = merger(SPACE, {"person": ("person", "rider")})
    assert one.space.names == ("person", "road", "car")
    assert one.space.colors == ((3, 3, 3), (1, 1, 1), (2, 2, 2))
    assert one.space.things == (0, 2)
    assert one.table[:5].tolist() == [1, 2, 0, 0, 255]
    assert merger(SPACE, {"person": "rider"}).space.names == ("person", "road", "car")


def test_the_rest_and_what_is_ignored_can_be_named() -> None:
    one = merger(SPACE, {"other": "*", "car": ("car",), "ignore": "road"})
    assert one.space.names == ("other", "car")
    assert one.table[:4].tolist() == [255, 1, 0, 0]
    assert merger(SPACE, {"a": ("road", "car"), "b": ("person",), "ignore": "*"}).table[:4].tolist() == [0, 0, 1, 255]


def test_a_merged_class_of_things_and_stuff_is_stuff() -> None:
    assert merger(SPACE, {"lane": ("road", "car")}).space.things == (1, 2)


def test_the_merges_of_human_parsing() -> None:
    one = merger(LabelSpace(names=ATR), HUMAN)
    assert one.space.names == tuple(HUMAN)
    assert one.table[: len(ATR)].tolist() == [0, 1, 4, 1, 2, 2, 2, 2, 2, 6, 6, 3, 3, 3, 5, 5, 1, 2]


@pytest.mark.parametrize(
    ("classes", "text"),
    [
        ({"person": ("persn",)}, "data.map: no class 'persn'; did you mean person?"),
        ({"person": ("zebra",)}, "data.map: no class 'zebra'; classes are road, car, person, rider"),
        ({"a": ("car",), "b": ("car",)}, "data.map: car is listed twice: for a and for b"),
        ({"a": ("car", "car")}, "data.map: car is listed twice: for a and for a"),
        ({"a": (9,)}, "data.map: no label value 9; values are 0, 1, 2, 3"),
        ({"a": (255,)}, "data.map: 255 is ignored in this dataset; data.names can make it a class"),
        ({"a": ()}, "data.map: a has no class of the dataset"),
        ({"a": "*"}, "data.map: expected at least two classes, got one (a); name the background as well"),
        ({"ignore": "*"}, "data.map: expected at least two classes, got none; name the background as well"),
    ],
)
def test_wrong_maps_are_refused(classes: dict[str, tuple[str | int, ...] | str], text: str) -> None:
    with pytest.raises(ConfigError, match=f"^{text}$".replace("(", r"\(").replace(")", r"\)").replace("?", r"\?")):
        merger(SPACE, classes)


def mapped(config: DataConfig, classes: dict[str, object], **more: object) -> DataConfig:
    return type(config).model_validate({**config.model_dump(), "map": classes, **more})


def test_values_are_those_of_the_label_files(tmp_path: Path) -> None:
    config = mapped(write_cityscapes(tmp_path), {"person": [24, 25], "flat": [7, "sidewalk"], "ignore": "*"})
    assert atrous.data.label_space(config).names == ("person", "flat")
    (row,) = first_rows(config)
    assert [row[value] for value in (24, 25, 7, 8, 26, 9)] == [0, 0, 1, 1, 255, 255]


def test_ignored_values_stay_ignored(tmp_path: Path) -> None:
    config = mapped(write_camvid(tmp_path), {"way": ["road", "pavement"]})  # its labels are all 11: void
    assert set(first_rows(config)[0]) == {255}
    assert atrous.data.label_space(config).ignore == 255
    ade = mapped(write_ade20k(tmp_path / "ade"), {"rest": "*", "wall": "wall"})
    assert first_rows(ade)[0][:4] == [255, 1, 0, 0]


def test_objects_of_merged_classes_stay_apart(tmp_path: Path) -> None:
    config = mapped(write_mapillary(tmp_path), {"mover": ["Car", "Person"], "rest": "*"}, things=["mover"])
    (sample,) = atrous.data.samples(config, config.train, needs=("instance",))
    assert sample.instance is not None
    assert sample.instance[0].tolist() == [2, 3, 1, 0, 0, 0]
    assert semantic(sample)[0].tolist() == [0, 0, 0, 1, 1, 255]
    stuff = mapped(write_labelme(tmp_path / "labelme"), {"all": ["car", "_background_"], "person": "person"})
    (sample,) = atrous.data.samples(stuff, "train")
    assert sample.instance is not None
    assert not sample.instance.any()


def test_samples_that_are_painted_are_mapped_too() -> None:
    street = Street(size=(64, 96), num_val=2)
    names = atrous.data.label_space(street).names
    config = mapped(street, {names[1]: list(names[1:]), names[0]: names[0]})
    before, after = (atrous.data.samples(one, "val") for one in (street, config))
    assert np.array_equal(semantic(after[1]), np.where(semantic(before[1]) == 0, 1, 0))
    assert [sample.name for sample in after[1:]] == ["val_00001"]
