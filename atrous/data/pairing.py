"""Finds which image and label files belong together.

A name is the path below the folder of a split, without its suffix, in composed Unicode. A label may also have the
suffix of its image, or a word that says what it is: `a.png`, `a.jpg.png`, `a_mask.png`, `mask_a.png` belong to `a.jpg`.
"""

import contextlib
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import NamedTuple

from atrous.errors import DataError, listing
from atrous.files import composed, is_not_data, require_folder

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
LABEL_SUFFIXES = (*IMAGE_SUFFIXES, ".gif")
LOSSY_SUFFIXES = (".jpg", ".jpeg", ".webp")
POLYGON_ADVICE = {  # by the suffix of what other programs keep in a folder of labels
    ".json": "if labelme or COCO wrote them, set data.format=labelme or data.format=coco_instances",
    ".xml": "if CVAT wrote them, set data.format=cvat",
    ".txt": "draw polygons as masks first",
}
LABEL_WORDS = "masks?|labels?|gt|seg|segmentations?|annotations?|ground_?truth|targets?"
INSTANCE_WORDS = rf"instances?|inst|instance_?ids|instance_?masks?|objects?|{LABEL_WORDS}"
IMAGE_WORDS = "images?|img|sat|photo|rgb|0000"


class Pair(NamedTuple):
    name: str  # unique in its split
    image: Path
    label: Path | None = None
    instance: Path | None = None  # what tells things apart; a format that keeps both together has the label's file here

    @property
    def label_files(self) -> tuple[Path, ...]:
        return tuple(dict.fromkeys(path for path in (self.label, self.instance) if path is not None))


class Complaint(NamedTuple):
    """Why a split can't be listed as it is."""

    kind: str  # the name of a finding of `atrous check`
    names: tuple[str, ...]
    text: str


_complaints: ContextVar[list[Complaint] | None] = ContextVar("complaints", default=None)


@contextlib.contextmanager
def complaints() -> Iterator[list[Complaint]]:
    """Within it, what listing would refuse is collected here, and all images that have a label are listed."""
    collected: list[Complaint] = []
    token = _complaints.set(collected)
    try:
        yield collected
    finally:
        _complaints.reset(token)


# ---- listing


def files_below(folder: Path, suffixes: tuple[str, ...]) -> Iterator[str]:
    """Files in a folder and those below it, as sorted paths relative to it. Raises OSError for one that can't be read.

    Hidden ones are left out; links are followed, but not back into a folder that holds them.
    """
    return _files_below(str(folder), "", suffixes, (os.path.realpath(folder),))


def _files_below(folder: str, prefix: str, suffixes: tuple[str, ...], holders: tuple[str, ...]) -> Iterator[str]:
    with os.scandir(folder) as scan:
        entries = sorted((entry for entry in scan if not is_not_data(entry.name)), key=lambda entry: entry.name)
    for entry in entries:
        if entry.is_dir():
            real = os.path.realpath(entry.path)
            if real not in holders:
                yield from _files_below(entry.path, f"{prefix}{entry.name}/", suffixes, (*holders, real))
        elif entry.name.lower().endswith(suffixes) and (entry.is_file() or entry.is_symlink()):
            yield prefix + entry.name


