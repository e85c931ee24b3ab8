"""A dataset of your own: `images/{train,val}/`, `masks/{train,val}/` with the same file names, and `classes.yaml`.

names: [background, person]        # or {0: background, 255: person}: the values in the masks
ignore: 254                        # the value of pixels to ignore; 255 if left out
colors: {background: [0, 0, 0], person: [192, 0, 0], ignore: [255, 255, 255]}  # if the masks are RGB
things: [person]                   # the classes whose objects are counted, for panoptic models

`instances/{train,val}/` has the number of the thing that each pixel belongs to: 0 for none, then 1, 2, 3, ... over the
whole image. Beside them `masks/` may be left out if things are of one class, and there is one other.
"""

import difflib
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import Field, StrictInt, TypeAdapter, ValidationError

from atrous.data.color_map import color_map_in, is_void, read_color_map
from atrous.data.contract import SYNONYMS, DataConfig, Layout, NoNamesError, require_root, require_split
from atrous.data.image_files import Drawing, ImageFiles, count_codes, read_instances, read_label
from atrous.data.label_space import LabelSpace, numbered_names
from atrous.data.naming import class_of_value, named_space, naming_error, one_line, with_things
from atrous.data.pairing import Pair, images_by_stem, labels_by_stem, pair_folders, refuse_polygons, with_instances
from atrous.errors import AtrousError, DataError, listing
from atrous.files import on_disk, require_folder, subfolders, user_path
from atrous.settings import MAX_CLASSES, Settings
from atrous.trees import TreeError, read_yaml
from atrous.types import Color, Sample

Channel = Annotated[StrictInt, Field(ge=0, le=255)]
ChannelColor = tuple[Channel, Channel, Channel]
Colors = (
    Annotated[dict[str, ChannelColor], Field(max_length=MAX_CLASSES)]
    | Annotated[tuple[ChannelColor, ...], Field(max_length=MAX_CLASSES)]
)
IMAGES = ("images", "image", "imgs", "img", "photos", "inputs", "imagestr")  # as folders are called
MASKS = (
    *("masks", "mask", "labels", "label", "labelstr", "annotations", "annotation", "gt", "ground_truth", "groundtruth"),
    *("segmentations", "segmentation", "targets"),
)
INSTANCES = ("instances", "instance", "instance_masks", "inst")
NAMES_OF_OTHERS = ("data.yaml", "*classes*.txt", "class_names.txt", "labels.txt", "codes.txt")  # other programs' files
NUM_PREVIEWED = 8  # masks that are read to suggest what to write into classes.yaml


class Config(DataConfig):
    """data.format=folder data.root=my_data; `names`, `ignore` and `colors` take precedence over classes.yaml."""

    format: Literal["folder"] = "folder"
    colors: Colors | None = None
    """Colours of the classes, in pictures and in RGB masks: a list or {name: [r, g, b]}."""
    images: str | None = None
    """The folder of images below root; none: `images`, or the only one with a similar name."""
    masks: str | None = None
    """The folder of masks below root; none: `masks`, or the only one with a similar name, such as labels."""
    color_map: Path | None = None
    """File of classes and their colours, in place of classes.yaml; none: such as label_colors.txt."""
    instances: str | None = None
    """The folder of instance maps below root; none: `instances`, or the only one with a similar name."""


class _Place(NamedTuple):
    """The folders of a split, or of all."""

    images: Path
    masks: Path | None
    instances: Path | None


class _Classes(Settings):
    """The content of classes.yaml."""

    names: dict[int, str] | tuple[str, ...] | None = None
    ignore: int | None = None
    colors: Colors | None = None
    things: tuple[str, ...] | None = None


class _Preview(NamedTuple):
    """Label values and colours in a few masks."""

    values: list[int]
    colors: list[Color]
    are_numbers: bool = False  # of things: there are no masks


class _Key(NamedTuple):
    meaning: str
    of_mapping: TypeAdapter[Any]
    of_other: TypeAdapter[Any]


_KEYS = {
    "names": _Key(
        "a list of names or a mapping such as {0: background, 1: person}",
        TypeAdapter(dict[StrictInt, str]),
        TypeAdapter(tuple[str, ...]),
    ),
    "ignore": _Key("a whole number", TypeAdapter(StrictInt), TypeAdapter(StrictInt)),
    "colors": _Key(
        "a list of [red, green, blue] or a mapping such as {background: [0, 0, 0]}",
        TypeAdapter(dict[str, ChannelColor]),
        TypeAdapter(tuple[ChannelColor, ...]),
    ),
    "things": _Key(
        "a list of names of classes, such as [person]", TypeAdapter(tuple[str, ...]), TypeAdapter(tuple[str, ...])
    ),
}


