"""Data of your own: `images/{train,val}/`, `masks/{train,val}/` with the same file names, and `classes.yaml`.

names: [background, person]        # or {0: background, 255: person}: the values in the masks
ignore: 254                        # the value of pixels that count nowhere; if left out, 255
colors: {background: [0, 0, 0], person: [192, 0, 0], ignore: [255, 255, 255]}  # if the masks are RGB
"""

import difflib
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import yaml
from pydantic import Field, StrictInt, TypeAdapter, ValidationError

from atrous.data.contract import (
    DataConfig,
    ImageFiles,
    class_of_value,
    count_codes,
    images_by_stem,
    labels_by_stem,
    listing,
    named_space,
    one_line,
    paired_files,
    read_label,
    require_root,
    require_split,
    subfolders,
)
from atrous.data.label_space import LabelSpace, numbered_names
from atrous.settings import Settings
from atrous.types import Color, Sample

Channel = Annotated[StrictInt, Field(ge=0, le=255)]
Colors = dict[str, tuple[Channel, Channel, Channel]] | tuple[tuple[Channel, Channel, Channel], ...]
PEEKED = 8  # masks that are looked at to say what is in them


class Config(DataConfig):
    """data.format=folder data.root=my_data; `names`, `ignore` and `colors` go before those in classes.yaml."""

    format: Literal["folder"] = "folder"
    colors: Colors | None = None  # the classes' colours, in pictures and in RGB masks


class _Classes(Settings):
    """What classes.yaml says."""

    names: dict[int, str] | tuple[str, ...] | None = None
    ignore: int | None = None
    colors: Colors | None = None


class _Found(NamedTuple):
    """Label values and colours in a few masks."""

    values: list[int]
    colors: list[Color]


class _Key(NamedTuple):
    meaning: str
    of_mapping: TypeAdapter[Any]
    of_other: TypeAdapter[Any]


_KEYS = {
    "names": _Key(
        "a list of names, or a mapping as {0: background, 1: person}",
        TypeAdapter(dict[StrictInt, str]),
        TypeAdapter(tuple[str, ...]),
    ),
    "ignore": _Key("one whole number", TypeAdapter(StrictInt), TypeAdapter(StrictInt)),
    "colors": _Key(
        "a list of [red, green, blue], or a mapping as {background: [0, 0, 0]}",
        TypeAdapter(dict[str, tuple[Channel, Channel, Channel]]),
        TypeAdapter(tuple[tuple[Channel, Channel, Channel], ...]),
    ),
}


def samples(config: Config, split: str) -> Sequence[Sample]:
    """The images in `images/<split>/` with those in `masks/<split>/`. Raises ValueError where one lacks the other."""
    root = _require_layout(config)
    require_split(split, subfolders(root / "images"), root / "images" / split)
    rows = paired_files(root / "images" / split, root / "masks" / split)
    space, colors = _classes(config)
    return ImageFiles(rows, space, colors)


def label_space(config: Config) -> LabelSpace:
    """The classes that the config or classes.yaml name. Raises ValueError, with the values found, if neither does."""
    return _classes(config)[0]


def _require_layout(config: Config) -> Path:
    root = require_root(config)
    images = root / "images"
    loose = images.is_dir() and not subfolders(images) and images_by_stem(images, "images")
    if loose or not images.is_dir():
        problem = "has no folders train/ and val/" if loose else "is not there"
        raise ValueError(
            f"data.root: {images} {problem}; the layout is images/train/a.jpg and masks/train/a.png to learn from, "
            "images/val/b.jpg and masks/val/b.png to measure on"
        )
    return root


def _classes(config: Config) -> tuple[LabelSpace, dict[Color, int]]:
    """The label space, and the class or ignore value of each colour in RGB masks."""
    path = require_root(config) / "classes.yaml"
    written = _read_classes(path) if path.is_file() else _Classes()
    names = written.names if config.names is None else config.names
    ignore = written.ignore if config.ignore is None else config.ignore
    source = str(path) if config.names is None else "data.names"
    if names is None:
        raise ValueError(_how_to_name(path, _peek(config)))
    listed = dict(names.items() if isinstance(names, dict) else enumerate(names))
    colors = _colors_by_name(config.colors or written.colors, list(listed.values()), source)
    space = named_space(listed, ignore, source, colors)
    if len(listed) == 2 and ignore is None and not space.raw_ids:
        _refuse_white_objects(_peek(config), space, source)
    classes = {name: class_of_value(space)[value] for value, name in listed.items()}
    return space, {color: classes.get(name, space.ignore) for name, color in colors.items()}


