"""Datasets of one's own: the folders, classes.yaml, and the advice if either is wrong."""

import re
import shutil
from pathlib import Path
from typing import cast

import numpy as np
import pytest

import atrous.data
from atrous.data import folder
from atrous.data.image_files import ImageFiles
from atrous.data.label_space import LabelSpace
from atrous.errors import AtrousError, ConfigError, DataError
from tests.data.conftest import (
    BLACK,
    RED,
    WHITE,
    Values,
    complaint,
    row,
    save,
    semantic,
    write,
    write_camvid,
    write_cityscapes,
    write_voc,
)


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
    save(tmp_path / "masks" / "a.png")
    text = complaint(folder.Config(root=tmp_path, names=("a", "b")))
    assert text == (
        f"data.root: {tmp_path / 'images'} has no folders train/ and val/; move the images into them, and the masks "
        f"into {tmp_path / 'masks'}/train and {tmp_path / 'masks'}/val (see docs/data.md, Splits)"
    )
    (tmp_path / "masks" / "a.png").unlink()
    (tmp_path / "masks").rmdir()
    assert complaint(folder.Config(root=tmp_path, names=("a", "b"))) == (
        f"data.root: {tmp_path} is not a dataset of data.format=folder, which has images/train/a.jpg and "
        "masks/train/a.png for training, images/val/b.jpg and masks/val/b.png for validation; it holds the "
        "folders images"
    )


ARRANGEMENTS = (
    ("images/train/a.png", "masks/train/a.png"),
    ("images/train/a.png", "labels/train/a.png"),
    ("images/train/a.png", "annotations/train/a.png"),
    ("Images/train/a.png", "Masks/train/a.png"),
    ("imgs/train/a.png", "gt/train/a.png"),
    ("train/images/a.png", "train/masks/a.png"),
    ("train/images/a.png", "train/labels/a_mask.png"),
)


@pytest.mark.parametrize(("image", "mask"), ARRANGEMENTS)
def test_the_folders_may_have_other_usual_names_and_places(image: str, mask: str, tmp_path: Path) -> None:
    for split in ("train", "val"):
        save(tmp_path / image.replace("train", split), mode="RGB")
        save(tmp_path / mask.replace("train", split), row(0, 1))
    config = folder.Config(root=tmp_path, names=("a", "b"))
    for split in ("train", "val"):
        (pair,) = cast("ImageFiles", atrous.data.samples(config, split)).pairs
        assert (pair.image, pair.label) == (
            tmp_path / image.replace("train", split),
            tmp_path / mask.replace("train", split),
        )


def test_several_folders_that_may_hold_the_masks_are_asked_about(tmp_path: Path) -> None:
    config = own_data(tmp_path, "names: [a, b]", row(0, 1))
    for other in ("labels", "annotations"):
        save(tmp_path / other / "train" / "a.png", row(1, 0))
    assert semantic(folder.samples(config, "train")[0]).tolist() == [[0, 1]]  # masks/ is what is documented
    (tmp_path / "masks").rename(tmp_path / "other")
    assert complaint(config) == f"{tmp_path} has labels, annotations; set data.masks to one of them"
    for name, expected in (("labels", [[1, 0]]), ("other", [[0, 1]])):
        chosen = config.model_copy(update={"masks": name})
        assert semantic(atrous.data.samples(chosen, "train")[0]).tolist() == expected


@pytest.mark.parametrize("deeper", ["images", "images/train", "masks/val"])
def test_a_root_that_is_too_deep_is_answered_with_the_right_one(deeper: str, tmp_path: Path) -> None:
    config = own_data(tmp_path, "names: [a, b]", row(0, 1))
    line = complaint(config.model_copy(update={"root": tmp_path / deeper}))
    assert line.startswith(f"data.root: {tmp_path / deeper} is not a dataset of data.format=folder")
    assert line.endswith(f"; set data.root={tmp_path}")


