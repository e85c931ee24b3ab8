"""Datasets of one's own: the folders, classes.yaml, and the advice if either is wrong."""

import re
from pathlib import Path

import numpy as np
import pytest

from atrous.data import folder
from atrous.data.label_space import LabelSpace
from atrous.errors import AtrousError, ConfigError, DataError
from tests.data.conftest import BLACK, RED, WHITE, Values, complaint, row, save, semantic, write


def own_data(root: Path, classes: str | None, mask: Values, **settings: object) -> folder.Config:
    """A dataset with one image in each split and the text of classes.yaml."""
    for split in ("train", "val"):
        save(root / "images" / split / "a.png", np.zeros((*mask.shape[:2], 3), np.uint8))
        save(root / "masks" / split / "a.png", mask)
    if classes is not None:
        write(root / "classes.yaml", classes)
    return folder.Config.model_validate({"root": root, **settings})


def refusal(config: folder.Config, error: type[AtrousError] = DataError) -> str:
    """The one line with which both the label space and the samples are refused."""
    with pytest.raises(error) as caught:
        folder.label_space(config)
    with pytest.raises(error, match="^" + re.escape(str(caught.value)) + "$"):
        folder.samples(config, "train")
    assert "\n" not in str(caught.value)
    return str(caught.value)


# The folders


def test_images_without_split_folders_show_the_layout(tmp_path: Path) -> None:
    save(tmp_path / "images" / "a.jpg", mode="RGB")
    text = complaint(folder.Config(root=tmp_path, names=("a", "b")))
    assert text.startswith(f"data.root: {tmp_path / 'images'} has no folders train/ and val/")
    assert "images/train/a.jpg and masks/train/a.png" in text
    assert "does not exist; expected" in complaint(folder.Config(root=tmp_path / "images", names=("a", "b")))


# classes.yaml


def test_classes_files_become_label_spaces(tmp_path: Path) -> None:
    two, both = ("a", "b"), ((1, 2, 3), (4, 5, 6))
    raw = LabelSpace(names=two, colors=both[::-1], raw_ids=((4, 0), (9, 1)))
    cases = [
        ("names: [a, b]", LabelSpace(names=two)),
        ("names: {0: a, 1: b}\nignore: 9", LabelSpace(names=two, ignore=9)),
        ("names: {1: a, 2: b}\nignore: 0", LabelSpace(names=two, raw_ids=((1, 0), (2, 1), (0, 255)))),
        ("names: [a, b]\ncolors: [[1, 2, 3], [4, 5, 6]]", LabelSpace(names=two, colors=both)),
        ("names: [on, off]", LabelSpace(names=("on", "off"))),
        ("names: {9: b, 4: a}\ncolors: {b: [1, 2, 3], a: [4, 5, 6]}", raw),
        ("names: {9: b, 4: a}\ncolors: [[1, 2, 3], [4, 5, 6]]", raw),
    ]
    for classes, expected in cases:
        assert folder.label_space(own_data(tmp_path, classes, row(0, 1))) == expected, classes


MEANING = "names must be a list of names or a mapping such as {0: background, 1: person}:"
MALFORMED = [
    ("names: [a, b", "not YAML: "),
    ("names: [a, \xff", "line 1: not UTF-8 text (byte 0xff); save the file as UTF-8"),
    ("[a, b]", "expected keys and values, such as `names: [background, person]`"),
    ("", "expected keys and values"),
    ("nmaes: [a, b]", "no key 'nmaes'; did you mean names?"),
    ("names: [a, b]\npath: x", "no key 'path'; expected names, ignore, colors"),
    ("names: person", "names must be a list of names or a mapping"),
    ("names: 3", "names must be a list of names or a mapping"),
    ("names: [true, false]", MEANING + " 0: Input should"),
    ("names: [a, b]\nnames: [c, d]", "line 2: 'names' is given twice, first in line 1"),
    ("names: {0: a, 1: b, 0: c}", "line 1: 0 is given twice"),
    (
        "names: {background: 0, person: 1}",
        MEANING,
    ),
    ("names: [a]", "expected at least two classes, got one (a)"),
    ("names: [a, a]", "a is repeated"),
    ("names: [a, b]\nignore: none", "ignore must be a whole number: Input should be a valid integer"),
    ("names: [a, b]\nignore: true", "ignore must be a whole number"),
    ("names: [a, b]\nignore: [255]", "ignore must be a whole number"),
    ("names: [a, b]\nignore: -1", "a label value must be in 0..65535, got -1"),
    ("names: [a, b]\ncolors: red", "colors must be a list of [red, green, blue] or a mapping"),
    ("names: [a, b]\ncolors: [[0, 0, 0], [0, 0, 256]]", "1.2: Input should be less than or equal to 255"),
    ("names: [a, b]\ncolors: [[0, 0, 0], [0, 0]]", "colors must be a list of [red, green, blue] or a mapping"),
    ("names: [a, b]\ncolors: [[0, 0, 0]]", "2 names but 1 colors"),
    ("names: [a, b]\ncolors: {a: [0, 0, 0]}", "colors: none for b"),
    ("names: [car, bus]\ncolors: {car: [0, 0, 0], buss: [1, 1, 1]}", "colors: no class 'buss'; did you mean bus?"),
    ("names: [a, b]\ncolors: {a: [0, 0, 0], b: [0, 0, 0]}", "colors: a, b have the same"),
]


