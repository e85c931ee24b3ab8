"""Cityscapes: real files if they are beside the repository, synthetic ones for raw ids, coarse labels and gaps."""

from pathlib import Path

import numpy as np
import pytest

import atrous.data
from atrous.data import cityscapes
from atrous.data.cityscapes import CITYSCAPES, Config
from atrous.errors import ConfigError
from tests.conftest import SHARED
from tests.data.conftest import complaint, first_rows, names, write_cityscapes

REAL = SHARED / "data" / "cityscapes"
needs_files = pytest.mark.skipif(not REAL.is_dir(), reason=f"no Cityscapes in {REAL}")
RAW_CLASSES = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)  # the benchmark's order


@needs_files
def test_real_photos_show_the_street() -> None:
    samples = atrous.data.samples(Config(root=REAL), "train")
    assert [sample.name for sample in samples] == [f"aachen_00000{n}_000019" for n in (0, 1, 2, 4)]
    sample = samples[0]
    assert sample.image.shape == (1024, 2048, 3)
    labels = np.asarray(sample.semantic)
    assert set(np.unique(labels)) <= {*range(19), 255}
    sky, road = (np.argwhere(labels == CITYSCAPES.names.index(name))[:, 0].mean() for name in ("sky", "road"))
    assert sky < 400 < 600 < road  # of 1024 rows


@needs_files
def test_real_labels_without_their_photos_are_refused() -> None:
    text = complaint(Config(root=REAL), "val")
    assert text.startswith(f"labels in {REAL}/gtFine/val without an image in {REAL}/leftImg8bit/val (14): frankfurt_")


def test_nineteen_raw_ids_are_classes(tmp_path: Path) -> None:
    expected = [RAW_CLASSES.index(value) if value in RAW_CLASSES else 255 for value in range(34)]
    assert first_rows(write_cityscapes(tmp_path, "train", "ulm_000000_000019")) == [expected]


def test_names_and_colors_are_the_published_ones() -> None:
    assert CITYSCAPES.num_classes == 19
    assert (CITYSCAPES.names[0], CITYSCAPES.names[6], CITYSCAPES.names[-1]) == ("road", "traffic light", "bicycle")
    colors = dict(zip(CITYSCAPES.names, CITYSCAPES.colors, strict=True))
    assert (colors["road"], colors["car"]) == ((128, 64, 128), (0, 0, 142))
    assert tuple(value for value, index in CITYSCAPES.raw_ids if index != 255) == RAW_CLASSES


def test_all_cities_are_read_in_order_without_hidden_files(tmp_path: Path) -> None:
    for name in ("zurich_000000_000019", "bochum_000001_000019", "bochum_000000_000019"):
        config = write_cityscapes(tmp_path, "train", name)
    (tmp_path / "leftImg8bit/train/zurich/._zurich_000000_000019_leftImg8bit.png").write_bytes(b"junk")
    assert names(config) == ["bochum_000000_000019", "bochum_000001_000019", "zurich_000000_000019"]


def test_a_plus_joins_splits(tmp_path: Path) -> None:
    write_cityscapes(tmp_path, "train", "ulm_000000_000019")
    config = write_cityscapes(tmp_path, "val", "lindau_000000_000019")
    assert names(config, "train+val") == ["ulm_000000_000019", "lindau_000000_000019"]
    assert "no split 'tset': " in complaint(config, "train+tset")


def test_training_can_use_coarse_labels_while_validation_uses_fine_ones(tmp_path: Path) -> None:
    coarse, fine = np.full((1, 2), 7, np.uint8), np.full((1, 2), 26, np.uint8)
    for split in ("train", "val"):
        write_cityscapes(tmp_path, split, "ulm_000000_000019", fine)
        write_cityscapes(tmp_path, split, "ulm_000000_000019", coarse, "gtCoarse")
    write_cityscapes(tmp_path, "train_extra", "bonn_000000_000019", coarse, "gtCoarse")
    config = Config(root=tmp_path, annotations="coarse", train="train+train_extra")
    road, car = CITYSCAPES.names.index("road"), CITYSCAPES.names.index("car")
    assert first_rows(config, "train+train_extra") == [[road, road]] * 2
    assert first_rows(config, "val") == [[car, car]]
    assert complaint(Config(root=tmp_path), "train_extra", FileNotFoundError).startswith("labels: no such folder")


