"""COCO's files of instances: what becomes of each form of outline, where images are found, and wrong files."""

import json
from pathlib import Path

import numpy as np
import pytest

import atrous.data
from atrous.data import coco_instances
from atrous.errors import AtrousWarning
from atrous.types import Sample
from tests.conftest import SHARED
from tests.data.conftest import coco_annotation, coco_tree, complaint, names, save, semantic, write, write_coco

LABELME = SHARED / "data" / "labelme_examples" / "instance_segmentation"
SQUARE = [2, 1, 5, 1, 5, 4, 2, 4]  # rows 1..3, columns 2..4
CAR, PERSON = 1, 2


def read(folder: Path, *annotations: dict[str, object]) -> Sample:
    (sample,) = atrous.data.samples(write_coco(folder, coco_tree(*annotations)), "train")
    return sample


def refusal(folder: Path, tree: object) -> str:
    return complaint(write_coco(folder, tree))


@pytest.mark.skipif(not LABELME.is_dir(), reason=f"no examples of labelme in {LABELME}")
def test_files_that_labelme_exports_are_read() -> None:
    """Their areas are of masks in labelme's own convention, half a pixel wider on each side."""
    root = LABELME / "data_dataset_coco"
    config = coco_instances.Config(root=root, train="annotations")
    rows = json.loads((root / "annotations.json").read_text())["annotations"]
    areas = [[row["area"] for row in rows if row["image_id"] == number] for number in range(3)]
    for sample, expected in zip(atrous.data.samples(config, "annotations"), areas, strict=True):
        assert sample.instance is not None
        sizes = np.bincount(sample.instance.ravel(), minlength=len(expected) + 1)[1:]
        assert (np.abs(sizes / expected - 1) < 0.15).all()
    assert atrous.data.label_space(config).names[:2] == ("_background_", "aeroplane")


@pytest.mark.parametrize(
    "outline",
    [
        [SQUARE],
        SQUARE,
        [[2, 1, 3.5, 1, 3.5, 4, 2, 4], [3.5, 1, 5, 1, 5, 4, 3.5, 4]],
        {"size": [8, 12], "counts": [17, 3, 5, 3, 5, 3, 60]},
        {"size": [8, 12], "counts": "a035000g1"},
    ],
)
def test_each_form_of_outline_becomes_the_same_pixels(outline: object, tmp_path: Path) -> None:
    sample = read(tmp_path, coco_annotation(1, outline))
    expected = np.zeros((8, 12), np.uint8)
    expected[1:4, 2:5] = CAR
    assert np.array_equal(semantic(sample), expected)


def test_objects_lie_in_their_order_above_crowds(tmp_path: Path) -> None:
    crowd = coco_annotation(9, {"size": [8, 12], "counts": [0, 96]}, iscrowd=1)
    sample = read(
        tmp_path, coco_annotation(1, [SQUARE]), coco_annotation(2, [[4, 1, 8, 1, 8, 4, 4, 4]], category=7), crowd
    )
    assert semantic(sample)[1].tolist() == [CAR, CAR, CAR, CAR, *[PERSON] * 4, CAR, CAR, CAR, CAR]
    assert sample.instance is not None
    first, second = sample.instance[1, 2], sample.instance[1, 4]
    assert first != second
    assert sample.instance[1].tolist() == [0, 0, first, first, *[second] * 4, 0, 0, 0, 0]


def test_an_image_without_objects_is_background(tmp_path: Path) -> None:
    assert not semantic(read(tmp_path)).any()


def test_classes_are_the_categories_in_the_order_of_their_ids(tmp_path: Path) -> None:
    config = write_coco(tmp_path)
    assert atrous.data.label_space(config).names == ("background", "car", "person")
    tree = coco_tree()
    tree["categories"] = [{"id": 0, "name": "person"}, {"id": 1, "name": "person"}, {"id": 4, "name": "Background"}]
    write_coco(tmp_path, tree)
    assert atrous.data.label_space(config).names == ("person", "Background")


def test_an_object_of_a_class_that_is_not_chosen_is_named(tmp_path: Path) -> None:
    config = write_coco(tmp_path).model_copy(update={"names": ("person", "cart")})
    assert complaint(config).endswith("image a.png: annotation 1: no class 'car'; did you mean cart?")


