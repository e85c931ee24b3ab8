"""What a dataset layout is: a module with a `Config`, `samples(config, split)` and `label_space(config)`.

Below it, what the layouts of image files share: which files belong together, and how one is read and checked.
"""

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar, overload

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL import ImageOps
from pydantic import ValidationError

from atrous.data.label_space import LabelSpace
from atrous.files import require_folder
from atrous.settings import Settings
from atrous.types import Color, Image, Sample


class DataConfig(Settings):
    """The settings that all layouts share; a layout narrows `format` to its own name and adds what it needs."""

    format: str
    root: Path | None = None  # the folder of the data set
    train: str = "train"  # the split to learn from
    val: str = "val"  # the split to measure on
    names: dict[int, str] | tuple[str, ...] | None = None  # class names; None: as the layout says
    ignore: int | None = None  # label value that counts nowhere; None: as the layout says
    on_error: Literal["stop", "skip"] = "stop"  # a file that can't be read ends the run, or is left out and counted


class Layout(NamedTuple):
    """One row of FORMATS. `samples` lists files at once and reads them when asked; both raise on bad input."""

    config: type[DataConfig]
    samples: Callable[[Any, str], Sequence[Sample]]
    label_space: Callable[[Any], LabelSpace]


# Label spaces


def named_space(
    names: Mapping[int, str] | Sequence[str], ignore: int | None, source: str, colors: Mapping[str, Color] | None = None
) -> LabelSpace:
    """The label space of classes numbered by the values in the label files; `source` says where the names are written.

    Values other than 0..C-1 become raw ids, in ascending order; a name for the ignored value among them is no class.
    `ignore` None is 255, unless a class has that value. `colors` holds one for each name, or is empty.
    """
    listed = dict(sorted(names.items() if isinstance(names, Mapping) else enumerate(names)))
    if outside := [value for value in (*listed, ignore or 0) if not 0 <= value < 2**16]:
        raise ValueError(f"{source}: label values are 0..65535, but {listing(outside)} is named")
    plain = list(listed) == list(range(len(listed))) and (ignore is None or ignore <= 255)
    kept = {value: name for value, name in listed.items() if plain or value != ignore}
    if len(kept) > 255:
        raise ValueError(f"{source}: {len(kept)} classes, but 8 bits hold at most 255 and an ignore value")
    raw_ids = [(value, index) for index, value in enumerate(kept)]
    try:
        return LabelSpace(
            names=tuple(kept.values()),
            colors=tuple(colors[name] for name in kept.values()) if colors else (),
            ignore=ignore if plain and ignore is not None else 255,
            raw_ids=() if plain else (*raw_ids, *([(ignore, 255)] if ignore is not None else [])),
        )
    except ValidationError as error:
        raise ValueError(f"{source}: {one_line(error)}") from error


def renamed(space: LabelSpace, config: DataConfig) -> LabelSpace:
    """The layout's own label space, unless the config has names or an ignore value for it."""
    if config.names is None and config.ignore is None:
        return space
    names = space.names if config.names is None else config.names
    listed = [names[value] for value in sorted(names)] if isinstance(names, Mapping) else names
    colors = dict(zip(listed, space.colors, strict=True)) if len(names) == len(space.colors) else None
    return named_space(names, space.ignore if config.ignore is None else config.ignore, "data.names", colors)


def remapped(space: LabelSpace, config: DataConfig) -> LabelSpace:
    """`renamed` for label files of raw ids: `names` is one a class, or {raw id: name} of the only ones to tell apart.

    Raw ids without a name count nowhere, nor does the raw id `ignore`. Raises ValueError for names that don't fit.
    """
    classes = dict(space.raw_ids)
    _require_raw_ids(config, space)
    if isinstance(config.names, Mapping):
        colors = {name: space.colors[classes[value]] for value, name in config.names.items() if classes[value] < 255}
        all_colored = len(colors) == len(config.names)
        space = named_space(config.names, None, "data.names", colors if all_colored else None)
        classes = dict.fromkeys(classes, 255) | {value: index for index, value in enumerate(sorted(config.names))}
    elif config.names is not None:
        space = named_space(config.names, None, "data.names", dict(zip(config.names, space.colors, strict=True)))
    if config.ignore is not None:
        classes[config.ignore] = 255
    return space.model_copy(update={"raw_ids": tuple(classes.items())})


