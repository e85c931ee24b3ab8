"""Label maps as pictures: colours, overlays on the image, right and wrong pixels."""

import io
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from math import ceil
from typing import Any, NamedTuple, TypeVar

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL import ImageDraw, ImageFont

from atrous.errors import ConfigError, DataError
from atrous.terminal import printable
from atrous.types import Color, Image, LabelMap

Palette = NDArray[np.uint8]  # [256, 3]
Label = TypeVar("Label", bound=np.integer[Any])

RIGHT: Color = (38, 74, 88)  # dark and bright: the two also differ without colour vision
WRONG: Color = (255, 138, 76)
IGNORED: Color = (150, 156, 160)

ALPHA = 0.55  # of the colours over an image
PICTURE_FORMATS: Mapping[str, str] = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}

_SPREAD = 0x9E3779  # odd, so no two labels share a colour modulo 2^24; golden ratio, so neighbours differ
_CONTOUR = np.array([255, 255, 255], np.uint16)
_PAPER, _INK = (255, 255, 255), (32, 36, 40)
_GAP, _TEXT, _ROW = 12, 15, 23  # pixels: between panels, height of text, height of a line
_LEGEND_ROWS = 24
_SMALL_TEXT, _OVERHANG = 11, 1.25  # height of a name on a thing, at least; its width to that of the thing, at most
_TEXTS, _WIDEST_NAME = 70, 20  # heights of text in the longer side of an image, and in the width of a name
_LINES = 1600  # pixels of the longer side after which a line is one pixel wider
_THUMBNAIL, _QUALITY = 400, 92  # pixels of the longer side in a contact sheet; of a photo, 1 to 95
_STRIP = 2**20  # pixels that are drawn at a time


def colorize(labels: LabelMap, palette: Palette) -> Image:
    """[H, W] to [H, W, 3]. Labels beyond the palette, such as panoptic ids, each get their own colour."""
    if labels.dtype == np.uint8:
        return np.take(palette, labels, axis=0)
    wide = labels.astype(np.int64) & 0xFFFFFF
    spread = wide * _SPREAD & 0xFFFFFF
    colors = np.stack([spread >> 16, spread >> 8, spread], axis=-1).astype(np.uint8)
    inside = wide < len(palette)
    colors[inside] = palette[wide[inside]]
    return colors


def overlay(
    image: Image,
    labels: LabelMap,
    palette: Palette,
    *,
    alpha: float = ALPHA,
    ignore: int | None = None,
    background: Sequence[int] = (),
) -> Image:
    """The image under its labels' colours, with a thin bright line between them.

    Pixels of `ignore` and of the classes in `background` show the image alone.
    """
    _require_same_size(image.shape[:2], labels.shape, "the image", "the labels")
    if not 0 <= alpha <= 1:
        raise ConfigError(f"alpha must be between 0 (the image) and 1 (the colours), got {alpha}")
    bare = [*background, *([] if ignore is None else [ignore])]
    mixed, line = np.empty_like(image), line_width(image)
    for rows in _strips(labels):
        around = slice(max(0, rows.start - line), rows.stop + line)  # a line depends on its neighbours
        own = labels[around]
        strip = overlay_colors(image[around], colorize(own, palette), own, np.isin(own, bare), alpha=alpha, line=line)
        mixed[rows] = strip[rows.start - around.start :][: rows.stop - rows.start]
    return mixed


