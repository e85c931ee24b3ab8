"""Cityscapes: real files if they are beside the repository, synthetic ones for raw ids, coarse labels and gaps."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray

import atrous.data
from atrous.data import cityscapes, survey
from atrous.data.cityscapes import CITYSCAPES, Config
from atrous.data.image_files import ImageFiles
from atrous.data.pairing import Pair
from atrous.errors import ConfigError, DataError
from atrous.types import Sample
from tests.conftest import SHARED
from tests.data.conftest import (
    complaint,
    first_rows,
    names,
    row,
    save,
    save_segments,
    segment,
    semantic,
    write,
    write_cityscapes,
)
from tests.data.test_instances import ALONE

REAL = SHARED / "data" / "cityscapes"
needs_files = pytest.mark.skipif(not REAL.is_dir(), reason=f"no Cityscapes in {REAL}")
RAW_CLASSES = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)  # the benchmark's order


@needs_files
def test_real_photos_show_the_street() -> None:
    samples = atrous.data.samples(Config(root=REAL), "train")
    assert [sample.name for sample in samples] == [f"aachen_00000{n}_000019" for n in (0, 1, 2, 4)]
    sample = samples[0]
    assert sample.image.shape == (1024, 2048, 3)
    labels = np.asarray(sample.semantic)
    assert set(np.unique(labels)) <= {*range(19), 255}
    sky, road = (np.argwhere(labels == CITYSCAPES.names.index(name))[:, 0].mean() for name in ("sky", "road"))
    assert sky < 400 < 600 < road  # of 1024 rows


@needs_files
def test_real_labels_without_their_photos_are_refused() -> None:
    text = complaint(Config(root=REAL), "val")
    assert text.startswith(f"labels in {REAL}/gtFine/val without an image in {REAL}/leftImg8bit/val (14): frankfurt_")


def test_nineteen_raw_ids_are_classes(tmp_path: Path) -> None:
    expected = [RAW_CLASSES.index(value) if value in RAW_CLASSES else 255 for value in range(34)]
    assert first_rows(write_cityscapes(tmp_path, "train", "ulm_000000_000019")) == [expected]


def test_names_and_colors_are_the_published_ones() -> None:
    assert CITYSCAPES.num_classes == 19
    assert (CITYSCAPES.names[0], CITYSCAPES.names[6], CITYSCAPES.names[-1]) == ("road", "traffic light", "bicycle")
    colors = dict(zip(CITYSCAPES.names, CITYSCAPES.colors, strict=True))
    assert (colors["road"], colors["car"]) == ((128, 64, 128), (0, 0, 142))
    assert tuple(value for value, index in CITYSCAPES.raw_ids if index != 255) == RAW_CLASSES


def test_all_cities_are_read_in_order_without_hidden_files(tmp_path: Path) -> None:
    for name in ("zurich_000000_000019", "bochum_000001_000019", "bochum_000000_000019"):
        config = write_cityscapes(tmp_path, "train", name)
    (tmp_path / "leftImg8bit/train/zurich/._zurich_000000_000019_leftImg8bit.png").write_bytes(b"junk")
    assert names(config) == ["bochum_000000_000019", "bochum_000001_000019", "zurich_000000_000019"]


def test_a_plus_joins_splits(tmp_path: Path) -> None:
    write_cityscapes(tmp_path, "train", "ulm_000000_000019")
    config = write_cityscapes(tmp_path, "val", "lindau_000000_000019")
    assert names(config, "train+val") == ["ulm_000000_000019", "lindau_000000_000019"]
    assert "no split 'tset': " in complaint(config, "train+tset")


def test_training_can_use_coarse_labels_while_validation_uses_fine_ones(tmp_path: Path) -> None:
    coarse, fine = np.full((1, 2), 7, np.uint8), np.full((1, 2), 26, np.uint8)
    for split in ("train", "val"):
        write_cityscapes(tmp_path, split, "ulm_000000_000019", fine)
        write_cityscapes(tmp_path, split, "ulm_000000_000019", coarse, "gtCoarse")
    write_cityscapes(tmp_path, "train_extra", "bonn_000000_000019", coarse, "gtCoarse")
    config = Config(root=tmp_path, annotations="coarse", train="train+train_extra")
    road, car = CITYSCAPES.names.index("road"), CITYSCAPES.names.index("car")
    assert first_rows(config, "train+train_extra") == [[road, road]] * 2
    assert first_rows(config, "val") == [[car, car]]
    assert complaint(Config(root=tmp_path), "train_extra", FileNotFoundError).startswith("labels: no such folder")


def test_a_photo_without_a_label_is_refused(tmp_path: Path) -> None:
    for number in range(3):
        config = write_cityscapes(tmp_path, "train", f"ulm_00000{number}_000019")
    (tmp_path / "gtFine/train/ulm/ulm_000001_000019_gtFine_labelIds.png").unlink()
    text = f"images in {tmp_path}/leftImg8bit/train without a label in {tmp_path}/gtFine/train (1): ulm_000001_000019"
    assert complaint(config) == text


def test_a_split_without_any_file_is_refused_with_the_pattern_of_its_files(tmp_path: Path) -> None:
    for folder, suffix in (("gtFine", "_gtFine_labelIds"), ("leftImg8bit", "_leftImg8bit")):
        config = write_cityscapes(tmp_path / folder, "train", "ulm_0_0")
        files = tmp_path / folder / folder / "train"
        (files / "ulm" / f"ulm_0_0{suffix}.png").rename(files / "ulm" / f"ulm_0_0{suffix}s.png")
        assert complaint(config) == f"no such files: {files}/*/*{suffix}.png"


def test_a_root_without_photos_is_refused(tmp_path: Path) -> None:
    assert complaint(Config(root=tmp_path)) == (
        f"data.root: {tmp_path} is not a dataset of data.format=cityscapes, which has leftImg8bit/ and gtFine/; it "
        "holds no folders"
    )


def test_an_unknown_raw_id_is_refused_with_its_file(tmp_path: Path) -> None:
    config = write_cityscapes(tmp_path, "train", "ulm_000000_000019", np.array([[7, 34]], np.uint8))
    text = complaint(config)
    assert "ulm_000000_000019_gtFine_labelIds.png" in text
    assert "34" in text


def test_classes_can_be_renamed_chosen_and_ignored(tmp_path: Path) -> None:
    config = write_cityscapes(tmp_path, "train", "ulm_000000_000019", np.array([[7, 24, 26, 9]], np.uint8))
    renamed = config.model_copy(update={"names": tuple("abcdefghijklmnopqrs")})
    assert cityscapes.label_space(renamed).names[13] == "n"
    assert first_rows(renamed) == [[0, 11, 13, 255]]
    assert first_rows(config.model_copy(update={"ignore": 24})) == [[0, 255, 13, 255]]
    chosen = config.model_copy(update={"names": {26: "car", 24: "person"}})
    assert first_rows(chosen) == [[255, 0, 1, 255]]
    assert cityscapes.label_space(chosen).colors == ((220, 20, 60), (0, 0, 142))
    with_parking = config.model_copy(update={"names": {26: "car", 9: "parking"}})
    assert first_rows(with_parking) == [[255, 255, 1, 0]]
    assert cityscapes.label_space(with_parking).colors == ()


def test_names_that_do_not_fit_are_refused() -> None:
    cases: list[tuple[dict[str, object], str]] = [
        ({"names": ("road", "car")}, "data.names: 2 names, but the dataset has 19 classes"),
        ({"names": ()}, "data.names: 0 names, but the dataset has 19 classes"),
        ({"names": ("road",) * 19}, "data.names: class names must differ, but road is repeated"),
        ({"names": {7: "road", 99: "car"}}, "data.names: no label value 99; values are 0..33"),
        ({"names": {7: "road"}}, "data.names: expected at least two classes, got one"),
        ({"ignore": -1}, "data.ignore: a label value must be in 0..65535, got -1"),
    ]
    for change, text in cases:
        with pytest.raises(ConfigError, match=f"^{text}"):
            cityscapes.label_space(Config.model_validate(change))


# ---- things

NAME = "ulm_000000_000019"
LABELS = row(7, 26, 26, 26, 24, 29, 0, 26)  # road, three pixels of cars, a person, a caravan, nothing, a group of cars
IDS = row(7, 26000, 26000, 26007, 24000, 29000, 0, 26, dtype=np.uint16)
CAR, PERSON = CITYSCAPES.names.index("car"), CITYSCAPES.names.index("person")
CLASSES = [0, CAR, CAR, CAR, PERSON, 255, 255, CAR]
NUMBERS = [0, 2, 2, 3, 1, 0, 0, 0]  # in the order of their ids, from 1 on; a group has none


def write_instances(root: Path, ids: NDArray[np.generic] = IDS, split: str = "train") -> Config:
    config = write_cityscapes(root, split, NAME, LABELS.astype(np.uint8))
    save(root / "gtFine" / split / "ulm" / f"{NAME}_gtFine_instanceIds.png", ids)
    return config


def numbered(sample: Sample) -> NDArray[np.int32]:
    assert sample.instance is not None
    return sample.instance


def maps(config: Config, split: str = "train") -> tuple[list[int], list[int]]:
    sample = atrous.data.samples(config, split)[0]
    return semantic(sample)[0].tolist(), numbered(sample)[0].tolist()


def test_things_are_numbered_and_groups_are_crowds(tmp_path: Path) -> None:
    config = write_instances(tmp_path)
    assert maps(config) == (CLASSES, NUMBERS)
    space = atrous.data.label_space(config)
    total = survey.count(atrous.data.samples(config, "train"), space, ALONE)
    assert {space.names[index]: count for index, count in enumerate(total.things) if count} == {"person": 1, "car": 2}
    assert total.crowd_pixels == 1


def test_things_follow_the_choice_of_classes(tmp_path: Path) -> None:
    config = write_instances(tmp_path).model_copy(update={"names": {7: "road", 26: "car", 29: "caravan"}})
    assert atrous.data.label_space(config).things == (1, 2)  # caravans have numbers, too
    assert maps(config) == ([0, 1, 1, 1, 255, 2, 255, 1], [0, 1, 1, 2, 0, 3, 0, 0])
    renamed = write_instances(tmp_path).model_copy(update={"names": tuple("abcdefghijklmnopqrs")})
    assert atrous.data.label_space(renamed).things == CITYSCAPES.things


def test_an_instance_of_another_class_than_its_pixels_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "gtFine/train/ulm" / f"{NAME}_gtFine_instanceIds.png"
    ids = IDS.copy()
    ids[0, 4] = 26000  # a car reaches onto the person
    assert complaint(write_instances(tmp_path, ids)) == (
        f"{path}: an instance id must be raw id * 1000 + number, or the raw id alone: 26000 where the labelIds are 24 "
        "(1 pixel)"
    )
    assert "0 where the labelIds are 7 (1 pixel), " in complaint(write_instances(tmp_path, IDS * 0))
    assert "the instance map is RGB" in complaint(write_instances(tmp_path, np.zeros((1, 8, 3), np.uint8)))
    assert complaint(write_instances(tmp_path, IDS.T)).startswith("sizes differ (width x height): image ")


def test_photos_without_instances_are_named_for_a_panoptic_model_alone(tmp_path: Path) -> None:
    config = write_instances(tmp_path)
    write_cityscapes(tmp_path, "train", "ulm_000001_000019", LABELS.astype(np.uint8))
    (tmp_path / "gtFine/train/ulm/ulm_000001_000019_gtFine_instanceIds.png").unlink()
    assert len(list(atrous.data.samples(config, "train", ("semantic",)))) == 2
    with pytest.raises(DataError) as caught:
        atrous.data.samples(config, "train", ("semantic", "instance"))
    assert str(caught.value) == (
        "split 'train': images without an instance map, which a panoptic model needs (1): ulm_000001_000019; expected: "
        f"{tmp_path}/gtFine/train/CITY/*_instanceIds.png, or gtFine/cityscapes_panoptic_train.json and its folder of "
        "PNGs"
    )


def test_a_semantic_model_reads_no_instances(tmp_path: Path) -> None:
    config = write_instances(tmp_path, IDS * 0)
    (sample,) = atrous.data.samples(config, "train", ("semantic",))
    assert (semantic(sample)[0].tolist(), sample.instance) == (CLASSES, None)


@needs_files
def test_real_instances_agree_with_their_labels() -> None:
    """All 19, with or without their photos."""
    labels = sorted(REAL.glob("gtFine/*/*/*_labelIds.png"))
    pairs = [
        Pair(path.name, path, path, path.with_name(path.name.replace("labelIds", "instanceIds"))) for path in labels
    ]
    samples = ImageFiles(pairs, CITYSCAPES, read=atrous.data.samples(Config(root=REAL), "train").read)  # type: ignore[attr-defined]
    assert len(samples) == 19
    for index, pair in enumerate(pairs):
        assert pair.instance is not None
        sample = samples.labels(index)
        ids, areas = np.unique(np.asarray(PIL.Image.open(pair.instance)), return_counts=True)
        is_counted = (ids >= 1000) & np.isin(ids // 1000, RAW_CLASSES)
        numbers = np.bincount(numbered(sample).ravel())[1:]
        assert numbers[numbers > 0].tolist() == areas[is_counted].tolist()


# ---- as createPanopticImgs writes them


def create_panoptic_images(root: Path, split: str, *, train_ids: bool = False) -> None:
    """What cityscapesScripts' program of that name makes of the instanceIds of a split."""
    ending = "_trainId" if train_ids else ""
    folder = root / "gtFine" / f"cityscapes_panoptic_{split}{ending}"
    images, annotations = [], []
    for path in sorted(root.glob(f"gtFine/{split}/*/*_instanceIds.png")):
        ids = np.asarray(PIL.Image.open(path)).astype(np.int64)
        name = path.name.replace("_gtFine_instanceIds.png", "")
        rows: list[dict[str, int]] = []
        shown = np.zeros_like(ids)
        for one in np.unique(ids).tolist():
            raw_id = one if one < 1000 else one // 1000
            if raw_id not in RAW_CLASSES:
                continue
            shown[ids == one] = one
            category = RAW_CLASSES.index(raw_id) if train_ids else raw_id
            rows.append(segment(one, category, int((ids == one).sum()), int(raw_id >= 24 and one < 1000)))
        file = f"{name}_gtFine_panoptic.png"
        save_segments(folder / file, shown.tolist())
        images.append({"id": name, "file_name": path.name.replace("_instanceIds.png", "_leftImg8bit.png")})
        annotations.append({"image_id": name, "file_name": file, "segments_info": rows})
    write(folder.with_suffix(".json"), json.dumps({"images": images, "annotations": annotations}))


