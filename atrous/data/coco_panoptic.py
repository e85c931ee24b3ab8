"""COCO's panoptic segmentation (Lin et al. 2014, arXiv:1405.0312), and others' data in the same format.

`annotations/panoptic_train2017.json`, the PNGs that it names in `annotations/panoptic_train2017/`, and the images in
`train2017/`. JSON and PNGs may lie in the root itself, and images in `images/train2017/`. Categories other than COCO's
are classes in the order of their ids, with the names and colours that the JSON of the training split gives them.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from atrous.data import panoptic_json
from atrous.data.contract import DataConfig, Layout, require_root, require_split
from atrous.data.image_files import ImageFiles
from atrous.data.label_space import LabelSpace, voc_colors
from atrous.data.naming import named_space, remapped
from atrous.data.pairing import images_by_stem
from atrous.data.panoptic_json import Annotations, read_segments
from atrous.errors import DataError
from atrous.files import composed, require_folder, subfolders
from atrous.types import Color, Sample


class Category(NamedTuple):
    raw_id: int
    color: Color


NUM_THINGS = 80  # the first ones; the others are stuff
CATEGORIES = {
    "person": Category(1, (220, 20, 60)),
    "bicycle": Category(2, (119, 11, 32)),
    "car": Category(3, (0, 0, 142)),
    "motorcycle": Category(4, (0, 0, 230)),
    "airplane": Category(5, (106, 0, 228)),
    "bus": Category(6, (0, 60, 100)),
    "train": Category(7, (0, 80, 100)),
    "truck": Category(8, (0, 0, 70)),
    "boat": Category(9, (0, 0, 192)),
    "traffic light": Category(10, (250, 170, 30)),
    "fire hydrant": Category(11, (100, 170, 30)),
    "stop sign": Category(13, (220, 220, 0)),
    "parking meter": Category(14, (175, 116, 175)),
    "bench": Category(15, (250, 0, 30)),
    "bird": Category(16, (165, 42, 42)),
    "cat": Category(17, (255, 77, 255)),
    "dog": Category(18, (0, 226, 252)),
    "horse": Category(19, (182, 182, 255)),
    "sheep": Category(20, (0, 82, 0)),
    "cow": Category(21, (120, 166, 157)),
    "elephant": Category(22, (110, 76, 0)),
    "bear": Category(23, (174, 57, 255)),
    "zebra": Category(24, (199, 100, 0)),
    "giraffe": Category(25, (72, 0, 118)),
    "backpack": Category(27, (255, 179, 240)),
    "umbrella": Category(28, (0, 125, 92)),
    "handbag": Category(31, (209, 0, 151)),
    "tie": Category(32, (188, 208, 182)),
    "suitcase": Category(33, (0, 220, 176)),
    "frisbee": Category(34, (255, 99, 164)),
    "skis": Category(35, (92, 0, 73)),
    "snowboard": Category(36, (133, 129, 255)),
    "sports ball": Category(37, (78, 180, 255)),
    "kite": Category(38, (0, 228, 0)),
    "baseball bat": Category(39, (174, 255, 243)),
    "baseball glove": Category(40, (45, 89, 255)),
    "skateboard": Category(41, (134, 134, 103)),
    "surfboard": Category(42, (145, 148, 174)),
    "tennis racket": Category(43, (255, 208, 186)),
    "bottle": Category(44, (197, 226, 255)),
    "wine glass": Category(46, (171, 134, 1)),
    "cup": Category(47, (109, 63, 54)),
    "fork": Category(48, (207, 138, 255)),
    "knife": Category(49, (151, 0, 95)),
    "spoon": Category(50, (9, 80, 61)),
    "bowl": Category(51, (84, 105, 51)),
    "banana": Category(52, (74, 65, 105)),
    "apple": Category(53, (166, 196, 102)),
    "sandwich": Category(54, (208, 195, 210)),
    "orange": Category(55, (255, 109, 65)),
    "broccoli": Category(56, (0, 143, 149)),
    "carrot": Category(57, (179, 0, 194)),
    "hot dog": Category(58, (209, 99, 106)),
    "pizza": Category(59, (5, 121, 0)),
    "donut": Category(60, (227, 255, 205)),
    "cake": Category(61, (147, 186, 208)),
    "chair": Category(62, (153, 69, 1)),
    "couch": Category(63, (3, 95, 161)),
    "potted plant": Category(64, (163, 255, 0)),
    "bed": Category(65, (119, 0, 170)),
    "dining table": Category(67, (0, 182, 199)),
    "toilet": Category(70, (0, 165, 120)),
    "tv": Category(72, (183, 130, 88)),
    "laptop": Category(73, (95, 32, 0)),
    "mouse": Category(74, (130, 114, 135)),
    "remote": Category(75, (110, 129, 133)),
    "keyboard": Category(76, (166, 74, 118)),
    "cell phone": Category(77, (219, 142, 185)),
    "microwave": Category(78, (79, 210, 114)),
    "oven": Category(79, (178, 90, 62)),
    "toaster": Category(80, (65, 70, 15)),
    "sink": Category(81, (127, 167, 115)),
    "refrigerator": Category(82, (59, 105, 106)),
    "book": Category(84, (142, 108, 45)),
    "clock": Category(85, (196, 172, 0)),
    "vase": Category(86, (95, 54, 80)),
    "scissors": Category(87, (128, 76, 255)),
    "teddy bear": Category(88, (201, 57, 1)),
    "hair drier": Category(89, (246, 0, 122)),
    "toothbrush": Category(90, (191, 162, 208)),
    "banner": Category(92, (255, 255, 128)),
    "blanket": Category(93, (147, 211, 203)),
    "bridge": Category(95, (150, 100, 100)),
    "cardboard": Category(100, (168, 171, 172)),
    "counter": Category(107, (146, 112, 198)),
    "curtain": Category(109, (210, 170, 100)),
    "door-stuff": Category(112, (92, 136, 89)),
    "floor-wood": Category(118, (218, 88, 184)),
    "flower": Category(119, (241, 129, 0)),
    "fruit": Category(122, (217, 17, 255)),
    "gravel": Category(125, (124, 74, 181)),
    "house": Category(128, (70, 70, 70)),
    "light": Category(130, (255, 228, 255)),
    "mirror-stuff": Category(133, (154, 208, 0)),
    "net": Category(138, (193, 0, 92)),
    "pillow": Category(141, (76, 91, 113)),
    "platform": Category(144, (255, 180, 195)),
    "playingfield": Category(145, (106, 154, 176)),
    "railroad": Category(147, (230, 150, 140)),
    "river": Category(148, (60, 143, 255)),
    "road": Category(149, (128, 64, 128)),
    "roof": Category(151, (92, 82, 55)),
    "sand": Category(154, (254, 212, 124)),
    "sea": Category(155, (73, 77, 174)),
    "shelf": Category(156, (255, 160, 98)),
    "snow": Category(159, (255, 255, 255)),
    "stairs": Category(161, (104, 84, 109)),
    "tent": Category(166, (169, 164, 131)),
    "towel": Category(168, (225, 199, 255)),
    "wall-brick": Category(171, (137, 54, 74)),
    "wall-stone": Category(175, (135, 158, 223)),
    "wall-tile": Category(176, (7, 246, 231)),
    "wall-wood": Category(177, (107, 255, 200)),
    "water-other": Category(178, (58, 41, 149)),
    "window-blind": Category(180, (183, 121, 142)),
    "window-other": Category(181, (255, 73, 97)),
    "tree-merged": Category(184, (107, 142, 35)),
    "fence-merged": Category(185, (190, 153, 153)),
    "ceiling-merged": Category(186, (146, 139, 141)),
    "sky-other-merged": Category(187, (70, 130, 180)),
    "cabinet-merged": Category(188, (134, 199, 156)),
    "table-merged": Category(189, (209, 226, 140)),
    "floor-other-merged": Category(190, (96, 36, 108)),
    "pavement-merged": Category(191, (96, 96, 96)),
    "mountain-merged": Category(192, (64, 170, 64)),
    "grass-merged": Category(193, (152, 251, 152)),
    "dirt-merged": Category(194, (208, 229, 228)),
    "paper-merged": Category(195, (206, 186, 171)),
    "food-other-merged": Category(196, (152, 161, 64)),
    "building-other-merged": Category(197, (116, 112, 0)),
    "rock-merged": Category(198, (0, 114, 143)),
    "wall-other-merged": Category(199, (102, 102, 156)),
    "rug-merged": Category(200, (250, 141, 255)),
}
VOID = 0
COCO_PANOPTIC = LabelSpace(  # class 0 is void, as in deeplab2, and the categories count from 1 without gaps
    names=("void", *CATEGORIES),
    colors=((0, 0, 0), *(row.color for row in CATEGORIES.values())),
    things=tuple(range(1, NUM_THINGS + 1)),
    ignore=VOID,
    panoptic_divisor=256,
    raw_ids=((VOID, VOID), *((row.raw_id, index) for index, row in enumerate(CATEGORIES.values(), 1))),
)

IDS = {row.raw_id: name for name, row in CATEGORIES.items()}
FOLDERS = ("annotations", ".")
PREFIX = "panoptic_"
NOT_A_SPLIT = "coco_"  # panopticapi's own lists of categories


class Config(DataConfig):
    """data.format=coco_panoptic data.root=coco; the split `train` is panoptic_train.json or panoptic_train2017.json."""

    format: Literal["coco_panoptic"] = "coco_panoptic"
    images: str | None = None
    """The folder of a split's images below root; none: train2017, or images/train2017."""


