"""A clean data set, and the ways to break it: each a function of its folder."""

import io
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL import ImageFilter

NAMES = ("background", "road", "car")
SIZE = (64, 96)
NUMBERS = {"train": 8, "val": 4}
EXIF_ORIENTATION = 0x0112


def write_clean(root: Path) -> Path:
    """Photo-like images of three classes, all of them in every label."""
    for split, number in NUMBERS.items():
        for index in range(number):
            seed = index + (100 if split == "val" else 0)
            labels = scene(seed)
            save(root / "images" / split / f"{name(index)}.png", photo(seed, labels))
            save(root / "masks" / split / f"{name(index)}.png", labels)
    (root / "classes.yaml").write_text(f"names: [{', '.join(NAMES)}]\n")
    return root


def name(index: int) -> str:
    return "abcdefghij"[index] * 3


def scene(seed: int) -> NDArray[np.uint8]:
    """A road below, a car on it; the car touches the background, too."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(SIZE, np.uint8)
    horizon, left = rng.integers(28, 40), rng.integers(10, 50)
    labels[horizon:] = 1
    labels[horizon - 10 : horizon + 12, left : left + 30] = 2
    return labels


def photo(seed: int, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (6, 8, 3), np.uint8)
    smooth = PIL.Image.fromarray(small).resize(SIZE[::-1], PIL.Image.Resampling.BICUBIC)
    colors = rng.integers(0, 256, (len(NAMES), 3))
    return ((np.asarray(smooth, np.int64) + colors[labels]) // 2).astype(np.uint8)


def save(path: Path, pixels: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels).save(path)


def read(path: Path) -> NDArray[Any]:
    return np.asarray(PIL.Image.open(path))


# ---- ways to break it


def image(root: Path, index: int = 0, split: str = "train") -> Path:
    return root / "images" / split / f"{name(index)}.png"


def label(root: Path, index: int = 0, split: str = "train") -> Path:
    return root / "masks" / split / f"{name(index)}.png"


def labels(root: Path) -> list[Path]:
    return sorted((root / "masks").glob("*/*.png"))


def change(path: Path, function: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
    save(path, function(read(path).copy()))


def change_all(root: Path, function: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
    for path in labels(root):
        change(path, function)


def painted(box: tuple[slice, slice], value: int) -> Callable[[NDArray[Any]], NDArray[Any]]:
    def paint(pixels: NDArray[Any]) -> NDArray[Any]:
        pixels[box] = value
        return pixels

    return paint


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def bomb(path: Path, side: int = 60_000) -> None:
    """A PNG whose header promises 3.6 thousand million pixels."""
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b""))
    data = b"\x89PNG\r\n\x1a\n"
    for kind, content in chunks:
        data += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    path.write_bytes(data)


def turn(path: Path, orientation: int) -> None:
    """Give a photo an EXIF orientation, its pixels as they are."""
    picture = PIL.Image.open(path)
    picture.load()
    exif = PIL.Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    picture.save(path, exif=exif)


def two_classes(root: Path) -> None:
    """A data set of two classes."""
    change_all(root, lambda pixels: (pixels > 0).astype(np.uint8))
    (root / "classes.yaml").write_text("names: [background, thing]\n")


def binary(root: Path) -> None:
    two_classes(root)
    change_all(root, lambda pixels: pixels * 255)


def one_binary(root: Path) -> None:
    two_classes(root)
    change(label(root), lambda pixels: pixels * 255)


def binary_named(root: Path) -> None:
    """255 isn't even the ignored value."""
    binary(root)
    (root / "classes.yaml").write_text("names: [background, thing]\nignore: 254\n")


def anti_aliased(root: Path) -> None:
    def resize(pixels: NDArray[Any]) -> NDArray[Any]:
        large = PIL.Image.fromarray(pixels * 100).resize((133, 89), PIL.Image.Resampling.NEAREST)
        return np.asarray(large.resize(SIZE[::-1], PIL.Image.Resampling.BILINEAR)) // 100

    change_all(root, lambda pixels: np.asarray(PIL.Image.fromarray(pixels * 100).filter(ImageFilter.GaussianBlur(1))))
    (root / "classes.yaml").write_text("names: {0: background, 100: road, 200: car}\n")


def smoothed_classes(root: Path) -> None:
    """Values in between are classes themselves: only their places tell."""
    change_all(root, lambda pixels: np.asarray(PIL.Image.fromarray(pixels * 7).filter(ImageFilter.GaussianBlur(1))))
    names = ", ".join(f"{value}: class {value}" for value in range(15))
    (root / "classes.yaml").write_text(f"names: {{{names}}}\n")


def compressed(path: Path, quality: int = 80) -> NDArray[Any]:
    content = io.BytesIO()
    PIL.Image.fromarray(read(path)).save(content, "JPEG", quality=quality)
    return np.asarray(PIL.Image.open(content))


