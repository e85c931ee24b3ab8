"""Finds the images that files, folders and patterns name."""

import glob
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

from atrous.data.pairing import IMAGE_SUFFIXES
from atrous.data.shards import Entry
from atrous.errors import DataError, listing
from atrous.files import composed, is_not_data, on_disk, user_path

# What systems put among people's files. Names that begin with a dot are hidden too.


class NamedImage(NamedTuple):
    path: Path
    name: Path  # relative to the folder, or to the fixed part of the pattern, that it was found in; without suffix
    is_link: bool = False  # or below a linked folder
    entry: Entry | None = None  # of a tar, if it is in one; `path` then only names it


class Skipped(NamedTuple):
    path: Path
    why: Literal["hidden", "result", "unreadable", "repeated"]
    text: str = ""  # for people


class Found(NamedTuple):
    images: list[NamedImage]
    skipped: list[Skipped]

    def paths(self, why: str) -> list[Path]:
        return [skipped.path for skipped in self.skipped if skipped.why == why]

    @property
    def problems(self) -> list[str]:
        """Folders that can't be read, a line each."""
        return [skipped.text for skipped in self.skipped if skipped.why == "unreadable"]


Items = Iterator[NamedImage | Skipped]
IsResult = Callable[[Path], bool]  # whether a folder holds results of a prediction instead of images


def find_all(sources: Sequence[str]) -> list[NamedImage]:
    """The images of sources, results of predictions too. Raises DataError for a folder that can't be read."""
    found = find(sources, lambda folder: False)
    if found.problems:
        raise DataError(found.problems[0])
    return list(found.images)


def find(sources: Sequence[str], is_result: IsResult) -> Found:
    """Files, folders (searched recursively) and patterns as images; each file once, however often it is named.

    In folders and patterns, hidden files and results of predictions are skipped. What is named like an image but
    isn't a file (a pipe, a link that leads nowhere) is in the list too: whoever reads it says why that fails.

    Raises FileNotFoundError for a source without an image.
    """
    items: list[NamedImage | Skipped] = []
    for source in sources:
        own = list(_items_of(source, is_result))
        skipped = [item for item in own if isinstance(item, Skipped)]
        if len(skipped) == len(own) and all(item.why != "unreadable" for item in skipped):
            raise FileNotFoundError(f"{source or repr(source)}: {_why_none(source, skipped)}")
        items += sorted(own, key=lambda item: item[0])
    unique, repeated = _each_once([item for item in items if isinstance(item, NamedImage)])
    return Found(unique, [*(item for item in items if isinstance(item, Skipped)), *repeated])


def _items_of(source: str, is_result: IsResult) -> Items:
    path = on_disk(user_path(source)) if source else None
    if path is None:
        yield from _matches(user_path(source), is_result)
    elif _is_folder(path):
        yield from _below(Folder(path, Path()), is_result)
    else:
        yield NamedImage(path, Path(path.stem), path.is_symlink())


def _is_folder(path: "Path | os.DirEntry[str]") -> bool:
    try:
        return path.is_dir()
    except OSError:  # a link to itself
        return False


def _why_none(source: str, skipped: Sequence[Skipped]) -> str:
    """Why a source has no image, with what was left out."""
    paths = {why: dict.fromkeys(item.path for item in skipped if item.why == why) for why in ("hidden", "result")}
    others = {"hidden files": paths["hidden"], "results of earlier predictions": paths["result"]}
    rest = " and ".join(f"{what} ({listing(some, limit=2)})" for what, some in others.items() if some)
    return f"{_what_is_missing(source)}{', apart from ' if rest else ''}{rest}"


def _what_is_missing(source: str) -> str:
    if source and on_disk(user_path(source)) is not None:
        return f"no image ({', '.join(IMAGE_SUFFIXES)}) here"
    return "no image has a name of this pattern" if glob.has_magic(source) else "no such file, folder or pattern"


# ---- folders


class Folder(NamedTuple):
    path: Path
    name: Path  # as of a NamedImage
    is_link: bool = False  # or below one


class Level(NamedTuple):
    folder: Folder
    entries: list["os.DirEntry[str]"]  # neither hidden nor results


def _below(root: Folder, is_result: IsResult) -> Items:
    for level in _walk(root, is_result):
        yield from [level] if isinstance(level, Skipped) else _images(level)


def _walk(root: Folder, is_result: IsResult) -> Iterator[Level | Skipped]:
    """A folder and its subfolders. Linked ones come last, and none is entered twice."""
    folders, entered = deque([root]), set[str]()
    while folders:
        folder = folders.popleft()
        real = os.path.realpath(folder.path)
        if real in entered:
            continue
        entered.add(real)
        for level in _levels(folder, is_result):
            yield level
            for entry in level.entries if isinstance(level, Level) else ():
                if _is_folder(entry):
                    add = folders.append if entry.is_symlink() else folders.appendleft
                    add(_subfolder(folder, entry))