def samples(config: Config, split: str) -> Sequence[Sample]:
    """The images that the JSON of a split annotates, in its order."""
    root = require_root(config)
    path, space = _document(config, split), label_space(config)
    annotations = panoptic_json.read(path)
    image_folder = _image_folder(config, root, path, annotations)
    images = images_by_stem(image_folder, "images")
    names = {file: _name(image or file, images) for file, image in annotations.images.items()}
    pairs = panoptic_json.pairs_of(annotations, path.with_suffix(""), names, images, image_folder)
    classes = _classes(config, annotations, space)
    return ImageFiles(pairs, space, read=partial(read_segments, annotations=annotations, space=space, classes=classes))


def is_root(config: Config, folder: Path) -> bool:
    return bool(_documents(folder))


# ---- files


def _documents(root: Path) -> dict[str, Path]:
    """The JSON of each split."""
    paths = (path for folder in FOLDERS for path in sorted((root / folder).glob(f"{PREFIX}*.json")))
    documents = {composed(path.stem.removeprefix(PREFIX)): path for path in paths}
    return {split: path for split, path in documents.items() if not split.startswith(NOT_A_SPLIT)}


def _document(config: Config, split: str) -> Path:
    root = require_root(config)
    documents = _documents(root)
    path = _of_split(documents, split)
    if path is None:
        require_split(config, split, documents, root / FOLDERS[0] / f"{PREFIX}{split}.json")
    assert path is not None
    return path