def images_by_stem(folder: Path, what: str, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> dict[str, Path]:
    """The images in and below a folder by name; those of one stem keep their suffixes, as in `a.jpg` and `a.png`."""
    folder = require_folder(folder, what)
    paths = {path: composed(os.path.splitext(path)[0]) for path in files_below(folder, suffixes)}  # noqa: PTH122 (fast)
    repeated = {stem for stem, count in Counter(paths.values()).items() if count > 1}
    names = {path: composed(path) if stem in repeated else stem for path, stem in paths.items()}
    twins = [name for name, count in Counter(names.values()).items() if count > 1]
    refuse("ambiguous-names", twins, f"files in {folder} that have the same name, in two forms of Unicode")
    return {name: folder / path for path, name in names.items()}


def labels_by_stem(folder: Path, what: str) -> dict[str, Path]:
    """Like `images_by_stem`, but refuses two of one stem, and the formats that change label values."""
    labels = images_by_stem(folder, what, LABEL_SUFFIXES)
    _refuse_twins([name for name, path in labels.items() if _is_twin(name, path)], folder)
    lossy = [path.name for path in labels.values() if path.suffix.lower() in LOSSY_SUFFIXES]
    refuse("lossy-labels", lossy, f"labels in {folder} are JPEG or WebP, which change label values; save them as PNG")
    return labels


def _is_twin(name: str, path: Path) -> bool:
    """Whether the name has kept its suffix, because another file has the same stem."""
    return name.rpartition("/")[2] == composed(path.name)


def _refuse_twins(names: Collection[str], folder: Path) -> None:
    refuse("ambiguous-names", names, f"files in {folder} that differ from another file only in their suffix")


# ---- pairing


class NoImagesError(DataError):
    """A folder or a list of images is there, and is empty."""


def pair_folders(images: Path, labels: Path) -> list[Pair]:
    """The images in and below a folder with their labels. Raises DataError unless all have one another."""
    image_files = images_by_stem(images, "images")
    if not image_files:
        kind = DataError if any(files_below(images, ("",))) else NoImagesError
        raise kind(f"no image in {images}, or below it: the suffix must be one of {', '.join(IMAGE_SUFFIXES)}")
    label_files = labels_by_stem(labels, "labels")
    if not label_files:
        refuse_polygons(labels)
    return pair_by_name(image_files, images, label_files, labels)


def refuse_polygons(folder: Path) -> None:
    """Refuse a folder of masks that holds the files of programs that draw outlines."""
    files = list(files_below(require_folder(folder, "labels"), tuple(POLYGON_ADVICE)))
    if files:
        raise DataError(
            f"labels in {folder} are {Path(files[0]).suffix} files ({len(files)}), such as {files[0]}, but masks are "
            "expected: images whose pixels are class numbers; "
            f"{POLYGON_ADVICE[Path(files[0]).suffix.lower()]} (see docs/data.md, Polygons)"
        )


def pair_by_name(
    images: Mapping[str, Path], image_folder: Path, labels: Mapping[str, Path], label_folder: Path
) -> list[Pair]:
    """Images and labels with the same name. Raises DataError if one lacks the other."""
    label_of = _labels_by_image(labels, images)
    missing = [name for name in images if name not in label_of]
    _refuse_twins([name for name in missing if _is_twin(name, images[name])], image_folder)
    refuse("images-without-label", missing, f"images in {image_folder} without a label in {label_folder}")
    paired = set(label_of.values())
    refuse(
        "labels-without-image",
        [name for name, path in labels.items() if path not in paired and not _is_twin(name, path)],
        f"labels in {label_folder} without an image in {image_folder}",
    )
    return [Pair(name, path, label_of[name]) for name, path in images.items() if name in label_of]


def with_instances(pairs: Sequence[Pair], folder: Path) -> list[Pair]:
    """The pairs with the instance maps in and below a folder; those whose map is missing keep None."""
    maps = images_by_stem(folder, "instance maps", LABEL_SUFFIXES)
    _refuse_twins([name for name, path in maps.items() if _is_twin(name, path)], folder)
    map_of = _labels_by_image(maps, {pair.name: pair.image for pair in pairs}, INSTANCE_WORDS)
    return [pair._replace(instance=map_of.get(pair.name)) for pair in pairs]


def _labels_by_image(
    labels: Mapping[str, Path], images: Mapping[str, Path], words: str = LABEL_WORDS
) -> dict[str, Path]:
    """The label of each image that has one: that of the same name, or else one whose name says more."""
    label_of = {name: path for name, path in labels.items() if name in images}
    if len(label_of) == len(labels):
        return label_of
    bare = Counter(without_words(name, IMAGE_WORDS) for name in images)
    image_of = {short: name for name in images if bare[short := without_words(name, IMAGE_WORDS)] == 1}
    for label, path in labels.items():
        stem, suffix = os.path.splitext(label)  # noqa: PTH122 (fast)
        full = stem if stem in images and images[stem].suffix.lower() == suffix.lower() else label
        short = without_words(label, words)
        image = full if full in images else short if short in images else image_of.get(short)
        if image is not None:
            label_of.setdefault(image, path)
    return label_of


def without_words(name: str, words: str) -> str:
    """The name without a word such as `mask` at its beginning or end: `a_mask`, `mask-a` and `a.mask` are all `a`."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + re.sub(rf"^(?:{words})[_\-. ]|[_\-. ](?:{words})$", "", base, flags=re.IGNORECASE)


def pair_listed(names: Sequence[str], images: Path, labels: Path, source: Path) -> list[Pair]:
    """The images and labels whose names the file `source` lists, in its order. Raises DataError with missing ones."""
    image_files, label_files = images_by_stem(images, "images"), labels_by_stem(labels, "labels")
    names = [composed(name) for name in names]
    repeated = [name for name, count in Counter(names).items() if count > 1]
    refuse("repeated-names", repeated, f"names in {source} that are repeated")
    missing = [name for name in names if name not in image_files]
    refuse("listed-files-missing", missing, f"names in {source} without an image in {images}")
    bare = [name for name in names if name in image_files and name not in label_files]
    refuse("images-without-label", bare, f"names in {source} without a label in {labels}")
    if not names:
        raise NoImagesError(f"{source} lists no image")
    usable = dict.fromkeys(name for name in names if name in image_files and name in label_files)
    return [Pair(name, image_files[name], label_files[name]) for name in usable]


def refuse(kind: str, names: Collection[str], complaint: str) -> None:
    """Raise DataError with the names, if there are any; within `complaints`, keep that."""
    if names:
        refuse_all([complaint_of(kind, names, complaint)])


def complaint_of(kind: str, names: Collection[str], what: str) -> Complaint:
    return Complaint(kind, tuple(names), f"{what} ({len(names)}): {listing(names)}")


def refuse_all(complaints: Iterable[Complaint]) -> None:
    """Raise DataError for the first; within `complaints`, keep all."""
    for kind, names, text in complaints:
        complain(kind, names, DataError(text))


def complain(kind: str, names: Collection[str], error: DataError | OSError) -> None:
    """Raise the error; within `complaints`, keep it."""
    collected = _complaints.get()
    if collected is None:
        raise error
    collected.append(Complaint(kind, tuple(names), str(error)))
