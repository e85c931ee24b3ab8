"""What long work shows: nothing for a second, then a bar in a terminal, or one line elsewhere."""

import io

import pytest
from rich.console import Console

from atrous import progress


def shown(patience: float, monkeypatch: pytest.MonkeyPatch, *, is_terminal: bool = False) -> str:
    monkeypatch.setattr(progress, "PATIENCE", patience)
    text = io.StringIO()
    console = Console(file=text, width=60, force_terminal=is_terminal)
    with progress.counting("reading the labels of train", 3, console) as advance:
        for _ in range(3):
            advance(1)
    return text.getvalue()


def test_short_work_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for is_terminal in (False, True):
        assert shown(3600, monkeypatch, is_terminal=is_terminal) == ""


def test_long_work_shows_one_line_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(0, monkeypatch) == "reading the labels of train: 3\n"


def test_long_work_shows_a_bar_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "3/3" in shown(0, monkeypatch, is_terminal=True)


def test_a_line_is_printed_as_it_is() -> None:
    text = io.StringIO()
    line = f"[red]:smile: {'long/' * 40}a.png"
    progress.say(line, Console(file=text, width=60))
    assert text.getvalue() == line + "\n"


def test_rows_of_an_image_are_counted_with_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY", -1.0)
    console = Console(file=io.StringIO(), width=200)
    with progress.rows_done("a.tif", 100, console, is_alone=False) as advance:
        for rows in (30, 30, 40):
            advance(rows)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert [line.split(", ")[0] for line in lines] == ["a.tif: 30 of 100 rows", "a.tif: 60 of 100 rows"]
    assert all(line.endswith(" min left") for line in lines)