@pytest.mark.parametrize("deeper", ["train", "train/images"])
def test_the_folder_of_one_split_is_not_the_root(deeper: str, tmp_path: Path) -> None:
    for split in ("train", "val"):
        save(tmp_path / split / "images" / "a.png", mode="RGB")
        save(tmp_path / split / "masks" / "a.png", row(0, 1))
    config = folder.Config(root=tmp_path / deeper, names=("a", "b"))
    assert complaint(config).endswith(f"; set data.root={tmp_path}")


def test_a_root_that_is_too_high_is_answered_with_those_below(tmp_path: Path) -> None:
    config = own_data(tmp_path / "downloads" / "cracks", "names: [a, b]", row(0, 1))
    high = config.model_copy(update={"root": tmp_path})
    assert complaint(high).endswith(f"; set data.root={tmp_path}/downloads/cracks")
    own_data(tmp_path / "rust", "names: [a, b]", row(0, 1))
    assert complaint(high).endswith(f"; set data.root={tmp_path}/rust or data.root={tmp_path}/downloads/cracks")


def test_another_layout_is_recognised(tmp_path: Path) -> None:
    write_voc(tmp_path / "voc"), write_camvid(tmp_path / "camvid"), write_cityscapes(tmp_path / "cityscapes")
    for name in ("voc", "camvid", "cityscapes"):
        assert complaint(folder.Config(root=tmp_path / name)).endswith(f"; set data.format={name}")


def test_a_missing_split_is_answered_with_the_one_that_is_meant_or_how_to_make_one(tmp_path: Path) -> None:
    config = own_data(tmp_path, "names: [a, b]", row(0, 1))
    for kind in ("images", "masks"):
        (tmp_path / kind / "val").rename(tmp_path / kind / "valid")
    assert complaint(config, "val").endswith(
        "; splits: train, valid; set data.val=valid, or data.val_share=0.1 to set a tenth of 'train' aside"
    )
    shutil.rmtree(tmp_path / "images" / "valid")
    assert "; splits: train; set data.val_share=0.1 to set a tenth of 'train' aside" in complaint(config, "val")
    assert "; set data.train=train" in complaint(config.model_copy(update={"train": "trian"}))


def test_the_yaml_of_another_program_is_not_a_root(tmp_path: Path) -> None:
    path = write(tmp_path / "data.yaml", "path: .\ntrain: images/train\nnames: {0: person}\n")
    text = complaint(folder.Config(root=path), error=ConfigError)
    assert text.startswith(f"data.root: {path} is a file; set data.root to the folder of images and masks")


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
    ("names: [a, b]\nignore: none", "ignore must be a whole number, got 'none'"),
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


def test_names_that_another_program_lists_are_in_the_lines_to_write(tmp_path: Path) -> None:
    cases = [
        ("data.yaml", "path: .\nnames: {0: sky, 1: road}\n"),
        ("data.yaml", "names: [sky, road]\n"),
        ("classes.txt", "sky\nroad\n"),
    ]
    for number, (name, text) in enumerate(cases):
        config = own_data(tmp_path / str(number), None, row(0, 1))
        write(tmp_path / str(number) / name, text)
        assert f"({name} names sky, road); write a classes.yaml with the lines `names: {{0: sky, 1: road}}`" in refusal(
            config
        )
    config = own_data(tmp_path / "more", None, row(0, 1, 2))  # with a background, which such files leave out
    write(tmp_path / "more" / "data.yaml", cases[0][1])
    assert refusal(config).endswith(
        "(data.yaml names sky, road); write a classes.yaml with the lines `names: {0: class_0, 1: class_1, 2: class_2}`"
    )
    for damaged in ("names: [", "[1]", "names: 3", "\xff"):
        (tmp_path / "more" / "data.yaml").write_bytes(damaged.encode("latin-1"))
        assert "first masks: 0, 1, 2;" in refusal(config)


def test_classes_yml_is_read(tmp_path: Path) -> None:
    config = own_data(tmp_path, "names: [a, b]", row(0, 1))
    (tmp_path / "classes.yaml").rename(tmp_path / "classes.yml")
    assert folder.label_space(config).names == ("a", "b")