def test_a_photo_without_a_label_is_refused(tmp_path: Path) -> None:
    for number in range(3):
        config = write_cityscapes(tmp_path, "train", f"ulm_00000{number}_000019")
    (tmp_path / "gtFine/train/ulm/ulm_000001_000019_gtFine_labelIds.png").unlink()
    text = f"images in {tmp_path}/leftImg8bit/train without a label in {tmp_path}/gtFine/train (1): ulm_000001_000019"
    assert complaint(config) == text


def test_a_split_without_any_file_is_refused_with_the_pattern_of_its_files(tmp_path: Path) -> None:
    for folder, suffix in (("gtFine", "_gtFine_labelIds"), ("leftImg8bit", "_leftImg8bit")):
        config = write_cityscapes(tmp_path / folder, "train", "ulm_0_0")
        files = tmp_path / folder / folder / "train"
        (files / "ulm" / f"ulm_0_0{suffix}.png").rename(files / "ulm" / f"ulm_0_0{suffix}s.png")
        assert complaint(config) == f"no such files: {files}/*/*{suffix}.png"


def test_a_root_without_photos_is_refused(tmp_path: Path) -> None:
    assert complaint(Config(root=tmp_path)) == (
        f"data.root: {tmp_path} is not a dataset of data.format=cityscapes, which has leftImg8bit/ and gtFine/; it "
        "holds no folders"
    )


def test_an_unknown_raw_id_is_refused_with_its_file(tmp_path: Path) -> None:
    config = write_cityscapes(tmp_path, "train", "ulm_000000_000019", np.array([[7, 34]], np.uint8))
    text = complaint(config)
    assert "ulm_000000_000019_gtFine_labelIds.png" in text
    assert "34" in text


def test_classes_can_be_renamed_chosen_and_ignored(tmp_path: Path) -> None:
    config = write_cityscapes(tmp_path, "train", "ulm_000000_000019", np.array([[7, 24, 26, 9]], np.uint8))
    renamed = config.model_copy(update={"names": tuple("abcdefghijklmnopqrs")})
    assert cityscapes.label_space(renamed).names[13] == "n"
    assert first_rows(renamed) == [[0, 11, 13, 255]]
    assert first_rows(config.model_copy(update={"ignore": 24})) == [[0, 255, 13, 255]]
    chosen = config.model_copy(update={"names": {26: "car", 24: "person"}})
    assert first_rows(chosen) == [[255, 0, 1, 255]]
    assert cityscapes.label_space(chosen).colors == ((220, 20, 60), (0, 0, 142))
    with_parking = config.model_copy(update={"names": {26: "car", 9: "parking"}})
    assert first_rows(with_parking) == [[255, 255, 1, 0]]
    assert cityscapes.label_space(with_parking).colors == ()


def test_names_that_do_not_fit_are_refused() -> None:
    cases: list[tuple[dict[str, object], str]] = [
        ({"names": ("road", "car")}, "data.names: 2 names, but the dataset has 19 classes"),
        ({"names": ()}, "data.names: 0 names, but the dataset has 19 classes"),
        ({"names": ("road",) * 19}, "data.names: class names must differ, but road is repeated"),
        ({"names": {7: "road", 99: "car"}}, "data.names: no label value 99; values are 0..33"),
        ({"names": {7: "road"}}, "data.names: expected at least two classes, got one"),
        ({"ignore": -1}, "data.ignore: a label value must be in 0..65535, got -1"),
    ]
    for change, text in cases:
        with pytest.raises(ConfigError, match=f"^{text}"):
            cityscapes.label_space(Config.model_validate(change))
