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

from atrous.report import Gallery, Picture, Report, charts, render, tables
from atrous.report.balance import measured, splits_of
from atrous.report.downloads import Download
from atrous.report.pictures import view
from atrous.report.text import UNKNOWN
from atrous.report.verdict import Finding
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


PANELS = ("Image", "Truth", "Prediction", "Errors")
FINDINGS = [
    Finding("fault", "car is never predicted", "car is 3.0% of the labels", "Train longer.", "classes"),
    Finding("note", "There was only one validation", "At step 4 of 4", "More would show more.", "course"),
]


def picture(name: str, score: float = 0.512, **classes: float) -> Picture:
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    return Picture(name, score, classes, [view(caption, image, 64) for caption in PANELS])


def figures(num_classes: int, **changes: Any) -> Figures:  # noqa: ANN401
    rng = np.random.default_rng(num_classes)
    confusion = rng.integers(0, 90, (num_classes, num_classes)) + np.diag([1000] * num_classes)
    rows = {
        f"class {index}": ((index + 1) / (num_classes + 1), 0.5, int(confusion[index].sum()))
        for index in range(num_classes)
    }
    table = Table(("IoU", "accuracy", "pixels"), rows, unit="pixels")
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
        meaning="the mean of something",
        findings=FINDINGS,
        trained={"model": "a network"},
        command="atrous train 'my recipe'",
        history=HISTORY,
        samples=[picture("train.png")._replace(views=picture("train.png").views[:1])],
        gallery=Gallery([picture("worse.png", 0.1), picture("bad.png", 0.2), picture("good.png", 0.9)], 3),
        compared=("Truth", "Prediction"),
        legend=LEGEND,
        downloads=[Download("figures.json", "All figures (JSON)", "data:application/json;base64,e30=")],
        config_yaml="train:\n  steps: 400\n",
        protocol={"split": "val", "scales": "1.0"},
        environment={"torch": "2.13.0"},
    )
    split = measured(report.figures)
    return report._replace(splits={"val": split} if split else {})._replace(**changes)


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
    assert page.count("is predicted as") == min(tables.NUM_CONFUSIONS, num_classes * (num_classes - 1))


def test_heat_map_cells_are_shares_of_the_true_class() -> None:
    confusion = np.array([[75, 25, 0], [0, 0, 0], [1, 0, 999]])
    cells = tables.heat_map(confusion)
    assert [[cell.share for cell in row] for row in cells] == [[0.75, 0.25, 0.0], [None] * 3, [0.001, 0.0, 0.999]]
    assert cells[0][1].strength == 0.5, "an error's strength is the root of its share"
    page = render(sample(3, confusion=confusion))
    shown = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in rows_of(page, 'class="heat"')]
    assert shown == [["75", "25", ""], [UNKNOWN] * 3, ["0", "", "100"]]


def words(page: str) -> str:
    return " ".join(Tree(page).text().split())


def test_the_largest_confusions_are_told_in_words() -> None:
    confusion = np.array([[75, 25, 0], [30, 970, 0], [0, 10, 15000]])
    text = words(render(sample(3, confusion=confusion)))
    assert (
        "25% of class 0 is predicted as class 1 (25 pixels) 3.0% of class 1 is predicted as class 0 (30 pixels)" in text
    )
    assert text.count("is predicted as") == 3
    assert "<0.1% of class 2 is predicted as class 1 (10 pixels)" in text


def test_large_matrices_are_listed_by_their_largest_confusions() -> None:
    confusion = np.diag([100] * 150)
    confusion[7, 9], confusion[3, 4], confusion[4, 3] = 900, 50, 60
    page = render(sample(150, confusion=confusion))
    pairs = re.findall(r"of (class \d+) is predicted as (class \d+)", words(page))
    assert pairs == [("class 7", "class 9"), ("class 4", "class 3"), ("class 3", "class 4")]
    assert "90% of class 7 is predicted as class 9 (900 pixels)" in words(page)
    assert not rows_of(page, 'class="heat"')
    assert words(render(sample(150))).count("is predicted as") == 2 * tables.NUM_CONFUSIONS


