"""`atrous recipes`."""

import json
from pathlib import Path

import pytest

from tests.command_line import RECIPE, run


def test_recipes_are_listed_printed_and_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("recipes") == 0
    listing = capsys.readouterr().out
    assert "camvid/deeplab_v3plus_mobilenet_v2" in listing
    names = [line.partition(" ")[0] for line in listing.splitlines()]
    texts = [line.removeprefix(name) for name, line in zip(names, listing.splitlines(), strict=True)]
    starts = {len(name) + len(text) - len(text.lstrip()) for name, text in zip(names, texts, strict=True)}
    assert starts == {max(map(len, names)) + 1}  # a column of names and one of descriptions
    assert run("recipes", RECIPE) == 0
    assert "depth_multiplier" in capsys.readouterr().out
    assert run("recipes", "--schema", str(tmp_path / "schema.json")) == 0
    assert "properties" in json.loads((tmp_path / "schema.json").read_text())


def test_a_folder_of_recipes_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("recipes", "synthetic") == 0
    assert {line.partition("/")[0] for line in capsys.readouterr().out.splitlines()} == {"synthetic"}
