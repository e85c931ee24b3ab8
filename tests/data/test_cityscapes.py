"""Cityscapes: real files where they lie beside the repository, drawn ones for raw ids, coarse labels and gaps."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray

import atrous.data
from atrous.data import cityscapes
from atrous.data.cityscapes import CITYSCAPES, Config
from atrous.types import Sample
from tests.conftest import SHARED

REAL = SHARED / "data" / "cityscapes"
needs_files = pytest.mark.skipif(not REAL.is_dir(), reason=f"no Cityscapes in {REAL}")
RAW_CLASSES = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)  # the benchmark's order


def save(path: Path, values: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(values).save(path)


def draw(root: Path, split: str, name: str, labels: NDArray[np.uint8] | None = None, kind: str = "gtFine") -> Config:
    """One photo, with all the files that the data set's archive has beside its labels."""
    labels = np.arange(34, dtype=np.uint8)[None] if labels is None else labels
    city = name.partition("_")[0]
    save(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", np.zeros((*labels.shape, 3), np.uint8))
    folder = root / kind / split / city
    for suffix in ("labelIds", "instanceIds", "color"):
        save(folder / f"{name}_{kind}_{suffix}.png", labels if suffix == "labelIds" else labels * 0)
    (folder / f"{name}_{kind}_polygons.json").write_text("{}")
    return Config(root=root)


def read(config: Config, split: str = "train") -> list[Sample]:
    return list(atrous.data.samples(config, split))


def classes(config: Config, split: str = "train") -> list[list[int]]:
    """The train ids in the first row of each label."""
    return [np.asarray(sample.semantic)[0].tolist() for sample in read(config, split)]


def complaint(config: Config, split: str = "train", error: type[Exception] = ValueError) -> str:
    with pytest.raises(error) as caught:
        read(config, split)
    assert "\n" not in str(caught.value)
    return str(caught.value)


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
def test_real_labels_whose_photos_are_missing_are_told() -> None:
    text = complaint(Config(root=REAL), "val")
    assert text.startswith(f"14 of the labels in {REAL}/gtFine/val have no image in {REAL}/leftImg8bit/val: frankfurt_")


def test_nineteen_raw_ids_are_classes(tmp_path: Path) -> None:
    expected = [RAW_CLASSES.index(value) if value in RAW_CLASSES else 255 for value in range(34)]
    assert classes(draw(tmp_path, "train", "ulm_000000_000019")) == [expected]


def test_names_and_colors_are_the_published_ones() -> None:
    assert CITYSCAPES.num_classes == 19
    assert (CITYSCAPES.names[0], CITYSCAPES.names[6], CITYSCAPES.names[-1]) == ("road", "traffic light", "bicycle")
    colors = dict(zip(CITYSCAPES.names, CITYSCAPES.colors, strict=True))
    assert (colors["road"], colors["car"]) == ((128, 64, 128), (0, 0, 142))
    assert tuple(value for value, index in CITYSCAPES.raw_ids if index != 255) == RAW_CLASSES


def test_all_cities_are_read_in_order_and_hidden_files_not(tmp_path: Path) -> None:
    for name in ("zurich_000000_000019", "bochum_000001_000019", "bochum_000000_000019"):
        config = draw(tmp_path, "train", name)
    (tmp_path / "leftImg8bit/train/zurich/._zurich_000000_000019_leftImg8bit.png").write_bytes(b"junk")
    names = [sample.name for sample in read(config)]
    assert names == ["bochum_000000_000019", "bochum_000001_000019", "zurich_000000_000019"]


def test_splits_are_joined_by_a_plus(tmp_path: Path) -> None:
    draw(tmp_path, "train", "ulm_000000_000019")
    config = draw(tmp_path, "val", "lindau_000000_000019")
    assert [sample.name for sample in read(config, "train+val")] == ["ulm_000000_000019", "lindau_000000_000019"]
    assert "no split 'tset': there is no" in complaint(config, "train+tset")


def test_coarse_labels_are_learnt_from_and_fine_ones_measured_on(tmp_path: Path) -> None:
    coarse, fine = np.full((1, 2), 7, np.uint8), np.full((1, 2), 26, np.uint8)
    for split in ("train", "val"):
        draw(tmp_path, split, "ulm_000000_000019", fine)
        draw(tmp_path, split, "ulm_000000_000019", coarse, "gtCoarse")
    draw(tmp_path, "train_extra", "bonn_000000_000019", coarse, "gtCoarse")
    config = Config(root=tmp_path, annotations="coarse", train="train+train_extra")
    road, car = CITYSCAPES.names.index("road"), CITYSCAPES.names.index("car")
    assert classes(config, "train+train_extra") == [[road, road]] * 2
    assert classes(config, "val") == [[car, car]]
    assert complaint(Config(root=tmp_path), "train_extra", FileNotFoundError).startswith("labels: no such folder")


def test_photos_without_labels_are_told(tmp_path: Path) -> None:
    for number in range(3):
        config = draw(tmp_path, "train", f"ulm_00000{number}_000019")
    (tmp_path / "gtFine/train/ulm/ulm_000001_000019_gtFine_labelIds.png").unlink()
    text = (
        f"1 of the images in {tmp_path}/leftImg8bit/train have no label in {tmp_path}/gtFine/train: ulm_000001_000019"
    )
    assert complaint(config) == text


@pytest.mark.parametrize(
    "missing", ["gtFine/train/ulm/ulm_0_0_gtFine_labelIds", "leftImg8bit/train/ulm/ulm_0_0_leftImg8bit"]
)
def test_no_file_at_all_says_what_was_looked_for(missing: str, tmp_path: Path) -> None:
    config = draw(tmp_path, "train", "ulm_0_0")
    (tmp_path / f"{missing}.png").rename(tmp_path / f"{missing}s.png")
    folder, _, name = missing.partition("/train/")
    ending = name.removeprefix("ulm/ulm_0_0")
    assert complaint(config) == f"no file {tmp_path}/{folder}/train/*/*{ending}.png"


def test_a_root_that_is_something_else(tmp_path: Path) -> None:
    text = complaint(Config(root=tmp_path), error=FileNotFoundError)
    assert text == f"leftImg8bit: no such folder: {tmp_path / 'leftImg8bit'}"
    assert "data.root is missing" in complaint(Config())


def test_a_raw_id_that_is_none_names_its_file(tmp_path: Path) -> None:
    config = draw(tmp_path, "train", "ulm_000000_000019", np.array([[7, 34]], np.uint8))
    text = complaint(config)
    assert "ulm_000000_000019_gtFine_labelIds.png" in text
    assert "34" in text


def test_classes_may_be_renamed_chosen_and_ignored(tmp_path: Path) -> None:
    config = draw(tmp_path, "train", "ulm_000000_000019", np.array([[7, 24, 26, 9]], np.uint8))
    renamed = config.model_copy(update={"names": tuple("abcdefghijklmnopqrs")})
    assert cityscapes.label_space(renamed).names[13] == "n"
    assert classes(renamed) == [[0, 11, 13, 255]]
    assert classes(config.model_copy(update={"ignore": 24})) == [[0, 255, 13, 255]]
    chosen = config.model_copy(update={"names": {26: "car", 24: "person"}})
    assert classes(chosen) == [[255, 0, 1, 255]]
    assert cityscapes.label_space(chosen).colors == ((220, 20, 60), (0, 0, 142))
    with_parking = config.model_copy(update={"names": {26: "car", 9: "parking"}})
    assert classes(with_parking) == [[255, 255, 1, 0]]
    assert cityscapes.label_space(with_parking).colors == ()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"names": ("road", "car")}, "data.names: 2 names, but the data has 19 classes"),
        ({"names": ()}, "data.names: 0 names, but the data has 19 classes"),
        ({"names": ("road",) * 19}, "data.names: class names must differ"),
        ({"names": {7: "road", 99: "car"}}, "data.names: there is no label value 99; there are 0..33"),
        ({"names": {7: "road"}}, "data.names: one class only"),
        ({"ignore": -1}, "data.ignore: label values are 0..65535, but it is -1"),
    ],
)
def test_names_that_do_not_fit(change: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        cityscapes.label_space(Config.model_validate(change))