def _strips(labels: LabelMap) -> Iterator[slice]:
    """Rows that are drawn at a time, so that pictures of any size need little more memory than the result."""
    height, width = labels.shape
    step = max(1, _STRIP // max(1, width))
    return (slice(top, min(top + step, height)) for top in range(0, height, step))


def line_width(image: Image) -> int:
    """Of the lines between labels, in pixels: one, and more in images that are looked at shrunk."""
    longer: int = max(image.shape[:2])
    return 1 + longer // _LINES


def overlay_colors(
    image: Image, colors: Image, labels: LabelMap, bare: NDArray[np.bool_], *, alpha: float = ALPHA, line: int = 1
) -> Image:
    """The image under colours [H, W, 3], with a thin bright line where labels differ; alone where it is bare [H, W]."""
    mixed = _blend(image, colors, alpha)
    edges = _widened(_contours(labels, bare), line)
    mixed[edges] = _blend(mixed[edges], _CONTOUR, 0.7 * min(1.0, 2 * alpha))
    mixed[bare] = image[bare]
    return mixed


def _blend(below: NDArray[np.uint8], above: NDArray[np.unsignedinteger[Any]], alpha: float) -> NDArray[np.uint8]:
    weight = round(256 * alpha)  # integers: four times faster than floats, and within one grey level of them
    return ((below.astype(np.uint16) * (256 - weight) + above.astype(np.uint16) * weight) >> 8).astype(np.uint8)


def _contours(labels: LabelMap, bare: NDArray[np.bool_]) -> NDArray[np.bool_]:  # [H, W]
    """True for one of two neighbours that differ, the upper or left one unless it is bare: lines one pixel wide."""
    edges = np.zeros(labels.shape, bool)
    down, right = labels[:-1] != labels[1:], labels[:, :-1] != labels[:, 1:]
    edges[:-1] |= down & ~bare[:-1]
    edges[1:] |= down & bare[:-1] & ~bare[1:]
    edges[:, :-1] |= right & ~bare[:, :-1]
    edges[:, 1:] |= right & bare[:, :-1] & ~bare[:, 1:]
    return edges


def _widened(edges: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """Lines of one pixel, on both sides in turn, up to `width` pixels."""
    for step in range(1, width):
        thin = edges.copy()
        here, there = (slice(1, None), slice(None, -1)) if step % 2 else (slice(None, -1), slice(1, None))
        edges[here] |= thin[there]
        edges[:, here] |= thin[:, there]
    return edges


def shrunk(image: Image, step: int) -> Image:
    """The means of squares of `step` pixels: a smaller picture of the same view."""
    return image if step == 1 else np.asarray(PIL.Image.fromarray(image).reduce(step))


def thinned(labels: NDArray[Label], step: int) -> NDArray[Label]:
    """The labels in the middle of the squares of `shrunk`."""
    rows, columns = (np.minimum(np.arange(0, side, step) + step // 2, side - 1) for side in labels.shape)
    return labels if step == 1 else labels[np.ix_(rows, columns)]


def error_map(prediction: LabelMap, truth: LabelMap, ignore: int) -> Image:
    """RIGHT, WRONG or IGNORED (by the truth) at each pixel: [H, W, 3]."""
    _require_same_size(prediction.shape, truth.shape, "the prediction", "the truth")
    colors = np.empty((*truth.shape, 3), np.uint8)
    for rows in _strips(truth):
        state = np.where(truth[rows] == ignore, 2, prediction[rows] != truth[rows])
        colors[rows] = np.array([RIGHT, WRONG, IGNORED], np.uint8)[state]
    return colors


def _require_same_size(a: tuple[int, ...], b: tuple[int, ...], name_a: str, name_b: str) -> None:
    if a != b:
        sizes = ["x".join(map(str, size)) for size in (a, b)]
        raise DataError(
            f"{name_a} and {name_b} must have the same size (height x width), got {sizes[0]} and {sizes[1]}"
        )


def palette_png(labels: LabelMap, palette: Palette) -> bytes:
    """A PNG whose pixel values are the labels: 8 bits with colours, or 16 bits grey where a label is above 255.

    Raises DataError for labels below 0 or above 65535, which a PNG cannot hold.
    """
    low, high = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
    if low < 0 or high > 65535:
        raise DataError(f"labels must be in 0..65535 to be saved as a PNG, got {low}..{high}")
    picture = PIL.Image.fromarray(np.ascontiguousarray(labels, np.uint8 if high <= 255 else np.uint16))
    if high <= 255:
        picture.putpalette(palette.tobytes())
    return _png(picture)


def captioned(image: Image, lines: Sequence[str]) -> Image:
    """The image above lines of text, on white paper."""
    height, width = image.shape[:2]
    sheet = PIL.Image.new("RGB", (max(width, 1), height + _GAP + _ROW * len(lines)), _PAPER)
    sheet.paste(PIL.Image.fromarray(image), (0, 0))
    for index, line in enumerate(lines):
        _write(sheet, (_GAP // 2, height + _GAP // 2 + _ROW * index), _shorten(line, width - _GAP))
    return np.asarray(sheet)


def _png(picture: PIL.Image.Image) -> bytes:
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()


def side_by_side(panels: Sequence[tuple[str, Image]]) -> PIL.Image.Image:
    """Pictures in a row, each under its caption, on white; as high as the tallest of them."""
    if not panels:
        raise ValueError("side_by_side needs at least one picture")
    top, height = _GAP + _ROW, max(image.shape[0] for _, image in panels)
    sheet = PIL.Image.new("RGB", (_GAP + sum(i.shape[1] + _GAP for _, i in panels), top + height + _GAP), _PAPER)
    left = _GAP
    for caption, image in panels:
        _write(sheet, (left, _GAP // 2), _shorten(caption, image.shape[1]))
        sheet.paste(PIL.Image.fromarray(image), (left, top))
        left += image.shape[1] + _GAP
    return sheet


def contact_sheet(panels: Sequence[tuple[str, Image]], columns: int) -> PIL.Image.Image:
    """Pictures under their captions in rows of `columns`, from left to right, each shrunk to a small size."""
    small = [(caption, _thumbnail(image)) for caption, image in panels]
    rows = [side_by_side(small[start : start + columns]) for start in range(0, len(small), columns)]
    sheet = PIL.Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), _PAPER)
    for index, row in enumerate(rows):
        sheet.paste(row, (0, sum(above.height for above in rows[:index])))
    return sheet


def _thumbnail(image: Image) -> Image:
    picture = PIL.Image.fromarray(image)
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL), PIL.Image.Resampling.LANCZOS)
    return np.asarray(picture)


def encoded(picture: PIL.Image.Image, suffix: str) -> bytes:
    """The content of a picture file; `suffix` is a key of PICTURE_FORMATS, in any case."""
    content = io.BytesIO()
    picture.save(content, PICTURE_FORMATS[suffix.lower()], quality=_QUALITY)
    return content.getvalue()


@cache
def _font(size: int = _TEXT) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _write(sheet: PIL.Image.Image, corner: tuple[int, int], text: str, size: int = _TEXT) -> None:
    ImageDraw.Draw(sheet).text(corner, text, fill=_INK, font=_font(size))


def _shorten(text: str, width: int, size: int = _TEXT) -> str:
    """`text`, or as much of its beginning as fits into `width` pixels together with three dots."""
    font = _font(size)
    if font.getlength(text) <= width:
        return text
    count = bisect_right(range(len(text)), width, key=lambda count: ceil(font.getlength(text[:count] + "...")))
    return text[: count - 1] + "..." if count else ""


def legend(names: Sequence[str], colors: Sequence[Color] | NDArray[np.uint8]) -> Image:
    """A colour patch and a name for each class, in columns of at most 24: a panel for `side_by_side`, [H, W, 3]."""
    if len(colors) < len(names):
        raise ValueError(f"{len(names)} names but only {len(colors)} colors")
    column = _TEXT + 2 * _GAP + round(max((_font().getlength(name) for name in names), default=0))
    columns, rows = -(-len(names) // _LEGEND_ROWS), min(len(names), _LEGEND_ROWS)
    sheet = PIL.Image.new("RGB", (max(1, column * columns), max(1, _ROW * rows)), _PAPER)
    for index, name in enumerate(names):
        left, top = column * (index // _LEGEND_ROWS), _ROW * (index % _LEGEND_ROWS)
        color = tuple(int(channel) for channel in colors[index])
        ImageDraw.Draw(sheet).rectangle((left, top, left + _TEXT, top + _TEXT), fill=color, outline=IGNORED)
        _write(sheet, (left + _TEXT + _GAP // 2, top - 2), name)
    return np.asarray(sheet)


class Tag(NamedTuple):
    """What to write on a thing: the first of `texts` that fits."""

    texts: Sequence[str]
    middle: tuple[int, int]  # y, x
    size: tuple[int, int]  # height, width of the thing


def tagged(image: Image, tags: Iterable[Tag]) -> Image:
    """The image with names on its things, without those that don't fit into their thing or would cover another name."""
    sheet = PIL.Image.fromarray(image)
    draw, font = ImageDraw.Draw(sheet), _font(max(_SMALL_TEXT, max(image.shape[:2]) // _TEXTS))
    taken: list[tuple[float, ...]] = []
    for tag in tags:
        y, x = tag.middle
        boxes = ((text, draw.textbbox((x, y), text, font, "mm", stroke_width=1)) for text in map(printable, tag.texts))
        fits = ((text, box) for text, box in boxes if _fits(box, tag.size) and not any(_overlap(box, t) for t in taken))
        text, box = next(fits, ("", ()))
        if text:
            draw.text((x, y), text, _PAPER, font, "mm", stroke_width=1, stroke_fill=_INK)
            taken.append(box)
    return np.asarray(sheet)


def _fits(box: tuple[float, ...], size: tuple[int, int]) -> bool:
    left, top, right, bottom = box
    return bottom - top <= size[0] and right - left <= _OVERHANG * size[1]


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def with_legend(image: Image, colors: Mapping[str, Color]) -> Image:
    """The image above the colours in it and their names, in as many columns as fit; text grows with the image."""
    size = max(_TEXT, max(image.shape[:2]) // _TEXTS)
    names = [_shorten(printable(" ".join(name.split())), _WIDEST_NAME * size, size) for name in colors]
    column = 3 * size + round(max((_font(size).getlength(name) for name in names), default=0))
    width = max(image.shape[1], column if names else 1)
    columns, row = max(1, width // column), 3 * size // 2
    sheet = PIL.Image.new("RGB", (width, image.shape[0] + row * -(-len(names) // columns)), _PAPER)
    sheet.paste(PIL.Image.fromarray(image), (0, 0))
    for index, (name, color) in enumerate(zip(names, colors.values(), strict=True)):
        left, top = column * (index % columns) + size // 2, image.shape[0] + row * (index // columns) + size // 4
        ImageDraw.Draw(sheet).rectangle((left, top, left + size, top + size), fill=color, outline=IGNORED)
        _write(sheet, (left + 3 * size // 2, top - size // 8), name, size)
    return np.asarray(sheet)
