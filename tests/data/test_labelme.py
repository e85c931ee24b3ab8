"""labelme's files: the maps that the program itself makes of them, and files that no program made."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray

import atrous.data
from atrous.data import labelme
from atrous.data.recognising import recognised
from atrous.errors import AtrousWarning, DataError
from atrous.types import Sample
from tests.conftest import SHARED
from tests.data.conftest import (
    complaint,
    labelme_shape,
    names,
    save,
    semantic,
    square,
    write,
    write_labelme,
    write_labelme_file,
)

EXAMPLES = SHARED / "data" / "labelme_examples"


def stored(kind: str, folder: str, name: str) -> NDArray[np.uint8]:
    with PIL.Image.open(EXAMPLES / f"{kind}_segmentation" / "data_dataset_voc" / folder / f"{name}.png") as image:
        return np.asarray(image)


def overlap(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float((one & other).sum() / (one | other).sum())


@pytest.mark.skipif(not EXAMPLES.is_dir(), reason=f"no examples of labelme in {EXAMPLES}")
@pytest.mark.parametrize("kind", ["semantic", "instance"])
def test_labels_are_those_that_labelme_itself_makes(kind: str) -> None:
    config = labelme.Config(root=EXAMPLES / f"{kind}_segmentation", train="data_annotated")
    samples = atrous.data.samples(config, config.train)
    assert len(samples) == 3
    for sample in samples:
        expected = stored(kind, "SegmentationClass", sample.name)
        for label in np.unique(expected):
            assert overlap(expected == label, semantic(sample) == label) >= 0.999, (sample.name, label)
    assert atrous.data.label_space(config).names[:2] == ("_background_", "aeroplane")


@pytest.mark.skipif(not EXAMPLES.is_dir(), reason=f"no examples of labelme in {EXAMPLES}")
def test_objects_are_those_that_labelme_itself_tells_apart() -> None:
    config = labelme.Config(root=EXAMPLES / "instance_segmentation", train="data_annotated")
    for sample in atrous.data.samples(config, config.train):
        expected = stored("instance", "SegmentationObject", sample.name)
        assert sample.instance is not None
        ours = [sample.instance == number for number in np.unique(sample.instance)]
        theirs = [expected == number for number in np.unique(expected)]
        assert len(ours) == len(theirs)
        assert all(max(overlap(one, other) for other in theirs) >= 0.999 for one in ours)


def read(folder: Path, *shapes: dict[str, object], **more: object) -> Sample:
    """The sample of a file with these shapes, of the classes background, car and person."""
    config = write_labelme(folder)
    write_labelme_file(folder / "train" / "a.json", *shapes, **more)
    (sample,) = atrous.data.samples(config, "train")
    return sample


def refusal(folder: Path, *shapes: dict[str, object], **more: object) -> str:
    config = write_labelme(folder)
    write_labelme_file(folder / "train" / "a.json", *shapes, **more)
    return complaint(config)


def test_each_kind_of_shape_becomes_pixels(tmp_path: Path) -> None:
    cases: list[tuple[str, list[list[float]], set[tuple[int, int]]]] = [
        ("rectangle", [[5.9, 3.2], [2, 1]], {(row, column) for row in (1, 2, 3) for column in (2, 3, 4, 5)}),
        ("circle", [[4, 4], [5, 4]], {(4, 4), (3, 4), (5, 4), (4, 3), (4, 5)}),
        ("oriented_rectangle", square(1, 1, 1), {(1, 1), (1, 2), (2, 1), (2, 2)}),
    ]
    for kind, points, rows in cases:
        sample = read(tmp_path / kind, labelme_shape("car", points, kind))
        assert {(int(y), int(x)) for y, x in np.argwhere(semantic(sample) == 1)} == rows, kind


def test_a_file_without_kinds_of_shapes_has_polygons(tmp_path: Path) -> None:
    old = labelme_shape("car", square(2, 1, 3))
    del old["shape_type"], old["group_id"], old["flags"]
    assert (semantic(read(tmp_path, old)) == 1).sum() == 16


def png(values: NDArray[np.uint8]) -> str:
    file = io.BytesIO()
    PIL.Image.fromarray(values).save(file, "png")
    return base64.b64encode(file.getvalue()).decode()


def test_a_mask_lies_between_its_two_points(tmp_path: Path) -> None:
    bits = np.array([[1, 0, 1], [0, 1, 0]], np.uint8) * 255
    sample = read(tmp_path, labelme_shape("person", [[4, 2], [6, 3]], "mask", mask=png(bits)))
    assert semantic(sample)[2:4, 4:7].tolist() == [[2, 0, 2], [0, 2, 0]]
    wrong = labelme_shape("person", [[4, 2], [7, 3]], "mask", mask=png(bits))
    assert "shape 1: a mask of 3 x 2 for 4 x 2 pixels" in refusal(tmp_path, wrong)
    for damage in ("", None, "%%%", "QUJD"):
        assert "shape 1:" in refusal(tmp_path, labelme_shape("person", [[4, 2], [6, 3]], "mask", mask=damage))


def test_shapes_of_one_class_and_group_are_one_object(tmp_path: Path) -> None:
    sample = read(
        tmp_path,
        labelme_shape("car", square(0, 0, 1), group_id=5),
        labelme_shape("car", square(8, 0, 1), group_id=5),
        labelme_shape("person", square(4, 0, 1), group_id=5),
        labelme_shape("car", square(0, 4, 1)),
        labelme_shape("car", square(4, 4, 1)),
        labelme_shape("__ignore__", square(8, 4, 1)),
    )
    assert sample.instance is not None
    assert [sample.instance[0, x] for x in (0, 8, 4)] == [1, 1, 2]
    assert [sample.instance[4, x] for x in (0, 4, 8)] == [3, 4, 0]
    assert semantic(sample)[4, 8] == 255


def test_lines_and_points_are_left_out_and_said(tmp_path: Path) -> None:
    for kind in labelme.SKIPPED:
        with pytest.warns(AtrousWarning, match=f"a {kind} encloses no pixels; shapes of this kind are left out"):
            assert not semantic(read(tmp_path / kind, labelme_shape("car", [[0, 0], [5, 5]], kind))).any()


def test_an_image_may_lie_in_the_file_or_in_another_folder(tmp_path: Path) -> None:
    config = write_labelme(tmp_path)
    image = np.full((8, 12, 3), 77, np.uint8)
    (tmp_path / "train" / "a.png").unlink()
    path = write_labelme_file(tmp_path / "train" / "b.json", imageData=png(image))
    path.with_suffix(".png").unlink()
    save(tmp_path / "photos" / "é.JPG", image)
    for file_name in ("..\\photos\\é.JPG", "../photos/e\u0301.JPG"):
        write(tmp_path / "train" / "a.json", json.dumps({"shapes": [], "imagePath": file_name, "imageData": None}))
        first, second = atrous.data.samples(config, "train")
        assert (first.image == 77).all()
        assert (second.image == 77).all()
        assert names(config) == ["a", "b"]


@pytest.mark.parametrize("file_name", ["../../secret.png", "/etc/passwd", "C:\\a.png", "..\\..\\secret.png"])
def test_images_outside_of_the_dataset_are_not_read(file_name: str, tmp_path: Path) -> None:
    config = write_labelme(tmp_path / "data")
    save(tmp_path / "secret.png", mode="RGB")
    (tmp_path / "data" / "train" / "a.png").unlink()
    path = tmp_path / "data" / "train" / "a.json"
    write(path, json.dumps({"shapes": [], "imagePath": file_name, "imageData": None}))
    assert "lies outside of the dataset's folder" in complaint(config)
    save(path.with_suffix(".png"), np.zeros((8, 12, 3), np.uint8))  # as when a folder was moved: the one beside it
    assert names(config) == ["a"]


def test_without_a_list_the_classes_are_those_that_occur(tmp_path: Path) -> None:
    config = write_labelme(tmp_path)
    write_labelme_file(tmp_path / "val" / "b.json", labelme_shape("bus", square(0, 0, 2)))
    (tmp_path / "labels.txt").unlink()
    assert atrous.data.label_space(config).names == ("background", "bus", "car")
    chosen = config.model_copy(update={"names": ("car", "road")})
    assert atrous.data.label_space(chosen).names == ("background", "car", "road")
    write(tmp_path / "mine.txt", "car\n\nbus\n")
    listed = config.model_copy(update={"names_path": Path("mine.txt")})
    assert atrous.data.label_space(listed).names == ("background", "car", "bus")


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        (labelme_shape("cra", square(0, 0, 2)), "shape 1: no class 'cra'; did you mean car?"),
        (labelme_shape("zebra", square(0, 0, 2)), "classes are _background_, car, person"),
        (labelme_shape("car", [[0, 0], [5, 5]]), "shape 1: a polygon of 2 points; it takes three"),
        (labelme_shape("car", []), "a polygon of 0 points; it takes three"),
        (labelme_shape("car", [[0, 0]], "rectangle"), "a rectangle of 1 points; it takes two"),
        (labelme_shape("car", [[0, 0], [1e12, 0]], "circle"), "a circle with a radius of 1e+12 pixels"),
        (labelme_shape("car", square(0, 0, 2), "blob"), "unknown shape_type 'blob'"),
        (labelme_shape("car", square(0, 0, 2)) | {"shape_type": ["polygon"]}, "unknown shape_type"),
        (labelme_shape("car", square(0, 0, 2)) | {"label": 5}, "it has no label, or no points"),
        (labelme_shape("car", [["a", "b"]] * 3), "its points are not pairs of numbers"),  # type: ignore[list-item]
        (labelme_shape("car", [[float("nan"), 1.0]] * 3), "a point of it is infinite"),
        ({"label": "car"}, "it has no label, or no points"),
        ({"points": []}, "it has no label, or no points"),
    ],
)
def test_shapes_that_are_none_are_refused_with_file_and_number(
    shape: dict[str, object], text: str, tmp_path: Path
) -> None:
    line = refusal(tmp_path, shape)
    assert line.startswith(f"{tmp_path / 'train' / 'a.json'}: shape 1: ")
    assert text in line


def test_a_polygon_outside_of_the_image_is_cut_off(tmp_path: Path) -> None:
    sample = read(tmp_path, labelme_shape("car", square(10, 6, 30)), labelme_shape("person", square(100, 100, 5)))
    assert (semantic(sample) == 1).sum() == 4
    assert not (semantic(sample) == 2).any()


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    config = write_labelme(tmp_path)
    path = tmp_path / "train" / "a.json"
    for content, text in (
        (b"{", "not JSON"),
        (b"[]", "is not a file of labelme"),
        (b"[" * 100_000, "levels of nesting"),
        (b'{"shapes": 5, "imagePath": "a.png"}', "it has no list `shapes`"),
        (b"\xff\xfe\x00", "not UTF-16"),
        (b"", "not JSON"),
    ):
        path.write_bytes(content)
        assert text in complaint(config), content[:20]


def test_text_may_be_in_utf_16(tmp_path: Path) -> None:
    config = write_labelme(tmp_path)
    for path in tmp_path.glob("*/*.json"):
        path.write_bytes(path.read_text().encode("utf-16"))
    assert recognised(tmp_path, atrous.data.FORMATS) == "labelme"
    assert names(config) == ["a"]


def test_sizes_that_differ_are_refused(tmp_path: Path) -> None:
    assert "sizes differ (width x height): image" in refusal(tmp_path, imageHeight=9)
    huge = refusal(tmp_path, imageHeight=60_000, imageWidth=60_000)
    assert "an image of 60000 x 60000 pixels" in huge


def test_a_folder_without_splits_says_how_to_use_it(tmp_path: Path) -> None:
    write_labelme_file(tmp_path / "a.json", labelme_shape("car", square(0, 0, 2)))
    config = labelme.Config(root=tmp_path)
    assert "set data.train=. data.val=. to learn and validate on all of them" in complaint(config)
    assert names(config, ".") == ["a"]


def test_an_absent_image_is_named(tmp_path: Path) -> None:
    config = write_labelme(tmp_path)
    (tmp_path / "train" / "a.png").unlink()
    path = tmp_path / "train" / "a.json"
    assert complaint(config) == f"{path}: no such image: {tmp_path / 'train' / 'a.png'}, nor one in the file itself"


def test_an_image_in_the_file_that_is_damaged_is_named(tmp_path: Path) -> None:
    config = write_labelme(tmp_path)
    path = write_labelme_file(tmp_path / "train" / "a.json", imageData="QUJD")
    path.with_suffix(".png").unlink()
    with pytest.raises(DataError, match=rf"^{path}: cannot read image"):
        list(atrous.data.samples(config, "train"))


def test_images_that_nobody_labelled_are_told(tmp_path: Path) -> None:
    config = write_labelme(tmp_path)
    for name in ("b", "c"):
        save(tmp_path / "train" / f"{name}.png", np.zeros((8, 12, 3), np.uint8))
    with pytest.warns(AtrousWarning, match=r"images without a JSON file are left out \(2 of 3\): b.png, c.png"):
        assert [sample.name for sample in atrous.data.samples(config, "train")] == ["a"]