def jpeg_label(root: Path) -> None:
    path = label(root)
    path.with_suffix(".jpg").write_bytes(b"")
    PIL.Image.fromarray(read(path)).save(path.with_suffix(".jpg"), quality=95)
    path.unlink()


def webp_label(root: Path) -> None:
    PIL.Image.fromarray(read(label(root))).save(label(root).with_suffix(".webp"), lossless=True)
    label(root).unlink()


def all_jpeg(root: Path) -> None:
    for path in labels(root):
        PIL.Image.fromarray(read(path)).save(path.with_suffix(".jpg"), quality=90)
        path.unlink()


def jpeg_history(root: Path) -> None:
    """Labels that were JPEG once, and are PNG now."""
    change_all(root, lambda pixels: pixels * 100)
    for path in labels(root):
        save(path, compressed(path))
    (root / "classes.yaml").write_text("names: {0: background, 100: road, 200: car}\n")


VOC = np.array([(0, 0, 0), (128, 0, 0), (0, 128, 0)], np.uint8)
COLORS = np.array([(0, 0, 0), (128, 64, 128), (0, 0, 142)], np.uint8)


def named_colors(root: Path) -> None:
    """Labels in the colours that classes.yaml names."""
    change_all(root, lambda pixels: COLORS[pixels])
    (root / "classes.yaml").write_text(f"names: [{', '.join(NAMES)}]\ncolors: {COLORS.tolist()}\n")


def jpeg_colors(root: Path, quality: int = 95) -> None:
    """JPEG shifts even the middle of an area by a level."""
    named_colors(root)
    for path in labels(root):
        save(path, compressed(path, quality))


def one_less_in(root: Path, split: str) -> None:
    for path in sorted((root / "masks" / split).iterdir()):
        change(path, lambda pixels: pixels - 1)


def rgb(root: Path) -> None:
    colors = COLORS.tolist()
    change_all(root, lambda pixels: COLORS[pixels])
    (root / "classes.yaml").write_text(f"names: [{', '.join(NAMES)}]\ncolors: {colors}\n")
    change(label(root), lambda pixels: pixels)


def palette_quantized(root: Path) -> None:
    """A program has numbered the colours anew, as quantising does."""
    colors = COLORS.tolist()
    (root / "classes.yaml").write_text(f"names: [{', '.join(NAMES)}]\ncolors: {colors}\n")
    order = np.array([2, 0, 1])
    for path in labels(root):
        picture = PIL.Image.fromarray(order[read(path)].astype(np.uint8), "P")
        palette = np.zeros((3, 3), np.uint8)
        palette[order] = COLORS
        picture.putpalette(palette.ravel().tolist())
        picture.save(path)


def grey_palette(root: Path) -> None:
    """VOC's colours, converted to grey."""
    lumas = np.array([0, 38, 75], np.uint8)  # of black, (128, 0, 0), (0, 128, 0)
    change_all(root, lambda pixels: lumas[pixels])


def many_classes_grey(root: Path) -> None:
    """Of VOC's 21 colours some have the same grey; those of classes 7, 14, and of the border haven't."""
    greys = np.array([0, 128, 109], np.uint8)
    (root / "classes.yaml").write_text(f"names: [{', '.join(f'class {index}' for index in range(21))}]\n")
    change_all(root, lambda pixels: painted((slice(0, 3), slice(0, 9)), 220)(greys[pixels]))


def doubtful_greys(root: Path) -> None:
    many_classes_grey(root)
    change_all(root, lambda pixels: np.where(pixels == 109, 38, pixels).astype(np.uint8))


def one_white(root: Path) -> None:
    """A mask of 0 and 255 among labels of three classes."""
    change(label(root), lambda pixels: (pixels > 0).astype(np.uint8) * 255)


def absent(root: Path) -> None:
    for index in range(NUMBERS["val"]):
        change(label(root, index, "val"), lambda pixels: np.where(pixels == 2, 1, pixels).astype(np.uint8))


def imbalanced(root: Path) -> None:
    """One large image in which a class has a few pixels, more than a speck, and no other has that class."""
    for path in labels(root):
        large = np.zeros((600, 700), np.uint8)
        large[300:] = 1
        large[297:300, 5:9] = 2
        save(path, large)
        picture = PIL.Image.open(root / "images" / path.relative_to(root / "masks"))
        picture.resize((700, 600), PIL.Image.Resampling.BICUBIC).save(picture.filename)


