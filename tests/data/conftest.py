"""A small dataset of every layout, written to disk, and helpers that the tests of data share."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray
from rich.console import Console

import atrous.data
from atrous import pack
from atrous.data import (
    ade20k,
    camvid,
    cityscapes,
    coco_instances,
    coco_panoptic,
    cvat,
    folder,
    labelme,
    mapillary,
    pennfudan,
    shards,
    tfrecord,
    voc,
)
from atrous.data import list as list_files
from atrous.data.choices import Choice
from atrous.data.contract import DataConfig
from atrous.errors import DataError
from atrous.packing.job import checked_options
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
    for suffix in ("labelIds", "instanceIds", "color"):  # all things are in groups: an id alone, without a number
        save(folder / f"{name}_{kind}_{suffix}.png", labels * 0 if suffix == "color" else labels)
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
        pack.run(place, root, options=checked_options(**options), console=Console(quiet=True))


def square(left: float, top: float, side: float) -> list[list[float]]:
    """Corners (x, y)."""
    return [[left, top], [left + side, top], [left + side, top + side], [left, top + side]]


def labelme_shape(
    label: str, points: Sequence[Sequence[float]], kind: str = "polygon", **more: object
) -> dict[str, object]:
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}, **more}


def write_labelme_file(path: Path, *shapes: dict[str, object], **more: object) -> Path:
    """A file of outlines, and its image of 8 x 12 (height x width) beside it."""
    save(path.with_suffix(".png"), np.zeros((8, 12, 3), np.uint8))
    tree = {"version": "5.4.1", "flags": {}, "shapes": list(shapes), "imagePath": path.with_suffix(".png").name}
    size = {"imageData": None, "imageHeight": 8, "imageWidth": 12}
    return write(path, json.dumps({**tree, **size, **more}))


def write_labelme(root: Path) -> labelme.Config:
    for split in ("train", "val"):
        write_labelme_file(root / split / "a.json", labelme_shape("car", square(2, 1, 3)))
    write(root / "labels.txt", "__ignore__\n_background_\ncar\nperson\n")
    return labelme.Config(root=root)


def coco_annotation(
    number: int, segmentation: object, image: int = 1, category: int = 3, **more: object
) -> dict[str, object]:
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "segmentation": segmentation,
        "iscrowd": 0,
        **more,
    }


def coco_tree(*annotations: dict[str, object]) -> dict[str, list[dict[str, object]]]:
    """The image a.png of 8 x 12 with its annotations, of categories 3 and 7."""
    categories = [{"id": 7, "name": "person"}, {"id": 3, "name": "car"}]
    images: list[dict[str, object]] = [{"id": 1, "file_name": "a.png", "height": 8, "width": 12}]
    return {"images": images, "annotations": list(annotations), "categories": list(categories)}


def write_coco(root: Path, tree: object = None, split: str = "train2017") -> coco_instances.Config:
    tree = coco_tree(coco_annotation(1, [[2, 1, 5, 1, 5, 4, 2, 4]])) if tree is None else tree
    write(root / "annotations" / f"instances_{split}.json", json.dumps(tree))
    save(root / split / "a.png", np.zeros((8, 12, 3), np.uint8))
    return coco_instances.Config(root=root)


CVAT_BOX = '<box label="car" xtl="2" ytl="1" xbr="5" ybr="4" z_order="0"/>'


def write_cvat(root: Path, shapes: str = CVAT_BOX, image: str = 'name="a.png"') -> cvat.Config:
    """The image a.png of 8 x 12, of the subset Train, with its shapes."""
    labels = "".join(
        f"<label><name>{name}</name><color>{color}</color></label>"
        for name, color in (("car", "#ff0000"), ("person", "#00ff00"))
    )
    write(
        root / "annotations.xml",
        f"<annotations><version>1.1</version><meta><task><labels>{labels}</labels></task></meta>"
        f'<image id="0" subset="Train" width="12" height="8" {image}>{shapes}</image></annotations>',
    )
    save(root / "images" / "Train" / "a.png", np.zeros((8, 12, 3), np.uint8))
    return cvat.Config(root=root)


def write_mapillary(root: Path) -> mapillary.Config:
    """Of version 1.2: two cars (55), a person (19), road (13) and what is unlabelled (65)."""
    labels = np.array([[55, 55, 19, 13, 13, 65]] * 4, np.uint8)
    numbers = labels.astype(np.uint16) * 256 + np.array([0, 1, 0, 0, 0, 0], np.uint16)
    for split in ("training", "validation"):
        save(root / split / "images" / "a.jpg", np.zeros((4, 6, 3), np.uint8))
        save(root / split / "labels" / "a.png", labels)
        save(root / split / "instances" / "a.png", numbers)
    return mapillary.Config(root=root)


def write_pennfudan(root: Path, count: int = 3, images: str = "PNGImages") -> pennfudan.Config:
    """Images of 4 x 6, the last of which is for validation, with two people each; and the database's other files."""
    numbers = np.zeros((4, 6), np.uint8)
    numbers[1:, 1:3], numbers[1:, 3:5] = 1, 2
    for name in [f"FudanPed{index:05d}" for index in range(1, count + 1)]:
        save(root / images / f"{name}.png", mode="RGB")
        save(root / "PedMasks" / f"{name}_mask.png", numbers)
        write(root / "Annotation" / f"{name}.txt", "# Compatible with PASCAL Annotation Version 1.00\n")
    write(root / "added-object-list.txt", "")
    return pennfudan.Config(root=root, num_val=1)


