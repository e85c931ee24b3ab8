"""Charts as inline SVG, as pure functions; their colours and fonts come from the page's style sheet."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby, pairwise
from numbers import Real
from typing import Any, NamedTuple

from atrous.report.text import number

Point = tuple[float, float]  # (step, value); a value that isn't finite is a gap in the line

WIDTH, HEIGHT = 360, 200  # of a curve's drawing, in SVG units: CSS pixels unless the page is narrower
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 10, 24  # margins around the plot, room for the axes' numbers
MAX_POINTS = 300  # longer lines are averaged down to this: 360 pixels show no more
MAX_HITS = 100  # places with a tooltip
MAX_DOTS = 40


class Curve(NamedTuple):
    title: str
    note: str  # the figure to take away
    svg: str


class Frame(NamedTuple):
    """What the axes span: steps end with the run, values with a tick."""

    steps: tuple[float, float]
    values: list[float]  # ticks

    def x(self, step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * _share(step, self.steps)

    def y(self, value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - _share(value, self.values))


def _share(value: float, span: Sequence[float]) -> float:
    return min(max((value - span[0]) / (span[-1] - span[0]), 0.0), 1.0)


def curves(history: Sequence[Mapping[str, Any]], headline: str, title: str) -> list[Curve]:
    """Loss, validation score and learning rate over steps, if the rows of metrics.jsonl have them.

    `headline` is the name of the score, `title` is how people write it.
    """
    scores = [{"step": row.get("step"), **row["scores"]} for row in history if "scores" in row]
    loss, score, learning_rate = (
        column(rows, key) for rows, key in ((history, "loss"), (scores, headline), (history, "learning_rate"))
    )
    raw = thinned(loss, MAX_POINTS)
    smooth = smoothed(raw)
    end = max((step for step, _ in [*loss, *score, *learning_rate]), default=0.0)
    validation = f"Validation {title}"
    drawings = [
        Curve(
            "Training loss",
            f"{number(_last(smooth), digits=3)} at the end, smoothed",
            curve("Training loss", smooth, end=end, faint=raw),
        ),
        Curve(validation, _best(score), curve(validation, score, end=end, dots=True)),
        Curve(
            "Learning rate",
            f"{number(_highest(learning_rate)[1], digits=3)} at most",
            curve("Learning rate", learning_rate, end=end),
        ),
    ]
    return [drawing for drawing in drawings if drawing.svg]


def column(history: Sequence[Mapping[str, Any]], key: str) -> list[Point]:
    points = [(_finite(row.get("step")), _finite(row[key])) for row in history if key in row]
    return sorted((point for point in points if math.isfinite(point[0])), key=lambda point: point[0])


def _finite(value: object) -> float:
    return float(value) if isinstance(value, Real) else math.nan


def _last(points: Sequence[Point]) -> float:
    return next((value for _, value in reversed(points) if math.isfinite(value)), math.nan)


def _highest(points: Sequence[Point]) -> Point:
    return max((p for p in points if math.isfinite(p[1])), key=lambda p: p[1], default=(0, math.nan))


def _best(points: Sequence[Point]) -> str:
    step, value = _highest(points)
    return f"{value:.3f} at best, step {step:,.0f}"


def smoothed(points: Sequence[Point]) -> list[Point]:
    """The mean over a twentieth of the curve around each point, over less at the start, where the loss falls fast."""
    reach = len(points) // 40
    windows = (points[index - min(reach, index) : index + min(reach, index) + 1] for index in range(len(points)))
    return [
        (step, _mean([near for _, near in window]) if math.isfinite(value) else math.nan)
        for (step, value), window in zip(points, windows, strict=True)
    ]


def thinned(points: Sequence[Point], limit: int) -> list[Point]:
    """At most `limit` points, each the mean of equally many neighbours."""
    size = max(1, math.ceil(len(points) / limit))
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(_mean([step for step, _ in group]), _mean([value for _, value in group])) for group in groups]


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return math.fsum(known) / len(known) if known else math.nan


def ticks(low: float, high: float, *, most: int = 6) -> list[float]:
    """At most `most` round numbers, 1, 2 or 5 times a power of ten apart, that enclose `low` and `high`."""
    largest = max(abs(low), abs(high))
    if high - low <= 1e-6 * largest + 1e-300:
        around = largest / 2 if largest > 1e-300 else 0.5  # below that, halves vanish
        low, high = low - around, high + around
    exponent = math.floor(math.log10((high - low) / most))
    for width in (factor * 10.0**power for power in (exponent, exponent + 1, exponent + 2) for factor in (1, 2, 5)):
        first, last = math.floor(low / width + 1e-9), math.ceil(high / width - 1e-9)
        if last - first < most:
            return [float(f"{index * width:.12g}") for index in range(first, last + 1)]
    raise AssertionError(f"no ticks between {low} and {high}")


def curve(name: str, points: Sequence[Point], *, end: float, faint: Sequence[Point] = (), dots: bool = False) -> str:
    """One line over steps 0 to `end`, `faint` behind it; the empty string where no value is finite."""
    known = [point for point in points if math.isfinite(point[1])]
    if not known:
        return ""
    frame = _frame([value for _, value in known], end)
    parts = [
        *_axes(frame),
        *_lines(frame, faint, "faint"),
        *_lines(frame, thinned(points, MAX_POINTS), "line"),
        *([_dot(frame, point) for point in known] if (dots and len(known) <= MAX_DOTS) or len(known) == 1 else []),
        *_hits(frame, thinned(known, MAX_HITS)),
    ]
    description = f"{name} over {len(known)} points: first {number(known[0][1])}, last {number(known[-1][1])}"
    return (
        f'<svg class="curve" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(description)}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


def _frame(values: Sequence[float], end: float) -> Frame:
    """Axes around the values; theirs starts at 0 unless that wastes more than half of the plot."""
    low, high = min(values), max(values)
    return Frame((0.0, max(1.0, end)), ticks(0 if 0 < low < high / 2 else low, high))


def _axes(frame: Frame) -> list[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    across = [
        f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{frame.y(v):.1f}" y2="{frame.y(v):.1f}"/>'
        f'<text class="tick" x="{LEFT - 8}" y="{frame.y(v) + 3.5:.1f}" text-anchor="end">{number(v)}</text>'
        for v in frame.values
    ]
    along = [
        f'<text class="tick" x="{frame.x(s):.1f}" y="{bottom + 17}" text-anchor="middle">{number(s)}</text>'
        for s in ticks(*frame.steps)
        if s <= frame.steps[1]
    ]
    return [*across, *along]


def _lines(frame: Frame, points: Sequence[Point], kind: str) -> list[str]:
    """A polyline for each run of finite values."""
    runs = [list(run) for finite, run in groupby(points, key=lambda point: math.isfinite(point[1])) if finite]
    return [
        f'<polyline class="{kind}" points="{" ".join(f"{frame.x(s):.1f},{frame.y(v):.1f}" for s, v in run)}"/>'
        for run in runs
    ]


def _dot(frame: Frame, point: Point) -> str:
    return f'<circle class="dot" cx="{frame.x(point[0]):.1f}" cy="{frame.y(point[1]):.1f}" r="2.5"/>'


def _hits(frame: Frame, points: Sequence[Point]) -> list[str]:
    """For each point an invisible strip with a tooltip; it reaches half-way to the neighbours."""
    xs = [frame.x(step) for step, _ in points]
    edges = [float(LEFT), *((a + b) / 2 for a, b in pairwise(xs)), float(WIDTH - RIGHT)]
    return [
        f'<g class="hit"><title>step {step:,.0f}: {value:.4g}</title><rect x="{left:.1f}" y="{TOP}" '
        f'width="{right - left:.1f}" height="{HEIGHT - TOP - BOTTOM}"/>{_dot(frame, (step, value))}</g>'
        for (step, value), (left, right) in zip(points, pairwise(edges), strict=True)
    ]


def bar(fraction: float | None, color: tuple[int, int, int]) -> str:
    """A bar from 0 to 1 in the colour of a class, as wide as its cell; no bar for None or NaN."""
    share = min(max(fraction, 0.0), 1.0) if fraction is not None and math.isfinite(fraction) else 0.0
    red, green, blue = (int(channel) for channel in color)
    return (
        '<svg class="bar" width="100%" height="10" aria-hidden="true" xmlns="http://www.w3.org/2000/svg">'
        '<rect class="track" width="100%" height="10" rx="2"/>'
        f'<rect class="fill" width="{100 * share:.2f}%" height="10" rx="2" fill="rgb({red},{green},{blue})"/></svg>'
    )