def _colors_by_name(colors: Colors | None, names: list[str], source: str) -> dict[str, Color]:
    """The colour of each name, and of `ignore` where it has one; {} for none."""
    if not colors:
        return {}
    if not isinstance(colors, dict):
        _require(len(colors) == len(names), f"{source}: {len(names)} names but {len(colors)} colors")
        colors = dict(zip(names, colors, strict=True))
    for name in colors:
        _require_known(name, [*names, "ignore"], f"{source}: colors: no class")
    missing = [name for name in names if name not in colors]
    _require(not missing, f"{source}: colors: none for {listing(missing)}")
    repeated = [name for name, color in colors.items() if list(colors.values()).count(color) > 1]
    _require(not repeated, f"{source}: colors: {listing(repeated)} have the same")
    return colors


def _read_classes(path: Path) -> _Classes:
    """Raises ValueError, in one line with the file's path, for whatever is wrong in it."""
    try:
        content = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected keys and values, such as `names: [background, person]`")
    for key in content:
        _require_known(str(key), list(_KEYS), f"{path}: no key")
    return _Classes(**{key: _read_key(path, key, value) for key, value in content.items()})


def _read_key(path: Path, key: str, value: object) -> Any:  # noqa: ANN401
    known = _KEYS[key]
    try:
        return (known.of_mapping if isinstance(value, dict) else known.of_other).validate_python(value)
    except ValidationError as error:
        raise ValueError(f"{path}: {key} is {known.meaning}, but: {one_line(error)}") from error


def _require(holds: bool, complaint: str) -> None:
    if not holds:
        raise ValueError(complaint)


def _require_known(word: str, known: Sequence[str], complaint: str) -> None:
    near = difflib.get_close_matches(word, known, 1)
    advice = f"did you mean {near[0]}?" if near else f"there are {listing(known, most=20)}"
    _require(word in known, f"{complaint} {word!r}; {advice}")


def _peek(config: Config) -> _Found:
    """What the first masks to learn from hold, in ascending order."""
    folder = require_root(config) / "masks" / config.train
    paths = labels_by_stem(folder, "masks").values() if folder.is_dir() else ()
    codes: set[int | Color] = set()
    for path in islice(paths, PEEKED):
        with suppress(ValueError):  # it is raised again for whoever needs the sample
            codes.update(count_codes(read_label(path)))
    return _Found(
        values=sorted(code for code in codes if isinstance(code, int)),
        colors=sorted(code for code in codes if isinstance(code, tuple)),
    )


def _refuse_white_objects(found: _Found, space: LabelSpace, source: str) -> None:
    """Two classes and masks of 0 and 255: with the usual ignore value, the model would see background only."""
    first, second = space.names
    _require(
        found.values not in ([0, 255], [255]),
        f"{source}: the first masks hold no value but {listing(found.values)}, and 255 counts nowhere unless it is "
        f"named; write names: {{0: {first}, 255: {second}}}, or ignore: 255 if that is meant",
    )


def _how_to_name(path: Path, found: _Found) -> str:
    """The lines of classes.yaml that the user is to write, with what is in the masks."""
    problem = f"{path} has no names" if path.is_file() else f"there is no {path}"
    what, codes = ("colors", listing(found.colors, most=20)) if found.colors else ("values", listing(found.values, 20))
    return (
        f"{problem}, and no data.names; {what} found in the first masks: {codes or 'none'}; "
        f"write {path.name} with the lines {_example_colors(found) if found.colors else _example_values(found.values)}"
    )


def _example_values(found: Sequence[int]) -> str:
    """As `names: {0: class_0, 1: class_1}` and `ignore: 255`; of 0 and 255 alone, both are classes."""
    values = [value for value in found if value != 255] if len(found) > 2 else found
    names = listing((f"{value}: class_{value}" for value in values or (0, 1)), most=20)
    return f"`names: {{{names}}}`" + (" and `ignore: 255`" if len(values) < len(found) else "")


def _example_colors(found: _Found) -> str:
    colors = listing((list(color) for color in found.colors), most=20)
    return f"`names: [{listing(numbered_names(len(found.colors)), most=20)}]` and `colors: [{colors}]`"