def test_confusions_too_rare_to_say_anything_are_left_out() -> None:
    names = tables.names_of(figures(2), {}, [])
    assert tables.largest_confusions(np.array([[10**6, 0], [50, 50]]), names) == []


def test_a_large_matrix_without_confusions_says_so() -> None:
    assert "Nothing was predicted as another class" in render(sample(40, confusion=np.diag([5] * 40)))


def test_classes_are_sorted_by_the_first_column_and_absent_ones_are_marked() -> None:
    values = [0.2, None, 0.9, math.nan, 0.5]
    table = Table(("IoU", "accuracy"), {f"class {index}": (value, value) for index, value in enumerate(values)})
    page = render(sample(5, table=table))
    rows = rows_of(page, 'id="class-table"')
    assert [re.findall(r"class \d", row)[0] for row in rows] == ["class 0", "class 4", "class 2", "class 1", "class 3"]
    assert ["absent" in row for row in rows] == [False, False, False, True, True]
    assert "nan" not in Tree(page).text().lower()


def test_what_is_labelled_has_its_share_beside_it() -> None:
    table = Table(("IoU", "pixels"), {"road": (0.5, 750), "car": (0.25, 250), "tree": (None, 0)}, unit="pixels")
    text = " ".join(Tree(render(sample(3, table=table))).text().split())
    assert "Class IoU Share Pixels car 0.250 25% 250 road 0.500 75% 750 tree absent 0% 0" in text


def test_other_counts_have_no_share() -> None:
    """Panoptic quality counts matched segments: 40% of all that is missed says nothing."""
    table = Table(("PQ", "matched", "pixels"), {"road": (0.5, 3, 750), "car": (0.25, 1, 250)}, unit="pixels")
    text = words(render(sample(2, table=table)))
    assert "Class PQ Matched Share Pixels car 0.250 1 25% 250 road 0.500 3 75% 750" in text
    assert "pixels) " in text and "matched)" not in text


def test_a_table_without_a_matrix_has_no_section_for_it() -> None:
    page = render(sample(confusion=None))
    assert "confusion" not in [section["id"] for section in Tree(page).all("section")]
    assert 'href="#confusion"' not in page


def test_the_page_begins_with_the_headline_its_meaning_and_the_verdict() -> None:
    text = words(render(sample(protocol={"data": "voc, split val"})))
    assert "0.853 Pixel accuracy" in text and "Images 1,234 mIoU is the mean of something. 1 is perfect." in text
    assert "Measured on voc, split val." in text
    assert text.index("is the mean") < text.index("car is never predicted") < text.index("What each true class")
    assert "fault car is never predicted car is 3.0% of the labels. Train longer. Classes" in text


def test_what_was_trained_has_its_command() -> None:
    text = words(render(sample()))
    assert "What was trained model a network atrous train 'my recipe'" in text


def test_a_finding_leads_only_to_sections_that_are_there() -> None:
    page = render(sample(history=[]))
    assert "There was only one validation" in page
    assert 'href="#course"' not in page and 'href="#classes"' in page


def test_pictures_are_inside_the_page_and_described() -> None:
    images = [image for image in Tree(render(sample())).all("img") if image.get("src")]
    assert len(images) == 3 * 4 + 1
    assert all(re.match("data:image/(webp|jpeg|png);base64,", image["src"] or "") for image in images)
    alts = [image["alt"] or "" for image in images]
    assert len(set(alts)) == len(alts)
    assert alts[:4] == [f"worse.png: {caption}" for caption in PANELS]


