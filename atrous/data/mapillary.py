"""Mapillary Vistas (Neuhold et al. 2017): `training/images/a.jpg`, `training/labels/a.png`, `training/instances/a.png`.

In version 2.0, labels and instances lie in `training/v2.0/`. `config.json`, or `config_v2.0.json`, names the classes in
the order of the label values; without it they are those of version 1.2. The last one is "Unlabeled", which is ignored.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from atrous.data.contract import DataConfig, Layout, require_root, require_split
from atrous.data.image_files import Drawing, Drawn, ImageFiles, decode_label, read_instances
from atrous.data.label_space import NOT_COUNTED, LabelSpace
from atrous.data.naming import remapped
from atrous.data.pairing import Pair, pair_folders
from atrous.errors import DataError
from atrous.files import subfolders
from atrous.trees import TreeError, read_json
from atrous.types import Color, Sample


class Class(NamedTuple):
    color: Color
    is_thing: bool


CLASSES = {  # of version 1.2
    "Bird": Class((165, 42, 42), True),
    "Ground Animal": Class((0, 192, 0), True),
    "Curb": Class((196, 196, 196), False),
    "Fence": Class((190, 153, 153), False),
    "Guard Rail": Class((180, 165, 180), False),
    "Barrier": Class((90, 120, 150), False),
    "Wall": Class((102, 102, 156), False),
    "Bike Lane": Class((128, 64, 255), False),
    "Crosswalk - Plain": Class((140, 140, 200), True),
    "Curb Cut": Class((170, 170, 170), False),
    "Parking": Class((250, 170, 160), False),
    "Pedestrian Area": Class((96, 96, 96), False),
    "Rail Track": Class((230, 150, 140), False),
    "Road": Class((128, 64, 128), False),
    "Service Lane": Class((110, 110, 110), False),
    "Sidewalk": Class((244, 35, 232), False),
    "Bridge": Class((150, 100, 100), False),
    "Building": Class((70, 70, 70), False),
    "Tunnel": Class((150, 120, 90), False),
    "Person": Class((220, 20, 60), True),
    "Bicyclist": Class((255, 0, 0), True),
    "Motorcyclist": Class((255, 0, 100), True),
    "Other Rider": Class((255, 0, 200), True),
    "Lane Marking - Crosswalk": Class((200, 128, 128), True),
    "Lane Marking - General": Class((255, 255, 255), False),
    "Mountain": Class((64, 170, 64), False),
    "Sand": Class((230, 160, 50), False),
    "Sky": Class((70, 130, 180), False),
    "Snow": Class((190, 255, 255), False),
    "Terrain": Class((152, 251, 152), False),
    "Vegetation": Class((107, 142, 35), False),
    "Water": Class((0, 170, 30), False),
    "Banner": Class((255, 255, 128), True),
    "Bench": Class((250, 0, 30), True),
    "Bike Rack": Class((100, 140, 180), True),
    "Billboard": Class((220, 220, 220), True),
    "Catch Basin": Class((220, 128, 128), True),
    "CCTV Camera": Class((222, 40, 40), True),
    "Fire Hydrant": Class((100, 170, 30), True),
    "Junction Box": Class((40, 40, 40), True),
    "Mailbox": Class((33, 33, 33), True),
    "Manhole": Class((100, 128, 160), True),
    "Phone Booth": Class((142, 0, 0), True),
    "Pothole": Class((70, 100, 150), False),
    "Street Light": Class((210, 170, 100), True),
    "Pole": Class((153, 153, 153), True),
    "Traffic Sign Frame": Class((128, 128, 128), True),
    "Utility Pole": Class((0, 0, 80), True),
    "Traffic Light": Class((250, 170, 30), True),
    "Traffic Sign (Back)": Class((192, 192, 192), True),
    "Traffic Sign (Front)": Class((220, 220, 0), True),
    "Trash Can": Class((140, 140, 20), True),
    "Bicycle": Class((119, 11, 32), True),
    "Boat": Class((150, 0, 255), True),
    "Bus": Class((0, 60, 100), True),
    "Car": Class((0, 0, 142), True),
    "Caravan": Class((0, 0, 90), True),
    "Motorcycle": Class((0, 0, 230), True),
    "On Rails": Class((0, 80, 100), False),
    "Other Vehicle": Class((128, 64, 64), True),
    "Trailer": Class((0, 0, 110), True),
    "Truck": Class((0, 0, 70), True),
    "Wheeled Slow": Class((0, 0, 192), True),
    "Car Mount": Class((32, 32, 32), False),
    "Ego Vehicle": Class((120, 10, 10), False),
}
CONFIGS = ("config.json", "config_v2.0.json", "config_v1.2.json")
DIVISOR = 256  # an instance file holds label * 256 + number


class Config(DataConfig):
    """data.format=mapillary data.root=mapillary_vistas"""

    format: Literal["mapillary"] = "mapillary"
    train: str = "training"
    """The split for training, a folder of `images` and `labels`."""
    val: str = "validation"
    """The split for validation, a folder of `images` and `labels`."""
    version: Literal["v1.2", "v2.0"] | None = None
    """Which labels to read where a split has both; none: those that it has, or v1.2."""


def samples(config: Config, split: str) -> Sequence[Sample]:
    """The images in `<split>/images/` with the labels in `<split>/labels/` or `<split>/v2.0/labels/`."""
    root, space = require_root(config), label_space(config)
    require_split(config, split, [name for name in subfolders(root) if _has_images(root / name)], root / split)
    folder = _labels(config, root / split)
    pairs = [_with_instances(pair, folder) for pair in pair_folders(root / split / "images", folder / "labels")]
    return ImageFiles(pairs, space, read=partial(_read, space=space))


def is_root(config: Config, folder: Path) -> bool:
    return any(
        _has_images(folder / split) and (_labels(config, folder / split) / "labels").is_dir()
        for split in (config.train, config.val)
    )


def label_space(config: Config) -> LabelSpace:
    """The classes in the dataset's own config.json, or those of version 1.2."""
    classes = _classes(config, require_root(config)) if config.root is not None else CLASSES
    space = LabelSpace(
        names=tuple(classes),
        colors=tuple(row.color for row in classes.values()),
        panoptic_divisor=DIVISOR,
        raw_ids=(*((index, index) for index in range(len(classes))), (len(classes), NOT_COUNTED)),
    )
    return remapped(space, config, [index for index, row in enumerate(classes.values()) if row.is_thing])


