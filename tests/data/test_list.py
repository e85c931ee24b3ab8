"""List files of `image label` lines, classes and colours in files beside them, and what can be wrong in them."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import atrous.data
from atrous.config import load
from atrous.data import list as list_files
from atrous.data.label_space import voc_colors
from tests.conftest import SHARED

NAMES = "road\ntraffic light\nsky\n"
COLORS = "128 64 128\n250 170 30\n70 130 180\n"
CAMVID = SHARED / "data" / "camvid"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two images of 4 x 6 in a folder each, with their labels, names and colours."""
    for number, name in enumerate(("a", "b")):
        save(tmp_path / "images" / f"{name}.png", np.full((4, 6, 3), 100 + number, np.uint8))
        labels = np.tile(np.array([0, 1, 2, 255, 0, number], np.uint8), (4, 1))
        save(tmp_path / "labels" / f"{name}.png", labels)
    write(tmp_path / "train.txt", "images/b.png labels/b.png\nimages/a.png labels/a.png\n")
    write(tmp_path / "val.txt", "images/a.png labels/a.png\n")
    write(tmp_path / "city_names.txt", NAMES)
    write(tmp_path / "city_colors.txt", COLORS)
    return tmp_path


def save(path: Path, pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels).save(path)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")


def complaint(config: list_files.Config, error: type[Exception] = ValueError) -> str:
    """The one line that listing the split to learn from, and reading it, ends with."""
    with pytest.raises(error) as caught:
        list(atrous.data.samples(config, config.train))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What is right


def test_images_and_labels_are_read_in_the_order_of_the_list(root: Path) -> None:
    config = list_files.Config(root=root)
    samples = atrous.data.samples(config, config.train)
    assert [sample.name for sample in samples] == ["b", "a"]
    assert [int(sample.image[0, 0, 0]) for sample in samples] == [101, 100]
    for sample, number in zip(samples, (1, 0), strict=True):
        assert sample.semantic is not None
        assert sample.semantic[0].tolist() == [0, 1, 2, 255, 0, number]
    assert len(atrous.data.samples(config, config.val)) == 1


def test_names_and_colours_are_the_label_space(root: Path) -> None:
    space = atrous.data.label_space(list_files.Config(root=root))
    assert space.names == ("road", "traffic light", "sky")
    assert space.colors == ((128, 64, 128), (250, 170, 30), (70, 130, 180))
    assert (space.ignore, space.raw_ids) == (255, ())


def test_the_formats_table_has_it() -> None:
    config = load("folder/deeplab_v3plus", ["data.format=list", "data.root=x", "data.train=list/train.txt"])
    assert isinstance(config.data, list_files.Config)
    assert (config.data.train, config.data.val) == ("list/train.txt", "val.txt")


@pytest.mark.parametrize(
    "line",
    [
        "images/a.png labels/a.png",
        "images/a.png\tlabels/a.png\r",
        "  images/a.png   labels/a.png  ",
        "images/a.png \t labels/a.png",
        "\ufeffimages/a.png labels/a.png",
        "\n\nimages/a.png labels/a.png\n\n",
    ],
)
def test_lines_may_be_written_so(root: Path, line: str) -> None:
    write(root / "train.txt", f"{line}\n")
    assert [sample.name for sample in atrous.data.samples(list_files.Config(root=root), "train.txt")] == ["a"]


def test_paths_with_blanks_are_possible_with_a_tab(root: Path) -> None:
    save(root / "my images" / "one two.png", np.zeros((4, 6, 3), np.uint8))
    write(root / "train.txt", "my images/one two.png\tlabels/a.png\n")
    assert atrous.data.samples(list_files.Config(root=root), "train.txt")[0].name == "one two"


