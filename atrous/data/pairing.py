"""Finds which image and label files belong together."""

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from atrous.errors import DataError, listing
from atrous.files import require_folder

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
LOSSY_SUFFIXES = (".jpg", ".jpeg", ".webp")


class Pair(NamedTuple):
    name: str  # unique in its split
    image: Path
    label: Path | None = None


def subfolders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())


def images_by_stem(folder: Path, what: str) -> dict[str, Path]:
    """The images in one folder, sorted by name, without hidden files. Raises DataError if two share a stem."""
    with os.scandir(require_folder(folder, what)) as entries:
        names = sorted(
            entry.name
            for entry in entries
            if entry.name.lower().endswith(IMAGE_SUFFIXES) and not entry.name.startswith(".")
        )
    files = {os.path.splitext(name)[0]: folder / name for name in names}  # noqa: PTH122 (a Path for each name is slow)
    if len(files) < len(names):
        repeated = [name for name in names if name not in {path.name for path in files.values()}]
        _refuse(repeated, f"files in {folder} that differ from another file only in their suffix")
    return files


def labels_by_stem(folder: Path, what: str) -> dict[str, Path]:
    """Like `images_by_stem`, but refuses the formats that change label values."""
    files = images_by_stem(folder, what)
    lossy = [path.name for path in files.values() if path.suffix.lower() in LOSSY_SUFFIXES]
    _refuse(lossy, f"labels in {folder} are JPEG or WebP, which change label values; save them as PNG")
    return files


def pair_folders(images: Path, labels: Path) -> list[Pair]:
    """Images and labels with the same stem. Raises DataError unless both folders hold the same stems."""
    pairs = pair_by_name(images_by_stem(images, "images"), images, labels_by_stem(labels, "labels"), labels)
    if not pairs:
        raise DataError(
            f"no image in {images}: the suffix must be one of {', '.join(IMAGE_SUFFIXES)}; subfolders are not searched"
        )
    return pairs


def pair_by_name(
    images: Mapping[str, Path], image_folder: Path, labels: Mapping[str, Path], label_folder: Path
) -> list[Pair]:
    """Images and labels with the same name. Raises DataError if one lacks the other."""
    _refuse(
        [name for name in images if name not in labels], f"images in {image_folder} without a label in {label_folder}"
    )
    _refuse(
        [name for name in labels if name not in images], f"labels in {label_folder} without an image in {image_folder}"
    )
    return [Pair(name, path, labels[name]) for name, path in images.items()]


def pair_listed(names: Sequence[str], images: Path, labels: Path, source: Path) -> list[Pair]:
    """The images and labels whose names the file `source` lists, in its order. Raises DataError with missing ones."""
    image_files, label_files = images_by_stem(images, "images"), labels_by_stem(labels, "labels")
    _refuse([name for name, count in Counter(names).items() if count > 1], f"names in {source} that are repeated")
    _refuse([name for name in names if name not in image_files], f"names in {source} without an image in {images}")
    _refuse([name for name in names if name not in label_files], f"names in {source} without a label in {labels}")
    if not names:
        raise DataError(f"{source} lists no image")
    return [Pair(name, image_files[name], label_files[name]) for name in names]


def _refuse(names: Collection[str], complaint: str) -> None:
    if names:
        raise DataError(f"{complaint} ({len(names)}): {listing(names)}")
