"""List files of one `image label` a line, as semseg has them; classes in `my_names.txt`, colours in `my_colors.txt`.

Paths are relative to data.root, or absolute, with one blank or a tab between them; paths with blanks need the tab.
Labels hold the classes' numbers 0..C-1, and 255 counts nowhere; of palette images the indices are read, not the
colours. The file of names has one a line, that of colours `R G B`.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from atrous.data.contract import LOSSY_SUFFIXES, DataConfig, ImageFiles, Row, listing, named_space, require_root
from atrous.data.label_space import LabelSpace
from atrous.types import Color, Sample

NAMES, COLORS = "_names.txt", "_colors.txt"


class Config(DataConfig):
    """data.format=list data.root=DATA data.train=list/train.txt data.val=list/val.txt data.names_path=my_names.txt

    Every file is looked for in data.root first, then from here.
    """

    format: Literal["list"] = "list"
    train: str = "train.txt"  # the list file to learn from
    val: str = "val.txt"  # the list file to measure on
    names_path: Path | None = None  # None: `names`, or else the only *_names.txt in data.root
    colors_path: Path | None = None  # None: the file beside the names that is called after them, if there is one


class _Line(NamedTuple):
    number: int  # in the file, from 1
    text: str


class _Pair(NamedTuple):
    number: int  # of the line
    image: str
    label: str


def samples(config: Config, split: str) -> Sequence[Sample]:
    """What the list file `split` names, in its order. Raises ValueError or FileNotFoundError, with the line's number.

    A sample is called after its image; by its whole path where two images in different folders have one name.
    """
    root = require_root(config)
    path = _list_file(root, split)
    return ImageFiles(_rows(path, root), label_space(config))


def label_space(config: Config) -> LabelSpace:
    """Raises ValueError where names are missing, or where names and colours don't fit each other."""
    root = require_root(config)
    path = _names_file(config, root)
    names = config.names if path is None else _read_names(path)
    assert names is not None
    source = "data.names" if path is None else str(path)
    return named_space(names, config.ignore, source, _colors(config, root, path, list(_in_order(names)), source))


# Classes


def _names_file(config: Config, root: Path) -> Path | None:
    """None: the config has the names itself."""
    if config.names is not None:
        return None
    if config.names_path is not None:
        return _find(root, config.names_path, "data.names_path")
    found = sorted(path for path in root.glob(f"*{NAMES}") if not path.name.startswith("."))
    if len(found) == 1:
        return found[0]
    there = f"several *{NAMES}: {listing(path.name for path in found)}" if found else f"no *{NAMES}"
    raise ValueError(
        f"{root} has {there}; set data.names_path to a file with a class name a line, or data.names=[road, ...]"
    )


def _read_names(path: Path) -> tuple[str, ...]:
    lines = _lines(path)
    if not lines:
        raise ValueError(f"{path} is empty; a class name a line is wanted")
    for number, text in lines:
        if not text:
            raise ValueError(f"{path}, line {number} is empty, but each line is the name of a class, from class 0 on")
    return tuple(text for _, text in lines)


def _in_order(names: dict[int, str] | tuple[str, ...]) -> Sequence[str]:
    return [names[value] for value in sorted(names)] if isinstance(names, dict) else names


def _colors(config: Config, root: Path, names: Path | None, listed: list[str], source: str) -> dict[str, Color]:
    """The colour of each name; {} where no file has any."""
    path = _colors_file(config, root, names)
    if path is None:
        return {}
    colors = [_color(path, line) for line in _lines(path)]
    if len(colors) != len(listed):
        raise ValueError(f"{path} has {len(colors)} colors, but {source} has {len(listed)} names; one a class is right")
    return dict(zip(listed, colors, strict=True))


def _colors_file(config: Config, root: Path, names: Path | None) -> Path | None:
    if config.colors_path is not None:
        return _find(root, config.colors_path, "data.colors_path")
    if names is None or not names.name.endswith(NAMES):
        return None
    beside = names.with_name(names.name.removesuffix(NAMES) + COLORS)
    return beside if beside.is_file() else None


