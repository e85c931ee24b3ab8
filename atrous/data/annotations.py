"""What the layouts share whose labels are outlines: finding images and classes by what the files of outlines say."""

import os
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

from atrous.data.contract import DataConfig
from atrous.data.image_files import Drawing, Drawn
from atrous.data.label_space import BACKGROUND, LabelSpace
from atrous.data.naming import named_space, names_by_value
from atrous.data.polygons import Shape, paint, require_pixels
from atrous.errors import DataError, listing
from atrous.files import on_disk
from atrous.types import Color, Size

WINDOW = 2**18  # bytes at the beginning and at the end of a file that tell what it is


def ends_of(path: Path) -> str:
    """The beginning and the end of a file, which may be large; "" if it can't be read."""
    try:
        with path.open("rb") as file:
            head = file.read(WINDOW)
            file.seek(max(WINDOW, os.fstat(file.fileno()).st_size - WINDOW))
            return (head + file.read(WINDOW)).decode(errors="replace")
    except OSError:
        return ""


# ---- classes


def outline_space(
    names: Sequence[str], config: DataConfig, source: Path | None, colors: Mapping[str, Color] | None = None
) -> LabelSpace:
    """The names in the files, or those that the config chooses; what no outline covers is the background.

    It comes first, unless one of the names is a word for it. All other classes are things.
    """
    if config.names is not None:
        names, source = list(names_by_value(config.names).values()), None
    if not any(is_background(name) for name in names):
        names = ["background", *names]
    all_colors = {name: (colors or {}).get(name, (0, 0, 0)) for name in names}
    is_colored = sum(name in (colors or {}) for name in names) >= len(names) - 1
    space = named_space(names, config.ignore, source, all_colors if is_colored and colors else None)
    things = (index for index, name in enumerate(space.names) if not is_background(name))
    return space.model_copy(update={"things": tuple(things)})


def is_background(name: str) -> bool:
    return "".join(filter(str.isalpha, name.lower())) in BACKGROUND


def class_of(name: object, space: LabelSpace) -> int:
    """Raises DataError for a name that is no class, with the one that is probably meant."""
    if name in space.names:
        return space.names.index(str(name))
    nearest = get_close_matches(str(name), space.names, 1)
    advice = f"did you mean {nearest[0]}?" if nearest else f"the classes are {listing(space.names, limit=20)}"
    raise DataError(f"no class {name!r}; {advice}")


def drawing(shapes: Iterable[Shape], size: Size, space: LabelSpace, path: Path) -> Drawing:
    """What an image of `size` has drawn on it; the file `path` says so."""
    background = next(index for index, name in enumerate(space.names) if is_background(name))
    semantic, instance = paint(shapes, require_pixels(size), background)
    return Drawing(Drawn(semantic, path), Drawn(instance, path))


# ---- images


def path_within(root: Path, folder: Path, text: object) -> Path:
    """The path that a file in `folder` names, with signs of Windows or not. Raises DataError if it leaves `root`."""
    if not isinstance(text, str) or not text or "\0" in text:
        raise DataError(f"{text!r} is not the name of an image")
    name = text.replace("\\", "/")
    top, place = (os.path.abspath(path) for path in (root, folder))
    path = posixpath.normpath(posixpath.join(place, name))
    if posixpath.isabs(name) or name[1:3] == ":/" or posixpath.commonpath([top, path]) != top:
        raise DataError(f"the image {text!r} lies outside of the dataset's folder {root}")
    return Path(path)


def existing(path: Path) -> Path | None:
    """The path as the disk spells it, if it is a file."""
    path = on_disk(path) or path
    return path if path.is_file() else None
