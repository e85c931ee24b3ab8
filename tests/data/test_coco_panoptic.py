"""COCO's panoptic format: its own samples if they are beside the repository, small ones for all that may be wrong."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import atrous.data
from atrous.data import coco_panoptic, survey
from atrous.data.coco_panoptic import CATEGORIES, COCO_PANOPTIC, Config
from atrous.data.image_files import ImageFiles
from atrous.errors import ConfigError, DataError
from tests.conftest import SHARED
from tests.data.conftest import CAR, ROAD, complaint, names, save, save_segments, segment, semantic, write_coco_panoptic
from tests.data.test_instances import ALONE

REAL = SHARED / "data" / "coco_panoptic_samples"
needs_files = pytest.mark.skipif(not REAL.is_dir(), reason=f"no COCO samples in {REAL}")
Change = Callable[[dict[str, Any]], object]
LABEL = "annotations/panoptic_train2017/a.png, in panoptic_train2017.json"


def changed(root: Path, change: Change) -> Config:
    """A dataset whose JSON was changed."""
    config = write_coco_panoptic(root)
    path = root / "annotations" / "panoptic_train2017.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    return config


def segments(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Of the first image."""
    rows: list[dict[str, Any]] = document["annotations"][0]["segments_info"]
    return rows


def maps(config: Config, index: int = 0) -> tuple[list[list[int]], list[list[int]]]:
    sample = atrous.data.samples(config, config.train)[index]
    assert sample.instance is not None
    return semantic(sample).tolist(), sample.instance.tolist()


# ---- what segments mean


@needs_files
def test_real_samples_have_their_segments_and_crowds() -> None:
    config = Config(root=REAL, train="examples", images="input_images")
    space, samples = atrous.data.label_space(config), atrous.data.samples(config, "examples")
    assert space == COCO_PANOPTIC
    annotations = json.loads((REAL / "panoptic_examples.json").read_text())["annotations"]
    index_of = {row.raw_id: index for index, row in enumerate(CATEGORIES.values(), 1)}
    for sample, annotation in zip(samples, annotations, strict=True):
        assert sample.name == annotation["file_name"].removesuffix(".png")
        assert sample.instance is not None
        rows = annotation["segments_info"]
        assert sample.instance.max() == sum(row["category_id"] <= 90 and not row["iscrowd"] for row in rows)
        crowds = {index_of[row["category_id"]]: row["area"] for row in rows if row["iscrowd"]}
        for label in np.unique(semantic(sample)):
            if label in space.things:
                is_crowd = (semantic(sample) == label) & (sample.instance == 0)
                assert is_crowd.sum() == crowds.get(int(label), 0)
        areas = {number: int((sample.instance == number).sum()) for number in range(1, sample.instance.max() + 1)}
        assert sorted(areas.values()) == sorted(
            row["area"] for row in rows if row["category_id"] <= 90 and not row["iscrowd"]
        )


def test_things_are_numbered_crowds_and_stuff_are_not(tmp_path: Path) -> None:
    config = write_coco_panoptic(tmp_path)
    assert names(config) == ["a", "b"]
    classes, numbers = maps(config)
    assert classes == [[255, 1, 0, 0], [1, 1, 0, 0]]  # car is category 3, and so the first class
    assert numbers == [[0, 0, 1, 1], [0, 0, 2, 0]]
    assert maps(config, 1) == ([[1] * 4] * 2, [[0] * 4] * 2)  # no thing: fine