def noisy(root: Path) -> None:
    def sprinkle(pixels: NDArray[Any]) -> NDArray[Any]:
        for place in range(30):
            pixels[3 + 5 * (place // 10), 4 + 9 * (place % 10)] = 1
        return pixels

    change_all(root, sprinkle)


def copy_pair(root: Path, split: str) -> None:
    for kind in ("images", "masks"):
        shutil.copyfile(root / kind / "train" / "aaa.png", root / kind / split / "copy.png")


def near_pair(root: Path, split: str) -> None:
    """A smaller copy as JPEG."""
    half = (SIZE[1] // 2, SIZE[0] // 2)
    picture = PIL.Image.open(image(root)).resize(half, PIL.Image.Resampling.BICUBIC)
    picture.save(root / "images" / split / "copy.jpg", quality=80)
    small = PIL.Image.open(label(root)).resize(half, PIL.Image.Resampling.NEAREST)
    small.save(root / "masks" / split / "copy.png")


def frames(root: Path) -> None:
    """A film in which something small moves."""
    for index in range(2):
        picture = np.minimum(read(image(root)), 230)
        picture[8:12, 20 + 3 * index : 24 + 3 * index] += 20
        save(root / "images" / "train" / f"film_{index}.png", picture)
        shutil.copyfile(label(root), root / "masks" / "train" / f"film_{index}.png")
    image(root).unlink()
    label(root).unlink()


def same_stem(root: Path) -> None:
    shutil.copyfile(label(root), label(root).with_suffix(".bmp"))


def no_val(root: Path) -> None:
    for kind in ("images", "masks"):
        shutil.rmtree(root / kind / "val")


def deep(root: Path) -> None:
    grey = np.asarray(PIL.Image.open(image(root)).convert("L")).astype(np.uint16)
    PIL.Image.fromarray(grey * 257).save(image(root))


class Breaker(NamedTuple):
    """A way to break the clean data set, and the findings that it makes."""

    name: str
    function: Callable[[Path], object]
    findings: set[str]
    code: int = 1
    overrides: tuple[str, ...] = ()
    is_mended: bool = True  # by --fix


def ignore_split(root: Path) -> None:
    for index in range(4):
        change(label(root, index, "val"), lambda pixels: np.full_like(pixels, 255))


MANY = (slice(0, 5), slice(0, 5))
BREAKERS = [
    Breaker("truncated image", lambda root: truncate(image(root)), {"unreadable-files"}),
    Breaker("truncated label", lambda root: truncate(label(root)), {"unreadable-files"}),
    Breaker("empty file", lambda root: image(root).write_bytes(b""), {"unreadable-files"}),
    Breaker("text named png", lambda root: label(root).write_text("no image"), {"unreadable-files"}),
    Breaker("bomb", lambda root: bomb(image(root)), {"too-large-files"}),
    Breaker("bomb as label", lambda root: bomb(label(root)), {"too-large-files"}),
    Breaker("other size", lambda root: change(label(root), lambda pixels: pixels[:-3]), {"size-mismatch"}),
    Breaker("turned label", lambda root: change(label(root), lambda pixels: pixels.T.copy()), {"size-mismatch"}),
    Breaker("EXIF, as stored", lambda root: turn(image(root), 6), {"exif-rotation"}),
    Breaker("EXIF, ambiguous", lambda root: turn(image(root), 3), {"exif-rotation"}),
    Breaker("EXIF of the label", lambda root: turn(label(root), 3), {"exif-rotation"}),
    Breaker("no label", lambda root: label(root).unlink(), {"images-without-label"}),
    Breaker("no image", lambda root: image(root).unlink(), {"labels-without-image"}),
    Breaker("no names", lambda root: (root / "classes.yaml").unlink(), {"no-names"}),
    Breaker("same stem", same_stem, {"ambiguous-names"}, is_mended=False),
    Breaker("value outside", lambda root: change(label(root), painted(MANY, 77)), {"values-outside"}),
    Breaker(
        "one pixel outside",
        lambda root: change(label(root), painted((slice(9, 10), slice(9, 10)), 3)),
        {"values-outside"},
    ),
    Breaker("other void", lambda root: change_all(root, painted(MANY, 250)), {"values-outside"}, is_mended=False),
    Breaker("binary", binary, {"binary-masks"}),
    Breaker("one binary", one_binary, {"binary-masks"}),
    Breaker("binary, 254 ignored", binary_named, {"binary-masks"}),
    Breaker(
        "0, 127, 255",
        lambda root: change_all(root, lambda pixels: (pixels * 127.5).astype(np.uint8)),
        {"spread-values"},
    ),
    Breaker("one more", lambda root: change_all(root, lambda pixels: pixels + 1), {"off-by-one"}),
    Breaker("one more in one", lambda root: change(label(root), lambda pixels: pixels + 1), {"off-by-one"}),
    Breaker("one less", lambda root: change_all(root, lambda pixels: pixels - 1), {"off-by-one"}),
    Breaker("one less in a split", lambda root: one_less_in(root, "val"), {"off-by-one"}),
    Breaker(
        "a split ignored",
        ignore_split,
        {"ignored-labels"},
        is_mended=False,
    ),
    Breaker(
        "RGBA",
        lambda root: change_all(root, lambda pixels: np.dstack([pixels] * 3 + [pixels * 0 + 255])),
        {"rgb-labels"},
    ),
    Breaker("JPEG of named colours", jpeg_colors, {"smoothed-labels"}),
    Breaker("rough JPEG of named colours", lambda root: jpeg_colors(root, 75), {"smoothed-labels"}),
    Breaker("rgb", lambda root: change_all(root, lambda pixels: np.stack([pixels] * 3, -1)), {"rgb-labels"}),
    Breaker("VOC's colours", lambda root: change_all(root, lambda pixels: VOC[pixels]), {"rgb-labels"}),
    Breaker(
        "any colours", lambda root: change_all(root, lambda pixels: COLORS[pixels]), {"rgb-labels"}, is_mended=False
    ),
    Breaker("renumbered palette", palette_quantized, {"palette-order"}),
    Breaker("grey palette", grey_palette, {"grey-palette"}),
    Breaker("greys of 21 classes", many_classes_grey, {"grey-palette"}, is_mended=False),
    Breaker("greys of several classes", doubtful_greys, {"grey-palette"}, is_mended=False),
    Breaker("one binary of three classes", one_white, {"binary-masks"}),
    Breaker("anti-aliased", anti_aliased, {"smoothed-labels"}),
    Breaker("smoothed within the classes", smoothed_classes, {"smoothed-labels"}, is_mended=False),
    Breaker("JPEG label", jpeg_label, {"smoothed-labels"}),
    Breaker("JPEG labels", all_jpeg, {"smoothed-labels"}),
    Breaker("WebP label", webp_label, {"smoothed-labels"}),
    Breaker("JPEG once", jpeg_history, {"smoothed-labels"}),
    Breaker(
        "void class",
        lambda root: (root / "classes.yaml").write_text("names: [sky, road, void]\n"),
        {"void-as-class"},
        is_mended=False,
    ),
    Breaker("all ignored", lambda root: change(label(root), lambda pixels: pixels * 0 + 255), {"ignored-labels"}),
    Breaker(
        "all background", lambda root: change(label(root), lambda pixels: pixels * 0), {"empty-labels"}, is_mended=False
    ),
    Breaker("one class", lambda root: change_all(root, lambda pixels: pixels * 0), {"one-class"}, is_mended=False),
    Breaker("absent", absent, {"absent-classes"}, is_mended=False),
    Breaker("imbalance", imbalanced, {"imbalance"}, is_mended=False),
    Breaker("noise", noisy, {"specks"}, is_mended=False),
    Breaker(
        "a speck",
        lambda root: change(label(root), painted((slice(5, 6), slice(5, 7)), 1)),
        {"specks"},
        0,
        is_mended=False,
    ),
    Breaker("a copy", lambda root: copy_pair(root, "train"), {"duplicate-images"}),
    Breaker("a copy across splits", lambda root: copy_pair(root, "val"), {"shared-images"}),
    Breaker("a smaller copy", lambda root: near_pair(root, "train"), {"near-duplicates"}),
    Breaker("a smaller copy across splits", lambda root: near_pair(root, "val"), {"near-shared-images"}),
    Breaker("frames", frames, {"neighbouring-frames"}, 0, is_mended=False),
    Breaker("grey", lambda root: PIL.Image.open(image(root)).convert("L").save(image(root)), {"grey-images"}),
    Breaker("16 bits", deep, {"deep-images"}),
    Breaker("alpha", lambda root: PIL.Image.open(image(root)).convert("RGBA").save(image(root)), {"alpha-images"}),
    Breaker("blank", lambda root: change(image(root), lambda pixels: pixels * 0), {"blank-images"}, is_mended=False),
    Breaker(
        "small for the crop", lambda root: None, {"smaller-than-crop"}, 1, ("augment.crop=513,513",), is_mended=False
    ),
    Breaker(
        "large for the crop", imbalanced, {"imbalance", "larger-than-crop"}, 1, ("augment.crop=65,65",), is_mended=False
    ),
    Breaker("hidden", lambda root: (image(root).with_name("._aaa.png")).write_bytes(b"x"), {"hidden-files"}, 0),
    Breaker("Thumbs.db", lambda root: (image(root).with_name("Thumbs.db")).write_bytes(b"x"), {"hidden-files"}, 0),
    Breaker("other file", lambda root: (label(root).with_name("notes.txt")).write_text("x"), {"other-files"}, 0),
    Breaker(
        "no val",
        no_val,
        {"missing-split"},
        is_mended=False,
    ),
]
