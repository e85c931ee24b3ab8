"""The files that a split consists of: names, sizes, order."""

from pathlib import Path

from atrous import data
from atrous.config import load
from atrous.data.image_files import ImageFiles
from atrous.data.inventory import UNREADABLE, inventory
from atrous.data.label_space import LabelSpace
from atrous.data.pairing import Pair
from tests.runs import folder_config


def test_every_image_is_listed_with_the_bytes_of_both_files(folder_data: Path) -> None:
    config = folder_config(folder_data).data
    files = inventory(data.samples(config, "val"))
    assert files == {
        name: [(folder_data / folder / "val" / f"{name}.png").stat().st_size for folder in ("images", "masks")]
        for name in ("0", "1")
    }
    moved = folder_data.rename(folder_data.with_name("moved"))
    assert inventory(data.samples(folder_config(moved).data, "val")) == files


def test_files_that_are_missing_or_have_no_labels_are_listed_too(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"12345")
    pairs = [Pair("b", tmp_path / "b.png", tmp_path / "a.png"), Pair("a", tmp_path / "a.png")]
    files = inventory(ImageFiles(pairs, LabelSpace(names=("a", "b"))))
    assert list(files.items()) == [("b", [UNREADABLE, 5]), ("a", [5])]


def test_painted_samples_have_no_files() -> None:
    config = load("synthetic/deeplab_v3plus_tiny").data
    assert inventory(data.samples(config, "train")) == {}
