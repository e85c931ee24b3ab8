"""Files that give classes their colours, as other programs write them.

`64 128 64 Animal` (label_colors.txt of CamVid), `Animal,64,128,64` (class_dict.csv) and `Animal:64,128,64::` (CVAT's
labelmap.txt), a class on each line; a line that begins with #, and a first line of headings, say nothing.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from atrous.errors import DataError
from atrous.types import Color

FILES = ("label_colors.txt", "class_dict.csv", "labelmap.txt", "colormap.txt", "color_map.txt", "colors.csv")
VOID = ("void", "ignore", "ignored", "unlabeled", "unlabelled")  # of CamVid, and of others: no class
_NUMBERS = r"(\d{1,3})[\s,;]+(\d{1,3})[\s,;]+(\d{1,3})"
_FORMS = (
    re.compile(rf"{_NUMBERS}[\s,;]+(?P<name>.+)"),
    re.compile(rf"(?P<name>.+?)\s*[,;:\t]\s*{_NUMBERS}(?:[,;:].*)?"),
)


def color_map_in(folder: Path) -> Path | None:
    return next((folder / name for name in FILES if (folder / name).is_file()), None)


def read_color_map(path: Path) -> Mapping[str, Color]:
    """The colour of each name, in the order of the file. Raises DataError with the file and the line."""
    colors: dict[str, Color] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").splitlines(), start=1):
        text = line.strip()
        if not text or text.startswith("#") or (number == 1 and not re.search(r"\d", text)):
            continue
        name, color = _row(path, number, text)
        other = next((key for key, value in colors.items() if key == name or value == color), None)
        if other is not None:
            raise DataError(f"{path}, line {number}: {name} has the name or the colour of {other}, in a line before it")
        colors[name] = color
    if len(colors) < 2:
        raise DataError(f"{path}: expected two classes at least, each on a line, such as `128 64 128 Road`")
    return colors


def _row(path: Path, number: int, text: str) -> tuple[str, Color]:
    for form in _FORMS:
        match = form.fullmatch(text)
        channels = [int(group) for group in match.groups() if group and group.isdecimal()][:3] if match else []
        if match and len(channels) == 3 and max(channels) <= 255:
            red, green, blue = channels
            return match["name"].strip(), (red, green, blue)
    raise DataError(f"{path}, line {number} is not a class and its colour: {text[:60]!r}; expected `128 64 128 Road`")


def is_void(name: str) -> bool:
    return name.lower() in VOID