def save_segments(path: Path, ids: list[list[int]]) -> Path:
    """A PNG as COCO's panoptic format has it: the id of each pixel's segment in its colour."""
    numbers = np.array(ids)
    return save(path, np.stack([numbers & 255, numbers >> 8 & 255, numbers >> 16], -1).astype(np.uint8))


def segment(number: int, category: int, area: int, crowd: int = 0) -> dict[str, int]:
    return {"id": number, "category_id": category, "area": area, "iscrowd": crowd}


ROAD, CAR = 7, 3  # categories


def write_coco_panoptic(root: Path, split: str = "train2017") -> coco_panoptic.Config:
    """An image of 2 x 4 with road, two cars, a crowd of them and void, and one without a thing."""
    maps = {"a": [[0, 70000, 5, 5], [70000, 70000, 300, 9]], "b": [[1, 1, 1, 1], [1, 1, 1, 1]]}
    segments = {
        "a": [segment(70000, ROAD, 3), segment(5, CAR, 2), segment(300, CAR, 1), segment(9, CAR, 1, crowd=1)],
        "b": [segment(1, ROAD, 8)],
    }
    document: dict[str, list[dict[str, object]]] = {
        "images": [{"id": number, "file_name": f"{name}.jpg"} for number, name in enumerate(maps)],
        "annotations": [
            {"image_id": number, "file_name": f"{name}.png", "segments_info": segments[name]}
            for number, name in enumerate(maps)
        ],
        "categories": [
            {"id": ROAD, "name": "road", "isthing": 0, "color": [128, 64, 128]},
            {"id": CAR, "name": "car", "isthing": 1, "color": [0, 0, 142]},
        ],
    }
    for name, ids in maps.items():
        save(root / split / f"{name}.jpg", np.zeros((2, 4, 3), np.uint8))
        save_segments(root / "annotations" / f"panoptic_{split}" / f"{name}.png", ids)
    write(root / "annotations" / f"panoptic_{split}.json", json.dumps(document))
    return coco_panoptic.Config(root=root)


LAYOUTS: dict[str, Callable[[Path], DataConfig]] = {  # all of FORMATS that read files
    "ade20k": write_ade20k,
    "camvid": write_camvid,
    "cityscapes": write_cityscapes,
    "coco_instances": write_coco,
    "coco_panoptic": write_coco_panoptic,
    "cvat": write_cvat,
    "folder": write_folder,
    "labelme": write_labelme,
    "list": write_list,
    "mapillary": write_mapillary,
    "pennfudan": write_pennfudan,
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