def _require_raw_ids(config: DataConfig, space: LabelSpace) -> None:
    values, names = dict(space.raw_ids), config.names
    if isinstance(names, Mapping) and (unknown := sorted(set(names) - set(values))):
        raise ValueError(
            f"data.names: there is no label value {listing(unknown)}; there are {min(values)}..{max(values)}"
        )
    if isinstance(names, tuple) and len(names) != space.num_classes:
        raise ValueError(f"data.names: {len(names)} names, but the data has {space.num_classes} classes")
    if config.ignore is not None and not 0 <= config.ignore < 2**16:
        raise ValueError(f"data.ignore: label values are 0..65535, but it is {config.ignore}")


def class_of_value(space: LabelSpace) -> dict[int, int]:
    """The class, or ignore, that each value in a label file stands for; all other values are errors."""
    classes = dict(space.raw_ids) or {index: index for index in range(space.num_classes)}
    return {space.ignore: space.ignore} | classes


def one_line(error: ValidationError) -> str:
    """What pydantic has to say, as the line of text that a user is shown."""
    places = [(".".join(map(str, problem["loc"])), problem["msg"]) for problem in error.errors()]
    return "; ".join(": ".join(filter(None, (place, text.removeprefix("Value error, ")))) for place, text in places)


# Which files belong together

Row: TypeAlias = tuple[str, Path, Path | None]  # name, image, label
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
LOSSY_SUFFIXES = (".jpg", ".jpeg", ".webp")


def require_root(config: DataConfig) -> Path:
    """The folder of the data set. Raises ValueError where none is set, FileNotFoundError where there is none."""
    if config.root is None:
        raise ValueError(f"data.root is missing: set it to the folder of the data set (data.format={config.format})")
    return require_folder(config.root.expanduser(), "data.root")


def require_split(split: str, splits: Collection[str], example: Path) -> None:
    """Refuse a split that isn't there; `example` is the file or folder that would make it one."""
    if split not in splits:
        there = ", ".join(sorted(splits)) or "none"
        raise ValueError(f"no split {split!r}: there is no {example}; splits found: {there}")


def subfolders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())


def images_by_stem(folder: Path, what: str) -> dict[str, Path]:
    """The images in one folder, hidden files left out, sorted by name. Raises ValueError where two share a stem."""
    with os.scandir(require_folder(folder, what)) as entries:
        names = sorted(
            entry.name
            for entry in entries
            if entry.name.lower().endswith(IMAGE_SUFFIXES) and not entry.name.startswith(".")
        )
    files = {os.path.splitext(name)[0]: folder / name for name in names}  # noqa: PTH122 (a Path for each name is slow)
    if len(files) < len(names):
        repeated = [name for name in names if name not in {path.name for path in files.values()}]
        _refuse(repeated, f"of the files in {folder} have the name of another but for its ending")
    return files


def labels_by_stem(folder: Path, what: str) -> dict[str, Path]:
    """As `images_by_stem`, but refuses the formats that change label values."""
    files = images_by_stem(folder, what)
    lossy = [path.name for path in files.values() if path.suffix.lower() in LOSSY_SUFFIXES]
    _refuse(lossy, f"of the labels in {folder} are JPEG or WebP, which change label values; save them as PNG")
    return files


def paired_files(images: Path, labels: Path) -> list[Row]:
    """Images and labels of the same stem; both folders must hold the same ones. Raises ValueError."""
    rows = paired(images_by_stem(images, "images"), images, labels_by_stem(labels, "labels"), labels)
    if not rows:
        raise ValueError(f"no image in {images}: looked for {', '.join(IMAGE_SUFFIXES)}, not in folders inside it")
    return rows


def paired(pictures: Mapping[str, Path], images: Path, masks: Mapping[str, Path], labels: Path) -> list[Row]:
    """Images and labels by name, from the places `images` and `labels`. Raises ValueError where one lacks the other."""
    _refuse([name for name in pictures if name not in masks], f"of the images in {images} have no label in {labels}")
    _refuse([name for name in masks if name not in pictures], f"of the labels in {labels} have no image in {images}")
    return [(name, path, masks[name]) for name, path in pictures.items()]


def named_files(names: Sequence[str], images: Path, labels: Path, source: Path) -> list[Row]:
    """The images and labels that a list file names, in its order. Raises ValueError with the missing ones."""
    pictures, masks = images_by_stem(images, "images"), labels_by_stem(labels, "labels")
    _refuse([name for name, count in Counter(names).items() if count > 1], f"of the names in {source} come twice")
    _refuse([name for name in names if name not in pictures], f"of the names in {source} have no image in {images}")
    _refuse([name for name in names if name not in masks], f"of the names in {source} have no label in {labels}")
    if not names:
        raise ValueError(f"{source} names no image")
    return [(name, pictures[name], masks[name]) for name in names]