def _of_split(documents: Mapping[str, Path], split: str) -> Path | None:
    """That of `train2017` is also that of `train`, if there is no other year's."""
    of_years = [path for name, path in documents.items() if name.rstrip("0123456789") == composed(split)]
    return documents.get(composed(split), of_years[0] if len(of_years) == 1 else None)


def _image_folder(config: Config, root: Path, document: Path, annotations: Annotations) -> Path:
    """The folder of the split's name, or else the only one that has the first image."""
    if config.images is not None:
        return require_folder(root / config.images, "data.images")
    name = document.stem.removeprefix(PREFIX)
    folders = [root / name, root / "images" / name, root / "images"]
    if folder := next((folder for folder in folders if folder.is_dir()), None):
        return folder
    first = PurePosixPath(next(iter(annotations.images.values()), "")).name
    holders = [root / one for one in subfolders(root) if first and (root / one / first).is_file()]
    if len(holders) == 1:
        return holders[0]
    tried = " and ".join(map(str, folders[:2]))
    raise FileNotFoundError(f"no images of {document}: {tried} do not exist; set data.images to their folder in {root}")


def _name(file: str, images: Mapping[str, Path]) -> str:
    """The sample of a file that the JSON names: without its suffix, unless two images differ in that alone."""
    names = [name for path in (PurePosixPath(file), PurePosixPath(PurePosixPath(file).name)) for name in _forms(path)]
    return next((name for name in names if name in images), names[0])


def _forms(path: PurePosixPath) -> tuple[str, str]:
    return composed(str(path.with_suffix(""))), composed(str(path))


# ---- classes


def label_space(config: Config) -> LabelSpace:
    """COCO's or, of data in the same format, the categories in the JSON of the training split."""
    return _space(config, panoptic_json.content(_first_document(config)))


def _first_document(config: Config) -> Path:
    """The JSON of the training split or, where only the other one is there, of that for validation."""
    documents = _documents(require_root(config))
    path = _of_split(documents, config.train) or _of_split(documents, config.val)
    only = next(iter(documents.values())) if len(documents) == 1 else None
    return path or only or _document(config, config.train)


def _space(config: Config, annotations: Annotations) -> LabelSpace:
    categories = annotations.categories
    if not categories or {number: row.name for number, row in categories.items()} == IDS:
        return remapped(COCO_PANOPTIC, config, list(IDS)[:NUM_THINGS])
    names = {number: row.name for number, row in sorted(categories.items())}
    free_colors = iter(voc_colors(len(names) + 1)[1:].tolist())
    colors = {row.name: row.color or tuple(next(free_colors)) for _, row in sorted(categories.items())}
    space = named_space(names, None, annotations.path, colors)
    raw_ids = ((number, index) for index, number in enumerate(names))
    things = [number for number, row in categories.items() if row.is_thing]
    return remapped(space.model_copy(update={"raw_ids": tuple(raw_ids)}), config, things)


def _classes(config: Config, annotations: Annotations, space: LabelSpace) -> dict[int, int]:
    """The class of each category. Raises DataError where another split's JSON knows a category otherwise."""
    first = panoptic_json.content(_first_document(config))
    own, other = ({number: _words(row) for number, row in one.categories.items()} for one in (annotations, first))
    different = [number for number, words in own.items() if other.get(number) != words]
    if own and other and different:
        number = different[0]
        raise DataError(
            f"{annotations.path}: category {number} is {own[number]}, but {other.get(number, 'missing')} in "
            f"{first.path}; the splits must have the same categories"
        )
    return {number: index for number, index in space.raw_ids if number in (other or IDS)}


def _words(category: panoptic_json.Category) -> str:
    return f"{category.name} ({'things' if category.is_thing else 'stuff'})"


LAYOUT = Layout(
    Config,
    samples,
    label_space,
    is_root,
    "annotations/panoptic_train2017.json, annotations/panoptic_train2017/ and train2017/",
    "annotations/panoptic_{split}.json and its folder of PNGs",
)