def _color(path: Path, line: _Line) -> Color:
    channels = [int(text) if text.isascii() and text.isdecimal() else 256 for text in line.text.split()]
    if len(channels) != 3 or max(channels) > 255:
        wanted = "R G B, three whole numbers in 0..255, such as 128 64 128"
        raise ValueError(f"{path}, line {line.number} is no color: {line.text!r}; {wanted} is wanted")
    red, green, blue = channels
    return red, green, blue


# Images and labels


def _list_file(root: Path, split: str) -> Path:
    try:
        return _find(root, Path(split), "list of images and labels")
    except FileNotFoundError as error:
        found = sorted(path for pattern in ("*.txt", "*/*.txt") for path in root.glob(pattern))
        lists = [path.relative_to(root) for path in found if not path.name.endswith((NAMES, COLORS))]
        raise FileNotFoundError(f"{error}; data.train, data.val name it; found: {listing(lists) or 'none'}") from None


def _rows(path: Path, root: Path) -> list[Row]:
    pairs = [_pair(path, line) for line in _lines(path) if line.text]
    if not pairs:
        raise ValueError(f"{path} is empty; lines such as `images/a.jpg labels/a.png` are wanted")
    _require_each_once(path, pairs)
    _require_there(path, root, pairs)
    return [
        (name, root / pair.image, root / pair.label) for name, pair in zip(_sample_names(pairs), pairs, strict=True)
    ]


def _pair(path: Path, line: _Line) -> _Pair:
    columns = line.text.split("\t" if "\t" in line.text else " ")
    columns = [text.strip() for text in columns if text.strip()]
    if len(columns) != 2:
        raise ValueError(
            f"{path}, line {line.number}: {len(columns)} column{'s'[: len(columns) - 1]} where `image label` is wanted "
            f"(paths with blanks need a tab between them): {line.text[:100]!r}"
        )
    image, label = columns
    if label.lower().endswith(LOSSY_SUFFIXES):
        raise ValueError(
            f"{path}, line {line.number}: the label {label} is JPEG or WebP, which change label values; save it as PNG"
        )
    return _Pair(line.number, image, label)


def _require_each_once(path: Path, pairs: Sequence[_Pair]) -> None:
    first: dict[str, int] = {}
    for pair in pairs:
        line = first.setdefault(pair.image, pair.number)
        if line != pair.number:
            raise ValueError(f"{path}, line {pair.number}: {pair.image} is in line {line} already")


def _require_there(path: Path, root: Path, pairs: Sequence[_Pair]) -> None:
    """Refuse what is missing before anything is computed. Folders are listed once: asking for each file is slow."""
    files = [
        (pair.number, what, root / text)
        for pair in pairs
        for what, text in (("image", pair.image), ("label", pair.label))
    ]
    there = {folder: _names_in(folder) for folder in {file.parent for _, _, file in files}}
    missing = [one for one in files if one[2].name not in there[one[2].parent]]
    if missing:
        number, what, file = missing[0]
        more = f", and {len(missing) - 1} more are missing" if len(missing) > 1 else ""
        raise FileNotFoundError(f"{path}, line {number}: no such {what}: {file}{more}; paths are relative to {root}")


def _names_in(folder: Path) -> frozenset[str]:
    return frozenset(path.name for path in folder.iterdir()) if folder.is_dir() else frozenset()


def _sample_names(pairs: Sequence[_Pair]) -> list[str]:
    stems = [Path(pair.image).stem for pair in pairs]
    is_unique = max(Counter(stems).values()) == 1
    return stems if is_unique else [pair.image for pair in pairs]


# Files of lines


def _find(root: Path, path: Path, what: str) -> Path:
    for found in (root / path.expanduser(), path.expanduser()):
        if found.is_file():
            return found
    raise FileNotFoundError(f"{what}: no such file: {root / path}")


def _lines(path: Path) -> list[_Line]:
    """All but the empty ones at the end, without the blanks around them."""
    lines = path.read_text(encoding="utf-8-sig", errors="replace").rstrip().split("\n")
    return [_Line(number, text.strip()) for number, text in enumerate(lines, start=1)] if lines != [""] else []
