"""The same image in two splits is found by its content."""

import shutil
from pathlib import Path

import numpy as np
import pytest

import atrous.data
from atrous.data import folder, synthetic
from atrous.data.overlap import shared_images
from tests.data.conftest import noise_image, save, write


@pytest.fixture
def config(tmp_path: Path) -> folder.Config:
    """Images of one size in bytes, as scanners and uncompressed formats make them."""
    for number, split in enumerate(("train", "val")):
        for index in range(3):
            save(tmp_path / "images" / split / f"{index}.bmp", noise_image(20, 30, 10 * number + index))
            save(tmp_path / "masks" / split / f"{index}.png", np.zeros((20, 30), np.uint8))
    write(tmp_path / "classes.yaml", "names: [background, crack]")
    return folder.Config(root=tmp_path)


def shared(config: folder.Config, second: str = "val") -> list[str]:
    return shared_images(atrous.data.samples(config, "train"), atrous.data.samples(config, second))


def test_images_of_one_name_and_size_are_not_the_same(config: folder.Config) -> None:
    assert shared(config) == []


def test_copies_are_found_under_any_name(config: folder.Config) -> None:
    assert config.root is not None
    images = config.root / "images"
    shutil.copy(images / "train" / "0.bmp", images / "val" / "2.bmp")
    assert shared(config) == ["2"]
    assert shared(config, "train") == ["0", "1", "2"]


def test_files_that_differ_only_at_their_end_are_compared_as_a_whole(config: folder.Config) -> None:
    assert config.root is not None
    images = config.root / "images"
    content = bytearray((images / "train" / "0.bmp").read_bytes())
    content[60] ^= 1
    (images / "val" / "2.bmp").write_bytes(content)
    assert shared(config) == []


def test_unreadable_and_empty_files_are_no_copies(config: folder.Config) -> None:
    assert config.root is not None
    for split in ("train", "val"):
        (config.root / "images" / split / "0.bmp").write_bytes(b"")
        (config.root / "images" / split / "1.bmp").unlink()
        (config.root / "images" / split / "1.bmp").symlink_to("/nowhere.bmp")
    assert shared(config) == []


def test_samples_without_files_share_none() -> None:
    scenes = synthetic.samples(synthetic.Config(num_train=2), "train")
    assert shared_images(scenes, scenes) == []
