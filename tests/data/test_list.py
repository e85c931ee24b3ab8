"""List files of `image label` lines, the files of classes and colours beside them, and mistakes in each."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import atrous.data
from atrous.config import load
from atrous.data import list as list_files
from atrous.data.label_space import voc_colors
from atrous.errors import DataError
from tests.conftest import SHARED
from tests.data.conftest import complaint, names, save, semantic, write, write_list

CAMVID = SHARED / "data" / "camvid"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_list(tmp_path)
    return tmp_path


# Right files


def test_images_and_labels_are_read_in_the_order_of_the_list(root: Path) -> None:
    config = list_files.Config(root=root)
    samples = atrous.data.samples(config, config.train)
    assert [sample.name for sample in samples] == ["b", "a"]
    assert [int(sample.image[0, 0, 0]) for sample in samples] == [101, 100]
    for sample, number in zip(samples, (1, 0), strict=True):
        assert semantic(sample)[0].tolist() == [0, 1, 2, 255, 0, number]
    assert len(atrous.data.samples(config, config.val)) == 1


def test_names_and_colours_are_the_label_space(root: Path) -> None:
    space = atrous.data.label_space(list_files.Config(root=root))
    assert space.names == ("road", "traffic light", "sky")
    assert space.colors == ((128, 64, 128), (250, 170, 30), (70, 130, 180))
    assert (space.ignore, space.raw_ids) == (255, ())


def test_a_recipe_for_folders_can_take_a_list() -> None:
    config = load("folder/deeplab_v3plus", ["data.format=list", "data.root=x", "data.train=list/train.txt"])
    assert isinstance(config.data, list_files.Config)
    assert (config.data.train, config.data.val) == ("list/train.txt", "val.txt")


def test_lines_may_have_spaces_tabs_and_byte_order_marks(root: Path) -> None:
    lines = (
        "images/a.png labels/a.png",
        "images/a.png\tlabels/a.png\r",
        "  images/a.png   labels/a.png  ",
        "images/a.png \t labels/a.png",
        "\ufeffimages/a.png labels/a.png",
        "\n\nimages/a.png labels/a.png\n\n",
    )
    for line in lines:
        write(root / "train.txt", f"{line}\n")
        assert names(list_files.Config(root=root)) == ["a"], line


def test_paths_may_contain_spaces_if_a_tab_separates_them(root: Path) -> None:
    save(root / "my images" / "one two.png", np.zeros((4, 6, 3), np.uint8))
    write(root / "train.txt", "my images/one two.png\tlabels/a.png\n")
    assert atrous.data.samples(list_files.Config(root=root), "train.txt")[0].name == "one two"


def test_absolute_paths_need_not_be_in_the_root(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    write(elsewhere / "mine.txt", f"{root}/images/a.png {root}/labels/a.png\n")
    write(elsewhere / "kinds.txt", "road\ntraffic light\nsky\n")
    config = list_files.Config(root=elsewhere, train=str(elsewhere / "mine.txt"), names_path=elsewhere / "kinds.txt")
    assert atrous.data.samples(config, config.train)[0].name == "a"
    assert atrous.data.label_space(config).colors == ()


def test_files_are_also_searched_in_the_working_directory(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As semseg's `train_list: dataset/city/list/train.txt` with `data_root: dataset/city`."""
    monkeypatch.chdir(root.parent)
    config = list_files.Config(root=Path(root.name), train=f"{root.name}/train.txt")
    assert len(atrous.data.samples(config, config.train)) == 2


def test_images_of_one_name_in_two_folders_are_distinguished(root: Path) -> None:
    save(root / "more" / "a.png", np.zeros((4, 6, 3), np.uint8))
    write(root / "train.txt", "images/a.png labels/a.png\nmore/a.png labels/b.png\n")
    assert names(list_files.Config(root=root)) == ["images/a.png", "more/a.png"]


def test_names_of_the_config_take_precedence(root: Path) -> None:
    config = list_files.Config(root=root, names=("x", "y", "z"), ignore=254)
    space = atrous.data.label_space(config)
    assert (space.names, space.colors, space.ignore) == (("x", "y", "z"), (), 254)
    assert "value 255 (4 pixels): not a class; the 3 classes are 0..2, ignored is 254" in complaint(config)
    colored = config.model_copy(update={"colors_path": Path("city_colors.txt")})
    assert atrous.data.label_space(colored).colors[0] == (128, 64, 128)


def test_palette_labels_are_read_as_indices_not_as_grey_levels(root: Path) -> None:
    labels = np.tile(np.array([0, 1, 2, 255, 2, 1], np.uint8), (4, 1))
    picture = PIL.Image.fromarray(labels, "L")
    picture.putpalette(voc_colors(256).tobytes())
    picture.save(root / "labels" / "a.png")
    with PIL.Image.open(root / "labels" / "a.png") as saved:
        assert saved.mode == "P"
        assert not np.array_equal(np.asarray(saved.convert("L")), labels)
    sample = atrous.data.samples(list_files.Config(root=root), "val.txt")[0]
    np.testing.assert_array_equal(sample.semantic, labels)


@pytest.mark.skipif(not CAMVID.is_dir(), reason=f"no CamVid in {CAMVID}")
def test_camvid_as_a_list_is_camvid(tmp_path: Path) -> None:
    """With labels that aren't beside the list, and the ignore value 11."""
    camvid = atrous.data.camvid
    images = sorted((CAMVID / "val").iterdir())
    write(tmp_path / "camvid_names.txt", "\n".join(camvid.COLORS))
    write(tmp_path / "camvid_colors.txt", "\n".join(" ".join(map(str, color)) for color in camvid.COLORS.values()))
    write(tmp_path / "val.txt", "\n".join(f"val/{path.name} valannot/{path.stem}.png" for path in images))
    config = list_files.Config(
        root=CAMVID, val=str(tmp_path / "val.txt"), names_path=tmp_path / "camvid_names.txt", ignore=11
    )
    assert atrous.data.label_space(config) == camvid.CAMVID
    listed, expected = (atrous.data.samples(one, one.val) for one in (config, camvid.Config(root=CAMVID)))
    assert len(listed) == len(expected) == 101
    for index in (0, 100):
        assert listed[index].name == expected[index].name
        np.testing.assert_array_equal(listed[index].semantic, expected[index].semantic)