def test_images_are_found_where_people_keep_them(tmp_path: Path) -> None:
    places = {
        "coco": ("annotations/instances_train2017.json", "train2017/a.png"),
        "images": ("annotations/instances_train.json", "images/train/a.png"),
        "flat": ("annotations/train.json", "images/a.png"),
        "beside": ("train/_annotations.coco.json", "train/a.png"),
        "root": ("train.json", "a.png"),
    }
    for name, (file, image) in places.items():
        write(tmp_path / name / file, json.dumps(coco_tree(coco_annotation(1, [SQUARE]))))
        save(tmp_path / name / image, np.zeros((8, 12, 3), np.uint8))
        assert names(coco_instances.Config(root=tmp_path / name)) == ["a"], name


def test_two_years_of_a_split_are_told_apart(tmp_path: Path) -> None:
    config = write_coco(tmp_path)
    write_coco(tmp_path, split="train2014")
    assert complaint(config).endswith("splits: train2014, train2017; set data.train=train2017")
    assert names(config, "train2014") == ["a"]


def test_absent_images_are_refused_or_left_out(tmp_path: Path) -> None:
    tree = coco_tree(coco_annotation(1, [SQUARE]))
    tree["images"].append({"id": 2, "file_name": "b.png", "height": 8, "width": 12})
    config = write_coco(tmp_path, tree)
    assert "lists are absent (1 of 2): b; they were looked for in" in complaint(config)
    skipping = config.model_copy(update={"on_error": "skip"})
    with pytest.warns(AtrousWarning, match=r"absent \(1 of 2\): b; they are left out"):
        assert names(skipping) == ["a"]
    (tmp_path / "train2017" / "a.png").unlink()
    assert "absent (2 of 2): a, b" in complaint(skipping)


@pytest.mark.parametrize(
    "file_name", ["../../etc/passwd", "/etc/passwd", "..\\..\\a.png", "C:/a.png", "", "\0", "a" * 5000]
)
def test_images_outside_of_the_dataset_are_refused(file_name: str, tmp_path: Path) -> None:
    tree = coco_tree()
    tree["images"][0]["file_name"] = file_name
    line = refusal(tmp_path / "data", tree)
    assert "outside of the dataset's folder" in line or "is not the name of an image" in line or "are absent" in line


@pytest.mark.parametrize(
    ("outline", "text"),
    [
        ([], "it has no segmentation: a box alone"),
        (None, "it has no segmentation: a box alone"),
        ([[2, 1, 5, 1]], "a polygon of 2 points; it takes three"),
        ([[2, 1, 5, 1, 5]], "not pairs of numbers"),
        ([["a"] * 6], "not pairs of numbers"),
        ("a polygon", "neither a list of polygons nor {size, counts}"),
        ({"counts": [96]}, "its run lengths have the size None, the image [8, 12]"),
        ({"size": [12, 8], "counts": [96]}, "its run lengths have the size [12, 8], the image [8, 12] (height, width)"),
        ({"size": [8, 12], "counts": [95]}, "run lengths don't add up to the 96 pixels"),
        ({"size": [8, 12], "counts": "\x01"}, "compressed run lengths are damaged"),
        ({"size": [8, 12]}, "neither a list of polygons nor {size, counts}"),
    ],
)
def test_outlines_that_are_none_are_named(outline: object, text: str, tmp_path: Path) -> None:
    line = refusal(tmp_path, coco_tree(coco_annotation(77, outline)))
    assert line.startswith(f"{tmp_path}/annotations/instances_train2017.json: image a.png: annotation 77: ")
    assert text in line


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"images": [*coco_tree()["images"]] * 2}, "ids used by more than one image (1): 1"),
        ({"annotations": [coco_annotation(5, [SQUARE])] * 2}, "ids used by more than one annotation (1): 5"),
        ({"categories": [{"id": 3, "name": "car"}] * 2}, "ids used by more than one category (1): 3"),
        ({"annotations": [coco_annotation(5, [SQUARE], image=9)]}, "images that it doesn't list (1): image_id 9"),
        (
            {"annotations": [coco_annotation(5, [SQUARE], category=9)]},
            "categories that it doesn't list (1): category_id 9",
        ),
        ({"annotations": ["x"]}, "an annotation is not a mapping but 'x'"),
        ({"images": [{"id": "1", "file_name": "a.png"}]}, "image: id must be a whole number, got '1'"),
        ({"images": [{"id": 1, "file_name": "a.png"}]}, "image: height must be a whole number, got 'None'"),
        ({"images": []}, "lists no image"),
        ({"images": [{"id": 1, "file_name": ["a.png"], "height": 8, "width": 12}]}, "image 1: file_name must be text"),
        ({"categories": [{"id": 3, "name": None}]}, "category 3: name must be text, got 'None'"),
        ({"annotations": [coco_annotation(5, [SQUARE], iscrowd="0")]}, "iscrowd must be 0 or 1, got '0'"),
        ({"categories": 5}, "it needs the lists images, annotations and categories"),
        ({"categories": [{"id": 3, "name": "car\n"}]}, "has a control character"),
    ],
)
def test_wrong_files_are_refused(change: dict[str, object], text: str, tmp_path: Path) -> None:
    line = refusal(tmp_path, {**coco_tree(), **change})
    assert line.startswith(f"{tmp_path}/annotations/instances_train2017.json")
    assert text in line


