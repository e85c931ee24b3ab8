"""List files with one `image label` pair per line, as in semseg; classes in `my_names.txt`, colours in `my_colors.txt`.

Paths are relative to data.root, or absolute, and separated by a space or a tab; paths that contain spaces need the tab.
Labels hold the class numbers 0..C-1, and 255 is ignored; palette images are read as indices, not colours. The
file of names has one name per line, the file of colours one `R G B` per line.
"""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

from atrous.data.contract import DataConfig, Layout, NoNamesError, NoSplitFileError, require_root
from atrous.data.image_files import ImageFiles
from atrous.data.label_space import LabelSpace
from atrous.data.naming import named_space, names_by_value, with_things
from atrous.data.pairing import LOSSY_SUFFIXES, NoImagesError, Pair, complain
from atrous.errors import DataError, listing
from atrous.files import composed, on_disk, require_regular, user_path
from atrous.types import Color, Sample

NAMES, COLORS = "_names.txt", "_colors.txt"
MOST, MOST_CHARACTERS = 50, 10_000  # files, and characters of their first lines, that are looked at


class Config(DataConfig):
    """data.format=list data.root=DATA data.train=list/train.txt data.val=list/val.txt data.names_path=my_names.txt

    Each file is looked up in data.root first, then in the working directory.
    """

    format: Literal["list"] = "list"
    train: str = "train.txt"
    """The list file for training: a line for each image and its label file."""
    val: str = "val.txt"
    """The list file for validation."""
    names_path: Path | None = None
    """File with a class name per line; none: `names`, or the only *_names.txt in the root."""
    colors_path: Path | None = None
    """File with a colour per line; none: my_colors.txt next to my_names.txt, if it exists."""


class _Line(NamedTuple):
    number: int  # in the file, from 1
    text: str


class _Entry(NamedTuple):
    """A line of the list, with its paths as written."""

    number: int
    image: str
    label: str


def samples(config: Config, split: str) -> Sequence[Sample]:
    """The images of the list file `split`, in its order. Errors name the line.

    A sample is named after its image, by the whole path if two images in different folders have the same name.
    """
    root = require_root(config)
    path = _list_file(root, split)
    return ImageFiles(_pairs(path, root), label_space(config))


def label_space(config: Config) -> LabelSpace:
    root = require_root(config)
    path = _names_file(config, root)
    names = config.names if path is None else _read_names(path)
    assert names is not None
    colors = _colors(config, root, path, list(names_by_value(names).values()))
    return with_things(named_space(names, config.ignore, path, colors), config.things)


def is_root(folder: Path) -> bool:
    """Whether a text file in it, or in a folder of it, begins with the names of an image and a label in it."""
    paths = sorted(path for pattern in ("*.txt", "*/*.txt") for path in folder.glob(pattern))[:MOST]
    return any(_is_list(folder, path) for path in paths if not path.name.endswith((NAMES, COLORS)))


def _is_list(root: Path, path: Path) -> bool:
    with suppress(DataError, OSError):
        require_regular(path)
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            entry = _entry(path, _Line(1, file.readline(MOST_CHARACTERS).strip()))
        return (root / entry.image).is_file() and (root / entry.label).is_file()
    return False


# Classes


def _names_file(config: Config, root: Path) -> Path | None:
    """None: the config itself has the names."""
    if config.names is not None:
        return None
    if config.names_path is not None:
        return _find(root, config.names_path, "data.names_path")
    files = sorted(path for path in root.glob(f"*{NAMES}") if not path.name.startswith("."))
    if len(files) == 1:
        return files[0]
    problem = f"several *{NAMES}: {listing(path.name for path in files)}" if files else f"no *{NAMES}"
    raise NoNamesError(
        f"{root} has {problem}; set data.names_path to a file with one class name per line, or data.names=[road, ...]"
    )


def _read_names(path: Path) -> tuple[str, ...]:
    lines = _lines(path)
    if not lines:
        raise DataError(f"{path} is empty; expected one class name per line")
    for number, text in lines:
        if not text:
            raise DataError(f"{path}, line {number} is empty; expected one class name per line, from class 0 on")
    return tuple(text for _, text in lines)


def _colors(config: Config, root: Path, names_file: Path | None, names: list[str]) -> dict[str, Color]:
    """The colour of each name; {} if there is no file of colours."""
    path = _colors_file(config, root, names_file)
    if path is None:
        return {}
    colors = [_color(path, line) for line in _lines(path)]
    if len(colors) != len(names):
        raise DataError(
            f"{path} has {len(colors)} colors, but {names_file or 'data.names'} has {len(names)} names; "
            "expected one color for each class"
        )
    return dict(zip(names, colors, strict=True))