def _levels(folder: Folder, is_result: IsResult) -> Iterator[Level | Skipped]:
    """What is in one folder: what is skipped, then all else."""
    entries: list[os.DirEntry[str]] = []
    try:
        with os.scandir(folder.path) as everything:
            for entry in everything:
                if is_not_data(entry.name):
                    yield Skipped(folder.path / entry.name, "hidden")
                elif _is_folder(entry) and is_result(folder.path / entry.name):
                    yield Skipped(folder.path / entry.name, "result")
                else:
                    entries.append(entry)
    except OSError as error:
        yield Skipped(folder.path, "unreadable", f"cannot read folder {folder.path}: {error.strerror}")
    yield Level(folder, entries)


def _subfolder(folder: Folder, entry: "os.DirEntry[str]") -> Folder:
    return Folder(folder.path / entry.name, folder.name / entry.name, folder.is_link or entry.is_symlink())


def _images(level: Level) -> Iterator[NamedImage]:
    return (_image(level.folder, entry) for entry in level.entries if _is_image(entry) and not _is_folder(entry))


def _is_image(entry: "os.DirEntry[str]") -> bool:
    return entry.name.lower().endswith(IMAGE_SUFFIXES)


def _image(folder: Folder, entry: "os.DirEntry[str]") -> NamedImage:
    path, name, is_link = _subfolder(folder, entry)
    return NamedImage(path, name.with_suffix(""), is_link)


# ---- patterns


def _matches(pattern: Path, is_result: IsResult) -> Items:
    """What a pattern matches below its fixed part. As in a shell, a folder that matches is a folder to search.

    `glob` of Python would follow links in circles, and take `photos [2024]` for a pattern although it is there.
    """
    root, parts = _split(pattern)
    if any(glob.has_magic(part) for part in parts):
        yield from _below_by(Folder(root, Path()), parts, is_result)


def _split(pattern: Path) -> tuple[Path, tuple[str, ...]]:
    """The first parts of a pattern, which are on the disk as they stand, and the others."""
    root = Path()
    for index, part in enumerate(pattern.parts):
        folder = on_disk(root / part)
        if folder is None:
            return root, pattern.parts[index:]
        root = folder
    return root, ()


def _below_by(folder: Folder, parts: Sequence[str], is_result: IsResult) -> Items:
    is_deep = parts[0] == "**"
    for level in _walk(folder, is_result) if is_deep else _levels(folder, is_result):
        if isinstance(level, Skipped):
            if is_deep or level.why == "unreadable" or _fits(level.path.name, parts[0]):
                yield level
        elif is_deep and len(parts) == 1:
            yield from _images(level)
        else:
            yield from _among(level, parts[1:] if is_deep else parts, is_result)


def _among(level: Level, parts: Sequence[str], is_result: IsResult) -> Items:
    for entry in level.entries:
        if not _fits(entry.name, parts[0]):
            continue
        if not _is_folder(entry):
            yield from [_image(level.folder, entry)] if len(parts) == 1 and _is_image(entry) else []
        elif len(parts) == 1:
            yield from _below(_subfolder(level.folder, entry), is_result)
        else:
            yield from _below_by(_subfolder(level.folder, entry), parts[1:], is_result)


def _fits(name: str, pattern: str) -> bool:
    """Whether a name has a pattern, whatever the form of its accents; `[` may also stand for itself."""
    name, pattern = composed(name), composed(pattern)
    return fnmatch(name, pattern) or fnmatch(name, pattern.replace("[", "[[]"))


# ---- each once


def _each_once(images: Sequence[NamedImage]) -> tuple[list[NamedImage], list[Skipped]]:
    """Images without those that are another one's file; of a file and a link to it, the file stays."""
    unique: dict[str, NamedImage] = {}
    repeated: list[Skipped] = []
    real_folder = cache(os.path.realpath)  # so that not every file is looked for on the disk
    for image in sorted(images, key=lambda image: image.is_link):
        real = real_folder(image.path.parent) + os.sep + image.path.name
        other = unique.setdefault(os.path.realpath(real) if image.is_link else real, image)
        if other.name != image.name and image.path.is_symlink():
            repeated.append(Skipped(image.path, "repeated", f"{image.path} is the same file as {other.path}"))
    chosen = {id(image) for image in unique.values()}
    return [image for image in images if id(image) in chosen], repeated