def without_ids(root: Path) -> None:
    for path in root.glob("gtFine/*/*/*.png"):
        path.unlink()


@pytest.mark.parametrize("train_ids", [False, True])
def test_panoptic_images_say_the_same_as_ids(train_ids: bool, tmp_path: Path) -> None:
    config = write_instances(tmp_path)
    create_panoptic_images(tmp_path, "train", train_ids=train_ids)
    assert maps(config.model_copy(update={"panoptic": True})) == (CLASSES, NUMBERS)
    assert names(config.model_copy(update={"panoptic": True})) == [NAME]
    without_ids(tmp_path)
    assert maps(config) == (CLASSES, NUMBERS)
    chosen = config.model_copy(update={"names": {24: "person", 26: "car"}})
    assert maps(chosen) == ([255, 1, 1, 1, 0, 255, 255, 1], NUMBERS)


def test_ids_come_first_where_there_are_both(tmp_path: Path) -> None:
    config = write_instances(tmp_path)
    create_panoptic_images(tmp_path, "train")
    path = tmp_path / "gtFine/cityscapes_panoptic_train.json"
    path.write_text("damaged")
    assert maps(config) == (CLASSES, NUMBERS)
    assert complaint(config.model_copy(update={"panoptic": True})).startswith(f"{path}: not JSON")
    path.unlink()
    text = complaint(config.model_copy(update={"panoptic": True}), error=FileNotFoundError)
    assert "cityscapes_panoptic_train.json" in text