def _colors_file(config: Config, root: Path, names_file: Path | None) -> Path | None:
    if config.colors_path is not None:
        return _find(root, config.colors_path, "data.colors_path")
    if names_file is None or not names_file.name.endswith(NAMES):
        return None
    colors_file = names_file.with_name(names_file.name.removesuffix(NAMES) + COLORS)
    return colors_file if colors_file.is_file() else None


def _color(path: Path, line: _Line) -> Color:
    channels = [int(text) if text.isascii() and text.isdecimal() else 256 for text in line.text.split()]
    if len(channels) != 3 or max(channels) > 255:
        expected = "R G B, three whole numbers in 0..255, such as 128 64 128"
        raise DataError(f"{path}, line {line.number} is not a color: {line.text!r}; expected {expected}")
    red, green, blue = channels
    return red, green, blue


# Images and labels


def _list_file(root: Path, split: str) -> Path:
    try:
        return _find(root, Path(split), "list of images and labels")
    except FileNotFoundError as error:
        files = sorted(path for pattern in ("*.txt", "*/*.txt") for path in root.glob(pattern))
        lists = [str(path.relative_to(root)) for path in files if not path.name.endswith((NAMES, COLORS))]
        text = f"{error}; set data.train and data.val; lists: {listing(lists) or 'none'}"
        raise NoSplitFileError(text, lists) from None


def _pairs(path: Path, root: Path) -> list[Pair]:
    entries = [_entry(path, line) for line in _lines(path) if line.text]
    if not entries:
        raise NoImagesError(f"{path} is empty; expected lines such as `images/a.jpg labels/a.png`")
    entries = _each_once(path, entries)
    files = _located(path, root, entries)
    names = _sample_names(entries)
    return [Pair(name, image, label) for name, (image, label) in zip(names, files, strict=True) if image and label]


def _entry(path: Path, line: _Line) -> _Entry:
    columns = line.text.split("\t" if "\t" in line.text else " ")
    columns = [text.strip() for text in columns if text.strip()]
    if len(columns) != 2:
        raise DataError(
            f"{path}, line {line.number}: expected `image label`, got {len(columns)} "
            f"column{'s'[: len(columns) - 1]} (paths with spaces need a tab between them): {line.text[:100]!r}"
        )
    image, label = columns
    if label.lower().endswith(LOSSY_SUFFIXES):
        text = f"the label {label} is JPEG or WebP, which change label values; save it as PNG"
        complain("lossy-labels", [label], DataError(f"{path}, line {line.number}: {text}"))
    return _Entry(line.number, image, label)


def _each_once(path: Path, entries: Sequence[_Entry]) -> list[_Entry]:
    """Refuses an image that is listed twice."""
    first: dict[str, _Entry] = {}
    for entry in entries:
        line = first.setdefault(entry.image, entry).number
        if line != entry.number:
            error = DataError(f"{path}, line {entry.number}: {entry.image} is already in line {line}")
            complain("repeated-names", [entry.image], error)
    return list(first.values())


def _located(path: Path, root: Path, entries: Sequence[_Entry]) -> list[tuple[Path | None, Path | None]]:
    """The image and the label of each entry, as the disk spells them (either form of Unicode).

    A list with missing files is refused before any work. Folders are listed once: checking each file is slow.
    """
    folders = {(root / text).parent for entry in entries for text in (entry.image, entry.label)}
    known = {folder: _files_in(on_disk(folder) or folder) for folder in folders}
    files = [
        (entry.number, what, root / text)
        for entry in entries
        for what, text in (("image", entry.image), ("label", entry.label))
    ]
    missing = [one for one in files if composed(one[2].name) not in known[one[2].parent]]
    if missing:
        number, what, file = missing[0]
        more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
        error = FileNotFoundError(f"{path}, line {number}: no such {what}: {file}{more}; paths are relative to {root}")
        complain("listed-files-missing", [str(path) for _, _, path in missing], error)
    paths = [known[file.parent].get(composed(file.name)) for _, _, file in files]
    return list(zip(paths[::2], paths[1::2], strict=True))


def _files_in(folder: Path) -> dict[str, Path]:
    return {composed(path.name): path for path in folder.iterdir()} if folder.is_dir() else {}


def _sample_names(entries: Sequence[_Entry]) -> list[str]:
    stems = [Path(entry.image).stem for entry in entries]
    is_unique = max(Counter(stems).values()) == 1
    return stems if is_unique else [entry.image for entry in entries]


# Files of lines


def _find(root: Path, path: Path, what: str) -> Path:
    for file in (root / user_path(path), user_path(path)):
        if file.is_file():
            return file
    raise FileNotFoundError(f"{what}: no such file: {root / path}")


def _lines(path: Path) -> list[_Line]:
    """All lines except empty ones at the end, without the spaces around them."""
    lines = path.read_text(encoding="utf-8-sig", errors="replace").rstrip().split("\n")
    return [_Line(number, text.strip()) for number, text in enumerate(lines, start=1)] if lines != [""] else []


LAYOUT = Layout(Config, samples, label_space)