# Wrong files


def test_a_missing_list_is_refused_with_those_that_exist(root: Path) -> None:
    write(root / "list" / "more.txt", "")
    assert complaint(list_files.Config(root=root, train="trian.txt"), error=FileNotFoundError) == (
        f"list of images and labels: no such file: {root / 'trian.txt'}; set data.train and data.val; "
        "lists: list/more.txt, train.txt, val.txt"
    )


WRONG_LISTS: list[tuple[str, str, type[Exception]]] = [
    ("images/a.png labels/a.png\nimages/c.png labels/a.png", "line 2: no such image: {root}/images/c.png;", OSError),
    ("images/a.png labels/c.png", "line 1: no such label: {root}/labels/c.png; paths are relative to", OSError),
    ("\n\nnowhere/a.png x/y.png", "line 3: no such image: {root}/nowhere/a.png, and 1 more; paths", OSError),
    ("images/a.png labels/a.png 3", "line 1: expected `image label`, got 3 columns", DataError),
    ("images/a.png labels/a.png\nimages/b.png", "line 2: expected `image label`, got 1 column (", DataError),
    ("my images/a.png labels/a.png", "(paths with spaces need a tab between them)", DataError),
    ("images/a.png\tlabels/a.png\tx", "line 1: expected `image label`, got 3 columns", DataError),
    ("images/a.png labels/a.jpg", "line 1: the label labels/a.jpg is JPEG or WebP", DataError),
    ("images/a.png labels/a.png\n" * 2, "line 2: images/a.png is already in line 1", DataError),
    ("", "train.txt is empty; expected lines such as", DataError),
    (" \n\n", "train.txt is empty", DataError),
]


def test_a_wrong_list_is_refused_with_the_line(root: Path) -> None:
    for lines, reason, error in WRONG_LISTS:
        write(root / "train.txt", lines)
        text = complaint(list_files.Config(root=root), error=error)
        assert text.startswith(str(root / "train.txt")), lines
        assert reason.format(root=root) in text, lines
    write(root / "train.txt", "images labels")  # folders exist, but are not images
    assert f"cannot read image {root}/images" in complaint(list_files.Config(root=root))


WRONG_CLASSES = [
    ("city_colors.txt", "128 64 128\n1 2 3\n", "city_colors.txt has 2 colors, but {root}/city_names.txt has 3 names"),
    ("city_colors.txt", "1 2 3\n" * 4, "city_colors.txt has 4 colors"),
    ("city_colors.txt", "", "city_colors.txt has 0 colors"),
    (
        "city_colors.txt",
        "1 2 3\n128 64\n1 2 3",
        "city_colors.txt, line 2 is not a color: '128 64'; expected R G B, three",
    ),
    ("city_colors.txt", "1 2 3\n1 2 256\n1 2 3", "line 2 is not a color: '1 2 256'"),
    ("city_colors.txt", "1 2 3\n1 2 -3\n1 2 3", "line 2 is not a color: '1 2 -3'"),
    ("city_colors.txt", "1 2 3\n\n1 2 3\n1 2 3", "line 2 is not a color: ''"),
    ("city_colors.txt", "1, 2, 3\n", "line 1 is not a color: '1, 2, 3'"),
    ("city_names.txt", "road\n\nsky\n", "city_names.txt, line 2 is empty"),
    ("city_names.txt", "", "city_names.txt is empty"),
    ("city_names.txt", "road\nroad\nsky", "city_names.txt: class names must differ, but road is repeated"),
    ("city_names.txt", "road\n", "has 3 colors, but {root}/city_names.txt has 1 names"),
    ("town_names.txt", "road\n", "several *_names.txt: city_names.txt, town_names.txt; set data.names_path"),
]


def test_wrong_files_of_classes_are_refused_with_the_file(tmp_path: Path) -> None:
    for number, (name, content, reason) in enumerate(WRONG_CLASSES):
        root = tmp_path / str(number)
        config = write_list(root)
        write(root / name, content)
        assert reason.format(root=root) in complaint(config), content


def test_names_must_be_in_a_file_or_the_config(root: Path) -> None:
    (root / "city_names.txt").unlink()
    assert f"{root} has no *_names.txt; set data.names_path" in complaint(list_files.Config(root=root))
    config = list_files.Config(root=root, names_path=Path("x.txt"))
    assert f"data.names_path: no such file: {root / 'x.txt'}" in complaint(config, error=FileNotFoundError)
    config = list_files.Config(root=root, names=("a", "b", "c"), colors_path=Path("y.txt"))
    assert f"data.colors_path: no such file: {root / 'y.txt'}" in complaint(config, error=FileNotFoundError)


def test_coloured_labels_and_values_that_are_not_a_class_are_refused(root: Path) -> None:
    save(root / "labels" / "b.png", np.full((4, 6), 3, np.uint8))
    assert "b.png: value 3 (24 pixels): not a class; the 3 classes are 0..2, ignored is 255" in complaint(
        list_files.Config(root=root)
    )
    save(root / "labels" / "b.png", np.zeros((4, 6, 3), np.uint8))
    assert "b.png: the mask is RGB, but class indices are expected" in complaint(list_files.Config(root=root))