def test_joined_splits_may_differ_in_what_they_have(tmp_path: Path) -> None:
    write_instances(tmp_path, split="val")
    create_panoptic_images(tmp_path, "val")
    without_ids(tmp_path)
    config = write_instances(tmp_path, split="train")
    joined = atrous.data.samples(config, "train+val")
    assert [numbered(sample)[0].tolist() for sample in joined] == [NUMBERS, NUMBERS]


@needs_files
def test_real_panoptic_images_say_the_same_as_ids(tmp_path: Path) -> None:
    root = tmp_path / "cityscapes"
    photos = REAL / "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png"
    (root / "leftImg8bit/train/aachen").mkdir(parents=True)
    (root / "leftImg8bit/train/aachen" / photos.name).symlink_to(photos)
    (root / "gtFine/train/aachen").mkdir(parents=True)
    for path in REAL.glob("gtFine/train/aachen/aachen_000000_000019_*.png"):
        (root / "gtFine/train/aachen" / path.name).symlink_to(path)
    create_panoptic_images(root, "train")
    ids, images = (
        atrous.data.samples(Config(root=root, panoptic=is_panoptic), "train")[0] for is_panoptic in (False, True)
    )
    assert np.array_equal(semantic(ids), semantic(images))
    assert np.array_equal(numbered(ids), numbered(images))


