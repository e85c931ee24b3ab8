"""Mapillary Vistas: both versions, their classes and their numbers of things."""

import json
from pathlib import Path

import numpy as np

import atrous.data
from atrous.data import mapillary
from tests.data.conftest import complaint, first_rows, save, semantic, write, write_mapillary


def test_things_of_all_classes_are_numbered(tmp_path: Path) -> None:
    config = write_mapillary(tmp_path)
    (sample,) = atrous.data.samples(config, config.train)
    assert semantic(sample)[0].tolist() == [55, 55, 19, 13, 13, 255]
    assert sample.instance is not None
    assert sample.instance[0].tolist() == [2, 3, 1, 0, 0, 0]


def test_the_classes_are_those_of_version_1_2() -> None:
    space = mapillary.label_space(mapillary.Config())
    assert (space.num_classes, len(space.things), space.panoptic_divisor) == (65, 37, 256)
    assert space.names[13] == "Road"
    assert space.colors[55] == (0, 0, 142)


def write_v2(root: Path, *names: str) -> mapillary.Config:
    rows = [
        {"name": f"x--{name}", "readable": name, "color": [9, place, 0], "instances": not place}
        for place, name in enumerate(names)
    ]
    write(root / "config_v2.0.json", json.dumps({"labels": rows}))
    save(root / "training" / "images" / "a.jpg", np.zeros((1, 3, 3), np.uint8))
    save(root / "training" / "v2.0" / "labels" / "a.png", np.array([[0, 1, 2]], np.uint8))
    return mapillary.Config(root=root)


def test_the_datasets_own_classes_win(tmp_path: Path) -> None:
    config = write_v2(tmp_path, "Bird", "Curb", "Unlabeled")
    space = atrous.data.label_space(config)
    assert (space.names, space.things, space.colors) == (("Bird", "Curb"), (0,), ((9, 0, 0), (9, 1, 0)))
    assert first_rows(config) == [[0, 1, 255]]
    chosen = config.model_copy(update={"names": {0: "bird", 2: "other"}})
    assert first_rows(chosen) == [[0, 255, 1]]


def test_wrong_classes_are_refused(tmp_path: Path) -> None:
    config = write_v2(tmp_path, "Bird", "Curb")
    path = tmp_path / "config_v2.0.json"
    assert complaint(config) == f"{path}: the names of labels must differ, and the last one be Unlabeled"
    for text in (
        "{",
        "[]",
        '{"labels": 5}',
        '{"labels": [{"name": "a"}]}',
        '{"labels": [{"readable": "", "name": 5, "color": 7}]}',
    ):
        write(path, text)
        assert complaint(config).startswith(f"{path}: ")