def test_absolute_paths_need_not_lie_in_the_root(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    write(elsewhere / "mine.txt", f"{root}/images/a.png {root}/labels/a.png\n")
    write(elsewhere / "kinds.txt", NAMES)
    config = list_files.Config(root=elsewhere, train=str(elsewhere / "mine.txt"), names_path=elsewhere / "kinds.txt")
    assert atrous.data.samples(config, config.train)[0].name == "a"
    assert atrous.data.label_space(config).colors == ()


def test_files_are_found_from_here_too(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As semseg's `train_list: dataset/city/list/train.txt` with `data_root: dataset/city`."""
    monkeypatch.chdir(root.parent)
    config = list_files.Config(root=Path(root.name), train=f"{root.name}/train.txt")
    assert len(atrous.data.samples(config, config.train)) == 2


def test_images_of_one_name_in_two_folders_are_told_apart(root: Path) -> None:
    save(root / "more" / "a.png", np.zeros((4, 6, 3), np.uint8))
    write(root / "train.txt", "images/a.png labels/a.png\nmore/a.png labels/b.png\n")
    names = [sample.name for sample in atrous.data.samples(list_files.Config(root=root), "train.txt")]
    assert names == ["images/a.png", "more/a.png"]


def test_names_of_the_config_win(root: Path) -> None:
    config = list_files.Config(root=root, names=("x", "y", "z"), ignore=254)
    space = atrous.data.label_space(config)
    assert (space.names, space.colors, space.ignore) == (("x", "y", "z"), (), 254)
    assert "value 255 (4 pixels): the 3 classes have 0..2, ignored is 254" in complaint(config)
    colored = config.model_copy(update={"colors_path": Path("city_colors.txt")})
    assert atrous.data.label_space(colored).colors[0] == (128, 64, 128)


def test_palette_labels_are_read_as_indices_not_as_the_grey_of_their_colours(root: Path) -> None:
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
    """With labels that aren't beside the list, and 11 for what counts nowhere."""
    camvid = atrous.data.camvid
    images = sorted((CAMVID / "val").iterdir())
    write(tmp_path / "camvid_names.txt", "\n".join(camvid.COLORS))
    write(tmp_path / "camvid_colors.txt", "\n".join(" ".join(map(str, color)) for color in camvid.COLORS.values()))
    write(tmp_path / "val.txt", "\n".join(f"val/{path.name} valannot/{path.stem}.png" for path in images))
    config = list_files.Config(
        root=CAMVID, val=str(tmp_path / "val.txt"), names_path=tmp_path / "camvid_names.txt", ignore=11
    )
    assert atrous.data.label_space(config) == camvid.CAMVID
    found, expected = (atrous.data.samples(one, one.val) for one in (config, camvid.Config(root=CAMVID)))
    assert len(found) == len(expected) == 101
    for index in (0, 100):
        assert found[index].name == expected[index].name
        np.testing.assert_array_equal(found[index].semantic, expected[index].semantic)


# What is wrong


def test_the_root_must_be_set_and_there(tmp_path: Path) -> None:
    assert "data.root is missing" in complaint(list_files.Config())
    missing = list_files.Config(root=tmp_path / "nowhere")
    assert f"data.root: no such folder: {tmp_path / 'nowhere'}" in complaint(missing, FileNotFoundError)


def test_a_missing_list_names_those_there(root: Path) -> None:
    write(root / "list" / "more.txt", "")
    assert complaint(list_files.Config(root=root, train="trian.txt"), FileNotFoundError) == (
        f"list of images and labels: no such file: {root / 'trian.txt'}; data.train, data.val name it; "
        "found: list/more.txt, train.txt, val.txt"
    )


@pytest.mark.parametrize(
    ("lines", "reason", "error"),
    [
        (
            "images/a.png labels/a.png\nimages/c.png labels/a.png",
            "line 2: no such image: {root}/images/c.png;",
            OSError,
        ),
        ("images/a.png labels/c.png", "line 1: no such label: {root}/labels/c.png; paths are relative to", OSError),
        ("\n\nnowhere/a.png x/y.png", "line 3: no such image: {root}/nowhere/a.png, and 1 more are missing", OSError),
        ("images/a.png labels/a.png 3", "line 1: 3 columns where `image label` is wanted", ValueError),
        ("images/a.png labels/a.png\nimages/b.png", "line 2: 1 column where `image label` is wanted", ValueError),
        ("my images/a.png labels/a.png", "(paths with blanks need a tab between them)", ValueError),
        ("images/a.png\tlabels/a.png\tx", "line 1: 3 columns", ValueError),
        ("images/a.png labels/a.jpg", "line 1: the label labels/a.jpg is JPEG or WebP", ValueError),
        ("images/a.png labels/a.png\n" * 2, "line 2: images/a.png is in line 1 already", ValueError),
        ("", "train.txt is empty; lines such as", ValueError),
        (" \n\n", "train.txt is empty", ValueError),
        ("images labels", "{root}/images", ValueError),
    ],
)
def test_a_wrong_list_is_told_by_line(root: Path, lines: str, reason: str, error: type[Exception]) -> None:
    write(root / "train.txt", lines)
    text = complaint(list_files.Config(root=root), error)
    assert str(root / "train.txt") in text or "cannot read" in text
    assert reason.format(root=root) in text


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        (
            "city_colors.txt",
            "128 64 128\n1 2 3\n",
            "city_colors.txt has 2 colors, but {root}/city_names.txt has 3 names",
        ),
        ("city_colors.txt", COLORS + "1 2 3\n", "city_colors.txt has 4 colors"),
        ("city_colors.txt", "", "city_colors.txt has 0 colors"),
        ("city_colors.txt", "1 2 3\n128 64\n1 2 3", "city_colors.txt, line 2 is no color: '128 64'; R G B, three"),
        ("city_colors.txt", "1 2 3\n1 2 256\n1 2 3", "line 2 is no color: '1 2 256'"),
        ("city_colors.txt", "1 2 3\n1 2 -3\n1 2 3", "line 2 is no color: '1 2 -3'"),
        ("city_colors.txt", "1 2 3\n\n1 2 3\n1 2 3", "line 2 is no color: ''"),
        ("city_colors.txt", "1, 2, 3\n", "line 1 is no color: '1, 2, 3'"),
        ("city_names.txt", "road\n\nsky\n", "city_names.txt, line 2 is empty"),
        ("city_names.txt", "", "city_names.txt is empty"),
        ("city_names.txt", "road\nroad\nsky", "city_names.txt: class names must differ, but road comes twice"),
        ("city_names.txt", "road\n", "has 3 colors, but {root}/city_names.txt has 1 names"),
        ("town_names.txt", "road\n", "several *_names.txt: city_names.txt, town_names.txt; set data.names_path"),
    ],
)
def test_wrong_classes_are_told_by_file(root: Path, name: str, content: str, reason: str) -> None:
    write(root / name, content)
    assert reason.format(root=root) in complaint(list_files.Config(root=root))


def test_names_must_come_from_somewhere(root: Path) -> None:
    (root / "city_names.txt").unlink()
    assert f"{root} has no *_names.txt; set data.names_path" in complaint(list_files.Config(root=root))
    given = list_files.Config(root=root, names_path=Path("x.txt"))
    assert f"data.names_path: no such file: {root / 'x.txt'}" in complaint(given, FileNotFoundError)
    given = list_files.Config(root=root, names=("a", "b", "c"), colors_path=Path("y.txt"))
    assert f"data.colors_path: no such file: {root / 'y.txt'}" in complaint(given, FileNotFoundError)


def test_coloured_labels_and_ids_beyond_the_classes_are_refused(root: Path) -> None:
    save(root / "labels" / "b.png", np.full((4, 6), 3, np.uint8))
    assert "b.png: value 3 (24 pixels): the 3 classes have 0..2, ignored is 255" in complaint(
        list_files.Config(root=root)
    )
    save(root / "labels" / "b.png", np.zeros((4, 6, 3), np.uint8))
    assert "b.png: the mask is RGB where class indices are expected" in complaint(list_files.Config(root=root))
