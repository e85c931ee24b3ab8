"""CVAT's XML: what becomes of each kind of shape, subsets, and files that no program made."""

from pathlib import Path

import numpy as np
import pytest

import atrous.data
from atrous.data import cvat
from atrous.errors import AtrousWarning
from atrous.types import Sample
from tests.data.conftest import CVAT_BOX, complaint, names, save, semantic, write, write_cvat

CAR, PERSON = 1, 2


def read(folder: Path, shapes: str) -> Sample:
    (sample,) = atrous.data.samples(write_cvat(folder, shapes), "train")
    return sample


@pytest.mark.parametrize(
    "shape",
    [
        CVAT_BOX,
        '<polygon label="car" points="2.00,1.00;5.00,1.00;5.00,4.00;2.00,4.00" z_order="0"/>',
        '<mask label="car" rle="0,9" left="2" top="1" width="3" height="3" z_order="0"/>',
        '<box label="car" xtl="2" ytl="1" xbr="5" ybr="4" rotation="90.0"/>',
        '<box label="car" xtl="2" ytl="1" xbr="5" ybr="4"><attribute name="colour">red</attribute></box>',
    ],
)
def test_each_kind_of_shape_becomes_the_same_pixels(shape: str, tmp_path: Path) -> None:
    expected = np.zeros((8, 12), np.uint8)
    expected[1:4, 2:5] = CAR
    assert np.array_equal(semantic(read(tmp_path, shape)), expected)


def test_boxes_turn_clockwise_about_their_centre(tmp_path: Path) -> None:
    sample = read(tmp_path, '<box label="car" xtl="1" ytl="3" xbr="7" ybr="5" rotation="90"/>')
    rows, columns = np.nonzero(semantic(sample))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (1, 6, 3, 4)
    sample = read(tmp_path / "45", '<box label="car" xtl="0" ytl="3.5" xbr="8" ybr="4.5" rotation="45"/>')
    assert semantic(sample)[2, 2] == CAR  # down to the right
    assert semantic(sample)[2, 5] == 0


def test_an_ellipse_holds_what_is_within_its_radii(tmp_path: Path) -> None:
    ellipse = semantic(read(tmp_path, '<ellipse label="car" cx="6" cy="4" rx="5" ry="3"/>'))
    y, x = np.indices((8, 12)) + 0.5
    distance = np.hypot((x - 6) / 5, (y - 4) / 3)
    assert ellipse[distance < 0.85].all()
    assert not ellipse[distance > 1.15].any()


def test_the_z_order_decides_then_the_file(tmp_path: Path) -> None:
    shapes = [
        f'<box label="{label}" xtl="{left}" ytl="0" xbr="{left + 4}" ybr="8" z_order="{order}"/>'
        for label, left, order in (("person", 2, 3), ("car", 0, 1), ("car", 4, 2), ("person", 7, 2))
    ]
    row = semantic(read(tmp_path, "".join(shapes)))[0].tolist()
    assert row == [CAR, CAR, *[PERSON] * 4, CAR, *[PERSON] * 4, 0]


def test_shapes_of_one_label_and_group_are_one_object(tmp_path: Path) -> None:
    shapes = [
        f'<box label="{label}" xtl="{left}" ytl="0" xbr="{left + 2}" ybr="8" {group}/>'
        for label, left, group in (
            ("car", 0, 'group_id="4"'),
            ("car", 2, 'group_id="4"'),
            ("person", 4, 'group_id="4"'),
            ("car", 6, ""),
            ("car", 8, 'group_id="0"'),
        )
    ]
    sample = read(tmp_path, "".join(shapes))
    assert sample.instance is not None
    assert sample.instance[0].tolist() == [1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 0, 0]


def test_shapes_without_pixels_are_left_out_and_said(tmp_path: Path) -> None:
    for kind in cvat.SKIPPED:
        with pytest.warns(AtrousWarning, match=f"a {kind} encloses no pixels; these are left out"):
            sample = read(tmp_path / kind, f'<{kind} label="car" points="1,1;2,2"/><tag label="car"/>')
        assert not semantic(sample).any()


def test_labels_and_colours_are_those_of_the_task(tmp_path: Path) -> None:
    space = atrous.data.label_space(write_cvat(tmp_path))
    assert space.names == ("background", "car", "person")
    assert space.colors == ((0, 0, 0), (255, 0, 0), (0, 255, 0))
    assert space.things == (1, 2)


