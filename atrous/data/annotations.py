"""What the layouts share whose labels are outlines: finding images and classes by what the files of outlines say."""

import os
import posixpath
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from atrous.data.contract import DataConfig, require_split
from atrous.data.image_files import Drawing, Drawn
from atrous.data.instances import runs_of
from atrous.data.label_space import BACKGROUND, LabelSpace
from atrous.data.naming import named_space, names_by_value, nearest_name, with_things
from atrous.data.pairing import NoImagesError, Pair, complain, refuse
from atrous.data.polygons import Shape, paint, require_pixels
from atrous.errors import DataError, listing, warn_once
from atrous.files import composed, require_regular
from atrous.types import Color, Size

T = TypeVar("T")

ABSENT = "absent"
LONGEST = 1000  # characters of a file's name
WINDOW = 2**18  # bytes at the beginning and at the end of a file that tell what it is


def ends_of(path: Path) -> str:
    """The beginning and the end of a file, which may be large; "" if it can't be read."""
    try:
        require_regular(path)
        with path.open("rb") as file:
            head = file.read(WINDOW)
            file.seek(max(WINDOW, os.fstat(file.fileno()).st_size - WINDOW))
            return (head + file.read(WINDOW)).replace(b"\0", b"").decode(errors="replace")  # UTF-16, too
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
    return with_things(space.model_copy(update={"things": tuple(things)}), config.things)


def is_background(name: str) -> bool:
    return "".join(filter(str.isalpha, name.lower())) in BACKGROUND


def class_of(name: object, space: LabelSpace) -> int:
    """Raises DataError for a name that is no class, with the one that is probably meant."""
    if name in space.names:
        return space.names.index(str(name))
    raise DataError(f"no class {name!r}; {nearest_name(str(name), space.names)}")


def drawing(shapes: Iterable[Shape], size: Size, space: LabelSpace, path: Path) -> Drawing:
    """What an image of `size` has drawn on it; the file `path` says so."""
    background = next(index for index, name in enumerate(space.names) if is_background(name))
    semantic, instance = paint(shapes, require_pixels(size), background)
    if instance.max(initial=0) >= space.panoptic_divisor:
        instance = _visible(instance)
    return Drawing(Drawn(semantic, path), Drawn(instance, path))


def _visible(instance: NDArray[np.int32]) -> NDArray[np.int32]:
    """Numbered without gaps, in their order: objects that others cover need no number."""
    runs = runs_of(instance)
    numbers, places = np.unique(np.append(0, runs.values), return_inverse=True)
    return np.repeat(np.arange(len(numbers), dtype=np.int32)[places[1:]], runs.lengths).reshape(instance.shape)


# ---- images


def stem_of(file_name: str) -> str:
    """What a sample is called whose image is listed by this name."""
    return composed(file_name.replace("\\", "/")).rpartition(".")[0] or file_name


def listed_pairs(
    config: DataConfig, path: Path, file_names: Sequence[str], locate: Callable[[str], Path | None], advice: str
) -> list[Pair]:
    """The images that the file `path` lists, with it as their label.

    Raises DataError for absent images, or leaves them out and says so if data.on_error tells to; `advice` mends that.
    """
    repeated = [name for name, count in Counter(map(stem_of, file_names)).items() if count > 1]
    if not file_names:
        raise NoImagesError(f"{path} lists no image")
    refuse("repeated-names", repeated, f"{path} lists twice")
    files = {stem_of(name): _placed(name, locate, path) for name in file_names}
    absent = [name for name, place in files.items() if place == ABSENT]
    complaint = f"images that {path} lists are absent ({len(absent)} of {len(files)}): {listing(absent)}"
    error = DataError(f"{complaint}; {advice}, or set data.on_error=skip to leave them out")
    if absent and len(absent) == len(files):
        raise error
    if absent and config.on_error == "skip":
        warn_once(f"absent {path}", f"{complaint}; they are left out")
    elif absent:
        complain("listed-files-missing", absent, error)
    return [Pair(name, place, path, path) for name, place in files.items() if isinstance(place, Path)]


def _placed(name: str, locate: Callable[[str], Path | None], path: Path) -> Path | str:
    """Where an image lies, or why it can't be read."""
    try:
        return locate(name) or ABSENT
    except DataError as error:
        complain("listed-files-missing", [stem_of(name)], DataError(f"{path}: {error}"))
        return "refused"


def located(root: Path, folders: Iterable[Path], file_name: object) -> Path | None:
    """The image in the first folder that has it."""
    files = (existing(path_within(root, folder, file_name)) for folder in folders)
    return next((file for file in files if file is not None), None)


def path_within(root: Path, folder: Path, text: object) -> Path:
    """The path that a file in `folder` names, with signs of Windows or not. Raises DataError if it leaves `root`."""
    if not isinstance(text, str) or not 0 < len(text) <= LONGEST or "\0" in text:
        raise DataError(f"{str(text)[:80]!r} is not the name of an image")
    name = text.replace("\\", "/")
    top, place = root.absolute(), folder.absolute()
    path = Path(os.path.normpath(place / name))  # links of the user's own stay
    if posixpath.isabs(name) or name[1:3] == ":/" or not path.is_relative_to(os.path.normpath(top)):
        raise DataError(f"the image {text!r} lies outside of the dataset's folder {root}")
    return path


def existing(path: Path) -> Path | None:
    """The path as the disk spells it, if it is a file."""
    folder = path.parent
    for name in (path.name, composed(path.name)):
        if os.path.isfile(folder / name):  # noqa: PTH113 - False for a name that is too long
            return folder / name
    return _files_of(folder, folder.stat().st_mtime_ns).get(composed(path.name)) if folder.is_dir() else None


@lru_cache(maxsize=16)
def _files_of(folder: Path, changed: int) -> Mapping[str, Path]:
    """Files whose names aren't composed, by their composed names."""
    with os.scandir(folder) as entries:
        files = {composed(entry.name): folder / entry.name for entry in entries if entry.is_file()}
    return {name: path for name, path in files.items() if name != path.name}


def training_part(config: DataConfig, parts: Mapping[str, T], place: Path) -> T:
    """Of the parts of a dataset by split, the one that says what the classes are."""
    for name in (config.train, config.train.lower(), config.val, config.val.lower(), *parts):
        if composed(name) in parts:
            return parts[composed(name)]
    require_split(config, config.train, parts, place)
    raise AssertionError(config.train)