def test_cards_hold_what_the_filter_needs() -> None:
    pictures = [picture("a", 0.25, **{"class 2": 0.5, "class 0": 0.125}), picture("b", math.nan)]
    cards = [
        figure for figure in Tree(render(sample(gallery=Gallery(pictures, 2)))).all("figure") if "data-score" in figure
    ]
    assert [(card["data-score"], card["data-classes"]) for card in cards] == [("0.25", "2:0.5 0:0.125"), ("", "")]


def test_images_that_did_not_fit_are_told() -> None:
    assert "All 3 images, worst first" in words(render(sample()))
    text = words(render(sample(gallery=Gallery([picture("a")], 2000))))
    assert "1 of 2,000 images: the worst, and a few of the best" in text


def test_class_balance_has_a_column_for_each_split() -> None:
    classes = {"class 0": {"pixels": 30, "images": 4}, "class 1": {"pixels": 10, "images": 3}}
    split = {"images": 4, "pixels": 40, "ignored": 0, "unlabelled": [], "num_unlabelled": 0, "classes": classes}
    text = words(render(sample(3, splits=splits_of({"train": split, "val": {**split, "images": 2}}))))
    assert "Share in training of 4 images Share in validation of 2 images" in text
    assert "class 0 75% 4 75% 4 class 1 25% 3 25% 3 class 2 0%" in text
    alone = words(render(sample(3, splits={"val": measured(figures(3))})))
    assert "Share in validation class" in alone and "how many images" not in alone


@pytest.mark.parametrize("split", [None, 3, [], {}, {"classes": []}, {"images": "x", "classes": {}}])
def test_a_damaged_count_of_the_data_is_no_balance(split: object) -> None:
    assert splits_of({"train": split}) == {}


def test_classes_that_pictures_leave_uncoloured_are_marked() -> None:
    page = render(sample(3, bare=["class 1"]))
    assert page.count('class="swatch bare"') >= 3
    heads = re.findall(r'<th scope="row" class="text">(.*?)</th>', page)
    assert sum("swatch bare" in head for head in heads[:3]) == 1


def test_empty_parts_have_no_section() -> None:
    page = render(Report("title", "", figures(11), {}, 7))
    ids = [section["id"] for section in Tree(page).all("section")]
    assert ids == ["classes", "confusion", "settings"]
    assert (
        'href="#training"' not in page and 'href="#images"' not in page and "<img" not in page and "<dialog" not in page
    )