@pytest.mark.skipif(not (SHARED / "data" / "deeplab2_testdata").is_dir(), reason="no test data of deeplab2")
def test_deeplab2s_own_file_is_read() -> None:
    """Its JSON has neither images nor categories, and its photo lies in no city."""
    data = SHARED / "data" / "deeplab2_testdata" / "data"
    (sample,) = atrous.data.samples(Config(root=data), "dummy")
    areas = {26000: 958, 26001: 10496, 26002: 5534, 26003: 32768, 26004: 19906}
    assert np.bincount(numbered(sample).ravel())[1:].tolist() == list(areas.values())
    is_car = semantic(sample) == CAR
    assert ((numbered(sample) == 0) & is_car).sum() == 6178  # the crowd
    assert (semantic(sample) == 10).sum() == 278754  # sky
    assert (semantic(sample) == 255).sum() == 800 * 800 - sum(areas.values()) - 6178 - 15940 - 278754 - 222420 - 46475


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a photo without annotation": (
        lambda document: (document["annotations"].pop(), document["images"].pop()),
        "images in {root}/leftImg8bit/train without an annotation in {path} (1): ulm_000000_000019",
    ),
    "an annotation without photo": (
        lambda document: document.update(images=[], annotations=[]),
        "without an annotation in {path} (1)",
    ),
    "a raw id that is none": (
        lambda document: document["annotations"][0]["segments_info"][0].update(category_id=34),
        "no category has the id 34",
    ),
}