def samples(config: Config, split: str) -> Sequence[Sample]:
    """The images in `images/<split>/` with the masks in `masks/<split>/` and the maps in `instances/<split>/`."""
    place = _place(config, split)
    if place.masks is None:
        return _samples_without_masks(config, place)
    pairs = pair_folders(place.images, place.masks)
    instances = place.instances and on_disk(place.instances)
    pairs = with_instances(pairs, instances) if instances else pairs
    space, colors = _classes(config)
    return ImageFiles(pairs, space, colors)


def _samples_without_masks(config: Config, place: _Place) -> ImageFiles:
    assert place.instances is not None
    pairs = pair_folders(place.images, place.instances)
    space, _ = _classes(config)
    read = partial(_read_things, labels=_labels_without_masks(space, place))
    return ImageFiles([pair._replace(instance=pair.label) for pair in pairs], space, read=read)


def _labels_without_masks(space: LabelSpace, place: _Place) -> tuple[int, int]:
    """The class around things, and that of things."""
    others = [index for index in range(space.num_classes) if index not in space.things]
    if len(space.things) == len(others) == 1:
        return others[0], space.things[0]
    things = listing(space.names[index] for index in space.things)
    raise DataError(
        f"{place.instances} has no masks beside it, so things must be of one class and all else of another, as in "
        f"`names: [background, person]` and `things: [person]`; the classes are {listing(space.names, limit=20)}, and "
        f"{f'{things} of things' if things else 'none is of things'}; add masks of the classes, or name two"
    )


def _read_things(pair: Pair, *, labels: tuple[int, int]) -> Drawing:
    """An instance file that is all there is: what is no thing is of the other class."""
    assert pair.label is not None
    numbers = read_instances(pair.label)
    semantic = np.array(labels, np.uint8)[(numbers.values > 0).astype(np.intp)]
    return Drawing(numbers._replace(values=semantic), numbers)


def label_space(config: Config) -> LabelSpace:
    """The classes named in the config or in classes.yaml. If neither names any, the error says what to write."""
    return _classes(config)[0]


# The folders


def is_root(config: Config, folder: Path) -> bool:
    is_split = folder.name in _splits(config) and _is_by_split(config, folder.absolute().parent)
    return not is_split and (_has_both(config, folder) or _is_by_split(config, folder) or bool(_by_prefix(folder)))


def _is_by_split(config: Config, folder: Path) -> bool:
    """Whether a split has its own folders of images and masks."""
    return any(_has_both(config, folder / name) for name in _splits(config) if (folder / name).is_dir())


def _splits(config: Config) -> tuple[str, ...]:
    """Names that a folder of a split may have."""
    return (config.train, config.val, *SYNONYMS, *(name for names in SYNONYMS.values() for name in names))


def _has_both(config: Config, folder: Path) -> bool:
    """Whether a folder of images and one of labels are in `folder`."""
    images, *labels = (
        (folder / name).is_dir() if name else bool(_known(folder, names))
        for name, names in ((config.images, IMAGES), (config.masks, MASKS), (config.instances, INSTANCES))
    )
    return images and any(labels)


def _known(folder: Path, names: Sequence[str]) -> list[str]:
    """The subfolders that have one of the `names`, in their order."""
    folders = {name.casefold(): name for name in subfolders(folder)}
    return [folders[name] for name in names if name in folders]


def _place(config: Config, split: str) -> _Place:
    """`images/train` and `masks/train`, or `train/images` and `train/masks`, or `train_images` and `train_masks`."""
    root = require_root(config)
    if not _has_both(config, root) and not _is_by_split(config, root) and (places := _by_prefix(root)):
        require_split(config, split, places, root / f"{split}_{MASKS[0]}")
        return places[split]
    if not _has_both(config, root):
        splits = [name for name in subfolders(root) if _has_both(config, root / name)]
        require_split(config, split, splits, root / split)
        return _folders(config, (on_disk(root / split) or root / split))
    place = _folders(config, root)
    splits = subfolders(place.images)
    if not splits and images_by_stem(place.images, "images"):
        labels = place.masks or place.instances
        raise DataError(
            f"data.root: {place.images} has no folders train/ and val/; move the images into them, and the masks into "
            f"{labels}/train and {labels}/val (see docs/data.md, Splits)"
        )
    require_split(config, split, splits, place.images / split)
    images, masks, instances = place
    return _Place(images / split, masks and masks / split, instances and instances / split)