def test_polygons_are_told_before_names(tmp_path: Path) -> None:
    config = own_data(tmp_path, None, row(0, 1))
    (tmp_path / "masks" / "train" / "a.png").rename(tmp_path / "masks" / "train" / "a.txt")
    assert "masks/train are .txt files (1), such as a.txt, but masks are expected" in refusal(config)


def test_a_damaged_mask_does_not_hide_the_values_of_others(tmp_path: Path) -> None:
    config = own_data(tmp_path, None, row(0, 7))
    for kind in ("images", "masks"):
        (tmp_path / kind / "train" / "0.png").write_bytes(b"")
    assert "in the first masks: 0, 7;" in refusal(config)


# Instances


def write_instances(
    root: Path, masks: bool = True, names: str = "names: [wall, door]\nthings: [door]\n"
) -> folder.Config:
    """A wall with two doors in each split."""
    instance = np.array([[0, 1, 0, 7, 7]], np.uint16)
    for split in ("train", "val"):
        save(root / "images" / split / "a.png", np.zeros((1, 5, 3), np.uint8))
        save(root / "instances" / split / "a.png", instance)
        if masks:
            save(root / "masks" / split / "a.png", (instance > 0).astype(np.uint8))
    write(root / "classes.yaml", names)
    return folder.Config(root=root)


def maps(config: folder.Config, split: str = "train") -> tuple[list[int], list[int] | None]:
    sample = atrous.data.samples(config, split)[0]
    return semantic(sample)[0].tolist(), None if sample.instance is None else sample.instance[0].tolist()


BOTH = ([0, 1, 0, 1, 1], [0, 1, 0, 7, 7])


def test_instances_lie_beside_masks(tmp_path: Path) -> None:
    assert maps(write_instances(tmp_path)) == BOTH
    assert atrous.data.label_space(folder.Config(root=tmp_path)).things == (1,)


def test_without_masks_the_only_class_of_things_is_where_a_number_is(tmp_path: Path) -> None:
    config = write_instances(tmp_path, masks=False)
    assert maps(config) == BOTH
    assert maps(config, "val") == BOTH
    (sample,) = atrous.data.samples(config, "train", ("semantic",))
    assert (semantic(sample)[0].tolist(), sample.instance) == (BOTH[0], None)
    swapped = config.model_copy(update={"things": ("wall",)})
    assert maps(swapped) == ([1, 0, 1, 0, 0], BOTH[1])


@pytest.mark.parametrize(
    ("names", "ending"),
    [
        (
            "names: [wall, door]\n",
            "the classes are wall, door, and none is of things; add masks of the classes, or name two",
        ),
        (
            "names: [a, b, c]\nthings: [b]\n",
            "the classes are a, b, c, and b of things; add masks of the classes, or name two",
        ),
        (
            "names: [a, b]\nthings: [b, a]\n",
            "the classes are a, b, and a, b of things; add masks of the classes, or name two",
        ),
    ],
)
def test_without_masks_other_classes_are_refused(names: str, ending: str, tmp_path: Path) -> None:
    text = complaint(write_instances(tmp_path, masks=False, names=names))
    assert text.startswith(
        f"{tmp_path}/instances/train has no masks beside it, so things must be of one class and all else"
    )
    assert text.endswith(ending)


def test_without_masks_and_names_the_lines_to_write_are_said(tmp_path: Path) -> None:
    config = write_instances(tmp_path, masks=False)
    (tmp_path / "classes.yaml").unlink()
    assert refusal(config).endswith(
        "write a classes.yaml with the lines `names: [background, thing]` and `things: [thing]`, or add masks of the "
        "classes"
    )
    write(tmp_path / "obj_classes.txt", "cell\n")
    assert "`names: [background, cell]` and `things: [cell]`" in refusal(config)