def _refuse(names: Collection[str], complaint: str) -> None:
    if names:
        raise ValueError(f"{len(names)} {complaint}: {listing(names)}")


def listing(items: Iterable[object], most: int = 5) -> str:
    """The first of many, for an error of one line."""
    texts = [str(item) for item in items]
    return ", ".join(texts[:most]) + (", ..." if len(texts) > most else "")


# How one is read

# What Pillow raises for bad files; warnings, too, where the caller has made them errors.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, PIL.Image.DecompressionBombError, Warning)
_GREY_MODES = ("1", "L", "P", "LA", "PA", "I", "I;16", "I;16B", "I;16L")


_Taken = TypeVar("_Taken")


class Codes(NamedTuple):
    """What a label file holds, before it is known what that means."""

    values: NDArray[np.integer[Any]]  # [H, W] label values; where `colored`, red + 256 green + 65536 blue
    colored: bool = False


class ImageFiles(Sequence[Sample]):
    """Image files with label files of the same size, read and checked whenever a sample is asked for.

    `colors` maps the colours in RGB masks to classes. Asking raises ValueError, in one line with the file's path, for
    what can't be decoded, differs in size, or holds a value that is no class.
    """

    def __init__(self, rows: Sequence[Row], space: LabelSpace, colors: Mapping[Color, int] | None = None) -> None:
        self.rows, self.space, self.colors = rows, space, colors

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> "ImageFiles": ...
    def __getitem__(self, index: int | slice) -> "Sample | ImageFiles":
        if isinstance(index, slice):
            return ImageFiles(self.rows[index], self.space, self.colors)
        name, image_path, label_path = self.rows[index]
        image = read_image(image_path)
        if label_path is None:
            return Sample(name, image)
        semantic = decode_label(label_path, self.space, self.colors)
        _require_same_size(image, image_path, semantic, label_path)
        return Sample(name, image, semantic)


def read_image(path: Path) -> Image:  # [H, W, 3]
    """A photo of any mode as RGB, turned upright as its EXIF orientation says. Raises ValueError with the path."""
    return _read(path, "image", as_rgb)


def read_label(path: Path) -> Codes:
    """Of a palette image the indices, not the colours; not turned by EXIF. Raises ValueError with the path."""
    return _read(path, "label", _as_codes)


def decode_label(path: Path, space: LabelSpace, colors: Mapping[Color, int] | None = None) -> NDArray[np.uint8]:
    """A label file as train ids, [H, W]. Raises ValueError with the path, and the values that are no class."""
    codes = read_label(path)
    if codes.colored and not colors:
        raise ValueError(f"{path}: {_uncolored(codes, space)}")
    meaning = {_pack(color): index for color, index in (colors or {}).items()}
    meaning = meaning if codes.colored else class_of_value(space)
    found = _look_up(codes.values, _table(tuple(meaning.items())))
    if not found.all():
        raise ValueError(f"{path}: {_complaint(codes, found == 0, space)}")
    return (found - 1).astype(np.uint8)


def count_codes(codes: Codes) -> dict[int | Color, int]:
    """How many pixels each label value, or colour, has."""
    values, counts = (array.tolist() for array in np.unique(codes.values, return_counts=True))
    return dict(zip(map(_unpack, values) if codes.colored else values, counts, strict=True))


def describe(codes: Codes) -> str:
    """`values 0 (57 pixels), 255 (3 pixels)`: the most frequent ones first."""
    counts = sorted(count_codes(codes).items(), key=lambda item: -item[1])
    texts = (f"{value} ({count} pixel{'s' if count > 1 else ''})" for value, count in counts)
    return f"{'color' if codes.colored else 'value'}{'s' if len(counts) > 1 else ''} {listing(texts)}"


def _read(path: Path, what: str, take: Callable[[PIL.Image.Image], _Taken]) -> _Taken:
    try:
        with PIL.Image.open(path) as image:
            image.load()
            return take(image)
    except _BROKEN as error:
        raise ValueError(f"cannot read {what} {path}: {_reason(path, error)}") from error


def _reason(path: Path, error: Exception) -> str:
    if path.is_file() and path.stat().st_size == 0:
        return "the file is empty"
    if isinstance(error, PIL.UnidentifiedImageError):
        return "this is no image, or its beginning is broken"
    return str(getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__)