def test_every_link_leads_to_a_place_on_the_page() -> None:
    tree = Tree(render(sample()))
    ids = [attributes["id"] for _, attributes in tree.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    links = {link["href"] or "" for link in tree.all("a") if "download" not in link}
    assert {f"#{name}" for name in ids} >= links
    assert {link.lstrip("#") for link in links} == {section["id"] for section in tree.all("section")}


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
        meaning=HOSTILE,
        figures=plain.figures._replace(
            titles=dict.fromkeys(TITLES, HOSTILE),
            table=Table((HOSTILE,), {f"{name} {HOSTILE}": (0.5,) for name in plain.figures.table.rows}),
        ),
        findings=[Finding("note", HOSTILE, HOSTILE, HOSTILE, HOSTILE)],
        trained={HOSTILE: HOSTILE},
        command=HOSTILE,
        gallery=Gallery([*plain.gallery.pictures[:2], picture(HOSTILE)], 3),
        compared=(HOSTILE, HOSTILE),
        samples=[picture(HOSTILE)],
        bare=[HOSTILE],
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


UNSEEN = "a\x00b\x1b[31m\u202egnp.exe\udce9"


def test_what_cannot_be_seen_is_written_as_its_escape() -> None:
    plain = sample(3)
    table = Table(("IoU",), {f"{name} {UNSEEN}": (0.5,) for name in plain.figures.table.rows})
    report = plain._replace(
        title=UNSEEN,
        figures=plain.figures._replace(table=table),
        gallery=Gallery([picture(UNSEEN)], 1),
        config_yaml="two\nlines",
    )
    page = render(report)
    assert page.encode(), "no lone surrogate is left"
    assert not re.search("[\x00\x1b\u202e]", page)
    assert page.count("a\\x00b\\x1b[31m\\u202egnp.exe\\udce9") > 10
    assert "<pre" in page and "two\nlines" in page


def test_names_in_another_direction_do_not_turn_the_text_around_them() -> None:
    page = render(sample(3, gallery=Gallery([picture("שלום.jpg")], 1)))
    assert "<bdi>שלום.jpg</bdi>" in page


def test_unknown_numbers_are_dashes() -> None:
    scores = dict.fromkeys(TITLES, math.nan)
    page = render(sample(scores=scores, gallery=Gallery([picture("x", score=math.nan)], 1)))
    assert page.count(f"<dd>{UNKNOWN}</dd>") == 3
    assert f"mIoU {UNKNOWN}" in page


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
    assert ">3 of 3</output>" in dom and ">Copy</button>" in dom, "the script ran to its end"
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


def after(page: Path, report: Report, script: str) -> str:
    """The body of the page, in which `script` has acted as a person would; what it returns is the title."""
    run = f"<script>document.title = (() => {{ {script} }})()</script>"
    page.write_text(render(report).replace("</body>", f"{run}</body>"), encoding="utf-8")
    dom, log = browse(page, "--dump-dom")
    assert "CONSOLE" not in log
    return dom


def title(dom: str) -> str:
    return str(re.findall("<title>(.*?)</title>", dom)[0])


PICTURES = [
    picture("a.png", 0.1, **{"class 0": 0.9, "class 1": 0.2}),
    picture("b.png", 0.5, **{"class 0": 0.3}),
    picture("c.png", math.nan, **{"class 1": 0.1}),
]
VISIBLE = "return [...document.querySelectorAll('.card:not([hidden]) bdi')].map(e => e.textContent).join(' ');"
SET = """const set = (id, value) => {
    const element = document.getElementById(id);
    element.value = value;
    element.dispatchEvent(new Event('change'));
};"""


@in_browser
@pytest.mark.parametrize(
    ("act", "expected"),
    [
        ("", "a.png b.png c.png"),
        ("set('order', 'best');", "b.png a.png c.png"),
        ("set('only', '0');", "b.png a.png"),
        ("set('only', '1');", "c.png a.png"),
        ("set('only', '1'); set('order', 'best');", "a.png c.png"),
    ],
)
def test_images_are_chosen_by_class_and_ordered(act: str, expected: str, tmp_path: Path) -> None:
    report = sample(3, gallery=Gallery(PICTURES, 3))
    dom = after(tmp_path / "report.html", report, f"{SET} {act} {VISIBLE}")
    assert title(dom) == expected
    assert 'value="2"' not in dom[dom.index('id="only"') : dom.index('id="order"')], "no image shows the third class"


def test_panels_that_are_captioned_for_their_image_are_one_choice() -> None:
    pictures = [
        picture(name)._replace(views=[picture(name).views[0]._replace(caption=f"Truth: {name}")]) for name in "abc"
    ]
    page = render(sample(3, gallery=Gallery(pictures, 3)))
    assert '<option value="0">Truth</option>' in page and '<option value="1">' not in page[: page.index('id="only"')]


@in_browser
def test_more_images_are_shown_on_request(tmp_path: Path) -> None:
    report = sample(3, gallery=Gallery([picture(f"{number}.png", number / 50) for number in range(40)], 40))
    count = "document.querySelectorAll('.card:not([hidden])').length"
    script = f"{SET} const n = [{count}]; document.getElementById('more').click(); n.push({count});"
    script += f"set('panel', '2'); n.push({count}); document.getElementById('more').click(); n.push({count}); return n;"
    assert title(after(tmp_path / "report.html", report, script)) == "6,18,24,40"


@in_browser
def test_an_image_is_enlarged_and_wiped(tmp_path: Path) -> None:
    """By buttons and keys, from one image to the next, and with other panels."""
    script = (
        SET
        + """
        const box = document.getElementById('lightbox'), wipe = document.getElementById('wipe');
        const state = () => [box.open, box.querySelector('bdi').textContent, document.getElementById('left').value,
            document.getElementById('right').value, document.getElementById('stage').style.getPropertyValue('--wipe'),
            document.querySelector('.stage .left').alt, document.activeElement.id].join('|');
        document.querySelectorAll('.card button')[1].click();
        const states = [state()];
        wipe.value = 80; wipe.dispatchEvent(new Event('input')); states.push(state());
        wipe.dispatchEvent(new KeyboardEvent('keydown', {key: 'n', bubbles: true})); states.push(state());
        document.getElementById('next').click(); states.push(state());
        set('left', 'Errors'); states.push(state());
        document.getElementById('previous').click(); states.push(state());
        document.getElementById('close').click(); states.push(box.open);
        return states.join(' / ');
    """
    )
    states = title(after(tmp_path / "report.html", sample(3, gallery=Gallery(PICTURES, 3)), script)).split(" / ")
    assert states == [
        "true|b.png|Truth|Prediction|50%|b.png: Truth|wipe",
        "true|b.png|Truth|Prediction|80%|b.png: Truth|wipe",
        "true|c.png|Truth|Prediction|80%|c.png: Truth|wipe",
        "true|a.png|Truth|Prediction|80%|a.png: Truth|wipe",
        "true|a.png|Errors|Prediction|80%|a.png: Errors|wipe",
        "true|c.png|Errors|Prediction|80%|c.png: Errors|wipe",
        "false",
    ]


@in_browser
def test_a_task_without_two_panels_to_compare_shows_one(tmp_path: Path) -> None:
    pictures = [one._replace(views=one.views[:1]) for one in PICTURES]
    report = sample(3, gallery=Gallery(pictures, 3), compared=())
    script = """
        document.querySelector('.card button').click();
        const wipe = document.getElementById('wipe');
        return [getComputedStyle(wipe).display, document.getElementById('right').value].join();
    """
    assert title(after(tmp_path / "report.html", report, script)) == "none,Image"


@in_browser
@pytest.mark.parametrize("width", [390, 1600])
def test_the_page_does_not_scroll_sideways(width: int, tmp_path: Path) -> None:
    """In a frame, since a window has a smallest width; with names and a command that nobody would choose."""
    long = "x" * 300
    names = {f"{long}{index}": (0.5, 0.5, 10) for index in range(32)}
    table = Table(("IoU", "accuracy", "pixels"), names, unit="pixels")
    report = sample(32, table=table, title=long, subtitle=long, protocol={long: long}, trained={"model": long})
    report = report._replace(gallery=Gallery([picture(long)], 1), command=long, environment={"torch": long})
    report = report._replace(findings=[Finding("fault", long, long, long)], samples=[picture(long)])
    measure = "<script>top.postMessage([document.documentElement.scrollWidth, innerWidth].join(), '*')</script>"
    (tmp_path / "inner.html").write_text(render(report).replace("</body>", f"{measure}</body>"), encoding="utf-8")
    frame = f"<iframe src='inner.html' style='width: {width}px; height: 800px; border: 0'></iframe>"
    listen = "<script>addEventListener('message', event => { document.title = event.data; })</script>"
    (tmp_path / "outer.html").write_text(f"<title></title>{listen}{frame}", encoding="utf-8")
    dom, _ = browse(tmp_path / "outer.html", "--dump-dom", "--window-size=1700,900", "--virtual-time-budget=4000")
    assert title(dom) == f"{width},{width}"


def test_colours_other_than_those_of_classes_are_explained() -> None:
    text, page = Tree(render(sample())).text(), render(sample())
    for name, (red, green, blue) in LEGEND.items():
        assert name in text
        assert f"background:rgb({red},{green},{blue})" in page