@pytest.mark.parametrize(
    "place",
    ["Instances/train/a.png", "instance/train/a.png", "instances/train/a_instances.png", "instances/train/a.png.png"],
)
def test_folders_and_files_of_instances_have_several_names(place: str, tmp_path: Path) -> None:
    config = write_instances(tmp_path)
    path = tmp_path / place
    path.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "instances" / "train" / "a.png").rename(path)
    if "instances" not in place:
        shutil.rmtree(tmp_path / "instances")
    assert maps(config) == BOTH


def test_a_split_may_be_above_its_folders(tmp_path: Path) -> None:
    config = write_instances(tmp_path)
    for kind in ("images", "masks", "instances"):
        (tmp_path / "train").mkdir(exist_ok=True)
        (tmp_path / kind / "train").rename(tmp_path / "train" / kind)
        shutil.rmtree(tmp_path / kind)
    assert maps(config) == BOTH


def test_the_folder_of_instances_can_be_named_and_must_exist(tmp_path: Path) -> None:
    config = write_instances(tmp_path)
    (tmp_path / "instances").rename(tmp_path / "ids")
    assert maps(config) == (BOTH[0], None)
    assert maps(config.model_copy(update={"instances": "ids"})) == BOTH
    wrong = config.model_copy(update={"instances": "idx"})
    assert complaint(wrong, error=FileNotFoundError) == f"data.instances: no such folder: {tmp_path}/idx"


def test_a_panoptic_model_is_told_what_is_missing(tmp_path: Path) -> None:
    config = write_instances(tmp_path)
    save(tmp_path / "images" / "train" / "b.png", np.zeros((1, 5, 3), np.uint8))
    save(tmp_path / "masks" / "train" / "b.png", row(0, 0, 0, 0, 1))
    expected = (
        f"expected: {tmp_path}/instances/train/, where each pixel has the number of its thing (0: none), beside "
        "masks/train/"
    )
    needs = ("semantic", "instance")
    with pytest.raises(DataError) as caught:
        atrous.data.samples(config, "train", needs)
    text = "split 'train': images without an instance map, which a panoptic model needs"
    assert str(caught.value) == f"{text} (1): b; {expected}"
    assert len(list(atrous.data.samples(config, "train", ("semantic",)))) == 2
    shutil.rmtree(tmp_path / "instances")
    with pytest.raises(DataError) as caught:
        atrous.data.samples(config, "train", needs)
    assert str(caught.value) == f"{text}; {expected}"


def test_two_instance_maps_of_an_image_are_refused(tmp_path: Path) -> None:
    config = write_instances(tmp_path)
    save(tmp_path / "instances" / "train" / "a.tif", row(0, 1, 0, 7, 7))
    assert "differ from another file only in their suffix (2): a.png, a.tif" in complaint(config)


def test_things_are_classes(tmp_path: Path) -> None:
    cases = {
        "things: [dor]": "no class 'dor'; did you mean door?",
        "things: [x]": "no class 'x'; classes are wall, door",
        "things: [door, door]": "door is repeated",
        "things: door": "things must be a list of names of classes, such as [person]",
        "things: [1]": "things must be a list of names of classes, such as [person]",
        "thing: [door]": "no key 'thing'; did you mean things?",
    }
    for line, text in cases.items():
        config = write_instances(tmp_path, names=f"names: [wall, door]\n{line}\n")
        assert text in refusal(config)
        assert f"{tmp_path}/classes.yaml: " in refusal(config)
    renamed = write_instances(tmp_path).model_copy(update={"names": ("a", "b"), "things": ("c",)})
    assert refusal(renamed, ConfigError) == ("data.things: no class 'c'; classes are a, b")
    config = write_instances(tmp_path, names="names: [wall, door]\nignore: 0\nthings: [wall]\n")
    assert "things: the ignored class can't be counted" in refusal(config)


def test_data_things_takes_precedence(tmp_path: Path) -> None:
    config = write_instances(tmp_path).model_copy(update={"things": ("wall", "door")})
    assert atrous.data.label_space(config).things == (0, 1)
    assert atrous.data.label_space(config.model_copy(update={"things": ()})).things == ()