def as_rgb(image: PIL.Image.Image) -> Image:
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):  # 16 bits of grey; Pillow's own conversion would clip them at 255
        grey = (np.asarray(image).clip(0, 2**16 - 1) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode == "F":
        raise ValueError("its pixels are floats; save it with 8 or 16 bits a channel")
    if isinstance(image.info.get("transparency"), bytes):  # of a palette: Pillow warns about the direct way
        image = image.convert("RGBA")
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _as_codes(image: PIL.Image.Image) -> Codes:
    if image.mode in ("RGB", "RGBA"):
        four_bytes = image.tobytes("raw", "RGBX" if image.mode == "RGB" else "RGBA")
        packed = np.frombuffer(four_bytes, "<u4") & 0xFFFFFF
        return Codes(packed.reshape(image.height, image.width), colored=True)
    if image.mode not in _GREY_MODES:
        raise ValueError(f"an image of mode {image.mode} holds no class indices; save it as PNG with one channel")
    band = image.getchannel(0) if image.mode in ("LA", "PA") else image
    values = np.asarray(band)
    return Codes(values.astype(np.uint8) if values.dtype == bool else values)


def _require_same_size(image: Image, image_path: Path, label: NDArray[np.uint8], label_path: Path) -> None:
    if image.shape[:2] != label.shape:
        (height, width), (label_height, label_width) = image.shape[:2], label.shape
        raise ValueError(
            f"sizes differ (width x height): image {image_path} is {width} x {height}, "
            f"its label {label_path} is {label_width} x {label_height}"
        )


_TABLE = 2**24 + 1  # all colours, and one entry that is none
_PIECE = 2**15  # pixels


@lru_cache(maxsize=8)
def _table(meaning: tuple[tuple[int, int], ...]) -> NDArray[np.uint16]:
    """1 + class for each code, 0 for all that have none; memory that is never looked at is never taken."""
    table = np.zeros(_TABLE, np.uint16)
    for code, index in meaning:
        table[code] = index + 1
    return table


def _look_up(codes: NDArray[np.integer[Any]], table: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """`table[codes]`, a piece at a time: NumPy makes 8-byte indices, which for a whole image leave the cache."""
    flat = codes.ravel()
    if codes.dtype.kind == "i":
        flat = np.where(flat < 0, _TABLE, flat)  # as all that is too large, they meet the last entry, which is no class
    found = np.empty(flat.size, np.uint16)
    for start in range(0, flat.size, _PIECE):
        piece = slice(start, start + _PIECE)
        np.take(table, flat[piece], out=found[piece], mode="clip")
    return found.reshape(codes.shape)


def _pack(color: Color) -> int:
    return color[0] | color[1] << 8 | color[2] << 16


def _unpack(code: int) -> Color:
    return code & 255, code >> 8 & 255, code >> 16


def _uncolored(codes: Codes, space: LabelSpace) -> str:
    return (
        f"the mask is RGB where class indices are expected, with {describe(codes)}; say in classes.yaml "
        f"(data.format=folder) which class has which, as colors: {{{space.names[0]}: [0, 0, 0], ...}}"
    )


def _complaint(codes: Codes, wrong: NDArray[np.bool_], space: LabelSpace) -> str:
    bad = describe(Codes(codes.values[wrong], codes.colored))
    ignored = [value for value, index in class_of_value(space).items() if index == space.ignore]
    if codes.colored:
        return f"{bad}: no class has it; masks must not be anti-aliased or resampled"
    classes = listing((value for value, _ in space.raw_ids if value not in ignored), most=40)
    classes = classes or f"0..{space.num_classes - 1}"
    return f"{bad}: the {space.num_classes} classes have {classes}, ignored is {listing(ignored)}{_hint(codes, space)}"


def _hint(codes: Codes, space: LabelSpace) -> str:
    """How the two usual slips, white for the object and counting from 1, are mended."""
    slips = [(0, 255), tuple(range(1, space.num_classes + 1))]
    values = set(np.unique(codes.values).tolist())
    fitting = [slip for slip in slips if len(slip) == space.num_classes and values <= set(slip) and not space.raw_ids]
    if not fitting:
        return ""
    names = listing(f"{value}: {name}" for value, name in zip(fitting[0], space.names, strict=True))
    return f"; if the values {listing(fitting[0])} are the classes, say so: names: {{{names}}}"
