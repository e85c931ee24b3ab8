"""Points with names: a name stands beside its own point, and on no other."""

import re
from itertools import combinations

from atrous.report import scatter as plots
from atrous.report.scatter import LETTER, LINE, Box, Dot, scatter

CLOSE = [
    Dot("openvino bf16", 39.7, 0.6510),
    Dot("pytorch bf16", 49.1, 0.6511),
    Dot("openvino fp32", 73.2, 0.6512),
    Dot("pytorch fp32", 100.3, 0.6512),
    Dot("onnx fp32", 105.5, 0.6512),
    Dot("onnx int8", 83.6, 0.6484),
]


def names_of(svg: str) -> dict[str, Box]:
    """Where the names of CLOSE stand."""
    found = re.findall(r'<text class="tick" x="([\d.]+)" y="([\d.]+)">([^<]+)</text>', svg)
    places = {name: (float(x), float(y)) for x, y, name in found}
    return {
        dot.name: Box(x, y - LINE + 2.5, x + LETTER * len(dot.name), y + 2.5)
        for dot in CLOSE
        for x, y in [places[dot.name]]
    }


def test_names_that_are_close_stand_apart_from_each_other_and_from_all_points() -> None:
    svg = scatter(CLOSE, "ms", "mIoU")
    names = names_of(svg)
    circles = [
        Box(float(x) - 4, float(y) - 4, float(x) + 4, float(y) + 4)
        for x, y in re.findall(r'<circle class="dot" cx="([\d.]+)" cy="([\d.]+)"', svg)
    ]
    assert len(names) == len(circles) == len(CLOSE)
    assert not any(one.meets(other) for one, other in combinations(names.values(), 2))
    assert not any(name.meets(circle) for name in names.values() for circle in circles)
    assert all(name.top >= 0 and name.bottom <= plots.HEIGHT and name.right <= plots.WIDTH for name in names.values())


def test_points_in_one_place_are_all_named() -> None:
    svg = scatter([Dot(f"row {number}", 10, 0.5) for number in range(30)], "ms", "mIoU")
    assert all(f">row {number}<" in svg for number in range(30))


def test_boxes_meet_where_they_share_a_part() -> None:
    one = Box(0, 0, 10, 10)
    assert one.meets(Box(9, 9, 12, 12)) and one.meets(Box(2, 2, 3, 3))
    assert not one.meets(Box(10, 0, 12, 5)) and not one.meets(Box(0, 10, 5, 12))


def test_names_are_escaped_and_nothing_is_drawn_of_nothing() -> None:
    svg = scatter([Dot("a <b>", 10, 0.7), Dot("c", 10.1, 0.7)], "ms", "mIoU")
    assert "a &lt;b&gt;" in svg and svg.count('class="dot"') == 2
    assert scatter([], "ms", "mIoU") == ""