def test_a_file_is_a_split_where_images_have_no_subset(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_cvat(tmp_path / split, image='name="photos/b.png"')
        path = tmp_path / split / "annotations.xml"
        write(path, path.read_text().replace('subset="Train"', ""))
        save(tmp_path / split / "images" / "photos" / "b.png", np.zeros((8, 12, 3), np.uint8))
    config = cvat.Config(root=tmp_path)
    assert names(config, "train") == names(config, "val") == ["photos/b"]
    assert names(config.model_copy(update={"root": tmp_path / "val"}), "annotations") == ["photos/b"]


def test_a_bomb_is_refused_before_it_goes_off(tmp_path: Path) -> None:
    config = write_cvat(tmp_path)
    path = tmp_path / "annotations.xml"
    content = path.read_text()
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]>'
    for text in (bomb + content, '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>' + content):
        write(path, text)
        assert complaint(config) == f"{path}: line 1: a <!DOCTYPE is not read; labels need none"
    path.write_bytes((bomb + content).encode("utf-16"))
    assert "a <!DOCTYPE is not read" in complaint(config) or "is not a dataset" in complaint(config)


@pytest.mark.parametrize(
    ("shapes", "text"),
    [
        ('<box label="cra" xtl="0" ytl="0" xbr="1" ybr="1"/>', None),
        ('<box label="car" xtl="0" ytl="0" xbr="1"/>', "<box> 1: ybr must be a number, got ''"),
        ('<box label="car" xtl="x" ytl="0" xbr="1" ybr="1"/>', "<box> 1: xtl must be a number, got 'x'"),
        ('<box label="car" xtl="nan" ytl="0" xbr="1" ybr="1"/>', "<box> 1: a point of it is infinite"),
        ('<polygon label="car" points="1,1;2,2"/>', "<polygon> 1: a polygon of 2 points; it takes three"),
        ('<polygon label="car" points="1,1;2;3,3"/>', "<polygon> 1: its points are not pairs of numbers"),
        ('<polygon label="car"/>', "<polygon> 1: a polygon of 0 points; it takes three"),
        ('<blob label="car"/>', "<blob> 1: unknown; those known are polygon, box, ellipse, mask"),
        ('<mask label="car" rle="0,9" left="2" top="1" width="3" height="4"/>', "don't add up to the 12 pixels"),
        ('<mask label="car" rle="0,9" left="2" top="1" width="3"/>', "height must be a whole number, got ''"),
        ('<mask label="car" rle="0,x" left="2" top="1" width="3" height="3"/>', "rle must be a whole number, got 'x'"),
        ('<mask label="car" rle="0" left="0" top="0" width="99999" height="99999"/>', "an image of 99999 x 99999"),
    ],
)
def test_shapes_that_are_none_are_named(shapes: str, text: str | None, tmp_path: Path) -> None:
    config = write_cvat(tmp_path, shapes)
    if text is None:  # a label that only a shape has is a class, too
        assert "cra" in atrous.data.label_space(config).names
        return
    assert complaint(config).startswith(f"{tmp_path / 'annotations.xml'}: image a.png: ")
    assert text in complaint(config)


def test_a_chosen_class_that_no_label_has_is_named(tmp_path: Path) -> None:
    config = write_cvat(tmp_path).model_copy(update={"names": ("cars", "person")})
    assert complaint(config).endswith("image a.png: <box> 1: no class 'car'; did you mean cars?")


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("</annotations>", "</annotation></annotations>", "not XML: mismatched tag"),
        ("<image ", "<track id='0'/><image ", "it has the tracks of a video"),
        ('width="12"', "", "image 'a.png': its width must be a whole number, got ''"),
        ('width="12"', 'width="11"', "sizes differ (width x height)"),
        ('width="12"', 'width="120000"', "sizes differ (width x height)"),
        ('height="8"', 'height="-8"', "an image of 12 x -8 pixels"),
        ('width="12" height="8"', 'width="60000" height="60000"', "an image of 60000 x 60000 pixels"),
        ('name="a.png"', 'name="../../a.png"', "lies outside of the dataset's folder"),
        ('name="a.png"', 'name="/etc/passwd"', "lies outside of the dataset's folder"),
        ('name="a.png"', 'name="b.png"', "lists are absent (1 of 1): b; put them into"),
        ('name="a.png"', "", "'' is not the name of an image"),
        ('z_order="0"', 'z_order="top"', "z_order must be a whole number, got 'top'"),
    ],
)
def test_wrong_files_are_refused(old: str, new: str, text: str, tmp_path: Path) -> None:
    config = write_cvat(tmp_path)
    path = tmp_path / "annotations.xml"
    assert old in path.read_text()
    write(path, path.read_text().replace(old, new))
    assert text in complaint(config)


def test_an_image_that_is_listed_twice_is_refused(tmp_path: Path) -> None:
    config = write_cvat(tmp_path)
    path = tmp_path / "annotations.xml"
    start, image, end = path.read_text().partition('<image id="0"')
    tail = end.removesuffix("</annotations>")
    write(path, f"{start}{image}{tail}{image}{end}")
    assert complaint(config) == f"{path} lists twice (1): a"