def test_a_name_that_is_listed_twice_is_refused(tmp_path: Path) -> None:
    tree = coco_tree()
    tree["images"].append({**tree["images"][0], "id": 2})
    assert refusal(tmp_path, tree).endswith("lists twice (1): a")


def test_sizes_that_no_image_has_are_refused(tmp_path: Path) -> None:
    tree = coco_tree()
    tree["images"][0] |= {"height": 60_000, "width": 60_000}
    assert "image a.png: an image of 60000 x 60000 pixels" in refusal(tmp_path, tree)
    tree["images"][0] |= {"height": 9, "width": 12}
    assert "sizes differ (width x height): image" in refusal(tmp_path, tree)


def test_other_files_of_coco_are_no_instances(tmp_path: Path) -> None:
    config = write_coco(tmp_path)
    write(tmp_path / "annotations" / "captions_train2017.json", json.dumps({**coco_tree(), "caption": ""}))
    write(tmp_path / "annotations" / "panoptic_train2017.json", json.dumps({**coco_tree(), "segments_info": []}))
    write(tmp_path / "annotations" / "other.json", "[]")
    assert "splits: train, train2017;" in complaint(config, "vla")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    config = write_coco(tmp_path)
    path = tmp_path / "annotations" / "instances_train2017.json"
    path.write_text(path.read_text()[:-1])
    assert complaint(config).startswith(f"{path}: not JSON")


def test_objects_that_others_cover_need_no_number(tmp_path: Path) -> None:
    rows = [coco_annotation(number, [SQUARE]) for number in range(1, 1102)]
    below = coco_annotation(9999, [[8, 5, 11, 5, 11, 7, 8, 7]])
    sample = read(tmp_path, below, *rows)
    assert sample.instance is not None
    assert np.unique(sample.instance).tolist() == [0, 1, 2]
    assert (sample.instance[1, 2], sample.instance[5, 8]) == (2, 1)  # in their order


def test_more_objects_than_there_is_room_for_are_refused_with_the_image(tmp_path: Path) -> None:
    height, width = 40, 30
    places = [divmod(number, width) for number in range(1100)]
    rows = [
        coco_annotation(number, [[x, y, x + 1, y, x + 1, y + 1, x, y + 1]]) for number, (y, x) in enumerate(places, 1)
    ]
    tree = coco_tree(*rows)
    tree["images"][0].update(height=height, width=width)
    config = write_coco(tmp_path, tree)
    for path in tmp_path.rglob("*.png"):
        save(path, np.zeros((height, width, 3), np.uint8))
    (sample,) = atrous.data.samples(config, "train", ("semantic",))
    assert (semantic(sample) == CAR).sum() == 1100  # a semantic model needs no numbers
    text = complaint(config)
    assert text.startswith(f"{tmp_path / 'annotations'}/instances_train2017.json: image a: 1100 things in an image")
    assert "there may be 999" in text