def test_malformed_classes_files_are_refused(tmp_path: Path) -> None:
    config = own_data(tmp_path, None, row(0, 1))
    for classes, text in MALFORMED:
        (tmp_path / "classes.yaml").write_bytes(classes.encode("latin-1"))
        line = refusal(config)
        assert line.startswith(f"{tmp_path / 'classes.yaml'}: "), classes
        assert text in line, classes


def test_the_config_takes_precedence_over_the_file(tmp_path: Path) -> None:
    config = own_data(
        tmp_path, "names: [a, b]\nignore: 9", row(0, 1), names="x,y,z", ignore="7", colors="{x: [1, 1, 1]}"
    )
    assert refusal(config, ConfigError) == "data.names: colors: none for y, z"
    space = folder.label_space(config.model_copy(update={"colors": None}))
    assert space == LabelSpace(names=("x", "y", "z"), ignore=7)


def test_rgb_masks_are_read_by_the_colors_of_the_file(tmp_path: Path) -> None:
    mask = np.array([[RED, BLACK, WHITE, (9, 9, 9)]], np.uint8)
    classes = "names: {4: cat, 6: dog, 8: void}\nignore: 8\ncolors: {cat: [255, 0, 0], dog: [0, 0, 0], "
    colors = classes + "void: [255, 255, 255], ignore: [9, 9, 9]}"
    assert semantic(folder.samples(own_data(tmp_path, colors, mask), "train")[0]).tolist() == [[0, 1, 255, 255]]


# Advice


def test_without_names_the_lines_to_write_are_shown(tmp_path: Path) -> None:
    path = tmp_path / "classes.yaml"
    cases = [
        ([0, 1, 2, 10, 255], "0, 1, 2, 10, 255;", "2: class_2, 10: class_10}` and `ignore: 255`"),
        ([0, 1], "0, 1;", "`names: {0: class_0, 1: class_1}`"),
        ([0, 255], "0, 255;", "`names: {0: class_0, 255: class_255}`"),
    ]
    for values, shown, lines in cases:
        line = refusal(own_data(tmp_path, None, row(*values)))
        assert line.startswith(f"{path} does not exist, and data.names is not set; values in the first masks: {shown}")
        assert line.endswith(lines)
    nameless = refusal(own_data(tmp_path, "ignore: 0", row(0, 1)))
    assert nameless.startswith(f"{path} has no names, and data.names is not set; values in the first masks: 0, 1;")
    with pytest.raises(DataError, match=r"values in the first masks: none; write a classes\.yaml with the lines"):
        folder.label_space(folder.Config(root=tmp_path / "images"))


def test_the_lines_that_are_shown_can_be_written_unchanged(tmp_path: Path) -> None:
    masks = [row(0, 1, 2, 255), row(0, 255), row(3, 9), np.array([[RED, BLACK, WHITE]], np.uint8)]
    for number, mask in enumerate(masks):
        root = tmp_path / str(number)
        config = own_data(root, None, mask)
        write(root / "classes.yaml", "\n".join(re.findall("`([^`]*)`", refusal(config))))
        assert len(np.unique(semantic(folder.samples(config, "val")[0]))) == mask.shape[1]


def test_two_classes_with_white_objects_are_not_read_as_all_background(tmp_path: Path) -> None:
    line = refusal(own_data(tmp_path, "names: [background, person]", row(0, 255)))
    assert "the first masks hold only the values 0, 255, and 255 is ignored unless it has a name" in line
    assert line.endswith("write names: {0: background, 255: person}, or ignore: 255 if that is intended")
    for classes in ("names: [background, person]\nignore: 255", "names: {0: background, 255: person}"):
        config = own_data(tmp_path, classes, row(0, 255))
        assert folder.samples(config, "train")[0].semantic is not None


def test_a_damaged_mask_does_not_hide_the_values_of_others(tmp_path: Path) -> None:
    config = own_data(tmp_path, None, row(0, 7))
    for kind in ("images", "masks"):
        (tmp_path / kind / "train" / "0.png").write_bytes(b"")
    assert "in the first masks: 0, 7;" in refusal(config)
