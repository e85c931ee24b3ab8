"""A dataset of your own: `images/{train,val}/`, `masks/{train,val}/` with the same file names, and `classes.yaml`.

names: [background, person]        # or {0: background, 255: person}: the values in the masks
ignore: 254                        # the value of pixels to ignore; 255 if left out
colors: {background: [0, 0, 0], person: [192, 0, 0], ignore: [255, 255, 255]}  # if the masks are RGB
"""

import difflib
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, StrictInt, TypeAdapter, ValidationError

from atrous.data.contract import DataConfig, require_root, require_split
from atrous.data.image_files import ImageFiles, count_codes, read_label
from atrous.data.label_space import LabelSpace, numbered_names
from atrous.data.naming import class_of_value, named_space, naming_error, one_line
from atrous.data.pairing import images_by_stem, labels_by_stem, pair_folders, subfolders
from atrous.errors import AtrousError, DataError, listing
from atrous.settings import MAX_CLASSES, Settings
from atrous.trees import TreeError, read_yaml
from atrous.types import Color, Sample

Channel = Annotated[StrictInt, Field(ge=0, le=255)]
ChannelColor = tuple[Channel, Channel, Channel]
Colors = (
    Annotated[dict[str, ChannelColor], Field(max_length=MAX_CLASSES)]
    | Annotated[tuple[ChannelColor, ...], Field(max_length=MAX_CLASSES)]
)
NUM_PREVIEWED = 8  # masks that are read to suggest what to write into classes.yaml


class Config(DataConfig):
    """data.format=folder data.root=my_data; `names`, `ignore` and `colors` take precedence over classes.yaml."""

    format: Literal["folder"] = "folder"
    colors: Colors | None = None
    """Colours of the classes, in pictures and in RGB masks: a list or {name: [r, g, b]}."""


class _Classes(Settings):
    """The content of classes.yaml."""

    names: dict[int, str] | tuple[str, ...] | None = None
    ignore: int | None = None
    colors: Colors | None = None


class _Preview(NamedTuple):
    """Label values and colours in a few masks."""

    values: list[int]
    colors: list[Color]


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
}


def samples(config: Config, split: str) -> Sequence[Sample]:
    """The images in `images/<split>/` with the masks in `masks/<split>/`."""
    root = _require_layout(config)
    require_split(split, subfolders(root / "images"), root / "images" / split)
    pairs = pair_folders(root / "images" / split, root / "masks" / split)
    space, colors = _classes(config)
    return ImageFiles(pairs, space, colors)


def label_space(config: Config) -> LabelSpace:
    """The classes named in the config or in classes.yaml. If neither names any, the error says what to write."""
    return _classes(config)[0]


def _require_layout(config: Config) -> Path:
    root = require_root(config)
    images = root / "images"
    has_loose_images = images.is_dir() and not subfolders(images) and bool(images_by_stem(images, "images"))
    if has_loose_images or not images.is_dir():
        problem = "has no folders train/ and val/" if has_loose_images else "does not exist"
        raise DataError(
            f"data.root: {images} {problem}; expected images/train/a.jpg and masks/train/a.png for training, "
            "images/val/b.jpg and masks/val/b.png for validation"
        )
    return root


# Classes


def _classes(config: Config) -> tuple[LabelSpace, dict[Color, int]]:
    """The label space, and the class or ignore value of each colour in RGB masks."""
    path = require_root(config) / "classes.yaml"
    file = _read_classes(path) if path.is_file() else _Classes()
    names = file.names if config.names is None else config.names
    ignore = file.ignore if config.ignore is None else config.ignore
    source = path if config.names is None else None
    if names is None:
        raise DataError(_how_to_name(path, _preview(config)))
    by_value = dict(names.items() if isinstance(names, dict) else enumerate(names))
    colors = _colors_by_name(config.colors or file.colors, list(by_value.values()), source)
    space = named_space(by_value, ignore, source, colors)
    if len(by_value) == 2 and ignore is None and not space.raw_ids:
        _refuse_white_objects(_preview(config), space, source)
    classes = {name: class_of_value(space)[value] for value, name in by_value.items()}
    return space, {color: classes.get(name, space.ignore) for name, color in colors.items()}


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


def _refuse_white_objects(preview: _Preview, space: LabelSpace, source: Path | None) -> None:
    """Two classes, and masks of 0 and 255: with the usual ignore value, the model would learn only the background."""
    first, second = space.names
    _require(
        preview.values not in ([0, 255], [255]),
        source,
        f"the first masks hold only the value{'s'[: len(preview.values) - 1]} {listing(preview.values)}, and 255 is "
        f"ignored unless it has a name; write names: {{0: {first}, 255: {second}}}, or ignore: 255 if that is intended",
    )


# classes.yaml


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
        raise DataError(f"{path}: {key} must be {known.meaning}: {one_line(error)}") from error


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
    folder = require_root(config) / "masks" / config.train
    paths = labels_by_stem(folder, "masks").values() if folder.is_dir() else ()
    codes: set[int | Color] = set()
    for path in islice(paths, NUM_PREVIEWED):
        with suppress(AtrousError):  # raised again when the sample is read
            codes.update(count_codes(read_label(path)))
    return _Preview(
        values=sorted(code for code in codes if isinstance(code, int)),
        colors=sorted(code for code in codes if isinstance(code, tuple)),
    )


def _how_to_name(path: Path, preview: _Preview) -> str:
    """The lines of classes.yaml that the user should write, with what is in the masks."""
    problem = f"{path} has no names" if path.is_file() else f"{path} does not exist"
    what = "colors" if preview.colors else "values"
    codes = listing(preview.colors or preview.values, limit=20) or "none"
    example = _example_colors(preview.colors) if preview.colors else _example_values(preview.values)
    return (
        f"{problem}, and data.names is not set; {what} in the first masks: {codes}; "
        f"write a {path.name} with the lines {example}"
    )


def _example_values(values: Sequence[int]) -> str:
    """As `names: {0: class_0, 1: class_1}` and `ignore: 255`; if there are only 0 and 255, both are classes."""
    classes = [value for value in values if value != 255] if len(values) > 2 else values
    names = listing((f"{value}: class_{value}" for value in classes or (0, 1)), limit=20)
    return f"`names: {{{names}}}`" + (" and `ignore: 255`" if len(classes) < len(values) else "")


def _example_colors(colors: Sequence[Color]) -> str:
    lists = listing((list(color) for color in colors), limit=20)
    return f"`names: [{listing(numbered_names(len(colors)), limit=20)}]` and `colors: [{lists}]`"