# ---- files


def _has_images(folder: Path) -> bool:
    return (folder / "images").is_dir()


def _labels(config: Config, folder: Path) -> Path:
    """The folder that holds `labels` and `instances`."""
    versions = [config.version] if config.version else ["v1.2", "v2.0"]
    return next((folder / name for name in versions if (folder / name).is_dir()), folder)


def _with_instances(pair: Pair, folder: Path) -> Pair:
    path = folder / "instances" / f"{pair.name}.png"
    return pair._replace(instance=path) if path.is_file() else pair


def _read(pair: Pair, *, space: LabelSpace) -> Drawing:
    assert pair.label is not None
    semantic = Drawn(decode_label(pair.label, space), pair.label)
    if pair.instance is None:
        return Drawing(semantic)
    drawn = read_instances(pair.instance)
    return Drawing(semantic, drawn._replace(values=_numbered(drawn.values, space)))


def _numbered(codes: NDArray[np.int32], space: LabelSpace) -> NDArray[np.int32]:
    """The things of all classes, numbered from 1 in the order of label * 256 + number."""
    things = [label for label, index in space.raw_ids if index in space.things]
    present = np.flatnonzero(np.bincount(codes.ravel()))
    counted = present[np.isin(present // DIVISOR, things)]
    table = np.zeros(int(present[-1]) + 1, np.int32)
    table[counted] = np.arange(1, len(counted) + 1)
    return table[codes]


# ---- classes


def _classes(config: Config, root: Path) -> dict[str, Class]:
    order = sorted(CONFIGS, key=lambda name: config.version is None or config.version not in name)
    path = next((root / name for name in order if (root / name).is_file()), None)
    if path is None:
        return CLASSES
    try:
        tree = read_json(path)
        rows = [_row(row) for row in tree["labels"]]
    except (TreeError, KeyError, TypeError, ValueError) as error:
        reason = error if isinstance(error, TreeError) else "expected `labels`, each with name, color and instances"
        raise DataError(f"{path}: {reason}") from None
    names = [name for name, _ in rows]
    if len(set(names)) < len(names) or names[-1:] != ["Unlabeled"]:
        raise DataError(f"{path}: the names of labels must differ, and the last one be Unlabeled")
    return dict(rows[:-1])


def _row(row: Any) -> tuple[str, Class]:  # noqa: ANN401 - any JSON value
    red, green, blue = (int(channel) for channel in row["color"])
    return str(row["readable"] or row["name"]), Class((red, green, blue), bool(row["instances"]))


LAYOUT = Layout(
    Config,
    samples,
    label_space,
    is_root,
    "training/images/ and training/labels/, or training/v2.0/labels/",
    "{split}/instances/, where each pixel has label * 256 + number",
)