def _by_prefix(root: Path) -> dict[str, _Place]:
    """The splits whose folders begin with their names: train_images or train, train_masks, train_inst."""
    names = subfolders(root)
    places = {}
    for split in dict.fromkeys(name.rpartition("_")[0] for name in names if name.rpartition("_")[2] in MASKS):
        images, masks, instances = (
            [root / name for name in wanted if name in names]
            for wanted in ((*(f"{split}_{word}" for word in IMAGES), split), *_prefixed(split))
        )
        if split and images and masks:
            places[split] = _Place(images[0], masks[0], instances[0] if instances else None)
    return places


def _prefixed(split: str) -> list[list[str]]:
    return [[f"{split}_{word}" for word in words] for words in (MASKS, INSTANCES)]


def _folders(config: Config, folder: Path) -> _Place:
    """The folders of images and labels in a folder that has both."""
    images = _chosen(folder, "images", config.images, IMAGES)
    assert images is not None
    instances = _chosen(folder, "instances", config.instances, INSTANCES)
    if config.instances is not None and instances:
        require_folder(instances, "data.instances")
    return _Place(images, _chosen(folder, "masks", config.masks, MASKS), instances)


def _chosen(folder: Path, what: str, name: str | None, names: Sequence[str]) -> Path | None:
    if name is not None:
        return folder / name
    known = _known(folder, names)
    if len(known) > 1 and known[0].casefold() != what:
        raise DataError(f"{folder} has {listing(known)}; set data.{what} to one of them")
    return folder / known[0] if known else None


# Classes


def _classes(config: Config) -> tuple[LabelSpace, dict[Color, int]]:
    """The label space, and the class or ignore value of each colour in RGB masks."""
    path = _classes_file(require_root(config))
    if not path.is_file() and (color_map := _color_map(config, path.parent)):
        path, file = color_map, _classes_by_color(color_map)
    else:
        file = _read_classes(path) if path.is_file() else _Classes()
    names = file.names if config.names is None else config.names
    ignore = file.ignore if config.ignore is None else config.ignore
    source = path if config.names is None else None
    if names is None:
        raise NoNamesError(_how_to_name(path, _preview(config)))
    by_value = dict(names.items() if isinstance(names, dict) else enumerate(names))
    colors = _colors_by_name(config.colors or file.colors, list(by_value.values()), source)
    space = named_space(by_value, ignore, source, colors)
    things, its_source = (file.things, path) if config.things is None else (config.things, None)
    space = with_things(space, things, its_source)
    classes = {name: class_of_value(space)[value] for value, name in by_value.items()}
    return space, {color: classes.get(name, space.ignore) for name, color in colors.items()}


def _color_map(config: Config, root: Path) -> Path | None:
    if config.color_map is None:
        return color_map_in(root)
    path = root / user_path(config.color_map)
    if not path.is_file():
        raise FileNotFoundError(f"data.color_map: no such file: {path}")
    return path


def _classes_by_color(path: Path) -> _Classes:
    """The classes of a file of colours, numbered as its lines are; what it calls void is ignored."""
    colors = read_color_map(path)
    void = [place for place, name in enumerate(colors) if is_void(name)]
    if len(void) > 1:
        raise DataError(f"{path}: {listing(name for name in colors if is_void(name))} are both void; remove one")
    named = {("ignore" if is_void(name) else name): color for name, color in colors.items()}
    names = {place: name for place, name in enumerate(colors) if not is_void(name)}
    return _Classes(names=names, ignore=void[0] if void else None, colors=named)


def _colors_by_name(colors: Colors | None, names: list[str], source: Path | None) -> dict[str, Color]:
    """The colour of each name, and of `ignore` if it has one; {} for none."""
    if not colors:
        return {}
    if not isinstance(colors, dict):
        _require(len(colors) == len(names), source, f"{len(names)} names but {len(colors)} colors")
        colors = dict(zip(names, colors, strict=True))
    for name in colors:
        _require_known(name, [*names, "ignore"], source, "colors: no class")
    missing = [name for name in names if name not in colors]
    _require(not missing, source, f"colors: none for {listing(missing)}")
    repeated = [name for name, color in colors.items() if list(colors.values()).count(color) > 1]
    _require(not repeated, source, f"colors: {listing(repeated)} have the same")
    return colors


# classes.yaml


def _classes_file(root: Path) -> Path:
    other = root / "classes.yml"
    return other if other.is_file() else root / "classes.yaml"


def _read_classes(path: Path) -> _Classes:
    """Raises DataError, in one line with the file's path, for any mistake in it."""
    try:
        content = read_yaml(path)
    except TreeError as error:
        raise DataError(f"{path}: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected keys and values, such as `names: [background, person]`")
    for key in content:
        _require_known(str(key), list(_KEYS), path, "no key")
    return _Classes(**{key: _read_key(path, key, value) for key, value in content.items()})


