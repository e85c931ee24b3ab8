"""What label files mean: label spaces, classes.yaml, and masks of every kind against them."""

import re
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from atrous.data import camvid, folder, voc
from atrous.data.contract import class_of_value, decode_label, named_space
from atrous.data.label_space import LabelSpace, voc_colors
from atrous.types import Color

TWO = LabelSpace(names=("background", "person"))
THREE = LabelSpace(names=("sky", "road", "car"))


def save(path: Path, values: NDArray[np.generic], mode: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = PIL.Image.fromarray(values)
    (picture.convert(mode) if mode else picture).save(path)
    return path


def row(*values: int, dtype: type[np.generic] = np.uint8) -> NDArray[np.generic]:
    return np.array([values]).astype(dtype)


def complaint(path: Path, space: LabelSpace, colors: dict[Color, int] | None = None) -> str:
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        decode_label(path, space, colors)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def own_data(root: Path, classes: str | None, mask: NDArray[np.generic], **keys: object) -> folder.Config:
    """A folder data set with one image of each split and the text of classes.yaml."""
    for split in ("train", "val"):
        save(root / "images" / split / "a.png", np.zeros((*mask.shape[:2], 3), np.uint8))
        save(root / "masks" / split / "a.png", mask)
    if classes is not None:
        (root / "classes.yaml").write_text(classes)
    return folder.Config.model_validate({"root": root, **keys})


def refusal(config: folder.Config) -> str:
    """The one line that a folder data set ends with: asking for its samples says the same."""
    with pytest.raises(ValueError, match=r".") as caught:
        folder.label_space(config)
    with pytest.raises(ValueError, match="^" + re.escape(str(caught.value)) + "$"):
        folder.samples(config, "train")
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Label spaces


def test_camvid_and_voc_are_the_published_ones() -> None:
    assert camvid.CAMVID.num_classes == 11
    assert camvid.CAMVID.names[::5] == ("sky", "tree", "bicyclist")
    assert camvid.CAMVID.ignore == 11
    assert voc.VOC.num_classes == 21
    assert dict(zip(voc.VOC.names, voc.VOC.colors, strict=True))["person"] == (192, 128, 128)
    assert voc.VOC.ignore == 255


def test_voc_colors() -> None:
    assert voc_colors(256)[[0, 1, 20, 255]].tolist() == [[0, 0, 0], [128, 0, 0], [0, 64, 128], [224, 224, 192]]
    assert len({tuple(color) for color in voc_colors(256).tolist()}) == 256


def test_the_palette_fills_up_with_voc_colors() -> None:
    palette = LabelSpace(names=("a", "b"), colors=((1, 2, 3), (4, 5, 6))).palette()
    assert palette.shape == (256, 3)
    assert palette[:3].tolist() == [[1, 2, 3], [4, 5, 6], [0, 128, 0]]


@pytest.mark.parametrize(
    ("names", "colors", "text"),
    [
        ((), (), "no name at all"),
        (("road",), (), "one class only"),
        (("road", "car", "road"), (), "road comes twice"),
        (("road", "car"), ((0, 0, 0),), "2 class names but 1 colors"),
    ],
)
def test_unsound_label_spaces(names: tuple[str, ...], colors: tuple[Color, ...], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        LabelSpace(names=names, colors=colors)


@pytest.mark.parametrize(
    ("names", "ignore", "expected"),
    [
        (["a", "b"], None, LabelSpace(names=("a", "b"))),
        ({1: "b", 0: "a"}, 9, LabelSpace(names=("a", "b"), ignore=9)),
        ({0: "a", 1: "b", 2: "other"}, 2, LabelSpace(names=("a", "b", "other"), ignore=2)),
        ({11: "b", 7: "a"}, None, LabelSpace(names=("a", "b"), raw_ids=((7, 0), (11, 1)))),
        ({7: "a", 11: "b"}, 0, LabelSpace(names=("a", "b"), raw_ids=((7, 0), (11, 1), (0, 255)))),
        ({0: "a", 255: "b"}, None, LabelSpace(names=("a", "b"), raw_ids=((0, 0), (255, 1)))),
        ({0: "a", 1: "b", 255: "void"}, 255, LabelSpace(names=("a", "b"), raw_ids=((0, 0), (1, 1), (255, 255)))),
        (["a", "b"], 65535, LabelSpace(names=("a", "b"), raw_ids=((0, 0), (1, 1), (65535, 255)))),
    ],
)
def test_named_spaces(names: dict[int, str] | list[str], ignore: int | None, expected: LabelSpace) -> None:
    assert named_space(names, ignore, "here") == expected


@pytest.mark.parametrize(
    ("names", "ignore", "text"),
    [
        (["only"], None, "here: one class only"),
        ({0: "a", 255: "void"}, 255, "here: one class only"),
        ({-1: "a", 0: "b"}, None, "label values are 0..65535, but -1 is named"),
        (["a", "b"], -1, "label values are 0..65535, but -1 is named"),
        ([f"n{index}" for index in range(256)], None, "256 classes, but"),
    ],
)
def test_names_that_make_no_space(names: dict[int, str] | list[str], ignore: int | None, text: str) -> None:
    with pytest.raises(ValueError, match=text) as caught:
        named_space(names, ignore, "here")
    assert "\n" not in str(caught.value)


def test_the_ignore_value_always_stands_for_itself() -> None:
    assert class_of_value(TWO) == {0: 0, 1: 1, 255: 255}
    assert class_of_value(LabelSpace(names=("a", "b"), raw_ids=((0, 0), (255, 1)))) == {0: 0, 255: 1}


# Masks


@pytest.mark.parametrize(
    ("file", "mode", "dtype"),
    [
        ("a.png", "L", np.uint8),
        ("a.png", "LA", np.uint8),
        ("a.png", "I;16", np.uint16),
        ("a.tif", "L", np.uint8),
        ("a.tif", "I;16", np.uint16),
        ("a.tif", "I", np.int32),
        ("a.bmp", "L", np.uint8),
    ],
)
def test_masks_of_every_kind_are_indices(file: str, mode: str, dtype: type[np.generic], tmp_path: Path) -> None:
    path = save(tmp_path / file, row(0, 1, 2, 255, dtype=dtype), mode)
    with PIL.Image.open(path) as picture:
        assert picture.mode == mode
    assert decode_label(path, THREE).tolist() == [[0, 1, 2, 255]]


@pytest.mark.parametrize("values", [(0, 1, 2, 255), (0, 1, 2)])  # Pillow packs few colours into 2 bits
def test_palette_masks_are_indices(values: tuple[int, ...], tmp_path: Path) -> None:
    picture = PIL.Image.fromarray(np.array([values], np.uint8))
    picture.putpalette(voc_colors(max(values) + 1).tobytes())
    assert picture.mode == "P"
    picture.save(tmp_path / "a.png")
    assert decode_label(tmp_path / "a.png", THREE).tolist() == [list(values)]


def test_bilevel_masks_are_zero_and_one(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", row(0, 255, 255), "1")
    assert decode_label(path, TWO).tolist() == [[0, 1, 1]]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ids=st.lists(st.integers(0, 65535), min_size=2, max_size=40, unique=True), seed=st.integers(0, 99))
def test_raw_ids_come_back_as_classes(ids: list[int], seed: int, tmp_path: Path) -> None:
    space = named_space({value: f"n{value}" for value in ids}, None, "here")
    classes = np.random.default_rng(seed).integers(0, len(ids), (5, 7))
    path = save(tmp_path / "a.png", np.array(sorted(ids), np.uint16)[classes])
    assert np.array_equal(decode_label(path, space), classes)


@pytest.mark.parametrize("value", [3, 254])
def test_values_that_are_no_class(value: int, tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", row(0, 2, value, value, 255))
    assert complaint(path, THREE) == f"{path}: value {value} (2 pixels): the 3 classes have 0..2, ignored is 255"


@pytest.mark.parametrize(
    ("dtype", "value"), [(np.int32, -1), (np.int32, 2**24), (np.int32, 2**31 - 1), (np.uint16, 65535)]
)
def test_values_that_no_table_holds(dtype: type[np.generic], value: int, tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", row(0, value, dtype=dtype))
    assert f"value {value} (1 pixel): the 3 classes" in complaint(path, THREE)


def test_many_wrong_values_are_cut_short(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", row(*range(100), 60))
    assert "values 60 (2 pixels), 3 (1 pixel), " in complaint(path, THREE)
    assert ", ...: the 3 classes" in complaint(path, THREE)


def test_raw_ids_that_are_missing_show_those_that_are_known(tmp_path: Path) -> None:
    space = named_space({7: "road", 11: "building"}, 0, "here")
    path = save(tmp_path / "a.png", row(7, 8))
    assert "value 8 (1 pixel): the 2 classes have 7, 11, ignored is 255, 0" in complaint(path, space)


def test_white_masks_and_masks_from_one_get_a_hint(tmp_path: Path) -> None:
    ignoring = LabelSpace(names=("background", "person"), ignore=254)
    white = complaint(save(tmp_path / "white.png", row(0, 255)), ignoring)
    assert white.endswith("if the values 0, 255 are the classes, say so: names: {0: background, 255: person}")
    counted = complaint(save(tmp_path / "one.png", row(1, 2, 3)), THREE)
    assert counted.endswith("if the values 1, 2, 3 are the classes, say so: names: {1: sky, 2: road, 3: car}")
    assert "say so" not in complaint(save(tmp_path / "other.png", row(0, 3)), THREE)


def test_camvid_with_too_few_names(tmp_path: Path) -> None:
    space = camvid.label_space(camvid.Config(names=("sky", "rest")))
    assert (space.colors, space.ignore) == ((), 11)
    assert "value 5 (1 pixel)" in complaint(save(tmp_path / "a.png", row(0, 5, 11)), space)


def test_renamed_classes_keep_their_colors() -> None:
    names = tuple(f"n{index}" for index in range(11))
    space = camvid.label_space(camvid.Config(names=names))
    assert space == camvid.CAMVID.model_copy(update={"names": names})
    assert voc.label_space(voc.Config()) is voc.VOC
    backwards = dict(reversed(list(enumerate(names))))
    assert camvid.label_space(camvid.Config(names=backwards)) == space


# RGB masks

BLACK, RED, WHITE = (0, 0, 0), (255, 0, 0), (255, 255, 255)


def test_rgb_masks_need_colors(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.array([[BLACK, RED, RED]], np.uint8))
    text = complaint(path, TWO)
    assert "the mask is RGB where class indices are expected, with colors (255, 0, 0) (2 pixels), (0, 0, 0)" in text
    assert "colors: {background: [0, 0, 0], ...}" in text


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_rgb_masks_by_their_colors(mode: str, tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.array([[BLACK, RED, WHITE]], np.uint8), mode)
    assert decode_label(path, TWO, {BLACK: 0, RED: 1, WHITE: 255}).tolist() == [[0, 1, 255]]


def test_grey_masks_stay_indices_where_there_are_colors(tmp_path: Path) -> None:
    assert decode_label(save(tmp_path / "a.png", row(0, 1)), TWO, {WHITE: 0, RED: 1}).tolist() == [[0, 1]]


@pytest.mark.parametrize("colored", [False, True])
def test_large_masks_are_decoded_to_the_last_pixel(colored: bool, tmp_path: Path) -> None:
    classes = np.random.default_rng(0).integers(0, 3, (301, 211), dtype=np.uint8)
    palette = np.array([BLACK, RED, WHITE], np.uint8)
    path = save(tmp_path / "a.png", palette[classes] if colored else classes)
    assert np.array_equal(decode_label(path, THREE, {BLACK: 0, RED: 1, WHITE: 2}), classes)
    classes[-1, -1] = 3
    assert "value 3 (1 pixel)" in complaint(save(tmp_path / "b.png", classes), THREE)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 999), count=st.integers(2, 255))
def test_any_palette_comes_back(seed: int, count: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    palette = rng.permutation(np.unique(rng.integers(0, 2**24, count)))
    palette = np.stack([palette >> 16, palette >> 8 & 255, palette & 255], 1).astype(np.uint8)
    classes = rng.integers(0, len(palette), (6, 9))
    colors: dict[Color, int] = {(red, green, blue): i for i, (red, green, blue) in enumerate(palette.tolist())}
    path = save(tmp_path / "a.png", palette[classes])
    assert np.array_equal(decode_label(path, TWO, colors), classes)


def test_colors_that_no_class_has(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.array([[BLACK, (1, 2, 3), (1, 2, 3), (255, 0, 1)]], np.uint8))
    text = complaint(path, TWO, {BLACK: 0, RED: 1})
    assert text.startswith(f"{path}: colors (1, 2, 3) (2 pixels), (255, 0, 1) (1 pixel): no class has it")


def test_modes_that_hold_no_indices(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", np.zeros((2, 2), np.float32))
    assert "an image of mode F holds no class indices" in complaint(path, TWO)


# classes.yaml


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        ("names: [a, b]", LabelSpace(names=("a", "b"))),
        ("names: {0: a, 1: b}\nignore: 9", LabelSpace(names=("a", "b"), ignore=9)),
        ("names: {1: a, 2: b}\nignore: 0", LabelSpace(names=("a", "b"), raw_ids=((1, 0), (2, 1), (0, 255)))),
        (
            "names: [a, b]\ncolors: [[1, 2, 3], [4, 5, 6]]",
            LabelSpace(names=("a", "b"), colors=((1, 2, 3), (4, 5, 6))),
        ),
        (
            "names: {9: b, 4: a}\ncolors: {b: [1, 2, 3], a: [4, 5, 6]}",
            LabelSpace(names=("a", "b"), colors=((4, 5, 6), (1, 2, 3)), raw_ids=((4, 0), (9, 1))),
        ),
        (
            "names: {9: b, 4: a}\ncolors: [[1, 2, 3], [4, 5, 6]]",
            LabelSpace(names=("a", "b"), colors=((4, 5, 6), (1, 2, 3)), raw_ids=((4, 0), (9, 1))),
        ),
    ],
)
def test_classes_files(classes: str, expected: LabelSpace, tmp_path: Path) -> None:
    assert folder.label_space(own_data(tmp_path, classes, row(0, 1))) == expected


@pytest.mark.parametrize(
    ("classes", "text"),
    [
        ("names: [a, b", "not YAML: "),
        ("names: [a, \xff", "not YAML: "),
        ("[a, b]", "expected keys and values, such as `names: [background, person]`"),
        ("", "expected keys and values"),
        ("nmaes: [a, b]", "no key 'nmaes'; did you mean names?"),
        ("names: [a, b]\npath: x", "no key 'path'; there are names, ignore, colors"),
        ("names: person", "names is a list of names, or a mapping"),
        ("names: 3", "names is a list of names, or a mapping"),
        (
            "names: [on, off]",
            "names is a list of names, or a mapping as {0: background, 1: person}, but: 0: Input should",
        ),
        (
            "names: {background: 0, person: 1}",
            "names is a list of names, or a mapping as {0: background, 1: person}, but:",
        ),
        ("names: [a]", "one class only (a)"),
        ("names: [a, a]", "a comes twice"),
        ("names: [a, b]\nignore: none", "ignore is one whole number, but: Input should be a valid integer"),
        ("names: [a, b]\nignore: true", "ignore is one whole number"),
        ("names: [a, b]\nignore: [255]", "ignore is one whole number"),
        ("names: [a, b]\nignore: -1", "label values are 0..65535, but -1 is named"),
        ("names: [a, b]\ncolors: red", "colors is a list of [red, green, blue], or a mapping"),
        ("names: [a, b]\ncolors: [[0, 0, 0], [0, 0, 256]]", "1.2: Input should be less than or equal to 255"),
        ("names: [a, b]\ncolors: [[0, 0, 0], [0, 0]]", "colors is a list of [red, green, blue], or a mapping"),
        ("names: [a, b]\ncolors: [[0, 0, 0]]", "2 names but 1 colors"),
        ("names: [a, b]\ncolors: {a: [0, 0, 0]}", "colors: none for b"),
        ("names: [car, bus]\ncolors: {car: [0, 0, 0], buss: [1, 1, 1]}", "colors: no class 'buss'; did you mean bus?"),
        ("names: [a, b]\ncolors: {a: [0, 0, 0], b: [0, 0, 0]}", "colors: a, b have the same"),
    ],
)
def test_malformed_classes_files(classes: str, text: str, tmp_path: Path) -> None:
    config = own_data(tmp_path, None, row(0, 1))
    (tmp_path / "classes.yaml").write_bytes(classes.encode("latin-1"))
    line = refusal(config)
    assert line.startswith(f"{tmp_path / 'classes.yaml'}: ")
    assert text in line


@pytest.mark.parametrize(
    ("values", "found", "lines"),
    [
        (
            [0, 1, 2, 10, 255],
            "values found in the first masks: 0, 1, 2, 10, 255;",
            "2: class_2, 10: class_10}` and `ignore: 255`",
        ),
        ([0, 1], "0, 1;", "`names: {0: class_0, 1: class_1}`"),
        ([0, 255], "0, 255;", "`names: {0: class_0, 255: class_255}`"),
    ],
)
def test_no_names_anywhere_shows_the_file_to_write(values: list[int], found: str, lines: str, tmp_path: Path) -> None:
    line = refusal(own_data(tmp_path, None, row(*values)))
    assert line.startswith(f"there is no {tmp_path / 'classes.yaml'}, and no data.names; ")
    assert found in line
    assert line.endswith(lines)


def test_what_is_shown_can_be_written_as_it_is(tmp_path: Path) -> None:
    for number, mask in enumerate(
        [row(0, 1, 2, 255), row(0, 255), row(3, 9), np.array([[RED, BLACK, WHITE]], np.uint8)]
    ):
        root = tmp_path / str(number)
        config = own_data(root, None, mask)
        lines = re.findall("`([^`]*)`", refusal(config))
        (root / "classes.yaml").write_text("\n".join(lines))
        semantic = folder.samples(config, "val")[0].semantic
        assert semantic is not None
        assert len(np.unique(semantic)) == mask.shape[1]


def test_a_classes_file_without_names(tmp_path: Path) -> None:
    line = refusal(own_data(tmp_path, "ignore: 0", row(0, 1)))
    assert line.startswith(f"{tmp_path / 'classes.yaml'} has no names, and no data.names; values found")


def test_no_names_and_no_masks(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"values found in the first masks: none; write classes\.yaml with the lines"):
        folder.label_space(folder.Config(root=tmp_path))


def test_two_classes_and_white_objects_are_not_all_black(tmp_path: Path) -> None:
    line = refusal(own_data(tmp_path, "names: [background, person]", row(0, 255)))
    assert "write names: {0: background, 255: person}, or ignore: 255 if that is meant" in line
    for classes in ("names: [background, person]\nignore: 255", "names: {0: background, 255: person}"):
        config = own_data(tmp_path, classes, row(0, 255))
        assert folder.samples(config, "train")[0].semantic is not None


def test_a_broken_mask_does_not_keep_others_from_being_looked_at(tmp_path: Path) -> None:
    config = own_data(tmp_path, None, row(0, 7))
    for kind in ("images", "masks"):
        (tmp_path / kind / "train" / "0.png").write_bytes(b"")
    assert "found in the first masks: 0, 7;" in refusal(config)


def test_the_config_goes_before_the_file(tmp_path: Path) -> None:
    config = own_data(
        tmp_path, "names: [a, b]\nignore: 9", row(0, 1), names="x,y,z", ignore="7", colors="{x: [1, 1, 1]}"
    )
    assert "data.names: colors: none for y, z" in refusal(config)
    space = folder.label_space(config.model_copy(update={"colors": None}))
    assert space == LabelSpace(names=("x", "y", "z"), ignore=7)


def test_rgb_masks_in_a_folder(tmp_path: Path) -> None:
    mask = np.array([[RED, BLACK, WHITE, (9, 9, 9)]], np.uint8)
    classes = "names: {4: cat, 6: dog, 8: void}\nignore: 8\ncolors: {cat: [255, 0, 0], dog: [0, 0, 0], "
    colors = classes + "void: [255, 255, 255], ignore: [9, 9, 9]}"
    semantic = folder.samples(own_data(tmp_path, colors, mask), "train")[0].semantic
    assert semantic is not None
    assert semantic.tolist() == [[0, 1, 255, 255]]
