"""A small dataset of every layout, written to disk, and helpers that the tests of data share."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray
from rich.console import Console

import atrous.data
from atrous import pack
from atrous.data import ade20k, camvid, cityscapes, folder, shards, tfrecord, voc
from atrous.data import list as list_files
from atrous.data.contract import DataConfig
from atrous.data.transforms import Choice
from atrous.errors import DataError
from atrous.types import Image, Sample

Values = NDArray[np.generic]
BLACK, RED, WHITE = (0, 0, 0), (255, 0, 0), (255, 255, 255)
FILL, IGNORE = (124, 116, 104), 255
STILL = Choice(1.0, 0.0, (0.0, 0.0), False, 1.0, 1.0, 1.0, 0.0, 0.0, 0)


def save(path: Path, values: Values | None = None, mode: str | None = None) -> Path:
    """A 4 x 6 image, black unless it has `values`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = PIL.Image.fromarray(np.zeros((4, 6), np.uint8) if values is None else values)
    (picture.convert(mode) if mode else picture).save(path)
    return path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")
    return path


def row(*values: int, dtype: type[np.generic] = np.uint8) -> Values:
    return np.array([values]).astype(dtype)


def write_camvid(root: Path) -> camvid.Config:
    for name in ("a", "b"):
        save(root / "train" / f"{name}.png", mode="RGB")
        save(root / "trainannot" / f"{name}.png", np.full((4, 6), 11, np.uint8))
    return camvid.Config(root=root)


def write_voc(root: Path) -> voc.Config:
    for name in ("a", "b", "c"):
        save(root / "JPEGImages" / f"{name}.jpg", mode="RGB")
        save(root / "SegmentationClass" / f"{name}.png")
    write(root / "ImageSets" / "Segmentation" / "train.txt", "c\na\n")
    return voc.Config(root=root)


def write_folder(root: Path) -> folder.Config:
    for split in ("train", "val"):
        save(root / "images" / split / "a.jpg", mode="RGB")
        save(root / "masks" / split / "a.png", np.eye(4, 6, dtype=np.uint8))
    write(root / "classes.yaml", "names: [background, person]\n")
    return folder.Config(root=root)


def write_ade20k(root: Path, name: str = "ADE_train_00000001", split: str = "training") -> ade20k.Config:
    """An image of one row, whose label holds every value from 0 to 150."""
    values = np.arange(151, dtype=np.uint8)[None]
    save(root / "images" / split / f"{name}.jpg", values)
    save(root / "annotations" / split / f"{name}.png", values)
    return ade20k.Config(root=root)


def write_cityscapes(
    root: Path,
    split: str = "train",
    name: str = "ulm_000000_000019",
    labels: NDArray[np.uint8] | None = None,
    kind: str = "gtFine",
) -> cityscapes.Config:
    """One photo, with all the files that the dataset's archive has beside its labels."""
    labels = np.arange(34, dtype=np.uint8)[None] if labels is None else labels
    city = name.partition("_")[0]
    save(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", np.zeros((*labels.shape, 3), np.uint8))
    folder = root / kind / split / city
    for suffix in ("labelIds", "instanceIds", "color"):
        save(folder / f"{name}_{kind}_{suffix}.png", labels if suffix == "labelIds" else labels * 0)
    (folder / f"{name}_{kind}_polygons.json").write_text("{}")
    return cityscapes.Config(root=root)


def write_list(root: Path) -> list_files.Config:
    """Two images of 4 x 6 in a folder each, with their labels, names and colours."""
    for number, name in enumerate(("a", "b")):
        save(root / "images" / f"{name}.png", np.full((4, 6, 3), 100 + number, np.uint8))
        labels = np.tile(np.array([0, 1, 2, 255, 0, number], np.uint8), (4, 1))
        save(root / "labels" / f"{name}.png", labels)
    write(root / "train.txt", "images/b.png labels/b.png\nimages/a.png labels/a.png\n")
    write(root / "val.txt", "images/a.png labels/a.png\n")
    write(root / "city_names.txt", "road\ntraffic light\nsky\n")
    write(root / "city_colors.txt", "128 64 128\n250 170 30\n70 130 180\n")
    return list_files.Config(root=root)


def write_shards(root: Path) -> shards.Config:
    """The little folder dataset, packed."""
    write_packed(root)
    return shards.Config(root=root)


def write_tfrecord(root: Path) -> tfrecord.Config:
    write_packed(root, to="tfrecord")
    return tfrecord.Config(root=root)


def write_packed(root: Path, **options: str) -> None:
    with TemporaryDirectory() as place:
        write_folder(Path(place))
        pack.run(place, root, options=pack.checked_options(**options), console=Console(quiet=True))


LAYOUTS: dict[str, Callable[[Path], DataConfig]] = {  # all of FORMATS that read files
    "ade20k": write_ade20k,
    "camvid": write_camvid,
    "cityscapes": write_cityscapes,
    "folder": write_folder,
    "list": write_list,
    "shards": write_shards,
    "tfrecord": write_tfrecord,
    "voc": write_voc,
}


def complaint(config: DataConfig, split: str | None = None, error: type[Exception] = DataError) -> str:
    """The one line with which listing and reading a split, that for training by default, ends."""
    with pytest.raises(error) as caught:
        list(atrous.data.samples(config, split or config.train))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def names(config: DataConfig, split: str | None = None) -> list[str]:
    return [sample.name for sample in atrous.data.samples(config, split or config.train)]


def semantic(sample: Sample) -> NDArray[np.uint8]:
    assert sample.semantic is not None
    return sample.semantic


def first_rows(config: DataConfig, split: str | None = None) -> list[list[int]]:
    """The train ids in the first row of each label."""
    return [semantic(sample)[0].tolist() for sample in atrous.data.samples(config, split or config.train)]


def noise_image(height: int, width: int, seed: int = 0) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def max_difference(first: Image, second: Image) -> int:
    assert first.shape == second.shape
    return int(np.abs(first.astype(int) - second.astype(int)).max())
