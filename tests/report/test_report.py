"""The report: its structure to a parser and, where one is installed, to a browser."""

import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from atrous.report import Gallery, Picture, Report, charts, html, render
from atrous.report.pictures import shrink
from atrous.tasks.contract import Figures, Table

HOSTILE = "<img src=https://example.org/x onerror=alert(1)> & \"quotes\" 'and' </script></pre>"
TITLES = {"miou": "mIoU", "pixel_accuracy": "pixel accuracy", "mean_accuracy": "mean accuracy"}
LEGEND = {"right": (1, 2, 3), "wrong": (4, 5, 6), "ignored": (7, 8, 9)}
VOID = {"meta", "link", "img", "br", "input", "hr"}
HISTORY: list[dict[str, Any]] = [
    *(
        {"step": s, "loss": 2 / s, "learning_rate": 0.01 * (1 - s / 400), "images_per_second": 9.0}
        for s in range(1, 401)
    ),
    *({"step": s, "scores": {"miou": 0.4 + s / 2000}} for s in (100, 200, 300, 400)),
]


class Tree(HTMLParser):
    """Elements with their attributes, and text by its element. Raises AssertionError where tags don't match."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", data.strip()))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self) -> str:
        return " ".join(data for tag, data in self.texts if tag not in ("script", "style"))


def picture(name: str, score: float = 0.512) -> Picture:
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    return Picture(name, score, [(caption, image) for caption in ("Image", "Prediction", "Truth", "Errors")])


def figures(num_classes: int, **changes: Any) -> Figures:  # noqa: ANN401
    rng = np.random.default_rng(num_classes)
    confusion = rng.integers(0, 90, (num_classes, num_classes)) + np.diag([1000] * num_classes)
    rows = {
        f"class {index}": ((index + 1) / (num_classes + 1), 0.5, int(confusion[index].sum()))
        for index in range(num_classes)
    }
    table = Table(("IoU", "accuracy", "pixels"), rows)
    scores = {"miou": 0.85349, "pixel_accuracy": 0.9, "mean_accuracy": 0.8}
    return Figures(scores, TITLES, table, confusion)._replace(**changes)


def sample(num_classes: int = 11, **changes: Any) -> Report:  # noqa: ANN401
    """A report; changes to fields of its figures may be among `changes`."""
    of_figures = {name: changes.pop(name) for name in Figures._fields if name in changes}
    palette = np.random.default_rng(num_classes).integers(0, 256, (num_classes, 3)).tolist()
    report = Report(
        title="A network on a street",
        subtitle="Trained for a test.",
        figures=figures(num_classes, **of_figures),
        colors={f"class {index}": (red, green, blue) for index, (red, green, blue) in enumerate(palette)},
        num_images=1234,
        history=HISTORY,
        galleries=[
            Gallery("Worst", [picture("bad.png"), picture("worse.png")]),
            Gallery("Best", [picture("good.png")]),
        ],
        legend=LEGEND,
        config_yaml="train:\n  steps: 400\n",
        protocol={"split": "val", "scales": "1.0"},
        environment={"torch": "2.13.0"},
    )
    return report._replace(**changes)


def rows_of(page: str, table: str) -> list[str]:
    """The body rows of the table whose opening tag holds `table`."""
    body = re.search(rf"<table[^>]*{table}.*?<tbody>(.*?)</tbody>", page, re.DOTALL)
    return re.findall(r"<tr>.*?</tr>", body.group(1), re.DOTALL) if body else []


# ---- structure


@pytest.mark.parametrize("num_classes", [2, 11, 19, 21, 32])
def test_small_matrices_are_heat_maps(num_classes: int) -> None:
    page = render(sample(num_classes))
    Tree(page)
    assert len(rows_of(page, 'id="class-table"')) == num_classes
    heat = rows_of(page, 'class="heat"')
    assert [row.count("<td") for row in heat] == [num_classes] * num_classes
    assert [row.count("class=right") for row in heat] == [1] * num_classes
    assert not rows_of(page, 'id="confusion-table"')


def test_heat_map_cells_are_shares_of_the_true_class() -> None:
    confusion = np.array([[75, 25, 0], [0, 0, 0], [1, 0, 999]])
    cells = html.heat_map(confusion)
    assert [[cell.share for cell in row] for row in cells] == [[0.75, 0.25, 0.0], [None] * 3, [0.001, 0.0, 0.999]]
    assert cells[0][1].strength == 0.5, "an error's strength is the root of its share"
    page = render(sample(3, confusion=confusion))
    shown = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in rows_of(page, 'class="heat"')]
    assert shown == [["75", "25", ""], [html.UNKNOWN] * 3, ["0", "", "100"]]


def test_large_matrices_are_listed_by_their_largest_confusions() -> None:
    confusion = np.diag([100] * 150)
    confusion[7, 9], confusion[3, 4], confusion[4, 3] = 900, 50, 60
    page = render(sample(150, confusion=confusion))
    rows = rows_of(page, 'id="confusion-table"')
    assert [re.findall(r"class \d+", row) for row in rows] == [
        ["class 7", "class 9"],
        ["class 4", "class 3"],
        ["class 3", "class 4"],
    ]
    assert "90%" in rows[0] and "900" in rows[0]
    assert not rows_of(page, 'class="heat"')
    assert len(rows_of(render(sample(150)), 'id="confusion-table"')) == html.NUM_CONFUSIONS


def test_a_large_matrix_without_confusions_says_so() -> None:
    assert "Nothing was predicted as another class" in render(sample(40, confusion=np.diag([5] * 40)))


def test_classes_are_sorted_by_the_first_column_and_absent_ones_are_marked() -> None:
    values = [0.2, None, 0.9, math.nan, 0.5]
    table = Table(("IoU", "accuracy"), {f"class {index}": (value, value) for index, value in enumerate(values)})
    page = render(sample(5, table=table))
    rows = rows_of(page, 'id="class-table"')
    assert [re.findall(r"class \d", row)[0] for row in rows] == ["class 2", "class 4", "class 0", "class 1", "class 3"]
    assert ["absent" in row for row in rows] == [False, False, False, True, True]
    assert "nan" not in Tree(page).text().lower()


def test_counts_have_a_share_beside_them() -> None:
    table = Table(("IoU", "pixels"), {"road": (0.5, 750), "car": (0.25, 250), "tree": (None, 0)})
    text = " ".join(Tree(render(sample(3, table=table))).text().split())
    assert "Class IoU Share Pixels road 0.500 75% 750 car 0.250 25% 250 tree absent 0% 0" in text


def test_a_table_without_a_matrix_has_no_section_for_it() -> None:
    page = render(sample(confusion=None))
    assert "confusion" not in [section["id"] for section in Tree(page).all("section")]
    assert 'href="#confusion"' not in page


def test_the_headline_is_the_first_score_with_its_protocol_beneath() -> None:
    text = Tree(render(sample())).text()
    assert re.search(r"0\.853 .*1,234 split val · scales 1\.0", text)


def test_pictures_are_inside_the_page_and_described() -> None:
    images = Tree(render(sample())).all("img")
    assert len(images) == 3 * 4
    assert all((image["src"] or "").startswith("data:image/jpeg;base64,") for image in images)
    alts = [image["alt"] or "" for image in images]
    assert len(set(alts)) == len(alts) and all(
        alt.split(":")[0] in ("good.png", "bad.png", "worse.png") for alt in alts
    )


def test_wide_pictures_are_shrunk_and_small_ones_are_not() -> None:
    shapes = [(1024, 2048), (48, 64), (3000, 640), (1, 5000)]
    sizes = [shrink(np.zeros((*shape, 3), np.uint8)).size for shape in shapes]
    assert sizes == [(640, 320), (64, 48), (640, 3000), (640, 1)]


def test_empty_parts_have_no_section() -> None:
    page = render(sample(history=[], galleries=[], config_yaml="", protocol={}, environment={}, subtitle=""))
    ids = [section["id"] for section in Tree(page).all("section")]
    assert ids == ["classes", "confusion", "settings"]
    assert 'href="#training"' not in page and 'href="#images"' not in page and "<img" not in page


def test_every_link_leads_to_a_place_on_the_page() -> None:
    tree = Tree(render(sample()))
    ids = [attributes["id"] for _, attributes in tree.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert {f"#{name}" for name in ids} >= {link["href"] for link in tree.all("a")}


def test_nothing_is_loaded_from_elsewhere() -> None:
    page = render(sample())
    rest = page.replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert "http://" not in rest and "https://" not in rest and "@import" not in rest
    tree = Tree(page)
    loads = [value or "" for _, a in tree.elements for key, value in a.items() if key in ("src", "href", "xlink:href")]
    assert all(value.startswith(("data:", "#")) for value in loads)
    assert not re.search(r"url\((?!data:)", page)
    assert not [name for name, _ in tree.elements if name in ("iframe", "object", "embed", "base")]


def test_all_text_from_outside_is_escaped() -> None:
    plain = sample(3)
    report = plain._replace(
        title=HOSTILE,
        subtitle=HOSTILE,
        figures=plain.figures._replace(
            titles=dict.fromkeys(TITLES, HOSTILE),
            table=Table((HOSTILE,), {f"{name} {HOSTILE}": (0.5,) for name in plain.figures.table.rows}),
        ),
        galleries=[*plain.galleries[:1], Gallery(HOSTILE, [picture(HOSTILE)])],
        legend={HOSTILE: (1, 2, 3)},
        config_yaml=HOSTILE,
        protocol={HOSTILE: HOSTILE},
        environment={HOSTILE: HOSTILE},
    )
    tree, expected = Tree(render(report)), Tree(render(plain))
    assert len(tree.all("script")) == len(expected.all("script"))
    assert len(tree.all("img")) == len(expected.all("img")) and not any("onerror" in image for image in tree.all("img"))
    assert tree.text().count(HOSTILE) >= 20
    assert any(HOSTILE in (image["alt"] or "") for image in tree.all("img"))


def test_unknown_numbers_are_dashes() -> None:
    scores = dict.fromkeys(TITLES, math.nan)
    page = render(sample(scores=scores, galleries=[Gallery("Best", [picture("x", score=math.nan)])]))
    assert page.count(f"<dd>{html.UNKNOWN}</dd>") == 3
    assert f"mIoU {html.UNKNOWN}" in page


def test_percent() -> None:
    texts = {0: "0%", 1e-5: "<0.1%", 0.004: "0.4%", 0.0994: "9.9%", 0.0996: "10%", 1: "100%", None: html.UNKNOWN}
    assert {value: html.percent(value) for value in texts} == texts


def test_the_same_report_gives_the_same_page() -> None:
    assert render(sample()) == render(sample())


# ---- charts


@settings(max_examples=100)
@given(st.floats(-1e12, 1e12), st.floats(-1e12, 1e12))
@example(5e-324, 5e-324)
def test_ticks_enclose_the_values_evenly(a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    ticks = charts.ticks(low, high)
    slack = 1e-6 * (ticks[-1] - ticks[0])
    assert ticks[0] <= low + slack and ticks[-1] >= high - slack
    assert 2 <= len(ticks) <= 6
    np.testing.assert_allclose(np.diff(ticks), ticks[1] - ticks[0], rtol=1e-3)


def test_ticks_are_round() -> None:
    assert charts.ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert charts.ticks(0, 12000) == [0, 5000, 10000, 15000]
    assert charts.ticks(0.61, 0.69) == [0.6, 0.62, 0.64, 0.66, 0.68, 0.7]


def test_numbers_on_axes() -> None:
    texts = {0: "0", 0.25: "0.25", 1000: "1k", 12500: "12.5k", 2e6: "2M", 3e-5: "3e-5"}
    assert {value: charts.number(value) for value in texts} == texts


def test_curves_have_a_note_with_their_main_figure() -> None:
    assert [(curve.title, curve.note) for curve in charts.curves(HISTORY, "miou", "mIoU")] == [
        ("Training loss", "0.00507 at the end, smoothed"),
        ("Validation mIoU", "0.600 at best, step 400"),
        ("Learning rate", "0.00998 at most"),
    ]


def test_curves_leave_out_what_was_not_recorded() -> None:
    assert charts.curves([], "miou", "mIoU") == []
    validation: list[dict[str, Any]] = [{"step": 5, "scores": {"miou": 0.5}}]
    assert [curve.title for curve in charts.curves(validation, "miou", "mIoU")] == ["Validation mIoU"]
    assert charts.curves(validation, "pq", "PQ") == []
    unknown: list[dict[str, Any]] = [{"loss": 1.0}, {"step": 1, "loss": None}, {"step": 2, "loss": math.nan}]
    assert charts.curves(unknown, "miou", "mIoU") == []


def test_a_line_is_broken_where_the_value_is_not_finite() -> None:
    values = [3.0, 2.0, math.nan, 1.0, math.inf, 0.5, 0.4]
    svg = charts.curve("Loss", list(enumerate(values)), end=6)
    assert svg.count("<polyline") == 3
    assert "nan" not in svg and "inf" not in svg


def test_a_curve_stays_inside_its_plot_and_is_labelled() -> None:
    svg = charts.curve("Loss <b>", [(0, 5.0), (50, -3.0), (100, 1e-9)], end=100)
    points = [tuple(map(float, pair.split(","))) for pair in re.findall(r"[\d.]+,[\d.]+", svg)]
    assert len(points) == 3
    assert all(charts.LEFT <= x <= charts.WIDTH - charts.RIGHT and 0 <= y <= charts.HEIGHT for x, y in points)
    assert points[0][1] < points[2][1] < points[1][1], "larger values are higher"
    label = Tree(svg).all("svg")[0]["aria-label"] or ""
    assert label.startswith("Loss <b> over 3 points")


def test_long_histories_stay_small() -> None:
    history = [{"step": step, "loss": 1 / (1 + step)} for step in range(100_000)]
    assert sum(len(curve.svg) for curve in charts.curves(history, "miou", "mIoU")) < 60_000


def test_smoothing_keeps_a_level_and_does_not_lag_behind_a_fall() -> None:
    level = [(float(step), 2.0) for step in range(200)]
    assert charts.smoothed(level) == level
    fall = [(float(step), -float(step)) for step in range(200)]
    assert charts.smoothed(fall)[:190] == fall[:190]


def test_bars_are_as_long_as_their_share() -> None:
    for share, width in ((0.5, "50.00%"), (1.2, "100.00%"), (None, "0.00%"), (math.nan, "0.00%")):
        fill = Tree(charts.bar(share, (1, 2, 3))).all("rect")[1]
        assert (fill["width"], fill["fill"]) == (width, "rgb(1,2,3)")


# ---- in a browser


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


def browse(page: Path, *options: str) -> tuple[str, str]:
    """What a headless Chromium prints (the DOM, if `options` ask for it), and what it logs."""
    quiet = ("gpu", "background-networking", "component-update", "sync", "dev-shm-usage")
    command = [
        CHROMIUM or "",
        *("--headless", "--no-sandbox", "--no-first-run", "--hide-scrollbars", "--enable-logging=stderr", "--v=0"),
        *(f"--disable-{part}" for part in quiet),
        f"--user-data-dir={page.parent / 'profile'}",
        *options,
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, done.stderr


@in_browser
def test_a_browser_shows_the_page_without_complaint(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(render(sample(11)), encoding="utf-8")
    shot = tmp_path / "shot.png"
    dom, log = browse(tmp_path / "report.html", "--dump-dom", f"--screenshot={shot}", "--window-size=1000,1600")
    assert "CONSOLE" not in log
    assert "<title>A network on a street</title>" in dom
    assert len(rows_of(dom, 'id="class-table"')) == 11
    assert dom.count("<polyline") == 4, "loss, its raw values, mIoU and learning rate"
    assert dom.count(">Larger</button>") == 3, "the script ran to its end"
    with PIL.Image.open(shot) as picture:
        pixels = np.asarray(picture.convert("L"))
    assert pixels.shape == (1600, 1000) and pixels.std() > 10 and (pixels[-200:] != pixels[0, 0]).any()


@in_browser
def test_the_class_table_sorts_by_the_column_that_was_clicked(tmp_path: Path) -> None:
    names = ["wall", "Äpfel", "car"]
    table = Table(("IoU",), {name: ((index + 1) / 4,) for index, name in enumerate(names)})
    click = "<script>document.querySelector('#class-table button').click(); throw new Error('visible');</script>"
    page = tmp_path / "report.html"
    page.write_text(render(sample(3, table=table)).replace("</body>", f"{click}</body>"), encoding="utf-8")
    dom, log = browse(page, "--dump-dom")
    assert "CONSOLE" in log and "visible" in log, "the test above would notice an error in the page"
    rows = rows_of(dom, 'id="class-table"')
    assert [next(name for name in names if name in row) for row in rows] == ["Äpfel", "car", "wall"]
    assert dom.count("aria-sort") - dom.count("[aria-sort") - dom.count('"aria-sort"') == 1


def test_colours_other_than_those_of_classes_are_explained() -> None:
    text, page = Tree(render(sample())).text(), render(sample())
    for name, (red, green, blue) in LEGEND.items():
        assert name in text
        assert f"background:rgb({red},{green},{blue})" in page