@pytest.mark.parametrize("wrong", CHANGES)
def test_panoptic_images_that_do_not_fit_are_refused(wrong: str, tmp_path: Path) -> None:
    change, text = CHANGES[wrong]
    config = write_instances(tmp_path).model_copy(update={"panoptic": True})
    create_panoptic_images(tmp_path, "train")
    path = tmp_path / "gtFine/cityscapes_panoptic_train.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    assert text.format(root=tmp_path, path=path) in complaint(config)


@pytest.mark.parametrize("ending", ["", "_trainId"])
def test_categories_of_the_other_numbering_are_refused(ending: str, tmp_path: Path) -> None:
    config = write_instances(tmp_path).model_copy(update={"panoptic": True})
    create_panoptic_images(tmp_path, "train", train_ids=bool(ending))
    path = tmp_path / f"gtFine/cityscapes_panoptic_train{ending}.json"
    ids = {"": RAW_CLASSES, "_trainId": range(19)}
    document = json.loads(path.read_text())

    def named(numbers: Sequence[int]) -> Config:
        rows = [{"id": number, "name": name} for number, name in zip(numbers, CITYSCAPES.names, strict=True)]
        path.write_text(json.dumps({**document, "categories": rows}))
        return config

    assert maps(named(ids[ending])) == (CLASSES, NUMBERS)
    text = complaint(named(ids["_trainId" if not ending else ""]))
    number, own, other = (7, "traffic sign", "road") if not ending else (7, "road", "traffic sign")
    assert text.startswith(f"{path}: category {number} is {own}, but {other} in Cityscapes")
    assert text.endswith("must be called cityscapes_panoptic_train_trainId.json") == (not ending)
