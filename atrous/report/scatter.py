"""Points with names over two axes as inline SVG, such as accuracy against latency."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from atrous.report.charts import ticks
from atrous.report.text import number

WIDTH, HEIGHT = 560, 300  # in SVG units
LEFT, RIGHT, TOP, BOTTOM = 56, 120, 14, 44  # margins; names of points stand to their right
LINE = 12  # units between the names of points that lie close together


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
        f'<text class="tick" x="0" y="{TOP - 3}">{escape(up.title)}</text>',
    ]


def _points(dots: Sequence[Dot], across: Axis, up: Axis) -> list[str]:
    """Each with its name; names that would lie on one another move down."""
    parts, taken = [], list[tuple[float, float]]()
    for dot in sorted(dots, key=lambda one: (one.x, -one.y)):
        x, y = across.at(dot.x), up.at(dot.y)
        line = y + 3.5
        while any(abs(line - other) < LINE and abs(x - place) < RIGHT for place, other in taken):
            line += LINE
        taken.append((x, line))
        parts.append(
            f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
            f'<text class="tick" x="{x + 8:.1f}" y="{line:.1f}">{escape(dot.name)}</text>'
        )
    return parts