def test_what_is_left_out_of_the_json_or_written_otherwise_is_understood(tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        for row in segments(document):
            row.update(iscrowd=bool(row["iscrowd"]), area=float(row["area"]))
        del segments(document)[0]["iscrowd"], segments(document)[1]["area"]

    assert maps(changed(tmp_path, change)) == ([[255, 1, 0, 0], [1, 1, 0, 0]], [[0, 0, 1, 1], [0, 0, 2, 0]])


def test_categories_of_ones_own_are_classes_in_the_order_of_their_ids(tmp_path: Path) -> None:
    space = atrous.data.label_space(write_coco_panoptic(tmp_path))
    assert (space.names, space.things, space.ignore) == (("car", "road"), (0,), 255)
    assert space.colors == ((0, 0, 142), (128, 64, 128))
    assert space.raw_ids == ((CAR, 0), (ROAD, 1))


def test_a_file_without_categories_has_cocos(tmp_path: Path) -> None:
    config = changed(tmp_path, lambda document: document.pop("categories"))
    assert atrous.data.label_space(config) == COCO_PANOPTIC
    assert maps(config)[0] == [[0, 7, 3, 3], [7, 7, 3, 3]]  # void is class 0, and ids are those of COCO's categories


def test_cocos_own_categories_keep_their_classes_whatever_their_order(tmp_path: Path) -> None:
    rows = [{"id": row.raw_id, "name": name, "isthing": 1} for name, row in reversed(CATEGORIES.items())]
    config = changed(tmp_path, lambda document: document.update(categories=rows))
    assert atrous.data.label_space(config) == COCO_PANOPTIC


def test_classes_can_be_chosen_renamed_and_counted(tmp_path: Path) -> None:
    config = write_coco_panoptic(tmp_path)
    renamed = config.model_copy(update={"names": ("auto", "strasse")})
    assert atrous.data.label_space(renamed).names == ("auto", "strasse")
    assert atrous.data.label_space(renamed).things == (0,)
    assert maps(config.model_copy(update={"ignore": ROAD}))[0] == [[255, 255, 0, 0], [255, 255, 0, 0]]
    assert maps(config.model_copy(update={"things": ()}))[1] == [[0] * 4] * 2
    both = atrous.data.label_space(config.model_copy(update={"things": ("road", "car")}))
    assert both.things == (0, 1)
    assert "data.things: no class 'rood'; did you mean road?" in complaint(
        config.model_copy(update={"things": ("rood",)}), error=ConfigError
    )


def test_cocos_void_stays_ignored_beside_a_category_that_is_ignored(tmp_path: Path) -> None:
    config = changed(tmp_path, lambda document: document.pop("categories")).model_copy(update={"ignore": 7})
    assert maps(config)[0] == [[0, 0, 3, 3], [0, 0, 3, 3]]


def test_a_semantic_model_reads_the_classes_alone(tmp_path: Path) -> None:
    (first, _) = atrous.data.samples(write_coco_panoptic(tmp_path), "train2017", ("semantic",))
    assert first.instance is None
    assert semantic(first).tolist() == [[255, 1, 0, 0], [1, 1, 0, 0]]


# ---- the files


def test_a_split_is_found_with_its_year_and_without(tmp_path: Path) -> None:
    config = write_coco_panoptic(tmp_path)
    assert names(config, "train") == names(config, "train2017") == ["a", "b"]
    assert complaint(config, "val").startswith("no split 'val': ")
    assert complaint(config, "val").partition("; splits: ")[2].startswith("train2017")
    write_coco_panoptic(tmp_path, "train2018")
    assert complaint(config, "train").startswith("no split 'train': ")


def test_files_may_lie_in_the_root_and_images_in_images(tmp_path: Path) -> None:
    config = write_coco_panoptic(tmp_path)
    for name in ("panoptic_train2017.json", "panoptic_train2017"):
        (tmp_path / "annotations" / name).rename(tmp_path / name)
    (tmp_path / "images").mkdir()
    (tmp_path / "train2017").rename(tmp_path / "images" / "train2017")
    assert names(config) == ["a", "b"]
    (tmp_path / "images" / "train2017").rename(tmp_path / "photos")
    (tmp_path / "images").rmdir()
    assert names(config) == ["a", "b"]  # the only folder that has them
    shutil.copytree(tmp_path / "photos", tmp_path / "copies")
    text = complaint(config, error=FileNotFoundError)
    assert text.endswith(f"{tmp_path}/images/train2017 do not exist; set data.images to their folder in {tmp_path}")
    assert names(config.model_copy(update={"images": "photos"})) == ["a", "b"]


def test_the_classes_of_data_for_validation_alone_are_those_of_its_own_file(tmp_path: Path) -> None:
    config = write_coco_panoptic(tmp_path, "val2017")
    assert names(config, "val") == ["a", "b"]


def test_missing_files_are_named(tmp_path: Path) -> None:
    config = write_coco_panoptic(tmp_path)
    folder = tmp_path / "annotations" / "panoptic_train2017"
    (folder / "b.png").rename(folder / "c.png")
    assert complaint(config).endswith(f"names PNGs that are not in {folder} (1): b.png")
    (folder / "c.png").rename(folder / "b.png")
    (tmp_path / "train2017" / "a.jpg").rename(tmp_path / "train2017" / "c.jpg")
    assert complaint(config).endswith(f"names images that are not in {tmp_path}/train2017 (1): a")
    folder.rename(tmp_path / "elsewhere")
    assert "no such folder: " + str(folder) in complaint(config, error=FileNotFoundError)


def test_a_categorys_name_must_be_the_same_in_all_splits(tmp_path: Path) -> None:
    config = write_coco_panoptic(tmp_path)
    write_coco_panoptic(tmp_path, "val2017")
    path = tmp_path / "annotations" / "panoptic_val2017.json"
    path.write_text(path.read_text().replace('"car"', '"bus"'))
    assert f"{path}: category {CAR} is bus (things), but car (things) in " in complaint(config, "val")
    path.write_text(path.read_text().replace(f'"id": {CAR}, "name": "bus"', '"id": 4, "name": "bus"'))
    assert f"{path}: category 4 is bus (things), but missing in " in complaint(config, "val")
    write_coco_panoptic(tmp_path, "val2017")
    path.write_text(path.read_text().replace('"isthing": 1', '"isthing": 0'))
    assert f"{path}: category {CAR} is car (stuff), but car (things) in " in complaint(config, "val")


# ---- what can't be used


def entry(document: dict[str, Any], **values: object) -> None:
    document["annotations"][0].update(values)


WRONG: dict[str, tuple[Change, str]] = {  # a change of the JSON, and the end of what is said
    "segment that the JSON lacks": (
        lambda document: segments(document).pop(0),
        f"{LABEL}: 1 segment that the JSON lacks: 70000 (3 pixels)",
    ),
    "segments that the JSON lacks": (
        lambda document: entry(document, segments_info=segments(document)[2:]),
        f"{LABEL}: 2 segments that the JSON lacks: 5 (2 pixels), 70000 (3 pixels)",
    ),
    "segment that the PNG lacks": (
        lambda document: segments(document).append(segment(11, CAR, 4)),
        f"{LABEL}: 1 segment that the PNG lacks: 11",
    ),
    "another area": (
        lambda document: segments(document)[1].update(area=9),
        f"{LABEL}: 1 segment whose area differs: 5 (2 in the PNG, 9 in the JSON)",
    ),
    "a segment twice": (
        lambda document: segments(document).append(segment(5, ROAD, 2)),
        f"{LABEL}: segments with the same id (1): 5",
    ),
    "an unknown category": (
        lambda document: segments(document)[0].update(category_id=8),
        f"{LABEL}: no category has the id 8",
    ),
    "an id too large": (
        lambda document: segments(document)[0].update(id=2**24),
        f"{LABEL}: segment 16777216: id must be in 1..16777215, got 16777216",
    ),
    "an id that is void's": (
        lambda document: segments(document)[0].update(id=0),
        f"{LABEL}: segment 0: id must be in 1..16777215, got 0",
    ),
    "an id that is no number": (
        lambda document: segments(document)[0].update(id="5"),
        f"{LABEL}: segment '5': id must be a whole number, got '5'",
    ),
    "an area that is no number": (
        lambda document: segments(document)[0].update(area=None),
        f"{LABEL}: segment 70000: area must be a whole number, got nothing",
    ),
    "a crowd that is neither": (
        lambda document: segments(document)[1].update(iscrowd=2),
        f"{LABEL}: segment 5: iscrowd must be in 0..1, got 2",
    ),
    "no list of segments": (
        lambda document: entry(document, segments_info={"5": 3}),
        f"{LABEL}: segments_info must be a list of mappings, got a mapping",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_an_image_whose_segments_disagree_is_refused_and_the_survey_says_so(wrong: str, tmp_path: Path) -> None:
    change, text = WRONG[wrong]
    config = changed(tmp_path, change)
    samples = atrous.data.samples(config, "train")
    assert complaint(config).endswith(f"/{text}")
    counted = survey.count(samples, atrous.data.label_space(config), ALONE)
    assert (counted.masks, len(counted.problems)) == (1, 1)  # the other image is fine
    assert counted.problems[0].endswith(f"/{text}")


def again(document: dict[str, Any], key: str) -> None:
    document[key].append(document[key][0])


DAMAGED: dict[str, tuple[Change, str]] = {
    "an image twice": (lambda document: again(document, "images"), "images with the same id (1): 0"),
    "an annotation twice": (lambda document: again(document, "annotations"), "annotations of the same PNG (1): a.png"),
    "an image_id twice": (
        lambda document: document["annotations"][1].update(image_id=0),
        "annotations with the same image_id (1): 0",
    ),
    "a category twice": (lambda document: again(document, "categories"), f"categories with the same id (1): {ROAD}"),
    "an image without annotation": (
        lambda document: document["annotations"].pop(),
        "images without an annotation (1): b.jpg",
    ),
    "an annotation without image": (
        lambda document: document["images"].pop(),
        "annotations of images that it doesn't list (1): 1",
    ),
    "no annotations": (
        lambda document: document.pop("annotations"),
        "not COCO's panoptic JSON: 'annotations' must be a list of mappings, got nothing",
    ),
    "annotations of another kind": (
        lambda document: document.update(annotations=[3]),
        "not COCO's panoptic JSON: 'annotations' must be a list of mappings, got a list",
    ),
    "no name of a PNG": (lambda document: document["annotations"][0].pop("file_name"), "an entry has no 'file_name': "),
    "no image_id": (lambda document: document["annotations"][0].pop("image_id"), "an entry has no 'image_id': "),
    "no annotation at all": (lambda document: document.update(annotations=[], images=[]), "annotates no image"),
    "a category without a name": (lambda document: document["categories"][0].pop("name"), "an entry has no 'name': "),
    "a category beyond 16 bits": (
        lambda document: document["categories"][0].update(id=70000),
        "a label value must be in 0..65535, got 70000",
    ),
    "a category whose id is no number": (
        lambda document: document["categories"][0].update(id="7"),
        "categories: id must be a whole number, got '7'",
    ),
    "a category whose name is no text": (
        lambda document: document["categories"][0].update(name=7),
        "an entry has under 'name' what isn't text: {'id'",
    ),
    "an image_id that is no id": (
        lambda document: document["annotations"][0].update(image_id=1.5),
        "an entry has under 'image_id' what isn't a whole number or text: ",
    ),
    **{
        f"isthing {value!r}": (
            lambda document, value=value: document["categories"][1].update(isthing=value),  # type: ignore[misc]
            f"category car: isthing must be 0 or 1, got {said}",
        )
        for value, said in (("0", "'0'"), ("false", "'false'"), (2, "2"), (None, "nothing"), ([], "[]"))
    },
    "one category": (lambda document: document["categories"].pop(), "expected at least two classes, got one (road)"),
    "categories of one name": (
        lambda document: document["categories"][0].update(name="car"),
        "class names must differ, but car is repeated",
    ),
}


@pytest.mark.parametrize("wrong", DAMAGED)
def test_a_json_that_can_not_be_meant_is_refused_at_once(wrong: str, tmp_path: Path) -> None:
    change, text = DAMAGED[wrong]
    config = changed(tmp_path, change)
    with pytest.raises(DataError) as caught:
        atrous.data.samples(config, "train")
    assert str(caught.value).startswith(f"{tmp_path}/annotations/panoptic_train2017.json")
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"annotations": ' + "[" * 9999, "\x00\x01"])
def test_a_file_that_is_no_json_is_refused(text: str, tmp_path: Path) -> None:
    config = write_coco_panoptic(tmp_path)
    path = tmp_path / "annotations" / "panoptic_train2017.json"
    path.write_text(text)
    assert complaint(config).startswith(f"{path}: ")


def test_pngs_of_other_kinds_are_refused(tmp_path: Path) -> None:
    config = write_coco_panoptic(tmp_path)
    path = tmp_path / "annotations" / "panoptic_train2017" / "a.png"
    save(path, np.zeros((2, 4), np.uint8))
    assert complaint(config).startswith(f"{path}: the PNG of segments has one channel, but RGB is expected")
    save_segments(path, [[5, 5], [300, 9]])
    assert "that the PNG lacks: 70000" in complaint(config)
    save_segments(path, [[0, 70000], [5, 5], [70000, 70000], [300, 9]])
    assert complaint(config).startswith("sizes differ (width x height): image ")
    path.write_bytes(b"")
    assert str(path) in complaint(config)


def test_more_things_than_the_divisor_has_room_for_are_refused(tmp_path: Path) -> None:
    """COCO's divisor is 256."""
    count = 260
    rows = [segment(number, 1, 1) for number in range(1, count + 1)]

    def change(document: dict[str, Any]) -> None:
        document.pop("categories")
        entry(document, segments_info=rows)

    config = changed(tmp_path, change)
    save_segments(tmp_path / "annotations" / "panoptic_train2017" / "a.png", [list(range(1, count + 1))])
    save(tmp_path / "train2017" / "a.jpg", np.zeros((1, count, 3), np.uint8))
    assert "260 things in an image, but there may be 255" in complaint(config)


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    config = write_coco_panoptic(tmp_path)
    assert names(config) == ["a", "b"]
    changed(tmp_path, lambda document: (document["annotations"].pop(), document["images"].pop()))
    assert names(config) == ["a"]


def test_labels_are_read_without_the_image(tmp_path: Path) -> None:
    config = write_coco_panoptic(tmp_path)
    (tmp_path / "train2017" / "a.jpg").write_bytes(b"")
    samples = atrous.data.samples(config, "train")
    assert isinstance(samples, ImageFiles)
    labels = samples.labels(0)
    assert labels.instance is not None
    assert labels.instance.max() == 2


def test_the_layout_is_recognised(tmp_path: Path) -> None:
    config = write_coco_panoptic(tmp_path / "coco")
    assert coco_panoptic.is_root(config, tmp_path / "coco")
    assert not coco_panoptic.is_root(config, tmp_path)
    assert f"set data.root={tmp_path / 'coco'}" in complaint(config.model_copy(update={"root": tmp_path}))
