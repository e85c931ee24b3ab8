"""Files of classes and their colours, and folders that have one."""

from pathlib import Path

import numpy as np
import pytest

import atrous.data
from atrous.data import folder
from atrous.data.color_map import read_color_map
from atrous.data.recognising import recognised
from atrous.errors import DataError
from tests.data.conftest import complaint, first_rows, save, write

COLORS = {"Road": (128, 64, 128), "Void": (0, 0, 0), "Traffic Light": (0, 64, 64)}
FORMS = {
    "label_colors.txt": "128 64 128\tRoad\n0 0 0\t\tVoid\n0 64 64 Traffic Light\n",
    "class_dict.csv": "name,r,g,b\nRoad,128,64,128\nVoid,0,0,0\nTraffic Light, 0, 64, 64\n",
    "labelmap.txt": "# label:color_rgb:parts:actions\nRoad:128,64,128::\nVoid:0,0,0::\nTraffic Light:0,64,64::\n",
    "colormap.txt": "\ufeffRoad 128 64 128".replace("Road ", "Road\t")
    + "\r\n\r\nVoid\t0 0 0\r\nTraffic Light\t0 64 64\r\n",
}


@pytest.mark.parametrize("name", FORMS)
def test_each_form_is_read(name: str, tmp_path: Path) -> None:
    assert read_color_map(write(tmp_path / name, FORMS[name])) == COLORS


@pytest.mark.parametrize(
    ("text", "complaint_of_it"),
    [
        ("Road 128 64\nSky 1 2 3", "line 1 is not a class and its colour"),
        ("Road,128,64,256\nSky,1,2,3", "line 1 is not a class and its colour"),
        ("1 2 3 Road\n1 2 3 Sky", "line 2: Sky has the name or the colour of Road"),
        ("1 2 3 Road\n1 2 4 Road", "line 2: Road has the name or the colour of Road"),
        ("1 2 3 Road\n", "expected two classes at least"),
        ("", "expected two classes at least"),
        ("1 2 3 Road\n\x00\xff", "line 2 is not a class"),
    ],
)
def test_other_files_are_refused(text: str, complaint_of_it: str, tmp_path: Path) -> None:
    path = write(tmp_path / "label_colors.txt", text)
    with pytest.raises(DataError, match=f"^{path}.*{complaint_of_it}"):
        read_color_map(path)


def write_colored(root: Path, *places: str) -> folder.Config:
    pixels = np.array([list(COLORS.values())], np.uint8)
    for path in places:
        save(root / path / "a.png", pixels)
    return folder.Config(root=root)


@pytest.mark.parametrize("name", FORMS)
def test_a_folder_may_have_one_instead_of_classes(name: str, tmp_path: Path) -> None:
    config = write_colored(tmp_path, "images/train", "masks/train")
    write(tmp_path / name, FORMS[name])
    assert atrous.data.label_space(config).names == ("Road", "Traffic Light")
    assert first_rows(config) == [[0, 255, 1]]
    write(tmp_path / "classes.yaml", "names: [a, b]")
    assert atrous.data.label_space(config).names == ("a", "b")


def test_masks_of_indices_are_numbered_as_the_lines_are(tmp_path: Path) -> None:
    config = write_colored(tmp_path, "images/train")
    save(tmp_path / "masks" / "train" / "a.png", np.array([[0, 1, 2]], np.uint8))
    write(tmp_path / "mine" / "palette.txt", FORMS["label_colors.txt"])
    mine = config.model_copy(update={"color_map": Path("mine/palette.txt")})
    assert first_rows(mine) == [[0, 255, 1]]
    absent = config.model_copy(update={"color_map": Path("x.txt")})
    assert complaint(absent, error=FileNotFoundError) == f"data.color_map: no such file: {tmp_path / 'x.txt'}"


@pytest.mark.parametrize(
    "places", [("train", "train_labels"), ("train_img", "train_label"), ("train_images", "train_masks")]
)
def test_splits_may_begin_the_names_of_folders(places: tuple[str, str], tmp_path: Path) -> None:
    config = write_colored(tmp_path, *places)
    write(tmp_path / "class_dict.csv", FORMS["class_dict.csv"])
    assert recognised(tmp_path, atrous.data.FORMATS) == "folder"
    assert first_rows(config) == [[0, 255, 1]]
    assert complaint(config, "val").startswith("no split 'val'")
