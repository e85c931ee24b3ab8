"""Points with names over two axes as inline SVG, such as accuracy against latency."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from atrous.report.charts import ticks
from atrous.report.text import number

WIDTH, HEIGHT = 560, 300  # in SVG units
LEFT, RIGHT, TOP, BOTTOM = 56, 120, 30, 44  # margins; most names of points stand to their right
LINE = 12  # units between lines of text
LETTER = 6  # units, of nearly all letters
RADIUS = 4  # of a point


class Dot(NamedTuple):
    name: str
    x: float
    y: float


class Axis(NamedTuple):
    title: str
    ticks: list[float]
    start: float  # in SVG units
    end: float

    def at(self, value: float) -> float:
        share = (value - self.ticks[0]) / (self.ticks[-1] - self.ticks[0])
        return self.start + share * (self.end - self.start)


def scatter(dots: Sequence[Dot], x_title: str, y_title: str) -> str:
    """The empty string without dots. The x axis begins at 0, the y axis encloses the values."""
    if not dots:
        return ""
    ys = [dot.y for dot in dots]
    across = Axis(x_title, ticks(0, max(dot.x for dot in dots)), LEFT, WIDTH - RIGHT)
    up = Axis(y_title, ticks(min(ys), max(ys)), HEIGHT - BOTTOM, TOP)
    listed = "; ".join(f"{dot.name}: {number(dot.x)}, {number(dot.y)}" for dot in dots)
    description = f"{y_title} over {x_title} of {listed}"
    return (
        f'<svg class="curve" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(description)}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join([*_axes(across, up), *_points(dots, across, up)])}</svg>'
    )


def _axes(across: Axis, up: Axis) -> list[str]:
    middle = (across.start + across.end) / 2
    return [
        *(
            f'<line class="grid" x1="{LEFT}" x2="{across.end}" y1="{up.at(value):.1f}" y2="{up.at(value):.1f}"/>'
            f'<text class="tick" x="{LEFT - 8}" y="{up.at(value) + 3.5:.1f}" text-anchor="end">{number(value)}</text>'
            for value in up.ticks
        ),
        *(
            f'<text class="tick" x="{across.at(value):.1f}" y="{up.start + 17}" text-anchor="middle">{number(value)}'
            "</text>"
            for value in across.ticks
        ),
        f'<text class="tick" x="{middle:.1f}" y="{HEIGHT - 6}" text-anchor="middle">{escape(across.title)}</text>',
        f'<text class="tick" x="0" y="{LINE}">{escape(up.title)}</text>',
    ]


class Box(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: "Box") -> bool:
        is_beside = self.right <= other.left or other.right <= self.left
        return not (is_beside or self.bottom <= other.top or other.bottom <= self.top)


def _points(dots: Sequence[Dot], across: Axis, up: Axis) -> list[str]:
    """Each with its name, at the first place that is free."""
    circles = [_around(across.at(dot.x), up.at(dot.y), RADIUS, RADIUS) for dot in dots]
    parts, taken = list[str](), [*circles]
    for dot, circle in sorted(zip(dots, circles, strict=True), key=lambda pair: (pair[0].x, -pair[0].y)):
        places = _places(circle, LETTER * len(dot.name))
        box = next((place for place in places if not any(place.meets(other) for other in taken)), places[0])
        taken.append(box)
        x, y = (circle.left + circle.right) / 2, (circle.top + circle.bottom) / 2
        parts.append(
            f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="{RADIUS}"/>'
            f'<text class="tick" x="{box.left:.1f}" y="{box.bottom - 2.5:.1f}">{escape(dot.name)}</text>'
        )
    return parts


def _places(circle: Box, width: float) -> list[Box]:
    """Where a name could stand: to the right or the left of its point, or below or above, as near as can be."""
    x, y = (circle.left + circle.right) / 2, (circle.top + circle.bottom) / 2
    sides = (x + RADIUS + 4 + width / 2, x - RADIUS - 4 - width / 2)
    lines = [(side, y + line * LINE) for line in (1, -1, 2, -2, 3, -3) for side in (x, *sides)]
    boxes = [_around(*middle, width / 2, LINE / 2) for middle in [*((side, y) for side in sides), *lines]]
    frame = Box(LEFT, 0, WIDTH, HEIGHT)
    return [box for box in boxes if _is_in(box, frame)] or boxes


def _is_in(box: Box, frame: Box) -> bool:
    is_across = box.left >= frame.left and box.right <= frame.right
    return is_across and box.top >= frame.top and box.bottom <= frame.bottom


def _around(x: float, y: float, width: float, height: float) -> Box:
    return Box(x - width, y - height, x + width, y + height)