def _read_key(path: Path, key: str, value: object) -> Any:  # noqa: ANN401
    known = _KEYS[key]
    try:
        return (known.of_mapping if isinstance(value, dict) else known.of_other).validate_python(value)
    except ValidationError as error:
        is_inside = all(problem["loc"] for problem in error.errors())
        fault = f": {one_line(error)}" if is_inside else f", got {str(value)[:60]!r}"
        raise DataError(f"{path}: {key} must be {known.meaning}{fault}") from error


def _require(holds: bool, source: Path | None, complaint: str) -> None:
    if not holds:
        raise naming_error(source, complaint)


def _require_known(word: str, known: Sequence[str], source: Path | None, complaint: str) -> None:
    nearest = difflib.get_close_matches(word, known, 1)
    advice = f"did you mean {nearest[0]}?" if nearest else f"expected {listing(known, limit=20)}"
    _require(word in known, source, f"{complaint} {word!r}; {advice}")


# What to write into it


def _preview(config: Config) -> _Preview:
    """What the first masks of the training split hold, in ascending order."""
    place, labels = None, None
    with suppress(AtrousError, OSError):  # raised again when the split is listed
        place = _place(config, config.train)
        labels = place.masks or place.instances
    paths = list(labels_by_stem(labels, "masks").values()) if labels and labels.is_dir() else []
    if labels and labels.is_dir() and not paths:
        refuse_polygons(labels)
    codes: set[int | Color] = set()
    for path in islice(paths, NUM_PREVIEWED):
        with suppress(AtrousError):  # raised again when the sample is read
            codes.update(count_codes(read_label(path)))
    return _Preview(
        values=sorted(code for code in codes if isinstance(code, int)),
        colors=sorted(code for code in codes if isinstance(code, tuple)),
        are_numbers=place is not None and place.masks is None,
    )


def _how_to_name(path: Path, preview: _Preview) -> str:
    """The lines of classes.yaml that the user should write, with what is in the masks."""
    problem = f"{path} has no names" if path.is_file() else f"{path} does not exist"
    what = "colors" if preview.colors else "values"
    codes = listing(preview.colors or preview.values, limit=20) or "none"
    file, names = _names_beside(path.parent)
    if preview.are_numbers:
        word = names[-1] if names else "thing"
        return (
            f"{problem}, and data.names is not set; without masks, things are of one class: write a {path.name} with "
            f"the lines `names: [background, {word}]` and `things: [{word}]`, or add masks of the classes"
        )
    example = _example_colors(preview.colors) if preview.colors else _example_values(preview.values, names)
    known = f" ({file} names {listing(names, limit=20)})" if names else ""
    return (
        f"{problem}, and data.names is not set; {what} in the first masks: {codes}{known}; "
        f"write a {path.name} with the lines {example}"
    )


def _names_beside(root: Path) -> tuple[str, list[str]]:
    """A file in which another program lists names of classes, and these; "" and none if there is no such file."""
    for path in sorted(file for pattern in NAMES_OF_OTHERS for file in root.glob(pattern)):
        names: object = None
        with suppress(OSError, ValueError):
            is_yaml = path.suffix == ".yaml"
            tree = read_yaml(path) if is_yaml else {"names": path.read_text(encoding="utf-8-sig").splitlines()}
            names = tree.get("names") if isinstance(tree, dict) else None
        names = list(names.values()) if isinstance(names, dict) else names
        words = [str(name).strip() for name in names if str(name).strip()] if isinstance(names, list) else []
        if words:
            return path.name, words
    return "", []


def _example_values(values: Sequence[int], names: Sequence[str]) -> str:
    """As `names: {0: class_0, 1: class_1}` and `ignore: 255`; if there are only 0 and 255, both are classes.

    `names` are used if there is one for each value; whether they count the background, nobody knows.
    """
    classes = [value for value in values if value != 255] if len(values) > 2 else values or (0, 1)
    words = names if len(names) == len(classes) else [f"class_{value}" for value in classes]
    pairs = listing((f"{value}: {word}" for value, word in zip(classes, words, strict=True)), limit=20)
    return f"`names: {{{pairs}}}`" + (" and `ignore: 255`" if len(classes) < len(values) else "")


def _example_colors(colors: Sequence[Color]) -> str:
    lists = listing((list(color) for color in colors), limit=20)
    return f"`names: [{listing(numbered_names(len(colors)), limit=20)}]` and `colors: [{lists}]`"


LAYOUT = Layout(
    Config,
    samples,
    label_space,
    is_root,
    "images/train/a.jpg and masks/train/a.png for training, images/val/b.jpg and masks/val/b.png for validation",
    "instances/{split}/, where each pixel has the number of its thing (0: none), beside masks/{split}/",
)
