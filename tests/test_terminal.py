"""What is printed survives any terminal, and obeys no name of a file."""

import io
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from atrous import terminal
from atrous.terminal import printable

CASES = {
    "plain.png": "plain.png",
    "Zürich 日本.png": "Zürich 日本.png",
    "\x1b[31mred": "\\x1b[31mred",
    "a\rb\x07": "a\\rb\\x07",
    "\x9b2J": "\\x9b2J",
    "gnp.\u202egpj.exe": "gnp.\\u202egpj.exe",
    "not utf-8 \udcff": "not utf-8 \\udcff",
    "two\nlines\tand a tab": "two\nlines\tand a tab",
}


@pytest.mark.parametrize(("text", "visible"), CASES.items())
def test_what_a_terminal_would_obey_becomes_visible(text: str, visible: str) -> None:
    assert printable(text) == visible


def test_what_an_encoding_lacks_becomes_an_escape() -> None:
    assert printable("Zürich 日", "latin-1") == "Zürich \\u65e5"
    assert printable("Zürich", "ascii") == "Z\\xfcrich"


@given(st.text(st.characters(exclude_categories=())), st.sampled_from(["utf-8", "latin-1", "ascii", "cp1252"]))
def test_printable_text_can_be_encoded_and_stays_as_it_is(text: str, encoding: str) -> None:
    visible = printable(text, encoding)
    visible.encode(encoding)
    assert "\x1b" not in visible
    assert printable(visible, encoding) == visible


def output_of(code: str, **environment: str) -> bytes:
    """What a program prints into a pipe."""
    program = f"from rich.table import Table\nfrom atrous import terminal\nconsole = terminal.console()\n{code}"
    return subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, env={**os.environ, **environment}
    ).stdout


def test_a_pipe_gets_each_line_whole() -> None:
    path = "a_folder_with_a_long_name/" * 20 + "best.safetensors"
    assert output_of(f"console.print({path!r})").decode() == f"{path}\n"


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
def test_any_name_is_printed_in_any_encoding(encoding: str) -> None:
    code = (
        r"console.print('日 \udc80'); table = Table('class'); table.add_row('日 \x1b[2J \udc80'); console.print(table)"
    )
    printed = output_of(code, PYTHONIOENCODING=encoding).decode(encoding)
    assert "\x1b" not in printed
    assert "\\x1b[2J" in printed
    assert printed.count("\\udc80") == 2


def test_colours_of_the_console_itself_are_kept() -> None:
    file = io.StringIO()
    output = Console(file=file, force_terminal=True, color_system="standard", highlight=False, width=40)
    output.push_render_hook(terminal.console()._render_hooks[0])
    output.print("\x1b[32mname", style="red")
    assert "\x1b[31m" in file.getvalue()
    assert "\\x1b[32mname" in file.getvalue()


def test_a_table_is_as_wide_as_its_content(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("class")
    table.add_row("x" * 300)
    terminal.console().print(table)
    lines = capsys.readouterr().out.splitlines()
    assert {len(line) for line in lines} == {304}
